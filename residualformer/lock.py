"""One process at a time in a run folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from residualformer.errors import UserError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep `folder` to this process; UserError where another has it.

    The lock is of `.<name>.lock` beside it, so that the folder may be moved, and falls with the process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use by another training; wait until it ends, or stop it") from None
        except OSError:  # a file system without locks
            pass
        yield
