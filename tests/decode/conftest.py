"""Fixtures of the tests of decoding."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def setup(tmp_path: Path) -> tuple[Path, Path]:
    """The run folder of a random model, and cuts with features that it can decode."""
    from support.decoding import write_cuts
    from support.transducers import save_random_run

    config = save_random_run(tmp_path / "exp" / "model")
    return tmp_path / "exp" / "model", write_cuts(tmp_path / "fbank", config)
