"""Read a configuration: defaults < base < experiment < `--set a.b=c`; one error lists all mistakes in it.

`--set @FILE` takes the YAML file FILE in between: over the remotest base, under all that the other files say.
`composition.py` finds the files of an experiment, `schema.py` defines the keys.

A key may mean something only with certain values of another (`Only`). When a later source changes that other value,
what earlier sources gave the key is dropped; a key without a meaning in the same or a later source is a mistake.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from residualformer.config.checks import check
from residualformer.config.composition import config_chain, read_mapping
from residualformer.config.keys import Key, Only, deciding_first, keys_of, section_type
from residualformer.config.schema import Config
from residualformer.config.yaml_loader import load_yaml
from residualformer.errors import UserError, closest
from residualformer.files import write_text

KEYS = {key.name: key for key in keys_of(Config)}
IN_ORDER = deciding_first(KEYS)
RENAMED = {"encoder.look_back_ms": "encoder.left_context_ms"}  # former names, still found in recorded configurations
_CONFIG = TypeAdapter(Config)
_RECORDED = -1  # the rank of recorded values: whatever means nothing is dropped
_OUT_OF_RANGE = {
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
    *("too_short", "too_long", "literal_error", "predicate_failed"),
}  # fmt: skip


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Load the experiment `path` (`conf/<recipe>/<name>.yaml`), with `overrides` such as 'encoder.residual.rank=16'.

    Raises UserError with every unknown key, wrong type, value out of range and key without a meaning, each with the
    file that holds it.
    """
    chain = config_chain(path)
    between = [part for override in overrides if override.startswith("@") for part in config_chain(override[1:])]
    reader = _Reader()
    for file, content in [chain[0], *between, *chain[1:]]:
        reader.add(content, str(file))
    reader.add_overrides([override for override in overrides if not override.startswith("@")])
    return reader.config()


def load_recorded(path: Path | str) -> Config:
    """Load the `config.yaml` of a run folder, as `config_from_dict` does."""
    return config_from_dict(read_mapping(Path(path)), str(path))


