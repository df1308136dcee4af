"""Mutations of input files: damage to bytes, and odd values in the place of good ones in files with a structure."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.lib import format as npy

from residualformer.files import CHECK, digest

CANARY = "CANARY"  # no input may make a file of this name
COMMAND = f"touch {CANARY}"


# What Python would write for an object that runs the command when it is loaded.
PICKLE = f"cposix\nsystem\n(S{COMMAND!r}\ntR.".encode()
_HUGE = [2**31 - 1, 2**31, 2**32, 2**63, -(2**63), 10**30, 1e308]
_TEXTS = ["", " ", "0", "1", "-1", "nan", "null", "\0", "\n", "\t", "\ud7ff", "é漢字🎙", "x" * 5000, "%s%n", "~", "*"]
_PATHS = ["../../x", "/dev/zero", "/dev/full", "/", ".", "http://127.0.0.1:9/x", f"x;{COMMAND};.sph", f"../{CANARY}"]
_COMMANDS = [f"pipe:{COMMAND}", f"; {COMMAND};", f"$({COMMAND})", f"| {COMMAND} |", f"`{COMMAND}`"]
_SOURCES = [{"type": "command", "channels": [0], "source": COMMAND}, {"type": "url", "source": f"pipe:{COMMAND}"}]
_KINDS = [
    "command",
    "url",
    "memory",
    "shar",
    "memory_raw",
    "memory_npy",
    "lilcom_url",
    "numpy_hdf5",
    "MixedCut",
    "Speed",
]
_NUMBERS = [0, -1, 1, 2, 255, 0.5, -0.5, 1e-308, float("nan"), float("inf"), float("-inf"), *_HUGE]
_OTHERS = [None, True, False, [], {}, [[]], {"": None}, [None]]
ODD: list[Any] = [*_OTHERS, *_NUMBERS, *_TEXTS, *_PATHS, *_COMMANDS, *_SOURCES, *_KINDS]
HARMFUL_TAG = f"!!python/object/apply:os.system [{COMMAND!r}]"
TAGS = [HARMFUL_TAG, "!!binary gASVAAAA", "&a [*a, *a]", "2026-99-99", "!!int x", "[" * 200]
BYTE_KINDS = ["flip", "flip", "number", "number", "cut", "zeros", "repeat", "insert", "remove", "pickle", "empty"]
NAMES = ["../x", "/x", f"../{CANARY}", "a/../../x", "", "x" * 300, "é", "link/x", "."]
TYPES = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]


def mutate_file(path: Path, rng: random.Random) -> str:
    """Damage a file in place; return in a few words what was done."""
    name = path.name.lower()
    if rng.random() < 0.03:
        path.unlink()
        return "removed"
    content = path.read_bytes()
    if rng.random() < 0.4:
        changed, what = mutate_bytes(content, rng)
    else:
        ends = next((end for end in STRUCTURED if name.endswith(end)), None)
        changed, what = STRUCTURED[ends](content, rng) if ends else mutate_bytes(content, rng)
    path.write_bytes(changed)
    return what


def mutate_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Flip, cut, repeat, insert or replace bytes, most often near the beginning, where headers are."""
    if not content:
        return rng.randbytes(20), "noise instead of nothing"
    data = bytearray(content)
    place = min(int(len(data) ** rng.random()) - 1, len(data) - 1) if rng.random() < 0.7 else rng.randrange(len(data))
    size = rng.choice([1, 2, 4, 8, 64, 1000])
    kind = rng.choice(BYTE_KINDS)
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(place, len(data)) if rng.random() < 0.2 else place] ^= 1 << rng.randrange(8)
    elif kind == "number":
        width, order = rng.choice([2, 4, 8]), rng.choice(["little", "big"])
        number = rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63]) % 2 ** (8 * width)
        data[place : place + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
    elif kind == "cut":
        del data[place:]
    elif kind == "zeros":
        data[place : place + size] = bytes(min(size, len(data) - place))
    elif kind == "repeat":
        data[place:place] = data[place : place + size] * rng.choice([1, 2, 50])
    elif kind == "insert":
        data[place:place] = rng.randbytes(size)
    elif kind == "remove":
        del data[place : place + size]
    elif kind == "pickle":
        data[place:place] = PICKLE
    else:
        data.clear()
    return bytes(data), f"bytes: {kind} at {place}"


def mutate_value(value: Any, rng: random.Random) -> tuple[Any, str]:
    """Change, remove, repeat, wrap, rename or swap one of the values in nested mappings and lists."""
    value = copy.deepcopy(value)
    parent, key, path = _random_place(value, rng)
    if parent is None:
        return rng.choice(ODD), "an odd value instead of all"
    kind = rng.choice(["odd", "odd", "odd", "number", "remove", "wrap", "rename", "swap", "deep"])
    if kind == "number" and isinstance(parent[key], int | float):
        parent[key] = rng.choice([-1, 10, 1000, 1e9, 1e18, 0.1, 0]) * parent[key] + rng.choice([0, 1, 0.5])
    elif kind == "remove":
        del parent[key]
    elif kind == "wrap":
        parent[key] = rng.choice([lambda x: [x], lambda x: {"x": x}, lambda x: [x] * 3, str])(parent[key])
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice(["x", "", "type", f"{key} ", str(key).upper()])] = parent.pop(key)
    elif kind == "swap":
        other, other_key, _ = _random_place(value, rng)
        if other is not None and key in _keys(parent) and other_key in _keys(other):
            parent[key] = copy.deepcopy(other[other_key])
    elif kind == "deep":
        for _ in range(rng.choice([3, 30, 300])):
            parent[key] = [parent[key]]
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD))
    if isinstance(value, dict) and CHECK in value and path[0] != CHECK and rng.random() < 0.8:
        value.pop(CHECK)  # as if somebody had written it so
        value[CHECK] = digest(value)
    return value, f"{kind} at {'.'.join(map(str, path))}"


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value)))


