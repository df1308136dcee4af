"""A local page to try a model on: a microphone, files, the text while somebody speaks (docs/demo.md)."""
