"""Errors that a user can correct, in one sentence: what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """An error that a user can correct. It is shown without a traceback, and the exit status is 2."""


def closest(name: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the valid name that is closest to `name`, or "" if none is close."""
    near = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def run_main(main: Callable[[], None]) -> None:
    """Run the `main` function of a script and exit with a status.

    UserError and failing disks end in one line on stderr and status 2, Ctrl-C in status 130. SIGTERM acts like Ctrl-C,
    so that temporary files and worker processes are cleaned up.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discard what is still buffered
        sys.exit(1)
    except OSError as error:
        where, reason = f" {error.filename}" if error.filename else "", error.strerror or error
        advice = "; free some space and run it again" if error.errno in (None, errno.ENOSPC, errno.EDQUOT) else ""
        sys.exit(_fail(f"cannot read or write{where}: {reason}{advice}."))


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
