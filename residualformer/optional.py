"""Packages that the project can use but does not need: one table of what they are for and how to get them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from types import ModuleType

from residualformer.errors import UserError, closest


@dataclass(frozen=True)
class OptionalPackage:
    """A row of the table; `name` is both the module and, but for underscores, the distribution."""

    name: str
    purpose: str
    install: str
    min_version: str = "0"


OPTIONAL = {
    row.name: row
    for row in (
        OptionalPackage(
            "k2",
            "transducer losses in C++ and CUDA",
            "pick the wheel of your torch and CUDA at https://k2-fsa.github.io/k2/installation/from_wheels.html, "
            "e.g. pip install k2==VERSION -f https://k2-fsa.github.io/k2/cuda.html",
            "1.24.3",  # delay_penalty and rnnt_type
        ),
        OptionalPackage("torchaudio", "exact transducer loss", "pip install torchaudio", "0.10"),
        OptionalPackage(
            "kaldifeat",
            "filterbank features on a GPU",
            "pick the wheel of your torch and CUDA, e.g. pip install kaldifeat==VERSION -f "
            "https://csukuangfj.github.io/kaldifeat/cuda.html",
            "1.25",
        ),
        OptionalPackage(
            "numba",
            "fast transducer losses and products of sparse branches on a CPU",
            "pip install numba==0.68.1",
            "0.68",
        ),
        OptionalPackage(
            "sounddevice",
            "the microphone",
            "pip install sounddevice==0.5.6, and PortAudio where its wheel has none (apt install libportaudio2)",
            "0.4",
        ),
        OptionalPackage("sherpa_onnx", "the check of exported models", "pip install sherpa-onnx==2.0.1", "2.0.1"),
        OptionalPackage(
            "triton",
            "fast transducer losses on an NVIDIA GPU",
            "pip install triton, in the version that your torch asks for",
            "3.2",  # gather
        ),
    )
}


def is_installed(name: str) -> bool:
    """Whether the module can be found; it is not imported."""
    return importlib.util.find_spec(name) is not None


def optional(name: str) -> ModuleType:
    """The module `name` of the table; UserError with its install command if it is missing, too old or broken."""
    if name not in OPTIONAL:
        raise UserError(f"unknown optional package '{name}'; known: {', '.join(OPTIONAL)}.{closest(name, OPTIONAL)}")
    row = OPTIONAL[name]
    if not is_installed(name):
        raise UserError(f"{name} ({row.purpose}) is not installed; to get it: {row.install}")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a binary built for another torch fails in many ways
        reason = str(error).strip().splitlines() or [type(error).__name__]
        why = f"{name} is installed but does not import ({reason[0]})"
        raise UserError(f"{why}; to replace it: {row.install}") from error
    version = _version(module)
    if _numbers(version) < _numbers(row.min_version):
        raise UserError(f"{name} {version} is too old, {row.min_version} or later is needed; to get it: {row.install}")
    return module


def describe(names: list[str] | None = None) -> str:
    """One line per package of the table: installed version, or how to get it."""
    lines = []
    for name in names or list(OPTIONAL):
        row = OPTIONAL[name]
        try:
            lines.append(f"  {name} {_version(optional(name))}: {row.purpose}")
        except UserError as error:
            lines.append(f"  {error}")
    return "\n".join(lines)


def _version(module: ModuleType) -> str:
    try:
        return importlib.metadata.version(module.__name__)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "unknown version"))


def _numbers(version: str) -> tuple[int, ...]:
    """'1.24.4.dev2025+cpu' -> (1, 24, 4); a version that cannot be read counts as new enough."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (10**6,)