def config_from_dict(
    content: Mapping[str, Any], source: str = "configuration", overrides: Sequence[str] = ()
) -> Config:
    """Return the configuration that `config_to_dict` gave as `content`, with `overrides` over it.

    It is as strict as `load_config`, but drops recorded values without a meaning and knows former names of keys;
    `source` names the record in errors.
    """
    reader = _Reader()
    reader.add(content, source, _RECORDED)
    reader.add_overrides(overrides)
    return reader.config()


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return nested plain dictionaries, one per section, with every key."""
    return dataclasses.asdict(config)


def dump_config(config: Config, path: Path | str) -> None:
    """Write the resolved configuration as YAML: all keys that mean something. `load_config` reads it back equal."""
    write_text(path, yaml.safe_dump(_nested(meaningful(config)), sort_keys=False, allow_unicode=True, width=110))


def meaningful(config: Config) -> dict[str, Any]:
    """Return {dotted key: value} of the values that mean something with the values of the other keys."""
    values = flat(config)
    return {name: value for name, value in values.items() if _has_meaning(KEYS[name], values)}


def flat(config: Config) -> dict[str, Any]:
    """Return {dotted key: value} of all its values."""
    return dict(flatten(config_to_dict(config)))


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings; the value of a key may itself be a mapping."""
    for name, value in content.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in KEYS:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def complete(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return all keys of a configuration of which {dotted key: value} was recorded, to compare it with today's `flat`.

    A key that did not exist then had the default that it has now; so has a key without a meaning.
    """
    renamed = {RENAMED.get(name, name): value for name, value in recorded.items()}
    values = {name: key.default for name, key in KEYS.items()} | renamed
    return {
        name: KEYS[name].default if name in KEYS and not _has_meaning(KEYS[name], values) else value
        for name, value in values.items()
    }


def _has_meaning(key: Key, values: Mapping[str, Any]) -> bool:
    return all(
        any(each.holds(values[each.key]) and _has_meaning(KEYS[each.key], values) for each in only.alternatives)
        for only in key.only
    )


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, key = str(name).split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    return nested


class _Value(NamedTuple):
    """A value, the source it is from, and the source's rank: later sources are higher, defaults lower than all."""

    value: Any
    source: str
    rank: int


class _Reader:
    """A collector of values from several sources, which builds the configuration or lists all mistakes."""

    def __init__(self) -> None:
        self.values = {name: _Value(key.default, "", _RECORDED) for name, key in KEYS.items()}
        self.problems: list[str] = []
        self.wrong: set[str] = set()  # keys that are mentioned in a problem
        self.sources = 0

    def add(self, content: Mapping[str, Any], source: str, rank: int | None = None) -> None:
        """Take all values of a source, which is later than those before."""
        self.sources += 1
        self._add_section(content, source, self.sources if rank is None else rank, Config)
        self._settle()

    def add_overrides(self, overrides: Sequence[str]) -> None:
        """Take values given as `a.b=c`, c being YAML; together they are one source, later than all files."""
        self.sources += 1
        for override in overrides:
            key, equals, text = override.partition("=")
            source = f"--set {override}"
            if not equals or not key.strip():
                self.problems.append(f"{source}: give a key and a value, such as encoder.residual.rank=16.")
                continue
            try:
                content = _nested({key.strip(): load_yaml(text)})
            except yaml.YAMLError:
                self.problems.append(f"{source}: the value {text!r} is not valid YAML; put quotes around it.")
                continue
            self._add_section(content, source, self.sources, Config)
        self._settle()

    def _add_section(self, content: Mapping[str, Any], source: str, rank: int, section: type, prefix: str = "") -> None:
        fields = {field.name: field for field in dataclasses.fields(section)}
        for name, value in content.items():
            key = f"{prefix}{name}"
            if rank == _RECORDED:
                key = RENAMED.get(key, key)
            if key in KEYS:
                self._take(KEYS[key], value, source, rank)
            elif name not in fields:
                self.problems.append(f"{source}: {_unknown(key, prefix, list(fields))}")
            elif isinstance(value, Mapping):
                self._add_section(value, source, rank, section_type(section, name), f"{key}.")
            else:
                keys = ", ".join(other.name for other in dataclasses.fields(section_type(section, name)))
                self.problems.append(f"{source}: {key} is {value!r}; it is a section with the keys {keys}.")

    def _take(self, key: Key, value: Any, source: str, rank: int) -> None:
        try:
            self.values[key.name] = _Value(_adapter(key.name).validate_python(value), source, rank)
        except ValidationError as error:
            self.wrong.add(key.name)
            in_type = _OUT_OF_RANGE & {each["type"] for each in error.errors()}
            what = f"allowed: {key.allowed_words}" if in_type else f"it must be {key.type_words}"
            self.problems.append(f"{source}: {key.name} is {value!r}; {what}.")

    def config(self) -> Config:
        """Return the configuration; UserError with all that is wrong."""
        for key in KEYS.values():
            value, source, _ = self.values[key.name]
            if source and (only := self._lacking(key)):
                self.wrong.add(key.name)
                decided = " and ".join(f"{each.key} = {self.values[each.key].value}" for each in only.alternatives)
                what = f"is {value!r}, which has no effect with {decided}; leave it out, or take {only}"
                self.problems.append(f"{source}: {key.name} {what}.")
        config = _CONFIG.validate_python(_nested({name: value for name, (value, _, _) in self.values.items()}))
        for sentence in check(config):
            keys = [name for name in re.findall(r"[a-z_]+(?:\.[a-z_]+)*", sentence) if name in KEYS]
            if not self.wrong & set(keys):
                sources = dict.fromkeys(self.values[key].source for key in keys if self.values[key].source)
                self.problems.append(f"{' with '.join(sources) or 'defaults'}: {sentence}.")
        if self.problems:
            head = f"{len(self.problems)} mistakes in the configuration:\n  " if len(self.problems) > 1 else ""
            raise UserError(head + "\n  ".join(self.problems))
        return config

    def _settle(self) -> None:
        """Drop values that are older than the choice that takes away their meaning."""
        for key in IN_ORDER:
            if only := self._lacking(key):
                decided = max(self.values[each.key].rank for each in only.alternatives)
                if self.values[key.name].rank <= max(decided - 1, _RECORDED):
                    self.values[key.name] = _Value(key.default, "", decided)

    def _lacking(self, key: Key) -> Only | None:
        """Return the first condition that a key needs to mean something and that does not hold."""
        if key.name in self.wrong:
            return None

        def may_hold(each: Only) -> bool:
            return each.key in self.wrong or each.holds(self.values[each.key].value)

        return next((only for only in key.only if not any(map(may_hold, only.alternatives))), None)


@cache
def _adapter(name: str) -> TypeAdapter:
    return TypeAdapter(KEYS[name].annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _unknown(key: str, prefix: str, here: list[str]) -> str:
    name = key.removeprefix(prefix)
    elsewhere = {full.rpartition(".")[2]: full for full in reversed(KEYS)}
    found = RENAMED.get(key) or elsewhere.get(name)
    advice = f" Did you mean '{found}'?" if found else closest(name, here)
    return f"there is no key {key}.{advice or ' Allowed here: ' + ', '.join(here) + '.'}"
