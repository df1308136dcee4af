"""Data: audio, features, tokens and batches."""
