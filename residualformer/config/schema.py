"""What an experiment is made of: one frozen dataclass per section of a YAML in `conf/`.

Only defaults and value checks live here; reading, merging and naming mistakes is `config.py`.
Units are in the names: `_ms` milliseconds, `_s` seconds, `_hz` Hertz; everything else is a count or a ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel filterbank; one definition, stored with the features and inside the model.

    `preset` names the options that sampling rate and bin count do not decide (see `data/fbank.py`):
    `sherpa` is what sherpa-onnx forces on models with an LSTM predictor, `kaldi` is plain Kaldi.
    """

    preset: str = "sherpa"
    sample_rate_hz: int = 16000
    num_mel_bins: int = 80


@dataclass(frozen=True)
class TokenConfig:
    """Output units. `kind` is `bpe` (sentencepiece) or `char`; `target` picks what is to be written."""

    kind: str = "bpe"
    vocab_size: int = 100  # blank and unknown included; `char` takes the characters it finds, this is for counts only
    target: str = "text"  # `text` (recognition) or `translation`


@dataclass(frozen=True)
class ResidualConfig:
    """The layer's own part of a weight: A (M x R) times B (R x N), plus the rectangular diagonal D."""

    rank: int = 0  # R; 0 = no A, B
    diagonal: bool = False  # D on or off


@dataclass(frozen=True)
class EncoderConfig:
    """`transformer`: convolutional front end and Transformer layers (ResidualTransformer, section 4.2).

    `lstm`, `gru`: unidirectional recurrent layers over stacked feature frames (AmNets, section 5); of the keys below
    they take `num_layers`, `dim`, `dropout` and `stack_frames`.
    """

    kind: str = "transformer"
    num_layers: int = 18  # L
    dim: int = 512
    stack_frames: int = 3  # lstm, gru: feature frames of 10 ms in one encoder frame
    num_heads: int = 8
    ffn_dim: int = 2048
    conv_channels: int = 256
    dropout: float = 0.1
    chunk_ms: int = 160  # rounded up to whole encoder frames (40 ms)
    look_back_ms: int | None = 288  # rounded up to whole encoder frames; null = everything before
    look_ahead_ms: int = 160  # beyond the chunk, first layer only, so the total is not multiplied by L
    sharing: int | list[int] = 1  # K, or the group of each layer
    residual: ResidualConfig = field(default_factory=ResidualConfig)


@dataclass(frozen=True)
class PredictorConfig:
    """Prediction network over the labels so far: `lstm`, or `stateless` (the last `context_size` labels)."""

    kind: str = "lstm"
    embedding_dim: int = 320
    hidden_dim: int = 1024
    num_layers: int = 2  # lstm only
    context_size: int = 2  # stateless only
    dropout: float = 0.1
    token_dropout: float = 0.0  # chance that a history label is hidden in training


@dataclass(frozen=True)
class JoinerConfig:
    """`tanh`: Linear(encoder) + Linear(predictor) -> tanh -> Linear -> vocabulary.

    `additive`: both sides are projected to the vocabulary and added (AmNets, section 5); `dim` is not used.
    """

    kind: str = "tanh"
    dim: int = 512


@dataclass(frozen=True)
class LossConfig:
    """Transducer loss: `pruned`, `exact`, or `simple`: the exact one of the additive joiner, for that alone."""

    kind: str = "pruned"
    backend: str = "auto"  # auto = torch, this package's own; k2; torchaudio
    prune_range: int = 5
    simple_scale: float = 0.5  # weight of the simple joiner's loss beside the pruned one
    lm_scale: float = 0.25  # smoothing of the simple joiner's loss
    am_scale: float = 0.0
    ctc_scale: float = 0.0  # auxiliary CTC on the encoder, training only
    ctc_target: str = "tokens"  # what it writes: the transducer's tokens, or the bytes of the transcript (translation)


@dataclass(frozen=True)
class ArbitratorConfig:
    """The network that chooses the branch of each frame (AmNets, section 2)."""

    hidden_dim: int = 128
    num_layers: int = 2
    use_state: bool = False  # it also sees h_{t-1}, the last layer's output
    use_decision: bool = False  # it also sees d_{t-1}
    delay: int = 0  # frames between a decision and its branch; 1 is eq. 2 to the letter
    teacher: str | None = None  # experiment whose output entropy it first learns to predict
    pretrain_steps: int = 0  # first updates, in which the arbitrator alone learns from the teacher
    entropy_threshold: float = 2.0  # nats; frames above it are for the slow branch


