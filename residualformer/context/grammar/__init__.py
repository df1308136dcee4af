"""Grammars: what may be said, as a finite automaton over words and over the tokens of a model (docs/grammar.md)."""
