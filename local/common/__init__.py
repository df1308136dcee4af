"""Code that several corpora share: downloads, splits, transcripts and synthetic speech."""
