"""The model. Shapes: N utterances, T feature frames, T' encoder frames (T' = ceil(T / 4)), S labels, F mel bins,
D encoder dimension, P predictor dimension, H heads, V vocabulary. Frames are 10 ms before and 40 ms after the front end.
"""
