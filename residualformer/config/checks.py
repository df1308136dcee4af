"""Rules that tie several keys of a configuration together; the bounds of single keys are in `schema.py`."""

from __future__ import annotations

from collections.abc import Iterator

from residualformer.config.amnet import AmNetConfig, CostConfig
from residualformer.config.schema import Config, EncoderConfig


def check(config: Config) -> Iterator[str]:
    """Yield a sentence for each rule that is broken; it names all keys it rests on, the one to be mended first."""
    loss, data, bins = config.loss, config.data, config.features.num_mel_bins
    if config.encoder.kind == "transformer":
        yield from _transformer(config)
    yield from _branches(config.amnet)
    yield from _controls(config)
    yield from _pruning(config)
    yield from _arbitrator(config)
    yield from _cost(config.amnet.cost)
    if config.lm.kind != "none" and not (config.lm.transcripts or config.lm.text):
        yield "lm.text is empty, while lm.transcripts is false; name files of text to train the language model on"
    if config.train.optimizer.kind == "muon" and config.amnet.method != "none":
        yield (
            f"train.optimizer.kind is 'muon', which would move masked weights and is not for factors (amnet.method = "
            f"{config.amnet.method}); take adamw"
        )
    if loss.kind == "simple" and config.joiner.kind != "additive":
        yield (
            f"loss.kind is 'simple', which is the loss of joiner.kind = additive alone, not of {config.joiner.kind}; "
            f"take pruned or exact"
        )
    if loss.kind == "pruned" and config.joiner.kind == "additive":
        yield "loss.kind is 'pruned', but with joiner.kind = additive the exact loss is as cheap; take simple"
    if loss.kind == "pruned" and loss.lm_scale + loss.am_scale >= 1:
        yield f"loss.lm_scale is {loss.lm_scale}; with loss.am_scale = {loss.am_scale} it must stay below 1"
    if config.features.level == "normalized" and (data.variation.gain_db or data.variation.quieter_db):
        yield (
            "data.variation.gain_db and quieter_db change levels of which a model with features.level = normalized "
            "never hears; leave them at 0"
        )
    if data.waveform.noise_probability and not data.waveform.noise:
        yield (
            f"data.waveform.noise is empty, while data.waveform.noise_probability is "
            f"{data.waveform.noise_probability}; name folders of noise"
        )
    yield from _selection(config)
    shortest, longest = data.min_utterance_s, data.max_utterance_s
    if shortest >= longest:
        yield f"data.min_utterance_s is {shortest}; it must be less than data.max_utterance_s = {longest}"
    if data.weights and len(data.weights) != len(data.shar):
        yield f"data.weights lists {len(data.weights)}, but data.shar {len(data.shar)}; give one weight for each folder"
    if data.specaugment.num_freq_masks and data.specaugment.max_freq_bins > bins:
        yield (
            f"data.specaugment.max_freq_bins is {data.specaugment.max_freq_bins}; allowed: at most "
            f"features.num_mel_bins = {bins}, unless data.specaugment.num_freq_masks is 0"
        )


def _selection(config: Config) -> Iterator[str]:
    """Check that the dev set does not choose among phases of a training, whose models differ in more than quality."""
    depth, method = config.encoder.depth.arbitrator, config.amnet.method
    if depth or method != "none":
        why = f"encoder.depth.arbitrator = {depth}" if depth else f"amnet.method = {method}"
        for key in ("average_best", "patience"):
            if value := getattr(config.train, key):
                yield f"train.{key} is {value}, but with {why} earlier models have more weights, or cost more; take 0"


def _transformer(config: Config) -> Iterator[str]:
    """Check the sizes of attention, of groups that share, and of residuals."""
    encoder = config.encoder
    if encoder.dim % encoder.num_heads:
        yield f"encoder.dim is {encoder.dim}, which encoder.num_heads = {encoder.num_heads} does not divide"
    elif encoder.dim // encoder.num_heads % 2:
        yield (
            f"encoder.dim is {encoder.dim}, which gives each of encoder.num_heads = {encoder.num_heads} an odd size of "
            f"{encoder.dim // encoder.num_heads}; rotary positions turn pairs, so make it even"
        )
    yield from _sharing(encoder.sharing, encoder.num_layers)
    yield from _depth(encoder)
    rank, smallest = encoder.residual.rank, min(encoder.dim, encoder.ffn_dim)
    if rank > smallest:
        yield f"encoder.residual.rank is {rank}; allowed: at most {smallest}, the least of encoder.dim, encoder.ffn_dim"


