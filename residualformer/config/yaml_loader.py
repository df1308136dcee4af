"""PyYAML's safe loader with its two traps closed: `1e-3` is a number, and a key given twice is an error."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import lru_cache
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key, (mark, _) in zip(keys, node.value, strict=True):
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", mark.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1, which PyYAML follows, wants 1.0e-3; without this 1e-3 and 1.5e6 would be read as text.
_NUMBER = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document; raise yaml.YAMLError, and nothing else, for any mistake in it."""
    try:
        return deepcopy(_parsed(text))  # the caller may change it
    except yaml.YAMLError:
        raise
    except Exception as error:  # PyYAML's own conversions: a date such as 2026-99-99, `!!int x`, brackets without end
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=256)  # the experiments of a recipe share most of their files, and to parse one takes milliseconds
def _parsed(text: str) -> Any:
    return yaml.load(text, _Loader)
