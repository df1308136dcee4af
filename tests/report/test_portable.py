"""Commands are published without folders of the machine that ran them."""

from __future__ import annotations

import sys


def test_paths_of_the_machine_are_left_out(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    monkeypatch.delitem(sys.modules, "published", raising=False)
    from published import portable

    given = f"steps/train.py --config conf/a.yaml --exp {root}/egs/a/exp/b --recordings mine=/home/me/my_data"
    given += " --warm-start '/x/y'"
    assert portable(given) == (
        "steps/train.py --config conf/a.yaml --exp egs/a/exp/b --recordings mine=.../my_data --warm-start '.../y'"
    )
    assert portable("a/b 1/2 --lr 3e-4") == "a/b 1/2 --lr 3e-4"
