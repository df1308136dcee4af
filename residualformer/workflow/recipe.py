"""A recipe: a corpus, its configurations, where its results go; and its stages, each as steps to be run.

conf/<recipe>/      base.yaml and an experiment a file
egs/<name>/data/    raw, manifests, fbank, lang (stages 0 to 3)
egs/<name>/exp/     a run folder for each experiment (stages 4 to 7, 9)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residualformer.config.loading import load_config
from residualformer.data.splits import cuts_file, cuts_files, set_of
from residualformer.errors import UserError
from residualformer.model.identity import decisive_values, section_values
from residualformer.workflow.marker import is_finished, marker_of
from residualformer.workflow.plan import BASE, Experiment, config_file, plan
from residualformer.workflow.step import Step

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # for work that is spread over processes


@dataclass(frozen=True)
class Recipe:
    """What all stages of a recipe have in common.

    Attributes:
        conf: folder of its configurations.
        egs: folder of its results.
        sets: values over those of the configurations, `a.b=c` or `@FILE`.
    """

    conf: Path
    egs: Path
    sets: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        return self.egs / "data"

    @property
    def exp(self) -> Path:
        return self.egs / "exp"

    @property
    def all_sets(self) -> list[str]:
        """The values that stage 1 has chosen for the corpus, which come over base.yaml alone, and then `sets`."""
        chosen = self.data / "manifests" / "chosen.yaml"
        return [f"@{chosen}", *self.sets] if chosen.is_file() else list(self.sets)

    def plan(self, names: Sequence[str]) -> list[Experiment]:
        """Return the named experiments in the order of training; raise UserError if a configuration is wrong."""
        return plan(self.conf, names, self.all_sets)

    def check_needs(self, experiments: Sequence[Experiment], stages: range) -> None:
        """Raise UserError if a training within `stages` needs another, neither finished nor among `experiments`."""
        names = [each.name for each in experiments]
        for each in experiments:
            lacking = [need for need in each.needs if need not in names and not is_finished(self.trained(need))]
            if lacking and each.stage in stages:
                wanted = " ".join([*lacking, *names])
                needed = " ".join(lacking)
                raise UserError(f'{each.name} needs {needed}, which is not trained: --experiments "{wanted}"')

    def splits(self, test_sets: Sequence[str]) -> list[str]:
        """Return the splits of test sets, each the set itself or its subsets; raise UserError if there are none."""
        fbank = self.data / "fbank"
        there = list(cuts_files(fbank))
        splits = []
        for name in test_sets:
            found = [split for split in there if name in (split, set_of(split))]
            if not found:
                lacking = f"{cuts_file(fbank, name).name} and no {cuts_file(fbank, f'{name}@*').name}"
                raise UserError(f"--test-set {name}: {fbank} holds no {lacking}")
            splits += found
        return splits

    def trained(self, name: str) -> Path:
        """Return the marker of the training of an experiment."""
        return marker_of(self.exp / name)

    def obtain(self, program: Path, options: Sequence[str], inputs: dict[str, str]) -> Step:
        """Return stage 0. `inputs`: fingerprints of the user's files, by their paths."""
        return self._data_step(
            0, f"obtain corpus {program.stem}", "raw", [str(program), "obtain", *options], inputs=inputs
        )

    def manifests(self, program: Path, options: Sequence[str]) -> Step:
        """Return stage 1."""
        command = [str(program), "manifests", "--corpus", str(self.data / "raw"), *options]
        return self._data_step(1, "manifests", "manifests", command, ["cuts_*.jsonl.gz", "chosen.yaml"], after=["raw"])

    def features(self, jobs: int, backend: str | None) -> Step:
        """Return stage 2."""
        command = ["steps/compute_fbank.py", *self._manifests(), "--jobs", str(jobs)]
        command += ["--backend", backend] if backend else []
        makes, sections = ["cuts_*.jsonl.gz", "*.json"], ["features", "data.speeds"]
        return self._data_step(2, "features", "fbank", command, makes, ["manifests"], sections)

    def tokens(self) -> Step:
        """Return stage 3."""
        command = ["steps/train_tokenizer.py", *self._manifests()]
        return self._data_step(3, "tokens", "lang", command, ["tokenizer.json"], ["manifests"], ["tokens"])

    def training(self, experiment: Experiment) -> Step:
        """Return the training of an experiment, stage 4, 5 or 6."""
        out, config = self.exp / experiment.name, self.conf / f"{experiment.name}.yaml"
        before = [marker_of(self.data / name) for name in ("fbank", "lang")]
        sets = _options("--set", [each for each in self.all_sets if not each.startswith("decode.")])
        return Step(
            number=experiment.stage,
            title=f"train {experiment.name}",
            command=["steps/train.py", "--config", str(config), "--data", str(self.data), "--exp", str(out), *sets],
            out=out,
            marker=self.trained(experiment.name),
            makes=["model.pt"],
            after=[*before, *(self.trained(need) for need in experiment.needs)],
            values=decisive_values(experiment.config),  # not those of decode: another search trains nothing again
            aside=True,
            log=out / "train.log",
        )

    def decoding(self, split: str, name: str) -> Step:
        """Return the decoding of a split with an experiment, stage 7."""
        run, cuts = self.exp / name, cuts_file(self.data / "fbank", split)
        return Step(
            number=7,
            title=f"decode {split} with {name}",
            command=["steps/decode.py", str(run), "--cuts", str(cuts), *self._configured(name)],
            out=run,
            marker=marker_of(run / f"decode_{split}"),
            makes=[f"decode_{split}_greedy*/hyp.jsonl", f"decode_{split}_beam*/hyp.jsonl"],
            after=[self.trained(name), marker_of(self.data / "fbank")],
            values=self._values(name, ["decode"]),
        )

    def export(self, name: str) -> Step:
        """Return the export of an experiment, stage 9."""
        out = self.exp / name / "export"
        return Step(
            number=9,
            title=f"export {name}",
            command=["steps/export.py", str(self.exp / name), "--int8", *self._configured(name)],
            out=out,
            marker=marker_of(out),
            makes=["*.onnx", "tokens.txt", "model.json"],
            after=[self.trained(name)],
            values=self._values(name, ["decode"]),
        )

    def _data_step(
        self,
        number: int,
        title: str,
        name: str,
        command: list[str],
        makes: Sequence[str] = ("*",),
        after: Sequence[str] = (),
        sections: Sequence[str] = (),
        inputs: dict[str, str] | None = None,
    ) -> Step:
        """Return a step that writes data/<name>; `after` are names of data, too."""
        out = self.data / name
        return Step(
            number=number,
            title=title,
            command=[*command, "--out", str(out), *(self._configured(BASE) if sections else [])],
            out=out,
            marker=marker_of(out),
            makes=makes,
            after=[marker_of(self.data / each) for each in after],
            values=self._values(BASE, sections) if sections else {},
            inputs=inputs or {},
            environment=ONE_THREAD if number < 3 else {},
        )

    def _manifests(self) -> list[str]:
        return ["--manifests", str(self.data / "manifests")]

    def _configured(self, name: str) -> list[str]:
        return ["--config", str(self.conf / f"{name}.yaml"), *_options("--set", self.all_sets)]

    def _values(self, name: str, sections: Sequence[str]) -> dict[str, object]:
        file = self.conf / f"{BASE}.yaml" if name == BASE else config_file(self.conf, name)
        return section_values(load_config(file, self.all_sets), sections)


def _options(name: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (name, value)]
