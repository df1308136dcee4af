"""Fixtures that several tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell ignores interrupts in what it runs in the background, and so would all programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Kernels in Triton are run by its interpreter, unless TRITON_INTERPRET=0; whether they are is settled by its import.
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, before anything asks for them, unless the tests marked `gpu` are asked for."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def toy_cuts(tmp_path_factory) -> dict[str, Path]:
    """Manifests of a toy corpus with features, `train` and `dev`."""
    from support.toy_training import write_toy_cuts  # imports torch, which few tests need

    return write_toy_cuts(tmp_path_factory.mktemp("fbank"))
