"""An exported folder as a transcriber, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from residualformer.context.scorer import Context
from residualformer.errors import UserError
from residualformer.library.options import Options
from residualformer.library.sound import Sound
from residualformer.library.transcriber import Outcome, Transcriber
from residualformer.runtime.loading import load_exported
from residualformer.runtime.search import chosen_search


class ExportedTranscriber(Transcriber):
    """An exported folder, whose model always streams; UserError if the folder or the options are wrong."""

    def __init__(self, folder: Path, options: Options) -> None:
        if options.device.startswith("cuda"):
            raise UserError(
                f"device {options.device}: an exported folder runs on the CPU; leave the option out or give a run "
                "folder."
            )
        if options.loops is not None:
            raise UserError(
                f"loops {options.loops}: the depth of {folder} was chosen at its export; leave the option out, or "
                "export the run with --loops."
            )
        model = load_exported(folder, options.threads or 1, options.int8, options.lean, options.adapter)
        decode = options.with_language_model(chosen_search(model.decode, options.greedy, options.beam))
        super().__init__(model, decode, options.words)

    def _outcomes(self, sounds: Iterable[Sound | UserError], context: Context | None) -> Iterator[Outcome]:
        return self._one_by_one(sounds, context)
