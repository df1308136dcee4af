"""The stages of run.sh: what each runs, with the options of a command line."""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from residualformer.errors import UserError, closest
from residualformer.workflow.corpus import CorpusOptions, ask_options
from residualformer.workflow.inputs import content
from residualformer.workflow.marker import is_finished, marker_of
from residualformer.workflow.process import run_command
from residualformer.workflow.recipe import Recipe
from residualformer.workflow.run_options import LAST, run_parser
from residualformer.workflow.step import Step, run_step


class Stages:
    """The stages of a recipe with the options of a command line.

    Args:
        words: the options, those of the corpus among them.

    Raises:
        UserError: an option, a configuration or the choice of experiments is wrong.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.options, self.corpus_words = run_parser().parse_known_args(words)
        options = self.options
        name = options.recipe or options.corpus
        self.program = Path("local", f"{options.corpus}.py")
        self.recipe = Recipe(Path("conf", name), Path("egs", options.name or name), tuple(options.set))
        self.stages = range(options.stage, options.stop_stage + 1)
        self.experiments: list[str] = options.experiments.split()
        self.test_sets: list[str] = options.test_set.split()
        self._check_names(options)
        self.jobs = options.jobs or cores()

    def _check_names(self, options: argparse.Namespace) -> None:
        if not self.program.is_file():
            known = [path.stem for path in Path("local").glob("*.py")]
            raise UserError(
                f"there is no corpus '{options.corpus}': {self.program} is missing.{closest(options.corpus, known)}"
            )
        conf = self.recipe.conf
        if not (conf / "base.yaml").is_file():
            known = [path.name for path in conf.parent.iterdir()]
            advice = closest(conf.name, known)
            raise UserError(f"there is no recipe '{conf.name}': {conf / 'base.yaml'} is missing.{advice}")
        name = options.name or conf.name
        taken = name != conf.name and Path("conf", name).exists()
        if taken or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise UserError(
                f"--name '{name}' must be made of letters, digits, '_', '-' and '.', and must not be a recipe of this "
                "repository"
            )
        if options.stop_stage > LAST:
            raise UserError(f"--stop-stage {options.stop_stage}: the last stage is {LAST}")
        if options.stage > options.stop_stage:
            raise UserError(f"--stage {options.stage} comes after --stop-stage {options.stop_stage}")

    def check(self) -> None:
        """Raise UserError for whatever can be seen to be wrong before any work."""
        self.corpus_options()
        self.recipe.check_needs(self.recipe.plan(self.experiments), self.stages)
        if self.stages.start > 2:
            self._check_test_sets()

    def corpus_options(self) -> CorpusOptions:
        """Return what the corpus makes of its options."""
        return ask_options(self.program, ["--jobs", str(self.jobs), *self.corpus_words], run_parser().names())

    def run(self, number: int) -> int:
        """Run a stage, if it was asked for, up to the first step that fails; return the exit status."""
        if number not in self.stages:
            return 0
        if number == 8:
            return self._score()
        if number > 2:
            self._check_test_sets()
        for step in self.steps(number):
            if status := run_step(step, self.options.overwrite):
                return status
        return 0

    def steps(self, number: int) -> Iterator[Step]:
        """Yield the steps of a stage."""
        recipe, options = self.recipe, self.options
        if number == 0:
            told = self.corpus_options()
            yield recipe.obtain(self.program, told.obtain, {path: content(Path(path)) for path in told.inputs})
        elif number == 1:
            yield recipe.manifests(self.program, self.corpus_options().manifests)
        elif number == 2:
            yield recipe.features(self.jobs, options.feature_backend)
        elif number == 3:
            yield recipe.tokens()
        elif number in (4, 5, 6):
            yield from (recipe.training(each) for each in recipe.plan(self.experiments) if each.stage == number)
        elif number == 7:
            splits = recipe.splits(self.test_sets)
            yield from (recipe.decoding(split, name) for split in splits for name in self.experiments)
        elif number == 9:
            yield from (recipe.export(name) for name in self.experiments)

    def _check_test_sets(self) -> None:
        """Refuse a wrong test set before hours of training, where the splits are known."""
        if 7 in self.stages and is_finished(marker_of(self.recipe.data / "fbank")):
            self.recipe.splits(self.test_sets)

    def _score(self) -> int:
        print("== stage 8: score", flush=True)
        start = time.monotonic()
        command = ["bash", "local/score.sh", str(self.recipe.egs), "--split", self.options.test_set]
        status = run_command(command, {})
        if status == 0:
            print(f"stage 8 done in {time.monotonic() - start:.0f} s: {self.recipe.egs}", flush=True)
        return status


def cores() -> int:
    """Return how many physical cores this process may use."""
    return int(subprocess.run(["bash", "utils/cores.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout)
