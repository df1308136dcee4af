"""Files of tensors and JSON values: safetensors with a check sum over every byte, read without torch.

The values are one JSON text in the metadata of the header. It begins with the SHA-256 of the file, in which the digits
of the sum itself count as zeros.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residualformer.errors import UserError

METADATA = "residualformer"  # the key of the values in the metadata
NO_SUM = "0" * 64
_LENGTH_BYTES = 8  # of the length of the header, with which a file begins
_MAX_HEADER = 100_000_000  # bytes; safetensors reads no more either


def verified_content(path: Path, kind: str) -> tuple[bytes, dict[str, Any]]:
    """Return all bytes of a file of `kind`, such as `a model`, and its JSON values.

    Raises:
        UserError: the file is damaged in any bit, or of another kind.
    """
    try:
        content = _content(path)
        found, values = _verified_values(content)
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(path) from error
    if found != kind:
        raise UserError(f"{path} holds {found}, where {kind} is needed")
    return content, values


def read_arrays(path: Path, kind: str) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Read the float32 arrays and the JSON values of a file of `kind`, without torch.

    Raises:
        UserError: the file is missing, damaged, of another kind, or holds numbers of another type.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    content, values = verified_content(path, kind)
    end, arrays = header_end(content), {}
    try:
        for name, entry in json.loads(content[_LENGTH_BYTES:end]).items():
            if name != "__metadata__":
                first, size = entry["data_offsets"][0], math.prod(entry["shape"])
                if entry["dtype"] != "F32":
                    raise ValueError(f"{name} holds numbers of type {entry['dtype']}")
                arrays[name] = np.frombuffer(content, "<f4", size, end + first).reshape(entry["shape"])
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(path) from error
    return arrays, values


def damaged(path: Path) -> UserError:
    """Return the error of a file that cannot be read."""
    return UserError(f"{path} is no file of this toolkit, or is damaged; remove it and train again")


def header_end(content: bytes | memoryview) -> int:
    """Return where the header of a file ends and its numbers begin."""
    return _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")


def _content(path: Path) -> bytes:
    """Return the bytes of a file; ValueError, before all is read, if it does not begin as these files do."""
    with open(path, "rb") as file:
        start = file.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES or header_end(start) > min(path.stat().st_size, _MAX_HEADER):
            raise ValueError("it has no header")
        return start + file.read()


def _verified_values(content: bytes) -> tuple[str, dict[str, Any]]:
    """Return kind and values from the header of a file; ValueError, LookupError or TypeError if the file is damaged."""
    end = header_end(content)
    text = json.loads(json.loads(content[_LENGTH_BYTES:end])["__metadata__"][METADATA])
    told, kind, values = str(text["sha256"]), str(text["kind"]), text["values"]
    digest = hashlib.sha256(content[:end].replace(told.encode(), NO_SUM.encode(), 1))
    digest.update(memoryview(content)[end:])
    if digest.hexdigest() != told or not isinstance(values, dict):
        raise ValueError("the check sum is wrong")
    return kind, values
