"""One process at a time for each output."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from residualformer.errors import UserError

_HELD = "RESIDUALFORMER_LOCK_HELD"  # in the environment of a command: the output that is kept to it already


@contextmanager
def alone_in(output: Path) -> Iterator[int | None]:
    """Keep `output`, a file or folder, to this process; yield the descriptor of the lock, None if it was held before.

    The lock is on `.<name>.lock` beside the output, so that the output may be moved, and falls with the process. A
    command shares it if it inherits the descriptor and has `held(output)` in its environment.

    Raises:
        UserError: another process has the output.
    """
    if os.environ.get(_HELD) == str(output.absolute()):
        yield None
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output.with_name(f".{output.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output} is in use by another run; wait until it ends, or stop it") from None
        except OSError:  # a file system without locks
            pass
        yield file.fileno()


def held(output: Path) -> dict[str, str]:
    """Return what tells a command, by its environment, that `output` is kept to it."""
    return {_HELD: str(output.absolute())}
