"""The provenance of a result: code, machine and library versions."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def provenance() -> dict[str, str]:
    """Return command, commit, hardware and library versions, as plain text."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "lhotse", "kaldi-native-fbank")}
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "commit": commit(),
        "hardware": hardware(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def commit() -> str:
    """Return the commit of this code, `-dirty` where tracked files differ from it, or `unknown` outside a checkout."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> str:
    """Return a description such as `Intel Xeon, 2 threads` or `NVIDIA H100, 1 of 8 GPU`."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, 1 of {torch.cuda.device_count()} GPU"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"
