"""Rules that tie several keys of a configuration together; what one key may be is said in `schema.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from residualformer.config.schema import AmNetConfig, Config, CostConfig


class Problem(NamedTuple):
    """What is wrong with the values of `keys`, as the rest of a sentence that begins with the first of them."""

    keys: tuple[str, ...]
    what: str


def check(config: Config) -> Iterator[Problem]:
    """Yield a problem for each rule that is broken, with all keys it rests on, the one to be mended first."""
    loss, data = config.loss, config.data
    if config.encoder.kind == "transformer":
        yield from _transformer(config)
    yield from _branches(config.amnet)
    yield from _pruning(config)
    yield from _arbitrator(config)
    yield from _cost(config.amnet.cost)
    if config.train.optimizer.kind == "muon" and config.amnet.method != "none":
        yield Problem(
            ("train.optimizer.kind", "amnet.method"),
            f"is 'muon', which would move masked weights and is not for factors (amnet.method = "
            f"{config.amnet.method}); take adamw",
        )
    if loss.kind == "simple" and config.joiner.kind != "additive":
        yield Problem(
            ("loss.kind", "joiner.kind"),
            f"is 'simple', which is the loss of joiner.kind = additive alone, not of {config.joiner.kind}; "
            f"take pruned or exact",
        )
    if loss.kind == "pruned" and config.joiner.kind == "additive":
        yield Problem(
            ("loss.kind", "joiner.kind"),
            "is 'pruned', but with joiner.kind = additive the exact loss is as cheap; take simple",
        )
    if loss.kind == "pruned" and loss.lm_scale + loss.am_scale >= 1:
        yield Problem(
            ("loss.lm_scale", "loss.am_scale"),
            f"is {loss.lm_scale}; with loss.am_scale = {loss.am_scale} it must stay below 1",
        )
    if data.min_utterance_s >= data.max_utterance_s:
        yield Problem(
            ("data.min_utterance_s", "data.max_utterance_s"),
            f"is {data.min_utterance_s}; it must be less than data.max_utterance_s = {data.max_utterance_s}",
        )
    if data.specaugment.num_freq_masks and data.specaugment.max_freq_bins > config.features.num_mel_bins:
        yield Problem(
            ("data.specaugment.max_freq_bins", "features.num_mel_bins", "data.specaugment.num_freq_masks"),
            f"is {data.specaugment.max_freq_bins}; allowed: at most features.num_mel_bins = "
            f"{config.features.num_mel_bins}",
        )


def _transformer(config: Config) -> Iterator[Problem]:
    """Check the sizes of attention, of groups that share, and of residuals."""
    encoder = config.encoder
    if encoder.dim % encoder.num_heads:
        yield Problem(
            ("encoder.dim", "encoder.num_heads"),
            f"is {encoder.dim}, which encoder.num_heads = {encoder.num_heads} does not divide",
        )
    elif encoder.dim // encoder.num_heads % 2:
        yield Problem(
            ("encoder.dim", "encoder.num_heads"),
            f"is {encoder.dim}, which gives each of encoder.num_heads = {encoder.num_heads} an odd size of "
            f"{encoder.dim // encoder.num_heads}; rotary positions turn pairs, so make it even",
        )
    yield from _sharing(encoder.sharing, encoder.num_layers)
    smallest = min(encoder.dim, encoder.ffn_dim)
    if encoder.residual.rank > smallest:
        yield Problem(
            ("encoder.residual.rank", "encoder.dim", "encoder.ffn_dim"),
            f"is {encoder.residual.rank}; allowed: at most {smallest}, the smaller side of the encoder's matrices",
        )


def _sharing(sharing: int | list[int], num_layers: int) -> Iterator[Problem]:
    """Check for K from 1 to L, or one group per layer, numbered 0, 1, 2 ... in the order of their first layers."""
    keys = ("encoder.sharing", "encoder.num_layers")
    if isinstance(sharing, int):
        if not 1 <= sharing <= num_layers:
            yield Problem(keys, f"is {sharing}; allowed: K from 1 to encoder.num_layers = {num_layers}, or a list")
    elif len(sharing) != num_layers:
        yield Problem(keys, f"lists {len(sharing)} layers, but encoder.num_layers is {num_layers}")
    elif (firsts := list(dict.fromkeys(sharing))) != list(range(len(firsts))):
        yield Problem(keys, f"is {sharing}; number its groups 0, 1, 2, ... in the order of their first layers")


def _branches(amnet: AmNetConfig) -> Iterator[Problem]:
    """Check the compressions of a method, slow first, and what is annealed."""
    keys, given = ("amnet.compression", "amnet.method"), amnet.compression
    if amnet.method != "none" and not given:
        yield Problem(keys, f"is empty; with amnet.method = {amnet.method} give one number a branch, slow first")
    if given != sorted(given):
        yield Problem(keys, f"is {given}; the slow branch comes first, so the numbers cannot fall")
    for what in ("tau", "noise"):
        start, end = getattr(amnet, f"{what}_start"), getattr(amnet, f"{what}_end")
        if end > start:
            yield Problem(
                (f"amnet.{what}_end", f"amnet.{what}_start"),
                f"is {end}; allowed: at most amnet.{what}_start = {start}, from which it falls",
            )


def _pruning(config: Config) -> Iterator[Problem]:
    """Check that sparse branches are pruned, or come from a model that is."""
    amnet = config.amnet
    if amnet.method != "sparse":
        return
    steps = amnet.prune_fraction * (config.train.max_steps - amnet.arbitrator.pretrain_steps)
    if not (amnet.prune_fraction or config.warm_start):
        yield Problem(
            ("amnet.prune_fraction", "warm_start"),
            "is 0, so that nothing is pruned; give more, or warm_start from an experiment that is pruned already",
        )
    if amnet.prune_fraction and steps < amnet.prune_every_steps:
        yield Problem(
            ("amnet.prune_every_steps", "amnet.prune_fraction", "train.max_steps"),
            f"is {amnet.prune_every_steps}; allowed: at most the {steps:g} steps of pruning (amnet.prune_fraction)",
        )


def _arbitrator(config: Config) -> Iterator[Problem]:
    """Check that who teaches the arbitrator is known, and that some training is left afterwards."""
    given = config.amnet.arbitrator
    if given.pretrain_steps and not given.teacher:
        yield Problem(
            ("amnet.arbitrator.teacher", "amnet.arbitrator.pretrain_steps"),
            f"is missing, while amnet.arbitrator.pretrain_steps is {given.pretrain_steps}; name the experiment whose "
            f"entropy the arbitrator learns",
        )
    if given.pretrain_steps >= config.train.max_steps:
        yield Problem(
            ("amnet.arbitrator.pretrain_steps", "train.max_steps"),
            f"is {given.pretrain_steps}; allowed: less than train.max_steps = {config.train.max_steps}",
        )


def _cost(cost: CostConfig) -> Iterator[Problem]:
    """Check the weight of the cost loss, and that one thing alone tells which share of slow frames is sought."""
    if cost.kind != "none" and not cost.weight:
        yield Problem(
            ("amnet.cost.weight", "amnet.cost.kind"),
            f"is 0, so that amnet.cost.kind = {cost.kind} does nothing; give more than 0",
        )
    if cost.match and cost.slow_share:
        yield Problem(
            ("amnet.cost.slow_share", "amnet.cost.match"),
            f"is {cost.slow_share}, but amnet.cost.match = {cost.match} tells the share that is sought; take one",
        )
