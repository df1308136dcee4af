"""A trained run as a folder that sherpa-onnx, unmodified, and our own runtime recognise with (docs/format.md)."""
