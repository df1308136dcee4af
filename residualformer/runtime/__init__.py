"""Streaming recognition on onnxruntime: what is exported runs here without torch."""

from residualformer.hypothesis import Hypothesis
from residualformer.runtime.endpoint import ENDPOINT_RULES, Rule
from residualformer.runtime.loading import load_exported
from residualformer.runtime.model import ExportedModel, StreamingModel
from residualformer.runtime.recognizer import Recognizer
from residualformer.runtime.stream import Result, Stream

__all__ = [
    "ENDPOINT_RULES",
    "ExportedModel",
    "Hypothesis",
    "Recognizer",
    "Result",
    "Rule",
    "Stream",
    "StreamingModel",
    "load_exported",
]
