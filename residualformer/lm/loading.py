"""Reading of language models: n-grams in ARPA files, networks in ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from residualformer.context.scorer import Context
from residualformer.errors import UserError
from residualformer.lm.arpa import read_arpa
from residualformer.lm.scorers import TokenNGram, WordNGram, can_be_spelled, is_of_tokens

SUFFIXES = (".arpa", ".arpa.gz", ".onnx")


def load_language_model(path: Path | str, pieces: Sequence[str]) -> Context:
    """Load a language model for labels with the text `pieces`; its scores are natural log-probabilities.

    An ARPA file is of tokens if all its words are pieces of the recognizer, else of words.

    Raises:
        UserError: the file is missing, of another kind or damaged, or is of other tokens or another script.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path} is no language model by its name; allowed are {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise UserError(f"the language model {path} is missing: give a file of steps/train_lm.py, or in ARPA format.")
    if path.suffix == ".onnx":
        from residualformer.lm.neural import NeuralLM  # onnxruntime takes 20 MB

        return NeuralLM(path, pieces)
    model = read_arpa(path)
    if is_of_tokens(model, pieces):
        return TokenNGram(model, pieces)
    if not can_be_spelled(model, pieces):
        raise UserError(
            f"{path}: none of its words can be written with the letters of the recognizer, such as "
            f"'{_example(pieces)}': give a model of text in the same script and case."
        )
    return WordNGram(model, pieces)


def _example(pieces: Sequence[str]) -> str:
    return max(pieces[2:], key=len, default="")
