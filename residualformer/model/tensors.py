"""Files of tensors and JSON values: safetensors with a check sum over every byte, written atomically.

The values are one JSON text in the metadata of the header. It begins with the SHA-256 of the file, in which the digits
of the sum itself count as zeros.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from residualformer.errors import UserError
from residualformer.files import replacing

_METADATA = "residualformer"  # the key of the values in the metadata
_NO_SUM = "0" * 64
_LENGTH_BYTES = 8  # of the length of the header, with which a file begins
_MAX_HEADER = 100_000_000  # bytes; safetensors reads no more either


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and JSON values as a file of `kind`, such as `a model`; OSError if the disk is full."""
    text = json.dumps({"sha256": _NO_SUM, "kind": kind, "values": values}, ensure_ascii=False)
    dense = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    content = memoryview(save(dense, {_METADATA: text}))
    end = _header_end(content)
    head, digest = bytes(content[:end]), hashlib.sha256(content).hexdigest()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(head.replace(_NO_SUM.encode(), digest.encode(), 1))
        file.write(content[end:])
        file.flush()
        os.fsync(file.fileno())  # else a power failure may leave the name without the content


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, onto the CPU, and the JSON values of a file of `kind`.

    Raises:
        UserError: the file is missing, damaged in any bit, or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; train the model first (stages 4 and 5)")
    try:
        content = _content(path)
        found, values = _verified_values(content)
        tensors = load(content)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is no file of this toolkit, or is damaged; remove it and train again") from error
    if found != kind:
        raise UserError(f"{path} holds {found}, where {kind} is needed")
    return tensors, values


def _content(path: Path) -> bytes:
    """Return the bytes of a file; ValueError, before all is read, if it does not begin as these files do."""
    with open(path, "rb") as file:
        start = file.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES or _header_end(start) > min(path.stat().st_size, _MAX_HEADER):
            raise ValueError("it has no header")
        return start + file.read()


def _verified_values(content: bytes) -> tuple[str, dict[str, Any]]:
    """Return kind and values from the header of a file; ValueError, LookupError or TypeError if the file is damaged."""
    end = _header_end(content)
    text = json.loads(json.loads(content[_LENGTH_BYTES:end])["__metadata__"][_METADATA])
    told, kind, values = str(text["sha256"]), str(text["kind"]), text["values"]
    digest = hashlib.sha256(content[:end].replace(told.encode(), _NO_SUM.encode(), 1))
    digest.update(memoryview(content)[end:])
    if digest.hexdigest() != told or not isinstance(values, dict):
        raise ValueError("the check sum is wrong")
    return kind, values


def _header_end(content: bytes | memoryview) -> int:
    return _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
