"""The reference of all keys is generated, and up to date."""

from __future__ import annotations

from residualformer.config.loading import KEYS
from residualformer.config.reference import page


def test_the_reference_is_up_to_date(root):
    told = (root / "docs/configuration.md").read_text(encoding="utf-8")
    assert told == page(), "run: python -m residualformer.config.reference > docs/configuration.md"


def test_it_has_every_key_once():
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows if row.count("|") == 7] == [row.split("`")[1] for row in rows]
    assert sorted(row.split("`")[1] for row in rows) == sorted(KEYS)
