"""Error rates of an exported folder beside those of the trained model, on utterances with references.

All search greedily, the exported model as the runtime hears a stream, chunk by chunk. Greedy search is fast, and shows
a precision that loses accuracy at least as clearly as a beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from residualformer.config.schema import DecodeConfig
from residualformer.data.fbank import compute_fbank
from residualformer.data.tokenizer import UNKNOWN_PIECE
from residualformer.decode.grouping import group_by_length
from residualformer.decode.recognize import recognize
from residualformer.export.check import CheckAudio
from residualformer.metrics.bootstrap import Gap, Score
from residualformer.metrics.texts import text_measures
from residualformer.model.checkpoint import Bundle
from residualformer.runtime.loading import load_exported
from residualformer.runtime.recognizer import Recognizer
from residualformer.runtime.settings import ModelSettings, Precision

MOST_LOSS = 5.0  # percent of the trained model's errors (or BLEU) that a precision may lose without a warning
BATCH_S = 120.0  # audio that is recognized together, with its padding


@dataclass(frozen=True)
class PrecisionRate:
    """The score of the files of one precision; `differing` counts utterances with another text than PyTorch's."""

    score: Score
    gap: Gap  # to the trained model, positive where the files are worse
    differing: int

    @property
    def loses(self) -> bool:
        """Whether it loses more than `MOST_LOSS`; where the trained model makes no errors, whether these files do."""
        if self.gap.relative is not None:
            return self.gap.relative > MOST_LOSS
        return bool(self.score.value) and self.differing > 0


@dataclass(frozen=True)
class Rates:
    """Scores on the same utterances; `metric` is WER or BLEU."""

    metric: str = "WER"
    utterances: int = 0
    trained: Score | None = None  # None where no utterance has a reference
    exported: dict[Precision, PrecisionRate] = field(default_factory=dict)


def measure_rates(folder: Path, settings: ModelSettings, bundle: Bundle, audio: Sequence[CheckAudio]) -> Rates:
    """Recognize the utterances that have a reference with the trained model and each precision of `folder`."""
    spoken = [utterance for utterance in audio if utterance.reference is not None]
    references = [utterance.reference or "" for utterance in spoken]
    translated = settings.target == "translation"
    metric = "BLEU" if translated else "WER"
    if not any(references):
        return Rates(metric)
    rate = settings.features.sample_rate_hz
    decode = replace(settings.decode, kind="greedy")
    expected: dict[int, str] = {}
    for group in group_by_length(range(len(spoken)), lambda n: len(spoken[n].samples) / rate, BATCH_S):
        expected |= zip(group, _by_torch(bundle, decode, [spoken[n] for n in group]), strict=True)
    trained = next(iter(text_measures(references, [expected[n] for n in range(len(spoken))], translated).values()))
    exported = {}
    for precision in settings.files:
        recognizer = Recognizer(load_exported(folder, int8=precision == "int8"), decode)
        texts = [_by_runtime(recognizer, each) for each in spoken]
        measure = next(iter(text_measures(references, texts, translated).values()))
        differing = sum(text != expected[n] for n, text in enumerate(texts))
        exported[precision] = PrecisionRate(measure.rounded(), measure.gap(trained), differing)
    return Rates(metric, len(spoken), trained.rounded(), exported)


def rate_lines(rates: Rates) -> list[str]:
    """Return a line for the trained model and one for each precision."""
    if rates.trained is None:
        return ["no error rates, as no utterance has a reference: give transcribed cuts with --check-cuts"]
    percent = "" if rates.metric == "BLEU" else "%"
    low, high = (f"{end:.2f}{percent}" for end in (rates.trained.low or 0, rates.trained.high or 0))
    scored = f"{rates.utterances} utterance{'s' * (rates.utterances != 1)}"
    lines = [f"{_told(rates, rates.trained)} in PyTorch, {scored}, 95% interval {low} to {high}"]
    for precision, found in rates.exported.items():
        differing = f"{found.differing} utterance{'s' * (found.differing != 1)} unlike PyTorch"
        compared = f", {_gap(found.gap)}" if found.differing and found.gap.relative is not None else ""
        lines.append(f"{_told(rates, found.score)} in {precision}, {differing}{compared}")
    return lines


def rate_warnings(rates: Rates) -> list[str]:
    """Return a sentence for each precision that loses too much: what it loses, and what to do."""
    return [_warning(rates, precision, found) for precision, found in rates.exported.items() if found.loses]


def _warning(rates: Rates, precision: Precision, found: PrecisionRate) -> str:
    assert rates.trained is not None
    by = f" ({_gap(found.gap)})" if found.gap.relative is not None else ""
    told = f"{precision} loses accuracy: {_told(rates, found.score)} instead of {_told(rates, rates.trained)}{by}"
    if precision == "fp32":
        return f"{told}. It should be what PyTorch is: this is a fault of the export, please report it."
    low = found.gap.relative_low
    unsure = f"{rates.utterances} utterances are too few to be sure: score more with --num-scored. "
    return (
        f"{told}. {unsure if low is None or low <= 0 else ''}Use the fp32 files; on an x86 processor without VNNI, "
        "where products of 8 bits can saturate, also try `transcribe --int8 --lean`, which multiplies in float32."
    )


def _told(rates: Rates, score: Score) -> str:
    return f"{rates.metric} {score.value:.2f}{'' if rates.metric == 'BLEU' else '%'}"


def _gap(gap: Gap) -> str:
    """Return a gap in words; positive is worse."""
    low, high = ("?" if end is None else f"{end:+.1f}%" for end in (gap.relative_low, gap.relative_high))
    return f"{gap.relative:+.1f}% relative (95% interval {low} to {high})"


def _by_torch(bundle: Bundle, decode: DecodeConfig, batch: Sequence[CheckAudio]) -> list[str]:
    found = recognize(bundle.model, decode, [compute_fbank(each.samples, bundle.config.features) for each in batch])
    return [bundle.tokenizer.decode(each.nbest[0].tokens) for each in found]


def _by_runtime(recognizer: Recognizer, utterance: CheckAudio) -> str:
    """Recognize an utterance by itself, as a device does: 8-bit activations have one scale for a whole batch."""
    stream = recognizer.create_stream()
    stream.accept_waveform(utterance.samples)
    stream.finish()
    recognizer.decode([stream])
    text = " ".join(segment.text for segment in stream.pop_segments())
    return text.replace(UNKNOWN_PIECE.upper(), UNKNOWN_PIECE)  # see `folder.token_list`
