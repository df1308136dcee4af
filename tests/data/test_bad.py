"""Bad utterances: some are left out and named, many are refused."""

from __future__ import annotations

import pytest

from residualformer.data.bad import FEW, refuse_many
from residualformer.errors import UserError


def test_few_bad_utterances_or_a_small_share_are_no_error():
    refuse_many({f"u{n}": "gone" for n in range(FEW)}, 1.0, 0.0, "train")
    refuse_many({f"u{n}": "gone" for n in range(1000)}, 0.01, 0.01, "train")


def test_many_are_refused_with_the_first_names_and_reasons():
    with pytest.raises(UserError, match=r"^11 utterances of train .* 2.2% where .* allows 1.0% .u0: gone; u1"):
        refuse_many({f"u{n}": "gone" for n in range(FEW + 1)}, 0.022, 0.01, "train")
