"""The sentences of corpus mini."""
