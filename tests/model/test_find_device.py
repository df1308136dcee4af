"""What `--device` means, on machines that seem to have GPUs, an old driver, or a PyTorch for the CPU."""

import argparse
import logging

import pytest
import torch

from residualformer.errors import UserError
from residualformer.model import device
from residualformer.model.device import add_device_option, find_device, why_no_cuda


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with no GPU and no driver; calling it gives it some, and a build of torch."""
    device._warn_of_missing_cuda.cache_clear()

    def change(gpus: int = 0, driver: bool = False, cuda: str | None = "13.0", error: str = "") -> None:
        def init() -> None:
            if error:
                raise RuntimeError(error)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        (tmp_path / "version").write_text("NVRM") if driver else (tmp_path / "version").unlink(missing_ok=True)

    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    change()
    yield change
    device._warn_of_missing_cuda.cache_clear()


@pytest.mark.parametrize(
    ("gpus", "name", "process", "expected"),
    [
        (0, "auto", 0, "cpu"),
        (0, "cpu", 0, "cpu"),
        (2, "auto", 0, "cuda:0"),
        (2, "auto", 1, "cuda:1"),
        (2, "cuda", 0, "cuda:0"),
        (2, "cuda:1", 0, "cuda:1"),
        (2, "cpu", 1, "cpu"),
    ],
)
def test_the_device_of_a_name(machine, caplog, gpus, name, process, expected):
    machine(gpus)
    assert find_device(name, process) == torch.device(expected)
    assert not caplog.records


@pytest.mark.parametrize(
    ("gpus", "name", "process", "message"),
    [
        (0, "cuda", 0, "--device cuda: torch finds no CUDA GPU: use a machine with one; or give --device cpu"),
        (0, "cuda:1", 0, "--device cuda:1: torch finds no CUDA GPU"),
        (2, "cuda:2", 0, "--device cuda:2 is GPU 2, but torch finds 2, numbered from 0: give another --device"),
        (2, "auto", 2, "process 3 needs a GPU of its own, but torch finds 2"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(machine, gpus, name, process, message):
    machine(gpus)
    with pytest.raises(UserError, match=message):
        find_device(name, process)


OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver\nSee more."


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"cuda": None}, ["is built for the CPU", "RESIDUALFORMER_TORCH=cuda"]),
        (
            {"error": OLD},
            ["built for CUDA 13.0, finds no GPU (The NVIDIA driver on your system is too old", "update the"],
        ),
        ({}, ["without a reason"]),
    ],
)
def test_a_driver_without_a_gpu_is_told_of_once(machine, caplog, changes, parts):
    machine(driver=True, **changes)
    with caplog.at_level(logging.WARNING, "residualformer"):
        assert [find_device().type for _ in range(3)] == ["cpu"] * 3
    (record,) = caplog.records
    assert all(part in record.getMessage() for part in parts) and "See more" not in record.getMessage()
    with pytest.raises(UserError) as refused:
        find_device("cuda")
    assert all(part in str(refused.value) for part in parts)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_are_not_missed(machine, monkeypatch, caplog, hidden):
    machine(driver=True, error=OLD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert find_device().type == "cpu" and why_no_cuda() is None and not caplog.records


def test_nvidia_smi_is_a_sign_of_the_driver_too(machine, tmp_path):
    assert why_no_cuda() is None
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    machine(cuda=None)
    assert "is built for the CPU" in str(why_no_cuda())


def test_other_names_are_refused(capsys):
    parser = argparse.ArgumentParser()
    add_device_option(parser)
    assert [parser.parse_args(["--device", name]).device for name in ("cpu", "cuda:3")] == ["cpu", "cuda:3"]
    assert parser.parse_args([]).device == "auto"
    for wrong in ("gpu", "cuda:", "cuda:-1", "CPU"):
        with pytest.raises(SystemExit):
            parser.parse_args([f"--device={wrong}"])
        assert f"'{wrong}' is no device; give one of auto, cpu, cuda, cuda:N" in capsys.readouterr().err
