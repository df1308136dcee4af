"""The configuration of an experiment: one frozen dataclass per section of a YAML in `conf/`.

Every key is defined once, here or in `amnet.py`, `augmentation.py`, `decoding.py`, `depth.py` and so on: type, bounds,
unit, when it means something (`Only`), meaning (`Doc`) and default. `docs/configuration.md` is generated. Conditions
replace a class for each `kind`, because two choices may meet in one section (`kind` and `schedule` of the optimizer),
because some are not a kind (two branches or more), and because every experiment then has the same keys, which
recorded runs and all users rely on.

This module imports neither torch nor pydantic: the runtime on devices needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval, MinLen, Unit

from residualformer.config.amnet import AmNetConfig
from residualformer.config.augmentation import JOINED, PauseConfig, SpecAugmentConfig, VariationConfig, WaveformConfig
from residualformer.config.conditions import CTC, PRUNED_LOSS, RECURRENT, TRANSFORMER
from residualformer.config.decoding import DecodeConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.keys import (
    Allowed,
    BelowOne,
    Count,
    Doc,
    Experiment,
    Fraction,
    Level,
    Milliseconds,
    NotNegative,
    Only,
    Positive,
    Seconds,
)
from residualformer.config.language_model import LanguageModelConfig
from residualformer.config.training import TrainConfig
from residualformer.constants import FRAME_SHIFT_MS

MAX_WEIGHT = 100  # of a folder in a mixture: an epoch reads its manifest as often


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel filterbank; one definition, stored with the features and inside the model."""

    preset: Annotated[
        Literal["sherpa", "kaldi"], Doc("further options: what sherpa-onnx forces on LSTM predictors, or plain Kaldi's")
    ] = "sherpa"
    sample_rate_hz: Annotated[Count, Unit("Hz"), Doc("sampling rate; audio at another is resampled")] = 16000
    num_mel_bins: Annotated[Count, Doc("mel filters")] = 80
    level: Annotated[Level, Doc("`normalized`: audio is brought to one level; not in sherpa-onnx")] = "as recorded"


@dataclass(frozen=True)
class TokenConfig:
    """Output units."""

    kind: Annotated[Literal["bpe", "char"], Doc("pieces of words (sentencepiece), or characters")] = "bpe"
    vocab_size: Annotated[
        int, Ge(3), Doc("vocabulary size, blank and unknown included; with `char` only for counts of parameters")
    ] = 100
    target: Annotated[Literal["text", "translation"], Doc("output text: a transcript or a translation")] = "text"


@dataclass(frozen=True)
class ResidualConfig:
    """The layer's own part of a shared weight: A (M x R) times B (R x N), plus the rectangular diagonal D."""

    rank: Annotated[int, Ge(0), Doc("R, the rank of the product A·B; 0 leaves it out")] = 0
    diagonal: Annotated[bool, Doc("add the diagonal D")] = False


@dataclass(frozen=True)
class EncoderConfig:
    """Convolutional front end and Transformer layers (ResidualTransformer, section 4.2), or recurrent layers over
    stacked feature frames (AmNets, section 5)."""

    kind: Annotated[Literal["transformer", "lstm", "gru"], Doc("type of the layers")] = "transformer"
    num_layers: Annotated[Count, Doc("L, the number of layers")] = 18
    dim: Annotated[Count, Doc("D, the width of a layer's output")] = 512
    stack_frames: Annotated[Count, Unit("10 ms"), RECURRENT, Doc("feature frames in one encoder frame")] = 3
    num_heads: Annotated[Count, TRANSFORMER, Doc("attention heads")] = 8
    ffn_dim: Annotated[Count, TRANSFORMER, Doc("width of the feed-forward's hidden layer")] = 2048
    conv_channels: Annotated[Count, TRANSFORMER, Doc("channels of the convolutional front end")] = 256
    dropout: Annotated[BelowOne, Doc("dropout in and between the layers")] = 0.1
    frame_ms: Annotated[
        Literal[40, 80], Unit("ms"), TRANSFORMER, Doc("encoder frame; 80 halves the computation, for tokens of `bpe`")
    ] = 40
    chunk_ms: Annotated[Count, Unit("ms"), TRANSFORMER, Doc("chunk, rounded up to encoder frames")] = 160
    left_context_ms: Annotated[
        Milliseconds | None, Unit("ms"), TRANSFORMER, Doc("context before the chunk, rounded up as well; null is all")
    ] = 288
    look_ahead_ms: Annotated[
        Milliseconds, TRANSFORMER, Doc("context after the chunk, in the first layer alone, so not multiplied by L")
    ] = 160
    sharing: Annotated[
        int | list[int],
        TRANSFORMER,
        Allowed("K from 1 to L, or the group of each layer"),
        Doc("layers in a row with one set of weights, or groups"),
    ] = 1
    residual: Annotated[ResidualConfig, TRANSFORMER] = field(default_factory=ResidualConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)

    @property
    def stride(self) -> int:
        """Feature frames in an encoder frame."""
        return self.frame_ms // FRAME_SHIFT_MS if self.kind == "transformer" else self.stack_frames


@dataclass(frozen=True)
class PredictorConfig:
    """Prediction network over the labels so far."""

    kind: Annotated[Literal["lstm", "stateless"], Doc("LSTM, or convolution over few labels")] = "lstm"
    embedding_dim: Annotated[Count, Doc("width of the label embedding")] = 320
    hidden_dim: Annotated[Count, Doc("width of the output")] = 1024
    num_layers: Annotated[Count, Only("predictor.kind", ("lstm",)), Doc("LSTM layers")] = 2
    context_size: Annotated[Count, Only("predictor.kind", ("stateless",)), Doc("labels it sees")] = 2
    dropout: Annotated[BelowOne, Doc("dropout after the embedding and of the output")] = 0.1
    token_dropout: Annotated[Fraction, Doc("chance that a label of the history is hidden in training")] = 0.0


