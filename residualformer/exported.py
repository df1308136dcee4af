"""An exported folder's names, which `export/` writes and `runtime/` reads (docs/export.md)."""

from __future__ import annotations

from pathlib import Path

SETTINGS_FILE, TOKENS_FILE = "model.json", "tokens.txt"
FORMAT = 1
FINGERPRINT = "fingerprint"  # of the model's weights: in the settings and in each file's metadata


def is_exported(folder: Path) -> bool:
    """Whether it holds an exported model, rather than a run."""
    return (folder / SETTINGS_FILE).is_file()
