"""Memory of this process, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def resident_mb(peak: bool = False) -> float:
    """Resident memory now, or its peak since the process began, in MB (10^6 bytes)."""
    name = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6
