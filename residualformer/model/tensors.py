"""Files of tensors and JSON values: safetensors with a check sum over every byte, written atomically.

`residualformer/tensor_files.py` describes and reads them without torch.
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
from residualformer.tensor_files import METADATA, NO_SUM, damaged, header_end, verified_content


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and JSON values as a file of `kind`, such as `a model`; OSError if the disk is full."""
    text = json.dumps({"sha256": NO_SUM, "kind": kind, "values": values}, ensure_ascii=False)
    dense = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    content = memoryview(save(dense, {METADATA: text}))
    end = header_end(content)
    head, digest = bytes(content[:end]), hashlib.sha256(content).hexdigest()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(head.replace(NO_SUM.encode(), digest.encode(), 1))
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
    content, values = verified_content(path, kind)
    try:
        return load(content), values
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise damaged(path) from error
