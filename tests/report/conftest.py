"""Decoding runs of the experiments of a paper's table."""

from __future__ import annotations

import pytest
from support.paper_runs import SYSTEMS, write_run

from residualformer.files import write_text
from residualformer.report.scoring import score_run


@pytest.fixture(scope="session")
def paper_egs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("egs") / "made_up"
    for name in SYSTEMS:
        write_run(folder, name)
    write_text(folder / "conf" / "base.yaml", "encoder: {sharing: 3}")
    return folder


@pytest.fixture(scope="session")
def paper_runs(paper_egs):
    return {(name, "test"): score_run(paper_egs / "exp" / name / "decode_test_beam16") for name in SYSTEMS}
