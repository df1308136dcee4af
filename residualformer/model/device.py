"""The device that a model runs on."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from residualformer.errors import UserError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("residualformer")

DEVICES = ("auto", "cpu", "cuda", "cuda:N")
DRIVER = Path("/proc/driver/nvidia/version")  # Linux has it where NVIDIA's driver is loaded
CUDA_WHEELS = "install one for CUDA (RESIDUALFORMER_TORCH=cuda, see docs/getting_started.md)"
OTHER_WHEELS = "update the driver, or install a PyTorch for an older CUDA (https://pytorch.org/get-started/locally)"


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device` to a command's options."""
    parser.add_argument(
        "--device",
        type=device_name,
        default="auto",
        metavar="{auto,cpu,cuda,cuda:N}",
        help="what runs the model; cuda:N is the GPU number N, from 0 (default: auto, a CUDA GPU if there is one)",
    )


def device_name(text: str) -> str:
    """Return `text` if it is one of `DEVICES`; raise argparse's error if not."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no device; give one of {', '.join(DEVICES)}")
    return text


def find_device(name: str = "auto", process: int = 0) -> torch.device:
    """Return the device of a name in `DEVICES`; `auto` is CUDA where it is available, else the CPU.

    Warns, once, if `auto` is the CPU although the machine has NVIDIA's driver.

    Args:
        process: number of this process among those on this machine, each of which takes a GPU of its own.

    Raises:
        UserError: torch cannot use CUDA, but a GPU is asked for; or there are fewer GPUs.
    """
    import torch  # here, so that the options of a command do not wait for it

    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if name != "auto":
            reason = why_no_cuda() or "torch finds no CUDA GPU: use a machine with one"
            raise UserError(f"--device {name}: {reason}; or give --device cpu.")
        _warn_of_missing_cuda()
        return torch.device("cpu")
    number, count = process + int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        asked = f"process {process + 1} needs a GPU of its own" if process else f"--device {name} is GPU {number}"
        raise UserError(
            f"{asked}, but torch finds {count}, numbered from 0: give another --device, or fewer processes."
        )
    return torch.device("cuda", number)


def why_no_cuda() -> str | None:
    """Return why torch cannot use CUDA on a machine with NVIDIA's driver, and what to do; None without the driver.

    None also where CUDA_VISIBLE_DEVICES hides all GPUs, for then nobody wants one.
    """
    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return None
    if not DRIVER.exists() and shutil.which("nvidia-smi") is None:
        return None
    if torch.version.cuda is None:
        return f"this machine has NVIDIA's driver, but torch {torch.__version__} is built for the CPU: {CUDA_WHEELS}"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
    else:
        reason = "torch.cuda.is_available() is False, without a reason"
    built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}"
    return f"this machine has NVIDIA's driver, but {built}, finds no GPU ({reason}): {OTHER_WHEELS}"


@functools.cache
def _warn_of_missing_cuda() -> None:
    if reason := why_no_cuda():
        log.warning("no GPU is used: %s; --device cpu leaves this out", reason)
