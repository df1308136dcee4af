"""The recursion in Triton: run by Triton's interpreter against the plain engine, and compiled for GPUs, none at hand.

Each in a process of its own, for whether Triton interprets is settled when it is imported.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from residualformer.loss import mutual_information_recursion
from residualformer.loss.recursion import recursion_engine
from residualformer.optional import is_installed

pytestmark = pytest.mark.skipif(not is_installed("triton"), reason="triton is not installed")


def in_a_process(code: str, **environment: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_interpreted_it_is_plain():
    errors = json.loads(
        in_a_process(
            "import test_loss_recursion_triton as t; print(t.json.dumps(t.interpreted_errors()))", TRITON_INTERPRET="1"
        )
    )
    assert len(errors) == 8
    # float32 results of up to 100 are rounded by 4e-6, exp and log by 1e-7; plain in float32 is off by 1e-4
    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}


def interpreted_errors() -> dict[str, float]:
    """The largest difference of total and occupations from the plain engine in float64, by case; inf where -inf is."""
    from test_loss_recursion_engines import lattices

    errors = {}
    for regular in (True, False):
        for B, S, T, band in ((6, 12, 20, 0), (6, 12, 20, 4), (6, 3, 2, 0), (6, 33, 7, 8)):
            px, py, boundary = lattices(regular, B, S, T, band)
            px, py = px.float(), py.float().transpose(1, 2).contiguous().transpose(1, 2)
            expected = gradients("plain", px.double(), py.double(), boundary)
            pairs = list(zip(gradients("triton", px, py, boundary), expected))
            same_infinity = all(torch.equal(a.isfinite(), b.isfinite()) for a, b in pairs)
            worst = max(float((a - b).nan_to_num(0.0).abs().max()) for a, b in pairs)
            errors[f"{regular} {B} {S} {T} {band}"] = worst if same_infinity else float("inf")
    return errors


def gradients(engine, px, py, boundary):
    with recursion_engine(engine):
        total, grads = mutual_information_recursion(px, py, boundary, return_grad=True)
        assert engine == "plain" or torch.equal(mutual_information_recursion(px, py, boundary), total)
    return total, *grads


def test_no_path_padding_and_nan_when_interpreted():
    code = """
import torch
from residualformer.loss import mutual_information_recursion
from residualformer.loss.recursion import recursion_engine
px, py = torch.zeros(3, 2, 3), torch.zeros(3, 3, 3)
px[1, 1, 2], px[2, 0, 0] = float("nan"), float("nan")
boundary = torch.tensor([[0, 0, 2, 1], [0, 0, 2, 2], [0, 0, 2, 3]])
with recursion_engine("triton"):
    total, (px_grad, py_grad) = mutual_information_recursion(px, py, boundary, return_grad=True)
    print(total.tolist(), px_grad[:2].sum().item(), py_grad[:2].sum().item())
    print(mutual_information_recursion(torch.zeros(0, 2, 3), torch.zeros(0, 3, 3)).tolist())
"""
    assert in_a_process(code, TRITON_INTERPRET="1").splitlines() == ["[-inf, 0.0, nan] 2.0 0.0", "[]"]


def test_it_compiles_for_a_gpu():
    code = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from residualformer.kernels.recursion_triton import _recursion
pointers = dict.fromkeys(["px", "py", "px_grad", "py_grad", "total", "x_fractions"], "*fp32") | {"boundary": "*i64"}
for slope, with_grad, block in ((1, True, 64), (0, True, 2048), (1, False, 128)):
    constants = {"SLOPE": slope, "WITH_GRAD": with_grad, "BLOCK": block}
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in _recursion.arg_names}
    source = ASTSource(fn=_recursion, signature=signature, constexprs=constants)
    options = {"num_warps": min(8, max(1, block // 128))}
    print(len(compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["cubin"]) > 0)
"""
    assert in_a_process(code).split() == ["True"] * 3
