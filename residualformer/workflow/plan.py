"""The stage that trains an experiment, and the experiments that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from residualformer.config.composition import experiment_names
from residualformer.config.loading import load_config
from residualformer.config.schema import Config, ResidualConfig
from residualformer.errors import UserError, closest

BASE = "base"  # conf/<recipe>/base.yaml, which no experiment may be called


@dataclass(frozen=True)
class Experiment:
    """An experiment of a recipe.

    Attributes:
        stage: that trains it.
        needs: the experiments that are to be trained before.
    """

    name: str
    config: Config
    stage: int
    needs: tuple[str, ...]


def plan(conf: Path, names: Sequence[str], sets: Sequence[str] = ()) -> list[Experiment]:
    """Return the named experiments of a folder of configurations, each after those of them that it needs.

    Args:
        sets: values over those of the files, `a.b=c` or `@FILE`.

    Raises:
        UserError: a configuration is wrong, or an experiment, or one that it needs, does not exist.
    """
    load_config(conf / f"{BASE}.yaml", sets)
    found = {name: experiment(conf, name, sets) for name in names}
    for each in found.values():
        for needed in each.needs:
            config_file(conf, needed, f", which {each.name} needs")
    return [found[name] for name in in_order({name: each.needs for name, each in found.items()})]


def plan_with_needs(conf: Path, names: Sequence[str], sets: Sequence[str] = ()) -> list[Experiment]:
    """Return the named experiments and all that they need, each after what it needs."""
    experiments = plan(conf, names, sets)
    further = {needed for each in experiments for needed in each.needs} - set(names)
    return plan_with_needs(conf, [*names, *sorted(further)], sets) if further else experiments


def experiment(conf: Path, name: str, sets: Sequence[str] = ()) -> Experiment:
    """Return an experiment of a folder of configurations."""
    config = load_config(config_file(conf, name), sets)
    return Experiment(name, config, stage_of(config), needs_of(config))


def stage_of(config: Config) -> int:
    """Return the stage that trains: 6 if weights are compressed, 5 with a residual or after another model, else 4."""
    if config.amnet.method != "none":
        return 6
    after_another = config.warm_start or config.train.distill.teacher
    return 5 if after_another or config.encoder.residual != ResidualConfig() else 4


def needs_of(config: Config) -> tuple[str, ...]:
    """Return what is to be trained before: the start of the weights, the teachers, what is to be matched."""
    amnet = config.amnet
    needed = [config.warm_start, config.train.distill.teacher, amnet.arbitrator.teacher, amnet.cost.match, amnet.match]
    return tuple(dict.fromkeys(filter(None, needed)))


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return names in the order given, but each after those that it needs, where these are among them."""
    done: list[str] = []

    def add(name: str, needed_by: tuple[str, ...] = ()) -> None:
        if name in needed_by:
            raise UserError(f"of the experiments {' -> '.join([*needed_by, name])} each needs the next, without end")
        for before in needs[name]:
            if before in needs and before not in done:
                add(before, (*needed_by, name))
        if name not in done:
            done.append(name)

    for name in needs:
        add(name)
    return done


def config_file(conf: Path, name: str, why: str = "") -> Path:
    """Return the file of an experiment; raise UserError, with `why` it is wanted, if there is no such experiment."""
    names = experiment_names(conf)
    if name not in names:
        advice = closest(name, names) or f" There are: {', '.join(names) or 'none'}."
        where = f"neither {conf} nor the list of experiments in its base.yaml has it"
        raise UserError(f"there is no experiment '{name}'{why}: {where}.{advice}")
    return conf / f"{name}.yaml"
