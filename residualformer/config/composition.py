"""The YAML files that an experiment is made of.

`conf/experiments/<name>.yaml` says what an experiment is, `conf/<recipe>/base.yaml` what the corpus and the size are;
`conf/<recipe>/<name>.yaml`, which need not exist, says how the experiment differs in that recipe. A file extends
another by `base: <file>`, seen from its own folder; `experiments:` in `base.yaml` lists the general ones of its recipe.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from residualformer.config.yaml_loader import load_yaml
from residualformer.errors import UserError, closest

BASE = "base.yaml"
GENERAL = "experiments"  # the folder of general experiments, and the key of base.yaml that lists those of the recipe
Layer = tuple[Path, dict[str, Any]]  # a file and its content, without `base:` and `experiments:`


def config_chain(path: Path | str) -> list[Layer]:
    """Return the files behind the experiment `path`, the remotest base first, each with its content.

    Raises UserError for a file that is missing or no mapping, and where files extend each other in a circle.
    """
    return _chain(Path(path), "", ())


def experiment_names(folder: Path | str) -> list[str]:
    """Return the sorted names of a recipe's experiments: its own files, and the general ones that its base lists."""
    folder = Path(folder)
    own = {file.stem for file in folder.glob("*.yaml") if file.name != BASE}
    patterns = _general_experiments(folder / BASE) if (folder / BASE).is_file() else []
    general = {file.stem for file in _general_folder(folder).glob("*.yaml")}
    return sorted(own | {name for name in general if any(fnmatchcase(name, pattern) for pattern in patterns)})


def read_mapping(file: Path, named_by: str = "") -> dict[str, Any]:
    """Return the content of a YAML file; `named_by` is the file that names it, for errors."""
    if not file.is_file():
        near = closest(file.name, [f"{name}.yaml" for name in experiment_names(file.parent)])
        where = f"{named_by}: its base {file}" if named_by else f"configuration {file}"
        raise UserError(f"{where} is not a file.{near}")
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise UserError(f"{file} is not valid YAML: {reason}") from error
    if not isinstance(content, dict | None):
        raise UserError(f"{file} holds {content!r}; a configuration is made of lines 'key: value'.")
    return dict(content or {})


def _chain(file: Path, named_by: str, seen: tuple[Path, ...]) -> list[Layer]:
    if file.resolve() in seen:
        raise UserError(f"{named_by}: base leads back to {file}; a configuration cannot be its own base.")
    seen = (*seen, file.resolve())
    general = _general_file(file)
    own = read_mapping(file, named_by) if file.is_file() or general is None else {}
    base = _base(file, own)
    if general is not None and base is None:
        content = read_mapping(general)
        extended = file.with_name(_base(general, content) or BASE)
        layers = [(general, content), (file, own)] if own else [(general, content)]
        return _chain(extended, str(general), seen) + layers
    before = _chain(file.parent / base, str(file), seen) if base is not None else []
    return [*before, (file, own)]


def _base(file: Path, content: dict[str, Any]) -> str | None:
    """Take `base:` and `experiments:` out of a file's content, and return the base."""
    content.pop(GENERAL, None)
    base = content.pop("base", None)
    if not isinstance(base, str | None):
        raise UserError(f"{file}: base is {base!r}; give the path of a YAML file, seen from this file's folder.")
    return base


def _general_folder(folder: Path) -> Path:
    return Path(os.path.normpath(folder / ".." / GENERAL))


def _general_file(file: Path) -> Path | None:
    """Return the general experiment of a recipe's file, if there is one."""
    general = _general_folder(file.parent) / file.name
    in_recipe = file.name != BASE and (file.parent / BASE).is_file()
    return general if in_recipe and general.is_file() else None


def _general_experiments(base: Path) -> list[str]:
    """Return the patterns under `experiments:` of a base, or of the nearest base behind it that has them."""
    content = read_mapping(base)
    patterns = content.get(GENERAL)
    if patterns is None:
        further = _base(base, content)
        return _general_experiments(base.parent / further) if further else []
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(f"{base}: {GENERAL} is {patterns!r}; list names of conf/{GENERAL}, such as [baseline, 'mf*'].")
    return patterns
