"""Start of the ranks of a training on this machine: torchrun's agent, how ranks tell it their end, how it stops them.

The agent starts all ranks anew when one is killed or fails; they go on from the last checkpoint. An end that starting
anew would repeat (a mistake of the user, a stop that was asked for) must look like success to it, so ranks tell it
their exit status in a folder. A stop is asked for in that folder as well: a rank sees it even while it still imports.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from residualformer.errors import UserError, run_main
from residualformer.files import write_json
from residualformer.train.nodes import Nodes

FOLDER = "RESIDUALFORMER_RANKS"  # in the environment of a rank: the folder that it shares with the agent
MAX_RESTARTS = 3
ALONE = Nodes()
# A store that outlived a start would give ranks that are started anew the addresses of those before them.
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
WATCH_S = 0.2
MERCY_S = 60.0  # for a rank to notice that another has ended


def default_nproc(batches_per_update: int, device: str = "auto") -> int:
    """Return how many ranks a training gets: one for each GPU, or for each thread it may use (OMP_NUM_THREADS).

    An update has `batches_per_update` batches, so there are at most as many ranks. `device` is one of
    `model.device.DEVICES`; a GPU that is named by its number is for a single rank.
    """
    on_gpu = device != "cpu" and torch.cuda.is_available()
    available = torch.cuda.device_count() if on_gpu else torch.get_num_threads()
    if device.startswith("cuda:"):
        available = 1
    return max(1, min(available, batches_per_update))


def launch(
    nproc: int, command: Sequence[str], environment: dict[str, str], nodes: Nodes = ALONE, place: Path | None = None
) -> int:
    """Run `command`, a Python script and its arguments, as `nproc` ranks; return the exit status.

    The ranks share the threads that this process may use. SIGTERM and SIGINT let them save and end.

    Args:
        nodes: the machines that each run `nproc` ranks of the same training.
        place: a folder that all machines see.

    Raises:
        UserError: ranks were killed more often than `MAX_RESTARTS`.
    """
    threads = str(max(1, torch.get_num_threads() // nproc))
    with _shared_folder(nodes, place) as folder:
        shared = {FOLDER: folder, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **FRESH_STORE, **environment}
        os.environ.update(shared)  # which the ranks inherit
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: (Path(folder) / "stop").touch())
        config = LaunchConfig(
            min_nodes=nodes.total,
            max_nodes=nodes.total,
            nproc_per_node=nproc,
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            rdzv_endpoint=nodes.meeting,
            local_addr=nodes.address,
            max_restarts=MAX_RESTARTS,
            signals_to_handle="SIGHUP,SIGQUIT",  # the agent would kill the ranks 30 s after the others
        )
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            raise UserError(
                f"the processes of the training failed {MAX_RESTARTS + 1} times; what they wrote is above. If memory "
                f"ran out, lower data.max_batch_s or --nproc. ({next(iter(error.failures.values())).message})"
            ) from error
        return _status(Path(folder))


@contextmanager
def _shared_folder(nodes: Nodes, place: Path | None) -> Iterator[str]:
    """Yield a folder of which all agents and ranks know; remove it in the end."""
    if place is None or nodes.total == 1:
        with tempfile.TemporaryDirectory(prefix="ranks.") as folder:
            yield folder
        return
    shared = place / f".ranks.{nodes.name}"
    shared.mkdir(parents=True, exist_ok=True)
    yield str(shared)
    if nodes.number == 0:
        shutil.rmtree(shared, ignore_errors=True)


def run_rank(main: Callable[[], None]) -> None:
    """Run `main` of a script as `run_main` does; if the process is a rank of `launch`, tell that how it ended."""
    if FOLDER not in os.environ:
        run_main(main)
        return
    folder, rank = Path(os.environ[FOLDER]), int(os.environ["RANK"])
    told = folder / f"end.{rank}"
    told.unlink(missing_ok=True)  # of before the agent started all anew
    threading.Thread(target=_watch, args=(folder, os.getppid()), daemon=True).start()
    message = ""

    def quietly() -> None:
        nonlocal message
        try:
            main()
        except UserError as error:
            if rank == 0:
                raise
            message = str(error)  # most often rank 0 says the same
            sys.exit(2)

    try:
        run_main(quietly)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except Exception:
        if not _bad_ends(folder):
            raise  # the agent starts all anew
        _leave()  # it failed because it lost another rank, which has told why
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a stop that another rank has seen first comes too late here
    write_json(told, {"status": status, "message": message})
    _leave()


def _leave() -> NoReturn:
    """End this process at once, for the agent a success.

    Python would take everything apart first, which PyTorch's communication does not always survive (it aborts); the
    agent would then start this rank anew and wait for the others, which have ended.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(0)


def _status(folder: Path) -> int:
    """Return the exit status of the first rank, by number, that ended badly; 0 if all ended well."""
    ends = _bad_ends(folder)
    if not ends:
        return 0
    rank, end = ends[0]
    if rank and end["message"]:
        print(f"error: {end['message']}", file=sys.stderr)
    return int(end["status"])


def _bad_ends(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return what ranks told of their end, those that ended well left out, in the order of their numbers."""
    ends = [(int(path.suffix[1:]), json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("end.*")]
    return sorted(((rank, end) for rank, end in ends if end["status"]), key=lambda each: each[0])


def _watch(folder: Path, agent: int) -> None:
    """Pass on a stop that was asked for. End this process when its agent is gone, or waits for this rank alone."""
    asked, others_ended = False, None
    while True:
        if os.getppid() != agent:
            os.kill(os.getpid(), signal.SIGKILL)  # another training may begin in the run folder
        if not asked and (folder / "stop").exists():
            asked = True
            os.kill(os.getpid(), signal.SIGTERM)
        if others_ended is None and _bad_ends(folder):
            others_ended = time.monotonic()
        if others_ended is not None and time.monotonic() - others_ended > MERCY_S:
            os._exit(0)
        time.sleep(WATCH_S)
