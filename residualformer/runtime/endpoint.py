"""Where an utterance ends: rules of the form of Kaldi's online decoding, with the numbers of sherpa-onnx.

Povey et al., Kaldi, `online2/online-endpoint.h`: an endpoint is where any rule holds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """An utterance ends when all of it holds.

    Attributes:
        needs_tokens: something must have been written.
        trailing_s: audio since the last token (since the start where there is none), at least.
        length_s: audio of the utterance, at least.
    """

    needs_tokens: bool
    trailing_s: float
    length_s: float

    def holds(self, has_tokens: bool, trailing_s: float, length_s: float) -> bool:
        enough = trailing_s >= self.trailing_s - 1e-6 and length_s >= self.length_s - 1e-6  # sums of 0.01 s
        return enough and (has_tokens or not self.needs_tokens)


ENDPOINT_RULES = (
    Rule(needs_tokens=False, trailing_s=2.4, length_s=0.0),  # nobody speaks
    Rule(needs_tokens=True, trailing_s=1.2, length_s=0.0),  # somebody has spoken
    Rule(needs_tokens=False, trailing_s=0.0, length_s=20.0),  # memory and mistakes are not carried on for ever
)
