"""Commands that end when the process that runs them, or the script that called that process, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from residualformer.parallel import processes_without_interrupts

WATCH_S = 0.5
PARENT = os.getppid()  # while this process starts; 1, or that of a supervisor, once the parent has ended


def run_command(command: Sequence[str], environment: Mapping[str, str], inherited: int | None = None) -> int:
    """Run a command and return its exit status, as a shell would give it.

    What ends this process (Ctrl-C, SIGTERM, the end of its parent) ends the command by SIGTERM, on which a training
    saves.

    Args:
        environment: variables beside those of this process.
        inherited: a file descriptor that the command gets as well.
    """
    process: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def end(number: int, frame: object) -> None:
        told.append(number)
        if process is not None:
            process.terminate()

    previous = signal.signal(signal.SIGTERM, end)
    interrupted = False
    with ExitStack() as starting:
        # On Ctrl-C the command gets SIGTERM from here, even while it still imports.
        starting.enter_context(processes_without_interrupts())
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            pass_fds=[] if inherited is None else [inherited],
        )
        if told:
            process.terminate()
        threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
        while True:
            try:
                starting.close()  # an interrupt that came while the command was started arrives here
                status = process.wait()
            except KeyboardInterrupt:
                interrupted = True
                process.terminate()  # it saves and ends
                print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            else:
                signal.signal(signal.SIGTERM, previous)
                return 130 if interrupted else status if status >= 0 else 128 - status


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    """End a command when the parent of this process has ended: a killed shell script does not tell its children."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the main thread's, also while that blocks it
    while process.returncode is None:
        if os.getppid() != PARENT:
            process.terminate()
            return
        time.sleep(WATCH_S)
