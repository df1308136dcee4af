"""Loading of trained and exported models. Imports that take time wait until a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residualformer.constants import MODEL_FILE
from residualformer.errors import UserError, closest
from residualformer.library.options import Options
from residualformer.optional import extras_needed

if TYPE_CHECKING:
    from residualformer.library.transcriber import Transcriber


def load(
    model: str | Path,
    *,
    greedy: bool = False,
    beam: int | None = None,
    streaming: bool = False,
    threads: int | None = None,
    device: str = "auto",
    int8: bool = False,
    lean: bool = False,
    words: bool | None = None,
    adapter: str | Path | None = None,
    lm: str | Path | None = None,
    lm_weight: float | None = None,
    ilm_weight: float | None = None,
    loops: int | None = None,
    **unknown: Any,
) -> Transcriber:
    """Load the model of a run folder (which PyTorch runs) or of an exported folder (which needs no PyTorch).

    Args:
        model: a run folder, a `model.safetensors` or an exported folder.
        greedy: search greedily; default is the search that the model was configured with.
        beam: use beam search with this many hypotheses.
        streaming: encode recordings chunk by chunk, like live speech, and search greedily unless `beam` is given;
            exported models always work chunk by chunk, with either search.
        threads: of the CPU; default is 1 for an exported folder, else PyTorch's own number, which this sets as a whole.
        device: what runs a run folder: auto (a CUDA GPU if there is one), cpu, cuda or cuda:N.
        int8: use the 8-bit files of an exported folder.
        lean: run an exported Transformer in the least memory: one group's weights at a time, slower.
        words: find start, end and confidence of words, which takes time; default unless it translates: it has none.
        adapter: file of `residualformer adapter` that adapts the model (docs/adaptation.md).
        lm: file of a language model for beam search (docs/language_models.md); default is the configured one, if any.
        lm_weight: factor of its log-probabilities; 0 is a search without the configured one.
        ilm_weight: factor of the model's own log-probabilities of labels without audio, which are taken away.
        loops: run the first so many layers of each group alone, if a run folder is trained for it (docs/depth.md).
        unknown: other options are refused, with the closest known name.

    Raises:
        UserError: the model or an option does not exist, they do not go together, or PyTorch is needed and missing.
    """
    _refuse(unknown)
    adapter, lm = (Path(each) if each else None for each in (adapter, lm))
    options = Options(
        greedy, beam, streaming, threads, device, int8, lean, words, adapter, lm, lm_weight, ilm_weight, loops
    )
    path = Path(model)
    if not path.exists():
        raise UserError(_not_there(path))
    from residualformer.runtime.settings import is_exported

    if is_exported(path):
        from residualformer.library.exported import ExportedTranscriber

        return ExportedTranscriber(path, options)
    _check_trained(path, options)
    with extras_needed():
        from residualformer.library.trained import TrainedTranscriber

        return TrainedTranscriber(path, options)


def _refuse(unknown: Iterable[str]) -> None:
    """Raise UserError for options that do not exist."""
    for name in unknown:
        known = [field.name for field in fields(Options)]
        advice = closest(name, known) or f" There are: {', '.join(known)}."
        raise UserError(f"there is no option '{name}'.{advice}")


def _check_trained(path: Path, options: Options) -> None:
    """Raise UserError for a path within an exported folder, and for options that only those take."""
    from residualformer.runtime.settings import SETTINGS_FILE

    folder = path if path.is_dir() else path.parent
    if any(folder.glob("*.onnx")) and path.suffix != ".safetensors":
        raise UserError(
            f"{path} is no exported folder: give the whole folder that steps/export.py wrote, with its {SETTINGS_FILE}."
        )
    for name in ("int8", "lean"):
        if getattr(options, name):
            raise UserError(
                f"{name} needs an exported folder, which {path} is not: run steps/export.py and give its export/."
            )
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        raise UserError(
            f"{path} holds neither {MODEL_FILE} nor {SETTINGS_FILE}: give a run folder whose training has finished, or "
            "an exported one."
        )


def _not_there(model: Path) -> str:
    """Return the error message for a path that does not exist, with the closest name to its first wrong part."""
    missing = model
    while not missing.parent.exists():
        missing = missing.parent
    names = [path.name for path in missing.parent.iterdir()] if missing.parent.is_dir() else []
    where = "" if missing == model else f", because there is no {missing}"
    return f"{model} does not exist{where}.{closest(missing.name, names)}"
