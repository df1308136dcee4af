"""Tables of Common Voice and what builds on it: TSV without quoting."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from residualformer.errors import UserError


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the named columns of each row of a TSV file with literal quotes and the escape character `\\`.

    Raises:
        UserError: the file is missing, not a table or without one of the columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")
            header = next(rows, [])
            missing = [name for name in columns if name not in header]
            if missing:
                found = ", ".join(header) or "none"
                raise UserError(f"{path} has no column '{missing[0]}' (its columns: {found}): get it again.")
            places = [header.index(name) for name in columns]
            yield from (tuple(row[place] for place in places) for row in rows if len(row) > max(places))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run stage 0 again, with --overwrite.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a table of tab-separated text ({error}): get it again.") from error
