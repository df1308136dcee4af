"""Publish the results of a run: merge them into docs/results/<recipe>, where no run writes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from residualformer.data.splits import set_of
from residualformer.files import replacing, write_json, write_text
from residualformer.report.compare import with_savings
from residualformer.report.paper_table import PaperTable
from residualformer.report.paper_text import render, show_picture
from residualformer.report.plots import against_parameters, table_lines
from residualformer.report.results import NO_COMPARISON, Results, Row
from residualformer.report.results_text import render_markdown, show_pictures

PICTURES = ("training.png", "branches.png")  # which cannot be drawn from the JSON


@dataclass(frozen=True)
class Publication:
    """Results that are about to be published."""

    results: Results  # the published rows with the run's
    tables: list[PaperTable]  # the run's, where they lack nothing of the published ones
    pictures: list[Path]  # the run's `PICTURES`, where they show all published experiments
    changes: list[str]  # a line for each difference to what is published


def prepare(exp: Path, published: Path, root: Path) -> Publication:
    """Merge the results of a run in `exp` with those in the folder `published`, if it exists, without writing.

    Paths below `root`, that of the repository, become relative in the run's commands: others run them elsewhere.
    """
    run = Results.read(exp / "results.json")
    run = replace(run, rows=[_seen_from(root, row) for row in run.rows])
    old = Results.read(published / "results.json") if (published / "results.json").is_file() else None
    results, changes = merge_results(old, run)
    tables, pictures = [], []
    for path in sorted(exp.glob("tables/*.json")):
        table, file = PaperTable.read(path), published / "tables" / path.name
        lost = _lost(PaperTable.read(file), table) if file.is_file() else []
        if lost:
            changes.append(f"kept the published {table.table}: the run's lacks {', '.join(lost)}")
        else:
            changes.append(f"{'replaced' if file.is_file() else 'added'} {table.table}")
            tables.append(table)
    unseen = set(old.experiments if old else []) - set(run.experiments)
    for path in (exp / name for name in PICTURES):
        if path.is_file() and unseen and (published / path.name).is_file():
            changes.append(f"kept the published {path.name}: the run's lacks {', '.join(sorted(unseen))}")
        elif path.is_file():
            pictures.append(path)
    return Publication(results, tables, pictures, changes)


def _seen_from(root: Path, row: Row) -> Row:
    inside = re.compile(rf"(?<![\w./-]){re.escape(str(root))}/")
    trained, decoded = (command and inside.sub("", command) for command in (row.training.command, row.decoding.command))
    return replace(
        row, training=replace(row.training, command=trained), decoding=replace(row.decoding, command=decoded)
    )


def merge_results(published: Results | None, run: Results) -> tuple[Results, list[str]]:
    """Return the published results with the rows of `run` in them, and a line for each change.

    A published row is replaced by the run's of the same experiment, test set and search, and else kept. It is dropped
    where the run trained the experiment again but did not decode it there; its comparison is dropped where that was
    with a model that the run replaces by one of other scores.
    """
    old = published or replace(run, rows=[])
    new = {(row.experiment, row.run): row for row in run.rows}
    fingerprints = {row.experiment: row.training.fingerprint for row in run.rows}
    scored = f"`{old.command}` at commit {old.commit}"
    rows: list[Row] = []
    changes: list[str] = []
    changed: set[tuple[str, str]] = set()
    for row in old.rows:
        key = row.experiment, row.run
        if (other := new.pop(key, None)) is not None:
            rows.append(other)
            changes.append(f"replaced {_name(row)}: {_score(row)} -> {_score(other)}")
            if other.scores != row.scores:
                changed.add(key)
        elif fingerprints.get(row.experiment, row.training.fingerprint) != row.training.fingerprint:
            changes.append(f"dropped {_name(row)}: it was trained again, but not decoded there")
            changed.add(key)
        else:
            rows.append(replace(row, scored=row.scored or scored))
    stale = [row for row in rows if row.scored and row.comparison.relative is not None]
    stale = [row for row in stale if (row.baseline, row.run) in changed]
    changes += [f"{_name(row)} is no longer compared with {row.baseline}, which changed" for row in stale]
    rows = [replace(row, comparison=NO_COMPARISON) if row in stale else row for row in rows]
    rows += new.values()
    changes += [f"added {_name(row)}: {_score(row)}" for row in new.values()]
    kept = dict.fromkeys(row.experiment for row in rows if row.scored)
    changes += [f"kept {', '.join(kept)}"] if kept else []
    sets = list(dict.fromkeys([*old.sets, *run.sets]))
    baselines = dict.fromkeys([*old.baseline.split(", "), *run.baseline.split(", ")])
    merged = replace(run, split=", ".join(sets), baseline=", ".join(baselines), rows=_ordered(with_savings(rows), sets))
    return merged, changes


def write(publication: Publication, folder: Path) -> None:
    """Write what is published into `folder`, each file at once; pictures that are there are drawn again."""
    for path in publication.pictures:
        with replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    for table in publication.tables:
        file = folder / "tables" / f"{table.table}.json"
        if file.with_suffix(".png").is_file():
            table_lines(table, file.with_suffix(".png"))
        write_json(file, table.to_dict())
        write_text(file.with_suffix(".md"), table_text(table, folder))
    write_json(folder / "results.json", publication.results.to_dict())
    write_text(folder / "RESULTS.md", results_text(publication.results, folder))


def results_text(results: Results, folder: Path) -> str:
    """Return RESULTS.md, which shows the pictures that are in `folder`."""
    shown = show_pictures([folder / name for name in PICTURES if (folder / name).is_file()])
    return render_markdown(results, [*shown, _how_to_draw(folder)])


def table_text(table: PaperTable, folder: Path) -> str:
    """Return tables/<table>.md, which shows its picture if that is in `folder`."""
    drawn = (folder / "tables" / f"{table.table}.png").is_file()
    return render(table, show_picture(table) if drawn else _how_to_draw(folder))


def _how_to_draw(folder: Path) -> str:
    return f"Pictures of these numbers: `local/publish.sh {folder.name} --draw DIR`."


def draw(published: Path, out: Path) -> list[Path]:
    """Draw into the folder `out` all pictures that follow from the published JSON, and return them."""
    pictures = against_parameters(Results.read(published / "results.json"), out)
    for path in sorted(published.glob("tables/*.json")):
        picture = out / f"{path.stem}.png"
        pictures += [picture] if table_lines(PaperTable.read(path), picture) else []
    return pictures


def _lost(old: PaperTable, new: PaperTable) -> list[str]:
    """Return the test sets and experiments that `old` shows and `new` does not."""
    measured = new.measured()
    names = [name for name, ours in old.measured().items() if ours and not measured.get(name)]
    return [name for name in old.sets if name not in new.sets] + names


def _ordered(rows: Sequence[Row], sets: Sequence[str]) -> list[Row]:
    """Sort rows by test set, recurrent encoders last and baselines first; else their order stays."""

    def place(row: Row) -> tuple[int, str, bool, bool]:
        recurrent = "encoder" in row.parameters
        return sets.index(set_of(row.split)), row.split, recurrent, row.experiment != row.baseline

    return sorted(rows, key=place)


def _name(row: Row) -> str:
    return f"{row.experiment} ({row.split}, {row.search_name})"


def _score(row: Row) -> str:
    return f"{row.metric} {row.scores[row.metric.lower()].value}"
