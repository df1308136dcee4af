"""Reading a configuration: defaults < base < file < `--set a.b=c`, in order; everything wrong with it is told at once.

`--set @FILE` takes the YAML file FILE in between: over the remotest base, under all that the other files say.

A YAML file holds only what differs from the file its `base:` names (a path beside the file itself); what no file
names keeps the default of `schema.py`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from residualformer.config.checks import check
from residualformer.config.schema import Config
from residualformer.config.yaml_loader import load_yaml
from residualformer.errors import UserError, closest
from residualformer.files import write_text

_OVERRIDE = "--set"


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The experiment in the YAML file `path`, with `overrides` such as 'encoder.residual.rank=16' over it.

    Raises UserError with every unknown key, wrong type and value out of range, each with the file that holds it.
    """
    reader = _Reader()
    chain = config_chain(path)
    between = [part for override in overrides if override.startswith("@") for part in config_chain(override[1:])]
    for file, content in [chain[0], *between, *chain[1:]]:
        reader.add(content, source=str(file))
    for override in overrides:
        if not override.startswith("@"):
            reader.add_override(override)
    return reader.config()


def config_from_dict(content: Mapping[str, Any], source: str = "configuration") -> Config:
    """The inverse of `config_to_dict`, as strict as `load_config`; `source` names the origin in errors."""
    reader = _Reader()
    reader.add(content, source)
    return reader.config()


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested plain dictionaries, one per section, every key present."""
    return dataclasses.asdict(config)


def dump_config(config: Config, path: Path | str) -> None:
    """Write the fully resolved configuration as YAML (no `base:`; `load_config` reads it back equal)."""
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True, width=110))


def config_chain(path: Path | str) -> list[tuple[Path, dict[str, Any]]]:
    """The files behind `path`, the remotest base first and `path` last, each with its content but for `base:`."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    file, named_by = Path(path), ""
    while True:
        if file.resolve() in [seen.resolve() for seen, _ in chain]:
            raise UserError(f"{named_by}: base leads back to {file}; a configuration cannot be its own base.")
        content = _read_mapping(file, named_by)
        base = content.pop("base", None)
        chain.insert(0, (file, content))
        if base is None:
            return chain
        if not isinstance(base, str):
            raise UserError(f"{file}: base is {base!r}; give the path of a YAML file, seen from this file's folder.")
        file, named_by = file.parent / base, str(file)


def _read_mapping(file: Path, named_by: str) -> dict[str, Any]:
    if not file.is_file():
        near = closest(file.name, [other.name for other in file.parent.glob("*.yaml")])
        where = f"{named_by}: its base {file}" if named_by else f"configuration {file}"
        raise UserError(f"{where} is not a file.{near}")
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise UserError(f"{file} holds {content!r}; a configuration is made of lines 'key: value'.")
    return dict(content or {})


class _Reader:
    """Collects values from several sources, then builds the configuration or tells all that is wrong."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # dotted key -> value, later sources over earlier ones
        self.sources: dict[str, str] = {}  # dotted key -> where the value came from
        self.problems: list[str] = []

    def add(self, content: Mapping[str, Any], source: str, section: type = Config, prefix: str = "") -> None:
        """Take the keys of one section (and the sections in it) from a mapping."""
        fields = section_fields(section)
        for name, value in content.items():
            key = f"{prefix}{name}"
            if name not in fields:
                self.problems.append(f"{source}: {_unknown(key, section, prefix)}")
            elif dataclasses.is_dataclass(fields[name]):
                if isinstance(value, Mapping):
                    self.add(value, source, fields[name], f"{key}.")
                else:
                    keys = ", ".join(section_fields(fields[name]))
                    self.problems.append(f"{source}: {key} is {value!r}; it is a section with the keys {keys}.")
            else:
                self._take(key, value, fields[name], source)

    def add_override(self, override: str) -> None:
        """Take one `a.b=c`, c being YAML."""
        key, equals, text = override.partition("=")
        source = f"{_OVERRIDE} {override}"
        if not equals or not key.strip():
            self.problems.append(f"{source}: give a key and a value, such as encoder.residual.rank=16.")
            return
        try:
            content = load_yaml(text)
        except yaml.YAMLError:
            self.problems.append(f"{source}: the value {text!r} is not valid YAML; put quotes around it.")
            return
        for name in reversed(key.strip().split(".")):
            content = {name: content}
        self.add(content, source)

    def _take(self, key: str, value: Any, annotation: Any, source: str) -> None:
        try:
            self.values[key] = _cast(value, annotation)
            self.sources[key] = source
        except TypeError:
            self.problems.append(f"{source}: {key} is {value!r}; it must be {_words(annotation)}.")

    def config(self) -> Config:
        config = _build(Config, self.values)
        for problem in check(config, flat(config)):
            sources = dict.fromkeys(self.sources[key] for key in problem.keys if key in self.sources)
            self.problems.append(f"{' with '.join(sources) or 'defaults'}: {problem.keys[0]} {problem.what}.")
        if self.problems:
            head = f"{len(self.problems)} mistakes in the configuration:\n  " if len(self.problems) > 1 else ""
            raise UserError(head + "\n  ".join(self.problems))
        return config


def section_fields(section: type) -> dict[str, Any]:
    """{key: its type} of one section's dataclass."""
    return typing.get_type_hints(section)


def flat(config: Config) -> dict[str, Any]:
    """{dotted key: value} of all its values."""
    return dict(flatten(config_to_dict(config)))


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _build(section: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    given = {}
    for name, annotation in section_fields(section).items():
        if dataclasses.is_dataclass(annotation):
            given[name] = _build(annotation, values, f"{prefix}{name}.")
        elif f"{prefix}{name}" in values:
            given[name] = values[f"{prefix}{name}"]
    return section(**given)


def _unknown(key: str, section: type, prefix: str) -> str:
    name = key.removeprefix(prefix)
    here = list(section_fields(section))
    elsewhere = {full.rpartition(".")[2]: full for full in reversed(flat(Config()))}
    found = elsewhere.get(str(name))
    advice = f" Did you mean '{found}'?" if found else closest(name, here)
    return f"there is no key {key}.{advice or ' Allowed here: ' + ', '.join(here) + '.'}"


def _cast(value: Any, annotation: Any) -> Any:
    """The value as its annotated type (an int becomes a float where a float is due); TypeError when it does not fit."""
    if isinstance(annotation, types.UnionType):
        for option in typing.get_args(annotation):
            try:
                return _cast(value, option)
            except TypeError:
                continue
    elif typing.get_origin(annotation) is list and isinstance(value, list):
        (item,) = typing.get_args(annotation)
        return [_cast(each, item) for each in value]
    elif annotation is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is annotation:  # not isinstance: true is an int to Python
        return value
    raise TypeError


def _words(annotation: Any) -> str:
    if isinstance(annotation, types.UnionType):
        return " or ".join(_words(option) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return "a list, each item " + _words(typing.get_args(annotation)[0])
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
    }[annotation]
