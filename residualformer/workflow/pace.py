"""How long a training will take, guessed from trainings that are finished or under way: other work slows machines.

An update's time is taken as 30% that does not depend on the encoder's size and 70% that grows with its products, which
is about what small models on a CPU do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from residualformer.config.loading import load_recorded
from residualformer.config.schema import Config
from residualformer.errors import UserError
from residualformer.files import read_log

FIXED = 0.3


class Pace(NamedTuple):
    """What a training has done: `steps` updates in `wall_s` seconds, over all calls that went on with it."""

    config: Config
    steps: int
    wall_s: float


def pace_of(run: Path) -> Pace | None:
    """Of a run folder, by its config.yaml and metrics.jsonl; None where these tell nothing."""
    try:
        config = load_recorded(run / "config.yaml")
        records = read_log(run / "metrics.jsonl")
    except (UserError, OSError):
        return None
    timed = [record for record in records if record.get("train/wall_s", 0) > 0 and record.get("step", 0) > 0]
    return Pace(config, timed[-1]["step"], timed[-1]["train/wall_s"]) if timed else None


def work(config: Config) -> float:
    """Multiply-accumulates of the encoder's layers in an update, up to what is the same for all models of a kind."""
    encoder, branches = config.encoder, max(1, len(config.amnet.compression))
    if encoder.kind == "transformer":
        layer = 4 * encoder.dim**2 + 2 * encoder.dim * encoder.ffn_dim
    else:
        layer = branches * 8 * encoder.dim**2
    return float(encoder.num_layers * layer * config.data.max_batch_s)


def seconds_per_update(config: Config, known: Sequence[Pace]) -> float | None:
    """From the known training that is most like `config` in kind and size; None where none is of its kind."""
    alike = [pace for pace in known if pace.config.encoder.kind == config.encoder.kind]
    if not alike:
        return None

    def distance(pace: Pace) -> float:
        differs = bool(pace.config.encoder.residual.rank) != bool(config.encoder.residual.rank)
        return abs(math.log(work(config) / work(pace.config))) + 0.2 * differs

    nearest = min(alike, key=distance)
    return nearest.wall_s / nearest.steps * (FIXED + (1 - FIXED) * work(config) / work(nearest.config))


def seconds_left(config: Config, own: Pace | None, known: Sequence[Pace]) -> float | None:
    """Of the training of `config`, of which `own` is done; the pace is its own, else that of what is `known`."""
    if own is not None:
        return max(config.train.max_steps - own.steps, 0) * own.wall_s / own.steps
    each = seconds_per_update(config, known)
    return None if each is None else config.train.max_steps * each
