"""Feature arrays on disk: each has a check sum in its cut's `custom`, so that no flipped bit goes unnoticed."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut
from numpy.lib import format as npy

CHECKSUM = "checksum"  # the key in `custom`
TYPES = (np.dtype("<f2"), np.dtype("<f4"))


class BadArray(ValueError):
    """Features that are damaged, or stored in a way that is not allowed; the message says how."""


def checksum(array: np.ndarray) -> str:
    """Return the CRC-32 of an array's bytes, which any flipped bit changes, as 8 digits."""
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"


def load_features(cut: Cut) -> np.ndarray:
    """Return the features (T, F) of a cut of stage 2, in the precision in which they are stored.

    Raises:
        BadArray: they are damaged, or stored elsewhere than in a NumPy file or in memory (Shar).
        OSError: they cannot be read.
    """
    features = cut.features
    if (cut.start, cut.duration) != (features.start, features.duration):
        raise BadArray("the cut is a part of what they were computed from")
    expected = (features.num_frames, features.num_features), (cut.custom or {}).get(CHECKSUM)
    if features.storage_type == "numpy_files":
        with open(Path(features.storage_path) / features.storage_key, "rb") as file:
            return read_array(file, *expected)
    if features.storage_type == "memory_npy" and isinstance(features.storage_key, bytes):
        return read_array(io.BytesIO(features.storage_key), *expected)
    # Lhotse unpickles some, and fetches others.
    raise BadArray(f"they are stored as '{features.storage_type}', which is not allowed")


def read_array(file: io.BufferedIOBase, shape: tuple[int, int], expected: Any = None) -> np.ndarray:
    """Read a .npy file whose array must have the given shape and, if there is one, the `expected` check sum.

    Nothing is allocated before the header is checked. Raises BadArray if the file is something else.
    """
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        found, is_fortran, dtype = read_header(file)
    except Exception as error:  # NumPy reads the header by Python's tokenizer, which raises many kinds
        raise BadArray(f"not a NumPy array ({type(error).__name__}: {error})") from error
    if found != shape or is_fortran or dtype not in TYPES:
        raise BadArray(f"an array of shape {found} and type {dtype} instead of {shape} in float16 or float32")
    size, start = found[0] * found[1] * dtype.itemsize, file.tell()
    held = file.seek(0, io.SEEK_END) - start
    if held != size:
        raise BadArray(f"{held} bytes instead of {size}")
    file.seek(start)
    array = np.empty(found, dtype)
    file.readinto(array.data.cast("B"))
    if expected is not None and checksum(array) != expected:
        raise BadArray(f"their check sum is {checksum(array)}, not {expected}")
    return array
