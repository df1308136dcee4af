"""Small streaming transducers: weights shared between layers, and residuals of their own (ResidualTransformer).

`load` returns a trained or exported model that transcribes files, arrays and live audio (docs/library.md).
"""

from residualformer.library.loading import load

__version__ = "0.1.0"
__all__ = ["load"]
