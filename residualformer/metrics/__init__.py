"""Measures of transcripts and translations, and their intervals."""
