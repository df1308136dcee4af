"""Packages that the project can use but does not need: what they are for, and how to install them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from residualformer.errors import UserError, closest


@dataclass(frozen=True)
class OptionalPackage:
    """A package that may be missing."""

    purpose: str
    install: str  # the command that installs it
    min_version: str = "0"  # the oldest that works
    distribution: str = ""  # its name, where that is not the module's with "-" for "_"


def _of_extra(name: str) -> str:
    """Return the command that installs an extra; no index has this package."""
    return f"pip install '.[{name}]' in the repository"


# By the name of the module. Packages of an extra in pyproject.toml are installed by it.
OPTIONAL = {
    "faster_whisper": OptionalPackage("Whisper models as recognizers", _of_extra("teacher"), "1.1"),
    "k2": OptionalPackage(
        "transducer losses in C++ and CUDA",
        "pick the wheel of your torch and CUDA at https://k2-fsa.github.io/k2/installation/from_wheels.html, "
        "e.g. pip install k2==VERSION -f https://k2-fsa.github.io/k2/cuda.html",
        "1.24.3",  # delay_penalty and rnnt_type
    ),
    "kaldifeat": OptionalPackage(
        "filterbank features on a GPU",
        "pick the wheel of your torch and CUDA, e.g. pip install kaldifeat==VERSION -f "
        "https://csukuangfj.github.io/kaldifeat/cuda.html",
        "1.25",
    ),
    "kokoro_onnx": OptionalPackage("neural voices for your own phrases", _of_extra("kokoro"), "0.6"),
    "kaldifst": OptionalPackage("compiling grammars", _of_extra("grammar"), "1.7.14"),
    "num2words": OptionalPackage("numbers in grammars", _of_extra("grammar"), "0.5.13"),
    "numba": OptionalPackage(
        "fast transducer losses and products of sparse branches on a CPU",
        _of_extra("train"),
        "0.68",
    ),
    "piper": OptionalPackage("neural voices for your own phrases", _of_extra("piper"), "1.3", "piper-tts"),
    "py_nanotts": OptionalPackage("small voices for your own phrases", _of_extra("pico"), "0.1.1"),
    "sherpa_onnx": OptionalPackage("the check of exported models", _of_extra("sherpa"), "2.0.1"),
    "sounddevice": OptionalPackage(
        "the microphone",
        "pip install sounddevice, and PortAudio where its wheel has none (apt install libportaudio2)",
        "0.4",
    ),
    "torchaudio": OptionalPackage("exact transducer loss", "pip install torchaudio", "0.10"),
    "triton": OptionalPackage(
        "fast transducer losses and AmNets on an NVIDIA GPU",
        "pip install triton, in the version that your torch asks for",
        "3.5",  # that of torch 2.9
    ),
}

# The modules that a `pip install .` without extras leaves out, by the extra that has them.
EXTRAS = {
    "train": (
        *("jiwer", "lhotse", "matplotlib", "numba", "onnx"),
        *("pydantic", "sacrebleu", "safetensors", "tensorboard", "torch", "typing_extensions"),
    ),
    "synthesis": ("espeakng_loader",),
    "demo": ("websockets",),
}


@contextmanager
def extras_needed() -> Iterator[None]:
    """Turn the failing import of a package of an extra into a UserError with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise UserError(f"{package} is not installed; to get it: {_of_extra(extra)}") from error
        raise


def is_installed(name: str) -> bool:
    """Return True if the module can be found, without importing it."""
    return importlib.util.find_spec(name) is not None


def optional(name: str) -> ModuleType:
    """Import a module of the table; raise UserError, which tells how to install it, if it is missing, old or broken."""
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
    version = _version(module, row.distribution)
    if _numbers(version) < _numbers(row.min_version):
        raise UserError(f"{name} {version} is too old, {row.min_version} or later is needed; to get it: {row.install}")
    return module


def describe(names: list[str] | None = None) -> str:
    """Return one line per package: the installed version, or how to install it."""
    lines = []
    for name in names or list(OPTIONAL):
        row = OPTIONAL[name]
        try:
            lines.append(f"  {name} {_version(optional(name), row.distribution)}: {row.purpose}")
        except UserError as error:
            lines.append(f"  {error}")
    return "\n".join(lines)


def _version(module: ModuleType, distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution or module.__name__)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "unknown version"))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, (1, 24, 4) for "1.24.4.dev2025+cpu"; unreadable ones count as new enough."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (10**6,)
