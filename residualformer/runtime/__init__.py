"""Streaming recognition on onnxruntime: what is exported runs here without torch."""

from residualformer.runtime.endpoint import ENDPOINT_RULES, Rule
from residualformer.runtime.model import ExportedModel, load_exported
from residualformer.runtime.recogniser import Recogniser
from residualformer.runtime.search import Hypothesis
from residualformer.runtime.stream import Result, Stream

__all__ = [
    "ENDPOINT_RULES",
    "ExportedModel",
    "Hypothesis",
    "Recogniser",
    "Result",
    "Rule",
    "Stream",
    "load_exported",
]
