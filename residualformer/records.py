"""Reading of JSON values as dataclasses, by the annotations of their fields and without a library."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from residualformer.errors import closest

T = TypeVar("T")

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {  # by the attributes of annotated_types' bounds
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "more than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}


def read_dataclass(cls: type[T], value: Any, key: str = "") -> T:
    """Return a JSON mapping as the dataclass `cls`.

    Fields may be booleans, numbers, text, None, literals, lists, mappings, other dataclasses and unions of these, with
    bounds of `annotated_types`. Keys that are no fields are passed over: a later version may have written them.

    Raises:
        ValueError: a key is missing, or its value has another type or is out of bounds; `key` goes before its name.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{key or 'it'} must be a mapping, not {value!r:.40}")
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # a type variable cannot be bound to dataclasses
        name = f"{key}.{field.name}" if key else field.name
        if field.name in value:
            found[field.name] = _convert(hints[field.name], value[field.name], name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} is missing")
    return cls(**found)


def _convert(annotation: Any, value: Any, key: str) -> Any:
    """Return `value` as what `annotation` says; ValueError, which names `key`, when it is something else."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin is Annotated:
        value = _convert(arguments[0], value, key)
        if all(compare(value, limit) for limit, compare, _ in _bounds(annotation)):
            return value
    elif origin in (Union, UnionType):
        for member in arguments:  # the first that takes the value
            with suppress(ValueError):
                return _convert(member, value, key)
    elif origin is Literal and any(type(value) is type(each) and value == each for each in arguments):
        return value
    elif origin is list and isinstance(value, list):
        return [_convert(arguments[0], each, f"{key}[{index}]") for index, each in enumerate(value)]
    elif origin is dict and isinstance(value, dict):
        return {_convert(arguments[0], k, key): _convert(arguments[1], v, f"{key}.{k}") for k, v in value.items()}
    elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return read_dataclass(annotation, value, key)
    elif annotation is float:
        if type(value) in (int, float) and abs(value) < math.inf:  # NaN is not below it either
            return value
    elif annotation in _NAMES and type(value) is annotation:  # True is no whole number
        return value
    advice = closest(value, arguments) if origin is Literal and isinstance(value, str) else ""
    raise ValueError(f"{key} must be {_describe(annotation)}, not {value!r:.40}.{advice}".removesuffix("."))


def _bounds(annotation: Any) -> Iterator[tuple[Any, Callable[[Any, Any], bool], str]]:
    """Yield limit, comparison and words of each bound of an `Annotated` type."""
    for metadata in annotation.__metadata__:
        for name, (compare, words) in _BOUNDS.items():
            limit = getattr(metadata, name, None)
            if limit is not None:
                yield limit, compare, words


def _describe(annotation: Any) -> str:
    """Return in words what `annotation` allows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = " and ".join(f"{words} {limit:g}" for limit, _, words in _bounds(annotation))
        return f"{_describe(arguments[0])} of {limits}" if limits else _describe(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is list:
        return "a list"
    return _NAMES.get(annotation, "a mapping")
