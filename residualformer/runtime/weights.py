"""The weights of an exported ONNX file, mapped into memory and read when they are used.

Loading parses the outline of the file only: where each initializer's bytes lie. Pages of used weights can be released
at any time; the operating system reads them again when they are next used.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from residualformer.errors import UserError

Array = NDArray[Any]

BLOCK_BYTES = 1 << 18  # of a matrix as float32 at a time; they stay in cache
# By the numbers of onnx.TensorProto.DataType
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 3: np.dtype("i1"), 7: np.dtype("<i8")}
# Fields of the messages in onnx.proto
_MODEL_GRAPH, _MODEL_METADATA, _GRAPH_INITIALIZER = 7, 14, 5
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9


class _Place(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class MappedWeights:
    """The weights of one file by their names in docs/format.md; UserError when it is no ONNX file."""

    def __init__(self, path: Path):
        try:
            with open(path, "rb") as file:
                data = _Bytes(file)
                self._places, self.metadata = dict(_initializers(data)), dict(_metadata(data))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be loaded (it is no ONNX model): export the model again.") from error
        self._path = path
        self._small: dict[str, Array] = {}
        self._replaced: dict[str, Array] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._places or f"{name}_quantized" in self._places

    def replace(self, weights: Mapping[str, Array]) -> None:
        """Take other weights instead of those of the file; a matrix that is stored in 8 bits is rounded to them.

        Raises:
            UserError: the file has no such weight, or one of another shape.
        """
        for name, value in weights.items():
            parts = {name: value}
            if f"{name}_quantized" in self._places:
                parts = dict(zip((f"{name}_quantized", f"{name}_scale"), quantized(value, axis=0), strict=True))
            for each, part in parts.items():
                place = self._places.get(each)
                if place is None or place.shape != part.shape:
                    found = "has none" if place is None else f"holds one of shape {place.shape}"
                    raise UserError(f"the weight '{each}' of shape {part.shape} has no place: {self._path} {found}.")
                self._replaced[each] = part.astype(place.dtype)

    def content(self) -> bytes:
        """Return the file with the other weights in it."""
        content = bytearray(self._map)
        for name, value in self._replaced.items():
            start = self._places[name].offset
            content[start : start + value.nbytes] = value.tobytes()
        return bytes(content)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight, in 8 bits or not."""
        return self._place(f"{name}_quantized" if f"{name}_quantized" in self._places else name).shape

    def small(self, name: str) -> Array:
        """Return a vector, or another weight that is small enough to stay in memory, as float32."""
        if name not in self._small:
            self._small[name] = np.array(self._view(name))
        return self._small[name]

    def product(self, x: Array, name: str) -> Array:
        """Return x (T, M) times the matrix (M, N) as (T, N); a few rows of the matrix are float32 at a time."""
        quantized = f"{name}_quantized" in self._places
        matrix = self._view(f"{name}_quantized" if quantized else name)
        y = np.zeros((len(x), matrix.shape[1]), np.float32)
        for rows, block in _float_blocks(matrix):
            y += x[:, rows] @ block
        return y * self.small(f"{name}_scale") if quantized else y

    def product_transposed(self, x: Array, name: str) -> Array:
        """Return x (T, M) times the transposed float32 matrix (N, ...), whose rows have M numbers, as (T, N)."""
        matrix = self._view(name)
        y = np.empty((len(x), len(matrix)), np.float32)
        for rows, block in _float_blocks(matrix.reshape(len(matrix), -1)):
            y[:, rows] = x @ block.T
        return y

    def linear(self, x: Array, name: str) -> Array:
        """Return `product` with `name`.weight, plus `name`.bias if there is one."""
        y = self.product(x, f"{name}.weight")
        return y + self.small(f"{name}.bias") if f"{name}.bias" in self else y

    def rows(self, name: str, ids: Array) -> Array:
        """Return rows (N, E) of a table (V, E), float32."""
        if f"{name}_quantized" not in self._places:
            return np.array(self._view(name)[ids])
        return self._view(f"{name}_quantized")[ids] * self._view(f"{name}_scale")[ids]

    def release(self) -> None:
        """Release the pages of the file that are in memory, on systems that can."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _view(self, name: str) -> Array:
        dtype, shape, offset = self._place(name)
        if name in self._replaced:
            return self._replaced[name]
        return np.ndarray(shape, dtype, self._map, offset)

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise UserError(f"{self._path} has no weight '{name}': the memory-lean engine cannot run it; leave it out.")
        return self._places[name]


def quantized(matrix: Array, axis: int) -> tuple[Array, Array]:
    """Return a matrix in 8 bits, symmetric, and its scales, one for each column (axis 0) or row (axis 1)."""
    scale = np.maximum(np.abs(matrix).max(axis=axis, keepdims=axis == 1), 1e-12) / 127
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


def _float_blocks(matrix: Array) -> Iterator[tuple[slice, Array]]:
    """Yield a matrix (M, N) of any type in blocks of rows, each copied to the same float32 memory."""
    size = max(1, BLOCK_BYTES // (4 * matrix.shape[1]))
    memory = np.empty((min(size, len(matrix)), matrix.shape[1]), np.float32)
    for start in range(0, len(matrix), size):
        block = memory[: len(matrix) - start]
        np.copyto(block, matrix[start : start + size])
        yield slice(start, start + size), block


class _Bytes:
    """A file as a sequence of bytes with one page in memory; reading through the map would load far more."""

    PAGE = 4096

    def __init__(self, file: BinaryIO):
        self._file, self._number, self._page = file, -1, b""
        self._size = file.seek(0, os.SEEK_END)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> int:
        number, within = divmod(place, self.PAGE)
        if number != self._number:
            self._file.seek(number * self.PAGE)
            self._number, self._page = number, self._file.read(self.PAGE)
        return self._page[within]

    def text(self, start: int, end: int) -> str:
        return bytes(self[place] for place in range(start, end)).decode()


def _initializers(data: _Bytes) -> Iterator[tuple[str, _Place]]:
    """Yield name and place of every initializer of a serialized ModelProto."""
    graphs = [value for field, value in _fields(data, 0, len(data)) if field == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError("no graph")
    for field, tensor in _fields(data, *graphs[0]):
        if field == _GRAPH_INITIALIZER:
            parts: dict[int, list] = {}
            for number, value in _fields(data, *tensor):
                parts.setdefault(number, []).append(value)
            if _TENSOR_RAW in parts and parts[_TENSOR_TYPE][0] in _TYPES:
                dtype, shape = _TYPES[parts[_TENSOR_TYPE][0]], _dims(data, parts)
                start, end = parts[_TENSOR_RAW][0]
                if end - start != math.prod(shape) * dtype.itemsize:
                    raise ValueError("a tensor of the wrong size")
                yield data.text(*parts[_TENSOR_NAME][0]), _Place(dtype, shape, start)


def _metadata(data: _Bytes) -> Iterator[tuple[str, str]]:
    """Yield keys and values of the metadata of a serialized ModelProto."""
    for field, entry in _fields(data, 0, len(data)):
        if field == _MODEL_METADATA:
            parts = dict(_fields(data, *entry))
            yield data.text(*parts[_ENTRY_KEY]), data.text(*parts.get(_ENTRY_VALUE, (0, 0)))


def _dims(data: _Bytes, parts: dict[int, list]) -> tuple[int, ...]:
    """Return a tensor's sizes: repeated numbers, one by one or packed."""
    dims: list[int] = []
    for value in parts.get(_TENSOR_DIMS, []):
        if isinstance(value, int):
            dims.append(value)
            continue
        place, end = value
        while place < end:
            number, place = _varint(data, place)
            dims.append(number)
    return tuple(dims)


def _fields(data: _Bytes, place: int, end: int) -> Iterator[tuple[int, Any]]:
    """Yield number and value of a message's fields in Protocol Buffers' wire format: int, or (start, end) of bytes."""
    while place < end:
        key, place = _varint(data, place)
        kind = key & 7
        value: Any
        if kind == 0:
            value, place = _varint(data, place)
        elif kind == 2:
            size, place = _varint(data, place)
            value = place, place + size
            place += size
        elif kind in (1, 5):
            value, place = 0, place + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if place > end:
            raise ValueError("cut off")
        yield key >> 3, value


def _varint(data: _Bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
