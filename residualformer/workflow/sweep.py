"""A sweep: many experiments of a recipe, those of the papers' tables among them, in a queue."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residualformer.config.composition import experiment_names
from residualformer.errors import UserError
from residualformer.report.papers import Table, find_table
from residualformer.workflow.pace import known_paces
from residualformer.workflow.plan import experiment, plan_with_needs
from residualformer.workflow.queue import Job, Queue, gpus, slots
from residualformer.workflow.recipe import Recipe


@dataclass(frozen=True)
class Sweep:
    """Experiments to be trained and decoded.

    Attributes:
        recipe: whose egs/<recipe>/run.sh and conf/<recipe>/ are used.
        name: results are in egs/<name>.
        experiments: names in conf/<recipe>.
        tables: names in conf/tables, whose experiments are added.
        sets: values over those of the configurations.
        options: further options of run.sh.
        jobs: how many trainings run at the same time; 0: as many as there are GPUs for, else one.
        nproc: processes of each; 0 leaves it to run.sh.
    """

    recipe: str
    name: str | None = None
    experiments: Sequence[str] = ()
    tables: Sequence[str] = ()
    sets: Sequence[str] = ()
    options: Sequence[str] = ()
    jobs: int = 0
    nproc: int = 0

    def run(self, dry: bool = False) -> int:
        """Train and decode all that is missing, and return the exit status: 1 if a training failed.

        Args:
            dry: only print what would be trained, and how long it takes.
        """
        if not self.script.is_file():
            raise UserError(f"there is no recipe '{self.recipe}': {self.script} is missing.")
        names = self.known_names()
        print(self.queue(names).plan(), flush=True)
        if dry:
            return 0
        command = [*self.command(), "--stage", "0", "--stop-stage", "3", "--experiments", names[0]]
        if status := subprocess.run(command).returncode:
            return status
        return 0 if self.queue(names).run() else 1  # again, as stage 1 may have chosen values for the corpus

    def known_names(self) -> list[str]:
        """Return the experiments that the recipe has; print those that it lacks."""
        conf = self.results.conf
        tables = [find_table(Path("conf/tables"), name) for name in self.tables]
        asked = list(dict.fromkeys([*self.experiments, *(name for table in tables for name in table.experiments)]))
        there = experiment_names(conf)
        lacking = [name for name in asked if name not in there]
        if lacking:
            print(f"not in {conf}, their cells stay empty: {', '.join(lacking)}")
        names = [name for name in asked if name in there]
        if not names:
            raise UserError(f"{conf} has none of the experiments: {', '.join(asked) or 'none was given'}.")
        for table in tables:
            self._refuse_other_task(table, names[0])
        return names

    def queue(self, names: Sequence[str]) -> Queue:
        """Return the queue of experiments and of all that they need."""
        jobs = [Job(each) for each in plan_with_needs(self.results.conf, names, self.results.all_sets)]
        return Queue(self.results, jobs, self.command(), slots(self.jobs, gpus(), self.nproc), known_paces())

    @property
    def script(self) -> Path:
        return Path("egs", self.recipe, "run.sh")

    @property
    def results(self) -> Recipe:
        return Recipe(Path("conf", self.recipe), Path("egs", self.name or self.recipe), tuple(self.sets))

    def command(self) -> list[str]:
        """Return run.sh with all options but stages and experiments."""
        named = ["--name", self.name] if self.name else []
        sets = [word for each in self.sets for word in ("--set", each)]
        nproc = ["--nproc", str(self.nproc)] if self.nproc else []
        return ["bash", str(self.script), *named, *nproc, *self.options, *sets]

    def _refuse_other_task(self, table: Table, name: str) -> None:
        """Raise UserError where the recipe translates and the table is about recognition, or the other way round."""
        config = experiment(self.results.conf, name, self.results.all_sets).config
        if (config.tokens.target == "translation") != (table.metric == "BLEU"):
            does = "translates" if config.tokens.target == "translation" else "recognizes"
            raise UserError(
                f"{table.name} is about {table.metric}, but recipe '{self.recipe}' {does}; take a table or a recipe of "
                "the same task."
            )
