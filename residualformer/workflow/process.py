"""Running a command so that it ends with the process that runs it, and that one with the script that called it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

WATCH_S = 0.5


def run_command(command: Sequence[str], environment: Mapping[str, str], inherited: int | None = None) -> int:
    """Run a command and return its exit status, as a shell would give it.

    What ends this process (Ctrl-C, SIGTERM, the end of its parent) ends the command by SIGTERM, on which a training
    saves.

    Args:
        environment: variables beside those of this process.
        inherited: a file descriptor that the command gets as well.
    """
    parent = os.getppid()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the command: Ctrl-C comes to it from here alone,
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        pass_fds=[] if inherited is None else [inherited],
    ) as process:  # and so does no harm while it still imports
        signal.signal(signal.SIGINT, handler)
        previous = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        threading.Thread(target=_end_with, args=(parent, process), daemon=True).start()
        interrupted = False
        while True:
            try:
                status = process.wait()
            except KeyboardInterrupt:
                interrupted = True
                process.terminate()  # it saves and ends
                print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            else:
                signal.signal(signal.SIGTERM, previous)
                return 130 if interrupted else status if status >= 0 else 128 - status


def _end_with(parent: int, process: subprocess.Popen[bytes]) -> None:
    """End a command when the parent of this process has ended; a shell script that is killed tells nobody."""
    while process.returncode is None:
        if os.getppid() != parent:
            process.terminate()
            return
        time.sleep(WATCH_S)
