"""Language models for shallow fusion, without torch: n-grams (ARPA) and small networks (ONNX) as `Scorer`s."""