@dataclass(frozen=True)
class CostConfig:
    """The cost loss beside the transducer loss (AmNets, section 4)."""

    kind: str = "none"  # none, avg (eq. 5) or amr (eqs. 6-7)
    weight: float = 0.0  # avg: nats per utterance at a real-time factor of 1; amr: nats per second of delay
    mu: float = 650e6  # FLOP/s of the device; a multiply-accumulate is one FLOP
    slow_share: float | None = None  # avg: share of slow frames that is sought by adapting the weight
    match: str | None = None  # avg: experiment whose share of slow frames is sought


@dataclass(frozen=True)
class AmNetConfig:
    """Branches of a recurrent encoder, slow first (AmNets, sections 2 and 3).

    One branch is a compressed model without arbitrator; none is the plain recurrent encoder.
    """

    method: str = "none"  # none, sparse or factorised
    compression: list[float] = field(default_factory=list)  # of each branch: share of weights that go
    prune_fraction: float = 0.3  # sparse: of the training; branches are drawn evenly until then
    prune_every_steps: int = 100  # sparse: Delta m
    block: int = 1  # sparse: weights of a row that are pruned together
    tau_start: float = 1.0  # temperature of the Gumbel-softmax, annealed linearly
    tau_end: float = 0.5
    noise_start: float = 1.0  # factor of the Gumbel noise, annealed linearly; 1 is eq. 1, 0 is run time
    noise_end: float = 1.0
    arbitrator: ArbitratorConfig = field(default_factory=ArbitratorConfig)
    cost: CostConfig = field(default_factory=CostConfig)


@dataclass(frozen=True)
class SpecAugmentConfig:
    """SpecAugment, applied from update `start_step` on."""

    start_step: int = 0
    num_time_masks: int = 2
    max_time_fraction: float = 0.1  # of the utterance, per mask
    num_freq_masks: int = 2
    max_freq_bins: int = 20


@dataclass(frozen=True)
class VariationConfig:
    """Other voices, levels and backgrounds, made of the features at random; see `data/variation.py`."""

    warp: float = 0.0  # vocal tracts up to this part longer or shorter
    gain_db: float = 0.0  # louder or quieter by up to this much
    noise_probability: float = 0.0  # chance of stationary noise behind an utterance
    noise_snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])


@dataclass(frozen=True)
class DataConfig:
    """Training batches."""

    speeds: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    speed_choice: str = "all"  # all = every copy once an epoch; random = one random copy of each utterance
    max_batch_s: float = 50.0  # seconds of audio in a batch, padding not counted
    max_utterance_s: float = 30.0
    min_utterance_s: float = 0.1
    num_buckets: int = 10
    concat_probability: float = 0.0  # chance that two utterances are joined into one
    pad_start_ms: int = 0  # up to this much silence put before an utterance, at random
    variation: VariationConfig = field(default_factory=VariationConfig)
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass(frozen=True)
class OptimizerConfig:
    """`adam`, `adamw`, or `muon` (Muon for the encoder's matrices, AdamW for all else)."""

    kind: str = "adam"
    lr: float = 1e-3
    muon_lr: float = 3e-3
    arbitrator_factor: float = 1.0  # of lr, for an arbitrator, which is new in an encoder that is trained already
    residual_factor: float = 1.0  # of lr, for A, B and D, which are new where the shared weights are trained already
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    schedule: str = "linear"  # after warm-up, down to 0 at the last step: linear, cosine or hold
    warmup_steps: int = 1000
    hold_fraction: float = 0.5  # hold: of the steps after warm-up; exponential decay to 1% follows
    clip_norm: float = 5.0


@dataclass(frozen=True)
class TrainConfig:
    """How long and how."""

    max_steps: int = 350_000
    seed: int = 1
    precision: str = "bf16"  # bf16 (autocast in the encoder, products in a large vocabulary's loss) or fp32
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    average_last: int = 10  # checkpoints in the final average
    save_every_steps: int = 1000
    valid_every_steps: int = 1000
    log_every_steps: int = 50


@dataclass(frozen=True)
class DecodeConfig:
    """Search. `kind` is `greedy` or `beam`."""

    kind: str = "beam"
    greedy_sets: list[str] = field(default_factory=list)  # test sets too long for `kind`, which are searched greedily
    beam: int = 16
    max_symbols: int = 5  # labels a single encoder frame may emit
    nbest: int = 4
    blank_penalty: float = 0.0
    token_reward: float = 0.0  # nats for each label, against outputs that are too short: docs/translation.md
    length_norm: bool = False  # of the beam, the best has the most log-probability per label
    max_batch_s: float = 200.0


@dataclass(frozen=True)
class Config:
    """One experiment."""

    description: str = ""
    warm_start: str | None = None  # name of the experiment whose weights this one starts from
    features: FeatureConfig = field(default_factory=FeatureConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner: JoinerConfig = field(default_factory=JoinerConfig)
    amnet: AmNetConfig = field(default_factory=AmNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
