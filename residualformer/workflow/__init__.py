"""What has run, with what, and what runs next."""
