"""Times and confidences of the words that a streaming model has recognized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from residualformer.config.schema import DecodeConfig
from residualformer.constants import FRAME_SHIFT_S
from residualformer.hypothesis import Hypothesis, pause_frames
from residualformer.runtime.model import Array, StreamingModel
from residualformer.words.alignment import REACH_S, Alignment, Logits, Memory, align, with_inserted
from residualformer.words.words import NO_WORDS, Timed, timed_words


def describe(
    model: StreamingModel,
    decode: DecodeConfig,
    encoded: Array,
    nbest: Sequence[Hypothesis],
    start_s: float,
    end_s: float,
) -> Timed:
    """Return the words of a segment of a stream.

    Args:
        encoded: (T, J), the encoder's output since the start of the segment.
        nbest: all hypotheses of the search.
        start_s: of the segment, as `end_s`; no word lies outside.
    """
    if not nbest or not nbest[0].tokens:
        return NO_WORDS
    alignment = align_hypothesis(model, decode, encoded, nbest[0])
    return timed_words(
        nbest,
        alignment,
        model.pieces,
        model.calibration,
        decode.kind,
        decode.token_reward,
        model.stride * FRAME_SHIFT_S,
        start_s,
        end_s,
    )


def align_hypothesis(model: StreamingModel, decode: DecodeConfig, encoded: Array, hypothesis: Hypothesis) -> Alignment:
    """Return the posterior over the alignments of a hypothesis to the encoder's output (T, J)."""
    reach = round(REACH_S / (model.stride * FRAME_SHIFT_S))
    labels, frames = ([part[place] for place in hypothesis.written] for part in (hypothesis.tokens, hypothesis.frames))
    pause = pause_frames(decode.restart_s, model.stride) if decode.restart_s else 0
    logits = lattice_logits(model, encoded, labels, Memory(frames, pause))
    found = align(logits, labels, frames, len(encoded), model.blank, reach, decode.blank_penalty)
    return with_inserted(found, hypothesis)


def lattice_logits(model: StreamingModel, encoded: Array, labels: Sequence[int], memory: Memory) -> Logits:
    """Return the function from nodes of the lattice of `labels` and `encoded` (T, J) to `Logits`."""

    def predict(first: int, end: int) -> Array:
        outputs, state = [], model.predictor_state()
        for label in (model.blank, *labels[first:end]):
            output, state = model.predict([label], [state])[0]
            outputs.append(output)
        return np.stack(outputs)

    predicted = memory.outputs(predict)

    def logits(times: Array, written: Array) -> Array:
        return model.join(encoded[times], predicted[memory.rows(times, written)])

    return logits
