"""Estimates of how long a training will take, from trainings that are finished or under way.

An update's time is taken as 30% that does not depend on the encoder's size and 70% that grows with its products, which
is about what small models on a CPU do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from residualformer.config.composition import experiment_names
from residualformer.config.loading import load_config, load_recorded
from residualformer.config.schema import Config
from residualformer.errors import UserError
from residualformer.files import read_json, read_log

FIXED = 0.3


class Pace(NamedTuple):
    """The speed of a training: `steps` updates in `wall_s` seconds, over all calls that went on with it."""

    config: Config
    steps: int
    wall_s: float


def pace_of(run: Path) -> Pace | None:
    """Return the pace of a run folder from its config.yaml and metrics.jsonl; None if they do not tell."""
    try:
        config = load_recorded(run / "config.yaml")
        records = read_log(run / "metrics.jsonl")
    except (UserError, OSError):
        return None
    timed = [record for record in records if record.get("train/wall_s", 0) > 0 and record.get("step", 0) > 0]
    return Pace(config, timed[-1]["step"], timed[-1]["train/wall_s"]) if timed else None


def work(config: Config) -> float:
    """Return the multiply-accumulates of the encoder's layers per update, up to a factor common to a kind."""
    encoder, branches = config.encoder, max(1, len(config.amnet.compression))
    if encoder.kind == "transformer":
        layer = 4 * encoder.dim**2 + 2 * encoder.dim * encoder.ffn_dim
    else:
        layer = branches * 8 * encoder.dim**2
    return float(encoder.num_layers * layer * config.data.max_batch_s * config.train.batches_per_update)


def seconds_per_update(config: Config, known: Sequence[Pace]) -> float | None:
    """Estimate by the known training that is most like `config` in kind and size; None if none is of its kind."""
    alike = [pace for pace in known if pace.config.encoder.kind == config.encoder.kind]
    if not alike:
        return None

    def distance(pace: Pace) -> float:
        differs = bool(pace.config.encoder.residual.rank) != bool(config.encoder.residual.rank)
        return abs(math.log(work(config) / work(pace.config))) + 0.2 * differs

    nearest = min(alike, key=distance)
    return nearest.wall_s / nearest.steps * (FIXED + (1 - FIXED) * work(config) / work(nearest.config))


def seconds_left(config: Config, own: Pace | None, known: Sequence[Pace]) -> float | None:
    """Estimate the rest of the training of `config`, of which `own` is done, by its own pace, else by `known` ones."""
    if own is not None:
        return max(config.train.max_steps - own.steps, 0) * own.wall_s / own.steps
    each = seconds_per_update(config, known)
    return None if each is None else config.train.max_steps * each


def known_paces() -> list[Pace]:
    """Return the finished trainings of all recipes, here (egs/*/exp/results.json) or published (docs/results/)."""
    paces = []
    own = {path: path.parents[1].name for path in sorted(Path("egs").glob("*/exp/results.json"))}
    published = {path: path.parent.name for path in sorted(Path("docs/results").glob("*/results.json"))}
    for path, recipe in (own | published).items():
        for row in read_json(path, "run stage 8 again")["rows"]:
            steps, wall_s = (row["training"].get(key, 0) for key in ("steps", "wall_s"))
            conf = Path("conf", recipe)
            if steps and wall_s and row["experiment"] in experiment_names(conf):
                paces.append(Pace(load_config(conf / f"{row['experiment']}.yaml"), steps, wall_s))
    return paces


def duration(seconds: float | None) -> str:
    """Return a time in words, such as `80 s`, `12 min` or `about 3 days`; None is of unknown length."""
    if seconds is None:
        return "of unknown length"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes >= 48 * 60:
        return f"about {minutes / 60 / 24:.0f} days"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
