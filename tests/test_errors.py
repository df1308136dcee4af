"""How programs end: one line and a status, whatever went wrong."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from residualformer.errors import UserError, run_main


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (UserError("give x"), 2, "error: give x\n"),
        (OSError(errno.EROFS, "Read-only", "a/b"), 2, "error: cannot read or write a/b: Read-only.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), 2, "a: No space left on device; free some space"),
        (OSError("80 requested and 12 written"), 2, "80 requested and 12 written; free some space"),  # numpy's words
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)  # fmt: skip
def test_ends_in_one_line(raised, status, told, capsys):
    def fail():
        raise raised

    with pytest.raises(SystemExit) as ended:
        run_main(fail)
    printed = capsys.readouterr().err
    assert ended.value.code == status and told in printed and len(printed.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "from residualformer.errors import run_main; run_main(lambda: [print('x' * 99) for _ in range(9999)])"
    done = subprocess.run(f'{sys.executable} -c "{code}" | head -1', shell=True, capture_output=True, text=True)
    assert done.stdout == "x" * 99 + "\n" and done.stderr == ""
