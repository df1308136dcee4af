"""The toy corpus that tests of training batches share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.training_batches import write_speed_copies


@pytest.fixture(scope="session")
def cuts_path(tmp_path_factory) -> Path:
    """The manifest of 20 utterances at three speeds."""
    return write_speed_copies(tmp_path_factory.mktemp("fbank"))
