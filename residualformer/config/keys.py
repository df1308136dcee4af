"""The metadata of a schema's keys, which stands beside their types, and a table of all keys made of it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen, Predicate, Unit


@dataclass(frozen=True)
class Doc:
    """The meaning of a key, in one sentence."""

    text: str


@dataclass(frozen=True)
class Allowed:
    """The allowed values in words, where the constraints alone do not tell them."""

    words: str


@dataclass(frozen=True)
class Only:
    """A condition without which a key means nothing: another key has one of `needed`, more than 0, or enough items.

    None: it has any value but null. `otherwise` is a condition that will do as well.
    """

    key: str
    needed: tuple[str, ...] | tuple[bool] | Gt | MinLen | None
    otherwise: Only | None = None

    @property
    def alternatives(self) -> tuple[Only, ...]:
        """The conditions of which one is enough, each about one key; `holds` tells of the first alone."""
        return (self, *(self.otherwise.alternatives if self.otherwise else ()))

    def holds(self, value: Any) -> bool:
        """Return True if `value`, of the deciding key, gives the dependent key a meaning."""
        if isinstance(self.needed, Gt):
            return value > self.needed.gt
        if isinstance(self.needed, MinLen):
            return len(value) >= self.needed.min_length
        return value is not None if self.needed is None else value in self.needed

    def __str__(self) -> str:
        return ", or ".join(each._words() for each in self.alternatives)

    def _words(self) -> str:
        if isinstance(self.needed, Gt):
            return f"{self.key} above {self.needed.gt}"
        if isinstance(self.needed, MinLen):
            return f"{self.key} with {self.needed.min_length} entries or more"
        if self.needed is None:
            return f"{self.key} given"
        return f"{self.key} = {' or '.join(str(value).lower() for value in self.needed)}"


Count = Annotated[int, Gt(0)]
Updates = Annotated[int, Ge(0), Unit("updates")]
Milliseconds = Annotated[int, Ge(0), Unit("ms")]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Seconds = Annotated[float, Gt(0), Unit("s")]
Pause = Annotated[float, Ge(0), Unit("s")]
Level = Literal["as recorded", "normalized"]
Nats = Annotated[float, Unit("nats")]
Fraction = Annotated[float, Interval(ge=0, le=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Experiment = Annotated[
    str, Predicate(lambda name: name != "" and "/" not in name), Allowed("the name of an experiment, not a path")
]


@dataclass(frozen=True)
class Key:
    """One key of the configuration."""

    name: str
    annotation: Any  # the type with all metadata
    default: Any
    doc: str
    unit: str
    only: tuple[Only, ...]  # the conditions under which it means something
    type_words: str  # such as 'a whole number or null'
    allowed_words: str  # such as '0 or more'; '' when every value of the type is allowed


def keys_of(schema: type, prefix: str = "", only: tuple[Only, ...] = ()) -> Iterator[Key]:
    """Yield all keys of a dataclass and of the sections in it, with dotted names, in the order of the fields."""
    defaults = schema()
    for name, annotation in _annotations(schema).items():
        kind, metadata = split(annotation)
        conditions = only + tuple(part for part in metadata if isinstance(part, Only))
        if dataclasses.is_dataclass(kind):
            yield from keys_of(section_type(schema, name), f"{prefix}{name}.", conditions)
            continue
        doc = next((part.text for part in metadata if isinstance(part, Doc)), "")
        unit = next((part.unit for part in metadata if isinstance(part, Unit)), "")
        words = _type_words(annotation), _allowed_words(annotation)
        yield Key(f"{prefix}{name}", annotation, getattr(defaults, name), doc, unit, conditions, *words)


def section_type(schema: type, name: str) -> type:
    """Return the dataclass of the section `name` of a dataclass."""
    return split(_annotations(schema)[name])[0]


@cache
def _annotations(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema, include_extras=True)


def deciding_first(keys: Mapping[str, Key]) -> list[Key]:
    """Return the keys so ordered that each comes after those that its conditions are about."""

    def depth(key: Key) -> int:
        return max((1 + depth(keys[each.key]) for only in key.only for each in only.alternatives), default=0)

    return sorted(keys.values(), key=depth)


def split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the bare type of an annotation and its metadata."""
    if typing.get_origin(annotation) is typing.Annotated:
        return annotation.__origin__, annotation.__metadata__
    return annotation, ()


def _type_words(annotation: Any) -> str:
    kind, _ = split(annotation)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(_type_words(option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return "a list, each item " + _type_words(typing.get_args(kind)[0])
    if typing.get_origin(kind) is dict:
        name, value = map(_type_words, typing.get_args(kind))
        return f"a mapping of {name} to {value}"
    if typing.get_origin(kind) is typing.Literal:
        return _type_words(type(typing.get_args(kind)[0]))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return names[kind]


def _allowed_words(annotation: Any) -> str:
    kind, metadata = split(annotation)
    for part in metadata:
        if isinstance(part, Allowed):
            return part.words
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(filter(None, map(_allowed_words, typing.get_args(kind))))
    bounds = {}
    for part in metadata:
        for bound in part if isinstance(part, Interval) else [part]:
            if isinstance(bound, Gt | Ge | Lt | Le):
                bounds[type(bound).__name__.lower()] = getattr(bound, type(bound).__name__.lower())
    if {"ge", "le"} <= bounds.keys():
        return f"from {bounds['ge']} to {bounds['le']}"
    texts = {"gt": "more than {}", "ge": "{} or more", "lt": "less than {}", "le": "{} at most"}
    return " and ".join(texts[name].format(value) for name, value in bounds.items())
