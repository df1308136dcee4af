"""Kernels in Triton in tests: run by Triton's interpreter, and compiled for GPUs, none at hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from residualformer.optional import is_installed

triton = pytest.mark.skipif(not is_installed("triton"), reason="triton is not installed (pip install triton)")


class Resources(NamedTuple):
    """What a kernel takes of a GPU."""

    registers: int  # per thread, at most 255
    stack: int  # bytes per thread of what does not fit the registers
    shared: int  # bytes per program


class Build(NamedTuple):
    """A kernel to be compiled for one GPU."""

    kernel: str  # its name in the module
    types: dict[str, str]  # of its tensors, e.g. "*fp32"; other arguments are int32
    constants: dict[str, Any]
    options: dict[str, int]
    arch: int  # 80: A100, 90: H100

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.constants} {sorted(set(self.types.values()))} sm_{self.arch}"


def compile_kernels(module: str, builds: list[Build]) -> dict[str, Resources]:
    """Compile kernels of `residualformer.kernels.<module>` in a process without the interpreter, by Triton's ptxas."""
    arguments = json.dumps([module, [build._asdict() for build in builds]])
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, __file__], input=arguments, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return {name: Resources(*row) for name, row in json.loads(result.stdout).items()}


@contextmanager
def counted_launches(monkeypatch: pytest.MonkeyPatch, module: Any, run: bool = True) -> Iterator[list[str]]:
    """Collect the names of the kernels that `module` launches, or would launch without `run`."""
    launched: list[str] = []
    original = module.launch

    def counting(kernel: Any, *arguments: Any, **options: Any) -> None:
        launched.append(kernel.fn.__name__)
        if run:
            original(kernel, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "launch", counting)
        yield launched


def _main() -> None:
    import importlib
    import tempfile

    from triton import compile
    from triton.backends import nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, builds = json.load(sys.stdin)
    kernels = importlib.import_module(f"residualformer.kernels.{module}")
    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    used = {}
    for build in (Build(**each) for each in builds):
        function = getattr(kernels, build.kernel)
        types = dict.fromkeys(build.constants, "constexpr") | build.types
        signature = {name: types.get(name, "i32") for name in function.arg_names}
        source = ASTSource(fn=function, signature=signature, constexprs=build.constants)
        compiled = compile(source, target=GPUTarget("cuda", build.arch, 32), options=build.options)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
        registers, stack = (int(re.findall(rf"{what}:(\d+)", report)[-1]) for what in ("REG", "STACK"))
        used[build.name] = Resources(registers, stack, compiled.metadata.shared)
    print(json.dumps(used))


if __name__ == "__main__":
    _main()
