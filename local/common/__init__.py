"""Code that several corpora share: downloads and synthetic speech."""
