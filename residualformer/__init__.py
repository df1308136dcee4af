"""Small streaming transducers: weights shared between layers, and residuals of their own (ResidualTransformer)."""

__version__ = "0.1.0"