def _sharing(sharing: int | list[int], num_layers: int) -> Iterator[str]:
    """Check for K from 1 to L, or one group per layer, numbered 0, 1, 2 ... in the order of their first layers."""
    if isinstance(sharing, int):
        if not 1 <= sharing <= num_layers:
            yield f"encoder.sharing is {sharing}; allowed: K from 1 to encoder.num_layers = {num_layers}, or a list"
    elif len(sharing) != num_layers:
        yield f"encoder.sharing lists {len(sharing)} layers, but encoder.num_layers is {num_layers}"
    elif (firsts := list(dict.fromkeys(sharing))) != list(range(len(firsts))):
        yield f"encoder.sharing is {sharing}; number its groups 0, 1, 2, ... in the order of their first layers"


def _depth(encoder: EncoderConfig) -> Iterator[str]:
    """Check that the depths begin with all layers and fall."""
    loops, sharing, num_layers = encoder.depth.loops, encoder.sharing, encoder.num_layers
    largest = min(sharing, num_layers) if isinstance(sharing, int) else max(map(sharing.count, sharing), default=1)
    if loops and (loops[0] != largest or sorted(set(loops), reverse=True) != loops):
        yield (
            f"encoder.depth.loops is {loops}; with encoder.sharing = {sharing} give {largest}, the layers of the "
            "largest group, and lower numbers after it"
        )


def _branches(amnet: AmNetConfig) -> Iterator[str]:
    """Check the compressions of a method, slow first, and the annealed tau and noise."""
    given = amnet.compression
    if amnet.method != "none" and not given:
        yield f"amnet.compression is empty; with amnet.method = {amnet.method} give one number a branch, slow first"
    if amnet.match and len(given) > 1:
        yield (
            f"amnet.match is {amnet.match}, to whose cost one branch is compressed, but amnet.compression = {given} "
            "makes several; give one number, which stands for that of the training until it is known"
        )
    if given != sorted(given):
        yield f"amnet.compression is {given}; the slow branch comes first, so the numbers cannot fall"
    for what in ("tau", "noise"):
        start, end = getattr(amnet, f"{what}_start"), getattr(amnet, f"{what}_end")
        if end > start:
            yield f"amnet.{what}_end is {end}; allowed: at most amnet.{what}_start = {start}, from which it falls"


def _controls(config: Config) -> Iterator[str]:
    """Check that CTC can tell where blanks are, if it is to choose depths."""
    if "blank" not in config.amnet.controls:
        return
    if not config.encoder.depth.arbitrator:
        yield (
            f"amnet.controls is {config.amnet.controls}, but blank chooses depths, with encoder.depth.arbitrator = "
            "true; leave it out"
        )
    elif not config.loss.ctc_scale or config.loss.ctc_target != "tokens":
        yield (
            f"amnet.controls is {config.amnet.controls}, but blank needs a CTC of the tokens (loss.ctc_scale = "
            f"{config.loss.ctc_scale}, loss.ctc_target = {config.loss.ctc_target}); leave it out"
        )


def _pruning(config: Config) -> Iterator[str]:
    """Check that sparse branches are pruned, or come from a model that is."""
    amnet = config.amnet
    if amnet.method != "sparse":
        return
    steps = amnet.prune_fraction * (config.train.max_steps - amnet.arbitrator.pretrain_steps)
    if not (amnet.prune_fraction or config.warm_start):
        yield (
            "amnet.prune_fraction is 0, so that nothing is pruned; give more, or warm_start from an experiment that is "
            "pruned already"
        )
    if amnet.prune_fraction and steps < amnet.prune_every_steps:
        yield (
            f"amnet.prune_every_steps is {amnet.prune_every_steps}; allowed: at most the {steps:g} steps of pruning "
            f"(amnet.prune_fraction of train.max_steps)"
        )


def _arbitrator(config: Config) -> Iterator[str]:
    """Check that the teacher of an arbitrator is named, and that its training is not longer than the whole."""
    given, max_steps = config.amnet.arbitrator, config.train.max_steps
    if given.pretrain_steps and not given.teacher:
        yield (
            f"amnet.arbitrator.teacher is missing, while amnet.arbitrator.pretrain_steps is {given.pretrain_steps}; "
            f"name the experiment whose entropy the arbitrator learns"
        )
    if given.pretrain_steps > max_steps:
        yield (
            f"amnet.arbitrator.pretrain_steps is {given.pretrain_steps}; allowed: at most train.max_steps = {max_steps}"
        )


def _cost(cost: CostConfig) -> Iterator[str]:
    """Check the weight of the cost loss, and that one key alone gives the share of slow frames to reach."""
    if cost.kind != "none" and not cost.weight:
        yield f"amnet.cost.weight is 0, so that amnet.cost.kind = {cost.kind} does nothing; give more than 0"
    if cost.match and cost.slow_share:
        yield (
            f"amnet.cost.slow_share is {cost.slow_share}, but amnet.cost.match = {cost.match} sets the share to reach; "
            f"take one"
        )
