"""The grammar of corpus mini."""
