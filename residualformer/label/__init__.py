"""Texts for speech that has none: what recognizers hear, and what of it two of them agree on."""
