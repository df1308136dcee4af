"""Batches of utterances of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def group_by_length(items: Iterable[T], seconds: Callable[[T], float], max_batch_s: float) -> list[list[T]]:
    """Group items of similar length, the longest first.

    Each group lasts at most `max_batch_s` with its padding, or is a single item.
    """
    groups: list[list[T]] = []
    for item in sorted(items, key=lambda item: -seconds(item)):
        if groups and (len(groups[-1]) + 1) * seconds(groups[-1][0]) <= max_batch_s:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups
