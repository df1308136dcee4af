"""The device that a model runs on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from residualformer.errors import UserError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device` to a command's options."""
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="what runs the model (default: a CUDA GPU if there is one)"
    )


def find_device(name: str) -> torch.device:
    """Return the device of a name in `DEVICES`; `auto` is CUDA where it is available, else the CPU.

    Raises:
        UserError: torch cannot use CUDA, but `cuda` is asked for.
    """
    import torch  # here, so that the options of a command do not wait for it

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no CUDA GPU; see nvidia-smi and how torch was built, or give --device cpu."
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
