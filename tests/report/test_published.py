"""The published results: text and data agree, links lead somewhere, and reading and writing changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from residualformer.report.paper_table import PaperTable
from residualformer.report.paper_text import findings
from residualformer.report.publish import results_text, table_text
from residualformer.report.results import Results

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "results"
RESULTS, TABLES = sorted(PUBLISHED.glob("*/results.json")), sorted(PUBLISHED.glob("*/tables/*.json"))
TEXTS = sorted(PUBLISHED.rglob("*.md"))


def name(path: Path) -> str:
    return str(path.relative_to(PUBLISHED))


def test_there_are_results_to_check():
    assert len(RESULTS) >= 5 and len(TABLES) >= 9 and len(TEXTS) >= 14


def test_a_run_writes_where_git_does_not_look():
    ignored = (PUBLISHED.parents[1] / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"egs/*/exp/", "egs/*/data/"} <= set(ignored)


@pytest.mark.parametrize("path", RESULTS, ids=name)
def test_results_are_written_as_they_were_read(path):
    results = Results.read(path)
    assert results.to_dict() == json.loads(path.read_text(encoding="utf-8"))
    assert path.with_name("RESULTS.md").read_text(encoding="utf-8") == results_text(results, path.parent)
    assert results.corpus == path.parent.name and set(results.sets) == {row.split for row in results.rows}


@pytest.mark.parametrize("path", TABLES, ids=name)
def test_tables_are_written_as_they_were_read(path):
    table = PaperTable.read(path)
    assert table.to_dict() == json.loads(path.read_text(encoding="utf-8"))
    assert path.with_suffix(".md").read_text(encoding="utf-8") == table_text(table, path.parents[1])
    assert table.recipe == path.parents[1].name and table.findings == findings(table)


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).is_file()] == []
