"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def toy_cuts(tmp_path_factory) -> dict[str, Path]:
    """Manifests of a toy corpus with features, `train` and `dev`."""
    from support.toy_training import write_toy_cuts  # imports torch, which few tests need

    return write_toy_cuts(tmp_path_factory.mktemp("fbank"))
