"""What the values of a configuration may be: one row per key, then the rules that tie several keys together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from residualformer.config.schema import AmNetConfig, ArbitratorConfig, Config


class Rule(NamedTuple):
    """A test of one value and the words for what passes it; null always passes (its type is checked before)."""

    allows: Callable[[Any], bool]
    allowed: str


def _one_of(*names: str) -> Rule:
    return Rule(lambda value: value in names, "one of " + ", ".join(names))


ANY = Rule(lambda value: True, "anything")
POSITIVE = Rule(lambda value: value > 0, "more than 0")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "0 or more")
FRACTION = Rule(lambda value: 0 <= value <= 1, "a number from 0 to 1")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "0 or more and less than 1")
NAME = Rule(lambda value: value != "" and "/" not in value, "the name of an experiment, not a path")
SPEEDS = Rule(lambda value: value != [] and min(value) > 0, "one factor above 0 or several, such as [0.9, 1.0, 1.1]")
BETAS = Rule(lambda value: len(value) == 2 and min(value) >= 0 and max(value) < 1, "two numbers from 0 to below 1")
VOCABULARY = Rule(lambda value: value >= 3, "3 or more: blank, unknown and one token at least")

RULES: dict[str, Rule] = {
    "description": ANY,
    "warm_start": NAME,
    "features.preset": _one_of("sherpa", "kaldi"),
    "features.sample_rate_hz": POSITIVE,
    "features.num_mel_bins": POSITIVE,
    "tokens.kind": _one_of("bpe", "char"),
    "tokens.vocab_size": VOCABULARY,
    "tokens.target": _one_of("text", "translation"),
    "encoder.kind": _one_of("transformer", "lstm", "gru"),
    "encoder.num_layers": POSITIVE,
    "encoder.dim": POSITIVE,
    "encoder.stack_frames": POSITIVE,
    "encoder.num_heads": POSITIVE,
    "encoder.ffn_dim": POSITIVE,
    "encoder.conv_channels": POSITIVE,
    "encoder.dropout": BELOW_ONE,
    "encoder.chunk_ms": POSITIVE,
    "encoder.look_back_ms": NOT_NEGATIVE,
    "encoder.look_ahead_ms": NOT_NEGATIVE,
    "encoder.sharing": ANY,  # see _sharing
    "encoder.residual.rank": NOT_NEGATIVE,
    "encoder.residual.diagonal": ANY,
    "predictor.kind": _one_of("lstm", "stateless"),
    "predictor.embedding_dim": POSITIVE,
    "predictor.hidden_dim": POSITIVE,
    "predictor.num_layers": POSITIVE,
    "predictor.context_size": POSITIVE,
    "predictor.dropout": BELOW_ONE,
    "predictor.token_dropout": FRACTION,
    "joiner.kind": _one_of("tanh", "additive"),
    "joiner.dim": POSITIVE,
    "amnet.method": _one_of("none", "sparse", "factorised"),
    "amnet.compression": Rule(lambda value: all(0 <= c < 1 for c in value), "numbers from 0 to below 1, slow first"),
    "amnet.prune_fraction": BELOW_ONE,
    "amnet.prune_every_steps": POSITIVE,
    "amnet.block": POSITIVE,
    "amnet.tau_start": POSITIVE,
    "amnet.tau_end": POSITIVE,
    "amnet.noise_start": NOT_NEGATIVE,
    "amnet.noise_end": NOT_NEGATIVE,
    "amnet.arbitrator.hidden_dim": POSITIVE,
    "amnet.arbitrator.num_layers": POSITIVE,
    "amnet.arbitrator.use_state": ANY,
    "amnet.arbitrator.use_decision": ANY,
    "amnet.arbitrator.delay": Rule(lambda value: value in (0, 1), "0 or 1"),
    "amnet.arbitrator.teacher": NAME,
    "amnet.arbitrator.pretrain_steps": NOT_NEGATIVE,
    "amnet.arbitrator.entropy_threshold": NOT_NEGATIVE,
    "amnet.cost.kind": _one_of("none", "avg", "amr"),
    "amnet.cost.weight": NOT_NEGATIVE,
    "amnet.cost.mu": POSITIVE,
    "amnet.cost.slow_share": Rule(lambda value: 0 < value < 1, "between 0 and 1"),
    "amnet.cost.match": NAME,
    "loss.kind": _one_of("pruned", "exact", "simple"),
    "loss.backend": _one_of("auto", "torch", "k2", "torchaudio"),
    "loss.prune_range": Rule(lambda value: value >= 2, "2 or more"),
    "loss.simple_scale": NOT_NEGATIVE,
    "loss.lm_scale": BELOW_ONE,
    "loss.am_scale": BELOW_ONE,
    "loss.ctc_scale": NOT_NEGATIVE,
    "loss.ctc_target": _one_of("tokens", "transcript"),
    "data.speeds": SPEEDS,
    "data.speed_choice": _one_of("all", "random"),
    "data.max_batch_s": POSITIVE,
    "data.max_utterance_s": POSITIVE,
    "data.min_utterance_s": NOT_NEGATIVE,
    "data.num_buckets": POSITIVE,
    "data.concat_probability": FRACTION,
    "data.pad_start_ms": NOT_NEGATIVE,
    "data.variation.warp": Rule(lambda value: 0 <= value <= 0.5, "from 0 to 0.5"),
    "data.variation.gain_db": NOT_NEGATIVE,
    "data.variation.noise_probability": FRACTION,
    "data.variation.noise_snr_db": Rule(lambda value: len(value) == 2 and value[0] <= value[1], "[lowest, highest]"),
    "data.specaugment.start_step": NOT_NEGATIVE,
    "data.specaugment.num_time_masks": NOT_NEGATIVE,
    "data.specaugment.max_time_fraction": FRACTION,
    "data.specaugment.num_freq_masks": NOT_NEGATIVE,
    "data.specaugment.max_freq_bins": NOT_NEGATIVE,
    "train.max_steps": POSITIVE,
    "train.seed": NOT_NEGATIVE,
    "train.precision": _one_of("bf16", "fp32"),
    "train.optimizer.kind": _one_of("adam", "adamw", "muon"),
    "train.optimizer.lr": POSITIVE,
    "train.optimizer.muon_lr": POSITIVE,
    "train.optimizer.arbitrator_factor": POSITIVE,
    "train.optimizer.residual_factor": POSITIVE,
    "train.optimizer.weight_decay": NOT_NEGATIVE,
    "train.optimizer.betas": BETAS,
    "train.optimizer.schedule": _one_of("linear", "cosine", "hold"),
    "train.optimizer.warmup_steps": NOT_NEGATIVE,
    "train.optimizer.hold_fraction": FRACTION,
    "train.optimizer.clip_norm": POSITIVE,
    "train.average_last": POSITIVE,
    "train.save_every_steps": POSITIVE,
    "train.valid_every_steps": POSITIVE,
    "train.log_every_steps": POSITIVE,
    "decode.kind": _one_of("greedy", "beam"),
    "decode.greedy_sets": ANY,
    "decode.beam": Rule(lambda value: 1 <= value <= 1000, "1 to 1000"),
    "decode.max_symbols": POSITIVE,
    "decode.nbest": POSITIVE,
    "decode.blank_penalty": ANY,
    "decode.token_reward": ANY,
    "decode.length_norm": ANY,
    "decode.max_batch_s": POSITIVE,
}

_TOO_FEW = "amnet.compression names fewer than two branches to choose from"


class Problem(NamedTuple):
    """What is wrong with the values of `keys`, as the rest of a sentence that begins with the first of them."""

    keys: tuple[str, ...]
    what: str


def check(config: Config, flat: dict[str, Any]) -> list[Problem]:
    """Every value out of range in `config`; `flat` is the same configuration as {dotted key: value}."""
    problems = [
        Problem((key,), f"is {value!r}; allowed: {RULES[key].allowed}")
        for key, value in flat.items()
        if value is not None and not RULES[key].allows(value)
    ]
    wrong = {key for problem in problems for key in problem.keys}
    return problems + [problem for problem in _together(config) if not wrong & set(problem.keys)]


def _together(config: Config) -> Iterator[Problem]:
    """Rules over several keys; each problem lists all keys it rests on (it is silent when one is wrong by itself)."""
    loss, data = config.loss, config.data
    yield from _transformer(config) if config.encoder.kind == "transformer" else _recurrent(config)
    yield from _branches(config.amnet)
    yield from _pruning(config)
    yield from _arbitrator(config)
    yield from _cost(config)
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
    if loss.lm_scale + loss.am_scale >= 1:
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
    encoder = config.encoder
    if encoder.num_heads > 0 and encoder.dim % encoder.num_heads:
        yield Problem(
            ("encoder.dim", "encoder.num_heads"),
            f"is {encoder.dim}, which encoder.num_heads = {encoder.num_heads} does not divide",
        )
    elif encoder.num_heads > 0 and encoder.dim // encoder.num_heads % 2:
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
    if config.amnet.method != "none":
        yield Problem(
            ("amnet.method", "encoder.kind"),
            f"is '{config.amnet.method}', but a transformer has no branches; take encoder.kind = lstm or gru",
        )


def _recurrent(config: Config) -> Iterator[Problem]:
    """What only a Transformer encoder has is to be left as it is, so that nobody believes it does something."""
    encoder, kind = config.encoder, config.encoder.kind
    only = f"which encoder.kind = {kind} has no use for; leave it out"
    if encoder.sharing != 1:
        yield Problem(("encoder.sharing", "encoder.kind"), f"is {encoder.sharing}, {only}")
    if encoder.residual.rank or encoder.residual.diagonal:
        key = "encoder.residual.rank" if encoder.residual.rank else "encoder.residual.diagonal"
        yield Problem((key, "encoder.kind"), f"is {encoder.residual.rank or True}, {only}")
    if config.train.optimizer.kind == "muon" and config.amnet.method != "none":
        yield Problem(
            ("train.optimizer.kind", "amnet.method"),
            f"is 'muon', which would move masked weights and is not for factors (amnet.method = "
            f"{config.amnet.method}); take adamw",
        )


def _sharing(sharing: int | list[int], num_layers: int) -> Iterator[Problem]:
    """K from 1 to L, or one group per layer, numbered 0, 1, 2 ... in the order of their first layers."""
    keys = ("encoder.sharing", "encoder.num_layers")
    if isinstance(sharing, int):
        if not 1 <= sharing <= num_layers:
            yield Problem(keys, f"is {sharing}; allowed: K from 1 to encoder.num_layers = {num_layers}, or a list")
    elif len(sharing) != num_layers:
        yield Problem(keys, f"lists {len(sharing)} layers, but encoder.num_layers is {num_layers}")
    elif (firsts := list(dict.fromkeys(sharing))) != list(range(len(firsts))):
        yield Problem(keys, f"is {sharing}; number its groups 0, 1, 2, ... in the order of their first layers")


def _branches(amnet: AmNetConfig) -> Iterator[Problem]:
    """Compressions, slow first, that belong to a method."""
    keys, given = ("amnet.compression", "amnet.method"), amnet.compression
    if amnet.method == "none":
        if given:
            yield Problem(keys, f"is {given}, but amnet.method is none; take sparse or factorised")
        return
    if not given:
        yield Problem(keys, f"is empty; with amnet.method = {amnet.method} give one number a branch, slow first")
    elif given != sorted(given):
        yield Problem(keys, f"is {given}; the slow branch comes first, so the numbers cannot fall")
    if amnet.block > 1 and amnet.method != "sparse":
        yield Problem(("amnet.block", "amnet.method"), f"is {amnet.block}; blocks are for amnet.method = sparse alone")
    for what in ("tau", "noise"):
        start, end = getattr(amnet, f"{what}_start"), getattr(amnet, f"{what}_end")
        if end > start:
            yield Problem(
                (f"amnet.{what}_end", f"amnet.{what}_start"),
                f"is {end}; allowed: at most amnet.{what}_start = {start}, from which it falls",
            )


def _pruning(config: Config) -> Iterator[Problem]:
    """Sparse branches are pruned, or come from a model that is."""
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
    """An arbitrator, and what teaches it, belong to two branches or more."""
    amnet, given = config.amnet, config.amnet.arbitrator
    if len(amnet.compression) < 2:
        for field in dataclasses.fields(ArbitratorConfig):
            if (value := getattr(given, field.name)) != field.default:
                key = f"amnet.arbitrator.{field.name}"
                yield Problem((key, "amnet.compression"), f"is {value!r}, but {_TOO_FEW}; leave it out")
        return
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


def _cost(config: Config) -> Iterator[Problem]:
    """The cost loss is one of decisions; a weight that adapts is that of L_avg."""
    cost, branches = config.amnet.cost, len(config.amnet.compression)
    if cost.kind != "none" and branches < 2:
        yield Problem(("amnet.cost.kind", "amnet.compression"), f"is '{cost.kind}', but {_TOO_FEW}; take none")
    if cost.kind == "none" and cost.weight:
        yield Problem(("amnet.cost.weight", "amnet.cost.kind"), f"is {cost.weight}, but amnet.cost.kind is none")
    if cost.kind != "none" and not cost.weight:
        yield Problem(
            ("amnet.cost.weight", "amnet.cost.kind"),
            f"is 0, so that amnet.cost.kind = {cost.kind} does nothing; give more than 0",
        )
    for key in ("match", "slow_share"):
        if (value := getattr(cost, key)) and cost.kind != "avg":
            yield Problem(
                (f"amnet.cost.{key}", "amnet.cost.kind"),
                f"is '{value}', but only the weight of amnet.cost.kind = avg adapts, not that of {cost.kind}",
            )
    if cost.match and cost.slow_share:
        yield Problem(
            ("amnet.cost.slow_share", "amnet.cost.match"),
            f"is {cost.slow_share}, but amnet.cost.match = {cost.match} tells the share that is sought; take one",
        )
