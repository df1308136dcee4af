"""Export of a trained run to a folder that the unmodified sherpa-onnx and our own runtime run (docs/format.md)."""
