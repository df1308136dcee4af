"""The keys of the language model that a recipe trains; like `schema.py`, this imports neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval, Unit

from residualformer.config.conditions import LSTM, NGRAM, TRAINED_LM
from residualformer.config.keys import BelowOne, Count, Doc, Positive


@dataclass(frozen=True)
class LanguageModelConfig:
    """The language model of text alone that stage 3 trains, to be used in search by `decode.lm`."""

    kind: Annotated[
        Literal["none", "ngram", "lstm"], Doc("none, n-grams in an ARPA file, or an LSTM over tokens in an ONNX file")
    ] = "none"
    text: Annotated[
        list[str], TRAINED_LM, Doc("files with a sentence a line, to train on beside the training set's texts")
    ] = field(default_factory=list)
    transcripts: Annotated[bool, TRAINED_LM, Doc("train on the training set's texts; else on `lm.text` alone")] = True
    unit: Annotated[Literal["token", "word"], NGRAM, Doc("tokens, or words between spaces")] = "token"
    order: Annotated[int, Interval(ge=1, le=20), NGRAM, Doc("the longest n-grams, in units")] = 6
    min_count: Annotated[int, Ge(1), NGRAM, Doc("n-grams of two units and more that are seen less often go")] = 1
    embedding_dim: Annotated[Count, LSTM, Doc("width of the token embedding")] = 128
    hidden_dim: Annotated[Count, LSTM, Doc("width of the LSTM")] = 256
    num_layers: Annotated[Count, LSTM, Doc("LSTM layers")] = 1
    dropout: Annotated[BelowOne, LSTM, Doc("dropout after the embedding and of the LSTM's output")] = 0.2
    lr: Annotated[Positive, LSTM, Doc("peak learning rate of AdamW")] = 2e-3
    max_epochs: Annotated[Count, LSTM, Unit("epochs"), Doc("the weights of the best epoch on the dev set are kept")] = (
        20
    )
    batch_tokens: Annotated[Count, LSTM, Unit("tokens"), Doc("in a batch, padding included")] = 1000
