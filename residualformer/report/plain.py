"""Dataclasses to plain values and back, at the boundary of a JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from residualformer.errors import UserError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Return `value` with every dataclass in it as a dict; a field that is None by default is left out where None."""
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {each.name: to_plain(x) for each, x in pairs if not (x is None and each.default is None)}
    if isinstance(value, Mapping):
        return {key: to_plain(x) for key, x in value.items()}
    return [to_plain(x) for x in value] if isinstance(value, list | tuple) else value


def from_plain(kind: type[T], values: Any, source: str, advice: str) -> T:
    """Return the dataclass `kind` that `to_plain` made `values` of; keys it does not have are ignored.

    Raises:
        UserError: a value is missing or has the wrong type; the message names `source` and ends in `advice`.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the top"
        raise UserError(f"{source} is not as it should be at {place} ({first['msg']}): {advice}.") from None
