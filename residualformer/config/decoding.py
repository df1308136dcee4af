"""The keys of `decode`, a section of `schema.py`; like it, this imports neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from residualformer.config.conditions import BEAM, WITH_LM
from residualformer.config.keys import Count, Doc, Nats, NotNegative, Pause, Positive, Seconds
from residualformer.constants import MAX_HOTWORD_SCORE


@dataclass(frozen=True)
class DecodeConfig:
    """Search."""

    kind: Annotated[Literal["greedy", "beam"], Doc("search")] = "beam"
    greedy_sets: Annotated[
        list[str], BEAM, Doc("test sets that are too long for beam search and are searched greedily")
    ] = field(default_factory=list)
    beam: Annotated[int, Interval(ge=1, le=1000), BEAM, Doc("hypotheses that are kept")] = 16
    max_symbols: Annotated[Count, Doc("labels that one encoder frame may emit")] = 5
    nbest: Annotated[Count, BEAM, Doc("hypotheses that are returned")] = 4
    blank_penalty: Annotated[Nats, Doc("taken from the log-probability of blank")] = 0.0
    token_reward: Annotated[Nats, Doc("added for each label, against outputs that are too short")] = 0.0
    restart_s: Annotated[Pause, Doc("pause after which the predictor starts afresh; 0: never")] = 0.0
    lm: Annotated[str | None, BEAM, Doc("language model, an .arpa, .arpa.gz or .onnx file, whose scores are added")] = (
        None
    )
    lm_weight: Annotated[Positive, WITH_LM, Doc("factor of the language model's log-probabilities")] = 0.3
    ilm_weight: Annotated[
        NotNegative, WITH_LM, Doc("factor of those of the labels by the transducer without audio, which are taken away")
    ] = 0.0
    length_norm: Annotated[bool, BEAM, Doc("the best hypothesis has the highest log-probability per label")] = False
    hotwords_score: Annotated[
        Nats,
        Interval(gt=0, le=MAX_HOTWORD_SCORE),
        Doc("added for each character of a hotword that has no score of its own (docs/context.md)"),
    ] = 0.5
    reject: Annotated[
        Nats,
        Ge(0),
        Doc("with a grammar, no match where other speech is likelier by more than this a second (docs/grammar.md)"),
    ] = 4.0
    max_batch_s: Annotated[Seconds, Doc("audio in a batch")] = 200.0