@dataclass(frozen=True)
class JoinerConfig:
    """The joint network: of the ResidualTransformer paper, or additive (AmNets, section 5)."""

    kind: Annotated[
        Literal["tanh", "additive"], Doc("linear layers, tanh, linear layer; or two projections that are added")
    ] = "tanh"
    dim: Annotated[Count, Only("joiner.kind", ("tanh",)), Doc("width between the linear layers")] = 512


@dataclass(frozen=True)
class LossConfig:
    """Transducer loss."""

    kind: Annotated[
        Literal["pruned", "exact", "simple"], Doc("`simple` is the exact loss of the additive joiner, for that alone")
    ] = "pruned"
    backend: Annotated[
        Literal["auto", "torch", "k2", "torchaudio"], Doc("who computes it; `auto` is `torch`, our own")
    ] = "auto"
    prune_range: Annotated[int, Ge(2), PRUNED_LOSS, Doc("labels that are kept at each frame")] = 5
    simple_scale: Annotated[NotNegative, PRUNED_LOSS, Doc("weight of the simple joiner's loss beside the pruned")] = 0.5
    lm_scale: Annotated[BelowOne, PRUNED_LOSS, Doc("smoothing of that by the predictor alone")] = 0.25
    am_scale: Annotated[BelowOne, PRUNED_LOSS, Doc("smoothing of that by the encoder alone")] = 0.0
    ctc_scale: Annotated[NotNegative, Doc("weight of an auxiliary CTC loss on the encoder, in training only")] = 0.0
    ctc_target: Annotated[
        Literal["tokens", "transcript"],
        CTC,
        Doc("what CTC writes: the tokens, or (translation) the transcript's bytes"),
    ] = "tokens"


@dataclass(frozen=True)
class DataConfig:
    """Training batches."""

    speeds: Annotated[
        list[Positive],
        MinLen(1),
        Allowed("one factor above 0 or several, such as [0.9, 1.0, 1.1]"),
        Doc("speeds of the copies of each training utterance"),
    ] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    speed_choice: Annotated[Literal["all", "random"], Doc("every copy in an epoch, or one at random")] = "all"
    max_batch_s: Annotated[Seconds, Doc("audio in a batch, padding not counted")] = 50.0
    max_utterance_s: Annotated[Seconds, Doc("longer utterances are left out")] = 30.0
    min_utterance_s: Annotated[NotNegative, Unit("s"), Doc("shorter utterances are left out")] = 0.1
    max_bad_share: Annotated[
        Fraction,
        Doc("utterances that may be unreadable: they are left out and named; more of them end the stage"),
    ] = 0.01
    share: Annotated[
        float,
        Interval(gt=0, le=1),
        Allowed("above 0, up to 1"),
        Doc(
            "share of the training utterances that is used, for a curve over hours; a larger share has all of a smaller"
        ),
    ] = 1.0
    num_buckets: Annotated[Count, Doc("groups of utterances of similar length, of which batches are made")] = 10
    shuffle_buffer: Annotated[
        Count, Unit("utterances"), Doc("shuffled in a buffer of this many; a set of no more is shuffled as a whole")
    ] = 100_000
    shard_size: Annotated[
        int,
        Ge(0),
        Unit("cuts"),
        Doc("in a shard of Lhotse Shar, if stage 2 is to write it for training; 0: it is not"),
    ] = 0
    shar: Annotated[
        list[str],
        Doc(
            "folders to train on instead of the recipe's own: of Lhotse Shar, or of any recipe's stage 2 (data/fbank); "
            "the shards of all are shuffled together"
        ),
    ] = field(default_factory=list)
    weights: Annotated[
        list[Annotated[float, Interval(gt=0, le=MAX_WEIGHT)]],
        Allowed(f"for each folder of data.shar a number above 0, up to {MAX_WEIGHT}"),
        Doc("how often an utterance of each folder of data.shar comes in an epoch; 0.5: every second epoch. []: once"),
    ] = field(default_factory=list)
    num_workers: Annotated[
        Annotated[int, Ge(0)] | None,
        Unit("processes"),
        Doc("prepare batches of a rank, 0 for a thread; null is a thread on a CPU and 4 processes on a GPU"),
    ] = None
    concat_probability: Annotated[Fraction, Doc("chance that an utterance is joined with the next into one")] = 0.0
    concat_most: Annotated[int, Ge(2), JOINED, Doc("most utterances that are joined, each with that chance")] = 2
    pause: PauseConfig = field(default_factory=PauseConfig)
    pad_start_ms: Annotated[Milliseconds, Doc("up to this much silence put before an utterance, at random")] = 0
    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    variation: VariationConfig = field(default_factory=VariationConfig)
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass(frozen=True)
class Config:
    """One experiment."""

    description: Annotated[str, Doc("the experiment in a few words, for tables")] = ""
    warm_start: Annotated[Experiment | None, Doc("experiment whose weights this one starts from")] = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner: JoinerConfig = field(default_factory=JoinerConfig)
    amnet: AmNetConfig = field(default_factory=AmNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    @property
    def has_arbitrator(self) -> bool:
        """Whether a network chooses a branch for each frame, or a depth for each chunk."""
        return len(self.amnet.compression) > 1 or self.encoder.depth.arbitrator
