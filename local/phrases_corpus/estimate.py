"""How long it takes to make the speech, by a sample, and to train on it, by trainings that have run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from local.common.synthesis import SAMPLING_RATE, Conditions, Line, render
from residualformer.workflow.pace import duration, known_paces, pace_of, seconds_left
from residualformer.workflow.recipe import Recipe

SAMPLE = 5  # utterances of each engine
FROM_NOTHING, FROM_A_MODEL = ("shared",), ("finetune", "adapt")  # experiments


def speech_time(splits: Mapping[str, Sequence[Line]], babble: Sequence[Line], seed: int, conditions: Conditions) -> str:
    """Return in words how much speech there will be and what makes it take, after rendering a few lines."""
    by_engine: dict[str, list[Line]] = defaultdict(list)
    for lines in splits.values():
        for line in lines:
            by_engine[type(line.speaker.voice).__module__.rpartition(".")[2]].append(line)
    audio_s, told = 0.0, []
    for engine, lines in by_engine.items():
        render(lines[0], list(babble), seed, conditions)  # loads what has to be loaded
        started, length_s = time.process_time(), 0.0
        for line in lines[:SAMPLE]:
            length_s += len(render(line, list(babble), seed, conditions)) / SAMPLING_RATE
        share = len(lines) / len(lines[:SAMPLE])
        audio_s += length_s * share
        told.append(f"{engine} {duration((time.process_time() - started) * share)}")
    return f"about {audio_s / 3600:.1f} h of speech, which takes one core: {', '.join(told)}"


def training_time(start_from: Path | None) -> str:
    """Return in words how long trainings take, by those that have run here, else by published ones."""
    here = [pace for run in sorted(Path("egs").glob("*/exp/*")) if (pace := pace_of(run))]
    known, source = (here, "ran here") if here else (known_paces(), "are published, of another machine")
    recipe = Recipe(Path("conf", "phrases"), Path("egs", "phrases"), start_from=start_from)
    experiments = recipe.plan(FROM_A_MODEL if start_from else FROM_NOTHING)
    told = [f"{each.name} {duration(seconds_left(each.config, None, known))}" for each in experiments]
    return f"training, by the pace of those that {source}: {', '.join(told)}"
