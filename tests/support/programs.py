"""Python programs of the repository, each run in a fork of one process that has imported what they import.

To start Python and to import PyTorch takes seconds, a fork hundredths of one. A program has the command line, folder,
environment, output and exit status that Python itself would give it; what a library reads from the environment while it
is imported, such as the number of threads, is that of the tests.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600  # of a program; one that hangs is killed
# Most of what takes time to import. Not residualformer.workflow, which looks at its parent while it is imported.
IMPORTED = ("residualformer.train.loop", "residualformer.decode.corpus", "residualformer.export.folder")


def run_program(
    *command: object, cwd: Path = ROOT, environment: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND`: a script, or `-m` and a module, and its arguments.

    Args:
        environment: variables beside those of the tests.
    """
    words = [str(word) for word in command]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        server = _server()
        request = {"words": words, "cwd": str(cwd), "variables": variables, "out": str(out), "err": str(err)}
        print(json.dumps(request), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, status, out.read_text("utf-8"), err.read_text("utf-8"))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process that is forked. It ends with this one, when its input is closed."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, __file__], cwd=ROOT, env=variables, text=True, **pipes)


def serve() -> None:
    """Fork for each line of the input, and write the exit status of each fork."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # else the forks' collections would write to all memory, and so copy it
    for line in sys.stdin:
        process = multiprocessing.get_context("fork").Process(target=become, kwargs=json.loads(line))
        process.start()
        process.join(LIMIT_S)
        process.kill()
        process.join()
        print(process.exitcode, flush=True)


def become(words: list[str], cwd: str, variables: dict[str, str], out: str, err: str) -> None:
    """Be the program that `words` name."""
    for number, name in enumerate((os.devnull, out, err)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    own = cwd if words[0] == "-m" else str(Path(words[0]).resolve().parent)
    sys.path[:2] = [own, *variables["PYTHONPATH"].split(os.pathsep)]  # was this file's and ROOT
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    serve()
