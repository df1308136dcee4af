"""Lists of modules that tell type checkers what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

Item = TypeVar("Item", bound=nn.Module)


class ModuleList(nn.ModuleList, Generic[Item]):
    """A `torch.nn.ModuleList` of modules of one class."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> Item: ...  # type: ignore[override]

        def __iter__(self) -> Iterator[Item]: ...
