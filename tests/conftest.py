"""Fixtures that several tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell ignores interrupts in what it runs in the background, and so would all programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, before anything asks for them, unless the tests marked `gpu` are asked for.

    Without a GPU kernels in Triton are run by its interpreter; whether they are is settled when Triton is imported.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def toy_cuts(tmp_path_factory) -> dict[str, Path]:
    """Manifests of a toy corpus with features, `train` and `dev`."""
    from support.toy_training import write_toy_cuts  # imports torch, which few tests need

    return write_toy_cuts(tmp_path_factory.mktemp("fbank"))
