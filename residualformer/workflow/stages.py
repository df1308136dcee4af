"""The stages of run.sh: check the options, then run each stage that was asked for."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from residualformer.errors import UserError, closest
from residualformer.workflow.corpus import ask_options
from residualformer.workflow.inputs import content
from residualformer.workflow.marker import is_finished
from residualformer.workflow.process import run_command
from residualformer.workflow.queue import gpus
from residualformer.workflow.recipe import Recipe
from residualformer.workflow.step import Step, run_share, run_step

LAST = 9
SHARED = {7}  # stages that several jobs can share
TRAININGS = {4, 5, 6}


class Stages:
    """The stages of a recipe.

    Args:
        options: the options of run.sh, those of utils/stages.py.
        corpus_words: the words of the command line that are options of the corpus.
        known: names of the options of run.sh, to be suggested for a mistyped one.

    Raises:
        UserError: an option is wrong.
    """

    def __init__(self, options: argparse.Namespace, corpus_words: Sequence[str], known: Sequence[str]) -> None:
        name = options.recipe or options.corpus
        self.options = options
        self.program = Path("local", f"{options.corpus}.py")
        egs = Path("egs", options.name or name)
        self.recipe = Recipe(
            Path("conf", name),
            egs,
            tuple(options.set),
            options.nproc,
            options.if_changed,
            options.nodes,
            options.start_from,
            options.device,
        )
        self.stages = range(options.stage, options.stop_stage + 1)
        self.experiments: list[str] = options.experiments.split()
        self.test_sets: list[str] = options.test_set.split()
        self._check_names()
        self.jobs = options.jobs or cores()
        self.corpus_options = ask_options(self.program, ["--jobs", str(self.jobs), *corpus_words], known)

    def _check_names(self) -> None:
        options, conf = self.options, self.recipe.conf
        if not self.program.is_file():
            advice = closest(options.corpus, [path.stem for path in Path("local").glob("*.py")])
            raise UserError(f"there is no corpus '{options.corpus}': {self.program} is missing.{advice}")
        if not (conf / "base.yaml").is_file():
            advice = closest(conf.name, [path.name for path in conf.parent.iterdir()])
            raise UserError(f"there is no recipe '{conf.name}': {conf / 'base.yaml'} is missing.{advice}")
        name = options.name or conf.name
        taken = name != conf.name and Path("conf", name).exists()
        if taken or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise UserError(
                f"--name '{name}' must be made of letters, digits, '_', '-' and '.', and must not be a recipe of this "
                "repository"
            )
        for option, number in (("--stage", options.stage), ("--stop-stage", options.stop_stage)):
            if number > LAST:
                raise UserError(f"{option} {number}: the last stage is {LAST}")
        if options.stage > options.stop_stage:
            raise UserError(f"--stage {options.stage} comes after --stop-stage {options.stop_stage}")
        if options.job and not {options.stage, options.stop_stage} <= SHARED:
            raise UserError(f"--job {options.job} is for stage 7 alone: --stage 7 --stop-stage 7")

    def check(self) -> None:
        """Raise UserError if a configuration or the choice of experiments or test sets is wrong.

        Where nothing is to be trained, print when it would be.
        """
        experiments = self.recipe.plan(self.experiments)
        self.recipe.check_needs(experiments, self.stages)
        self.recipe.check_processes(experiments, self.stages)
        if self.stages.start > 2:  # else the splits may change
            self._check_test_sets()
        if TRAININGS & set(self.stages) and not any(each.stage in self.stages for each in experiments):
            told = ", ".join(f"{each.name} is trained in stage {each.stage}" for each in experiments)
            print(f"nothing to train: {told}", flush=True)

    def run(self) -> int:
        """Run the stages up to the first step that fails; return its exit status, 0 if none fails."""
        for number in self.stages:
            if number == 3:
                self._check_test_sets()  # stage 2 has written the splits
            if number == 8 and (status := self._score()):
                return status
            for step in self.steps(number):
                job = self.options.job
                if status := run_share(step, job) if job else run_step(step, self.options.overwrite):
                    return status
        return 0

    def steps(self, number: int) -> Iterator[Step]:
        """Yield the steps of a stage. They depend on the files that the stages before it wrote."""
        recipe, options = self.recipe, self.options
        if number == 0:
            inputs = {path: content(Path(path)) for path in self.corpus_options.inputs}
            yield recipe.obtain(self.program, self.corpus_options.obtain, inputs)
        elif number == 1:
            yield recipe.manifests(self.program, self.corpus_options.manifests)
        elif number == 2:
            yield recipe.features(self.jobs, options.feature_backend)
        elif number == 3:
            yield recipe.tokens()
            if language_model := recipe.language_model():
                yield language_model
        elif number in TRAININGS:
            yield from (recipe.training(each) for each in recipe.plan(self.experiments) if each.stage == number)
        elif number == 7:
            splits = recipe.splits(self.test_sets)
            jobs = options.nproc or len(gpus()) or cores()
            for split in splits:
                for name in self.experiments:
                    yield from recipe.decodings(split, name, jobs)
            for name in self.experiments if not options.job else ():  # jobs share the plain decodings alone
                yield from recipe.grammar_decodings(splits, name, jobs)
        elif number == 9:
            yield from (recipe.export(name) for name in self.experiments)

    def _check_test_sets(self) -> None:
        """Raise UserError for an unknown test set before hours of training, once the splits are known."""
        if 7 in self.stages and is_finished(self.recipe.data / "fbank"):
            self.recipe.splits(self.test_sets)

    def _score(self) -> int:
        print("== stage 8: score", flush=True)
        start = time.monotonic()
        what = [str(self.recipe.egs), "--split", self.options.test_set]
        status = run_command(["bash", "local/score.sh", *what], {})
        if status == 0 and (grammar := self.recipe.grammar):
            status = run_command([sys.executable, "steps/score_grammar.py", *what, "--grammar", str(grammar)], {})
        if status == 0:
            print(f"stage 8 done in {time.monotonic() - start:.0f} s: {self.recipe.egs}", flush=True)
        return status


def cores() -> int:
    """Return how many physical cores this process may use."""
    return int(subprocess.run(["bash", "utils/cores.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout)
