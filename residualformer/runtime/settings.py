"""The names of an exported folder's files, which `export` writes and this package reads (docs/format.md)."""

from __future__ import annotations

from pathlib import Path

SETTINGS_FILE, TOKENS_FILE = "model.json", "tokens.txt"
FORMAT = 1
FINGERPRINT = "fingerprint"  # of the model's weights: in the settings and in each file's metadata


def is_exported(folder: Path) -> bool:
    """Return whether the folder holds an exported model, rather than a run."""
    return (folder / SETTINGS_FILE).is_file()
