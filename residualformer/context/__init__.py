"""Scores that a search adds to those of the model: hotwords, language models, grammars."""
