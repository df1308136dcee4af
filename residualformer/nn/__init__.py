"""The models of both papers: plain PyTorch, which calls `residualformer.kernels` where speed needs more.

Shapes: N utterances, T feature frames (10 ms), T' = ceil(T / 4) encoder frames (40 ms), S labels, F mel bins,
D encoder dimension, P predictor dimension, H heads, V vocabulary.
"""
