"""Utterances that cannot be used: left out, counted and named, until they are too many."""

from __future__ import annotations

from collections.abc import Mapping

from residualformer.errors import UserError

FEW = 10  # so many may be bad whatever their share, as in a small set
NAMED = 5  # of them, in an error


def refuse_many(reasons: Mapping[str, str], share: float, max_share: float, what: str) -> None:
    """Raise UserError if more than `FEW` utterances are bad and their share is above `data.max_bad_share`.

    Args:
        reasons: by id.
        share: of the utterances that were tried.
        max_share: `data.max_bad_share`.
        what: has been tried, such as `train`.
    """
    if len(reasons) > FEW and share > max_share:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:NAMED])
        raise UserError(
            f"{len(reasons)} utterances of {what} cannot be used, {share:.1%} where data.max_bad_share allows "
            f"{max_share:.1%} ({first}; ...): mend or remove them, or allow more"
        )
