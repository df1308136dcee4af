"""Recipes whose trainings start from the model of another run: `run.sh --start-from RUN`."""

from __future__ import annotations

import json
from pathlib import Path

from residualformer.config.loading import config_from_dict, meaningful
from residualformer.constants import MODEL_FILE
from residualformer.errors import UserError
from residualformer.tensor_files import verified_content

# Keys that the weights of the model depend on; dropout may differ.
SECTIONS = ("features.", "encoder.", "predictor.", "joiner.", "tokens.kind", "tokens.vocab_size")


def model_file(run: Path) -> Path:
    """Return the model file of a run folder, or `run` itself if it is one; raise UserError if there is none."""
    file = run / MODEL_FILE if run.is_dir() else run
    if not file.is_file():
        raise UserError(f"--start-from {run} holds no {MODEL_FILE}: give a run folder whose training has finished.")
    return file


def architecture(run: Path) -> list[str]:
    """Return the values of the configuration that a training from the weights of `run` needs, as `a.b=c`."""
    file = model_file(run)
    _, values = verified_content(file, "a model")
    config = config_from_dict(values["config"], str(file))
    if config.amnet.method != "none" or config.has_arbitrator:
        raise UserError(
            f"--start-from {run} has branches or an arbitrator, whose training has phases: give the model that it "
            "started from."
        )
    chosen = {
        key: value for key, value in meaningful(config).items() if key.startswith(SECTIONS) and "dropout" not in key
    }
    return [f"{key}={json.dumps(value)}" for key, value in chosen.items()]