def _random_place(value: Any, rng: random.Random) -> tuple[Any, Any, list[Any]]:
    """Return a container in `value`, one of its keys or indices, and the path there; None where there is none."""
    path: list[Any] = []
    parent = None
    while isinstance(value, dict | list) and value and (parent is None or rng.random() < 0.8):
        parent, key = value, rng.choice(_keys(value))
        path.append(key)
        value = value[key]
    return (None, None, path) if parent is None else (parent, path[-1], path)


def _json(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    value, what = mutate_value(json.loads(content), rng)
    text = json.dumps(value)
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text, what = f'{{"{rng.choice(["id", "type", "format"])}": 1, {text[1:]}', "a key twice"
    return text.encode("utf-8", "surrogatepass"), what


def _json_lines(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True)
    index = rng.randrange(len(lines))
    kind = rng.choice(["value", "value", "value", "value", "twice", "removed", "joined"])
    what = f"line {index} {kind}"
    if kind == "value":
        changed, what = _json(lines[index], rng)
        lines[index] = changed + b"\n"
    elif kind == "twice":
        lines.insert(index, lines[index])
    elif kind == "removed":
        del lines[index]
    else:
        lines[index] = lines[index].strip()
    return b"".join(lines), what


def _gzipped(inner: Callable[[bytes, random.Random], tuple[bytes, str]]) -> Callable[..., tuple[bytes, str]]:
    def mutate(content: bytes, rng: random.Random) -> tuple[bytes, str]:
        changed, what = inner(gzip.decompress(content), rng)
        return gzip.compress(changed, mtime=0), what

    return mutate


def _yaml(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    if rng.random() < 0.3:
        lines = content.decode().splitlines()
        index = rng.randrange(len(lines))
        tag = rng.choice(TAGS)
        lines[index] = f"{lines[index].partition(':')[0]}: {tag}"
        return "\n".join(lines).encode(), f"line {index}: {tag:.20}"
    value, what = mutate_value(yaml.safe_load(content), rng)
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"), what


def _npy(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    array = np.load(io.BytesIO(content))
    wide, half = (0, *array.shape), array[: len(array) // 2]
    kinds: list[Any] = [array.astype(np.float64), array.astype(">f4"), array.astype(np.int32), array.T, array.ravel()]
    kinds += [half, np.zeros(wide), array * np.nan, np.array("text")]
    index = rng.randrange(len(kinds) + 1)
    buffer = io.BytesIO()
    if index < len(kinds):
        np.save(buffer, kinds[index])
    else:
        npy.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": array.shape})
        buffer.write(PICKLE)
    data = buffer.getvalue()
    if rng.random() < 0.2:  # a header that promises too much
        data = content.replace(str(array.shape).encode(), str((2**40, 2**20)).encode())
        index = -1
    return data, f"array {index}"


def _text(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change a line or a cell of a table, a list or a text."""
    lines = content.decode().split("\n")
    index = rng.randrange(len(lines))
    separator = "\t" if "\t" in lines[index] else "," if "," in lines[index] else " "
    cells = lines[index].split(separator)
    kind = rng.choice(["cell", "cell", "cell", "fewer", "more", "twice", "removed", "long", "quote", "utf-16"])
    place = rng.randrange(len(cells))
    if kind == "cell":
        cells[place] = str(rng.choice(ODD))
    elif kind == "fewer":
        del cells[place]
    elif kind == "more":
        cells.insert(place, str(rng.choice(ODD)))
    elif kind == "long":
        cells[place] *= 100_000
    elif kind == "quote":
        cells[place] = '"' + cells[place]
    lines[index] = separator.join(cells)
    if kind == "twice":
        lines.insert(index, lines[index])
    elif kind == "removed":
        del lines[index]
    text = "\n".join(lines)
    return text.encode("utf-16" if kind == "utf-16" else "utf-8", "surrogatepass"), f"{kind} in line {index}"


def _tar(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Give a member another name, type or size."""
    out, name, kind = io.BytesIO(), rng.choice(NAMES), rng.choice(TYPES)
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=out, mode="w") as new:
        members = old.getmembers()
        chosen = rng.randrange(len(members))
        for index, member in enumerate(members):
            data = old.extractfile(member) if member.isfile() else None
            if index == chosen:
                member = copy.copy(member)
                member.name, member.type = rng.choice([(name, member.type), (member.name, kind), (name, kind)])
                member.linkname = rng.choice(["/", "..", "../..", member.name, "/etc/passwd"]) if kind in b"12" else ""
                if rng.random() < 0.5:
                    new.addfile(member, data)
                    continue
            new.addfile(member, data if member.isfile() else None)
    return out.getvalue(), f"member {chosen} called {name!r:.20} of type {kind!r}"


STRUCTURED: dict[str, Callable[[bytes, random.Random], tuple[bytes, str]]] = {
    ".jsonl.gz": _gzipped(_json_lines),
    ".jsonl": _json_lines,
    ".json": _json,
    ".done": _json,
    ".yaml": _yaml,
    ".npy": _npy,
    ".tar.gz": _gzipped(_tar),
    ".tar": _tar,
    ".arpa.gz": _gzipped(_text),
    **dict.fromkeys([".arpa", ".tsv", ".csv", ".txt", "wav.scp", "text", "utt2spk", "segments"], _text),
}
