"""AN4's words in Chinese."""
