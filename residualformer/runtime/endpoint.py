"""Endpoint rules in the form of Kaldi's online decoding, with the numbers of sherpa-onnx.

Povey et al., Kaldi, `online2/online-endpoint.h`: an utterance ends where any rule holds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A rule, which holds when all of its conditions do."""

    needs_tokens: bool  # the utterance must have tokens
    trailing_s: float  # least seconds of audio since the last token, or since the start if there is none
    length_s: float  # least seconds of audio of the utterance

    def holds(self, has_tokens: bool, trailing_s: float, length_s: float) -> bool:
        """Return whether the rule holds for an utterance."""
        enough = trailing_s >= self.trailing_s - 1e-6 and length_s >= self.length_s - 1e-6  # sums of 0.01 s
        return enough and (has_tokens or not self.needs_tokens)


ENDPOINT_RULES = (
    Rule(needs_tokens=False, trailing_s=2.4, length_s=0.0),  # nobody speaks
    Rule(needs_tokens=True, trailing_s=1.2, length_s=0.0),  # somebody has spoken
    Rule(needs_tokens=False, trailing_s=0.0, length_s=20.0),  # bounds memory, and the reach of a mistake
)
