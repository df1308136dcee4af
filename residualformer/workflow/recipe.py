"""A recipe: a corpus, its configurations, where its results go; and its stages, each as steps to be run.

conf/<recipe>/      base.yaml and an experiment a file
egs/<name>/data/    raw, manifests, fbank, lang (stages 0 to 3)
egs/<name>/exp/     a run folder for each experiment (stages 4 to 7, 9)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from residualformer.config.loading import load_config
from residualformer.constants import MODEL_FILE
from residualformer.data.splits import cuts_file, cuts_files, set_of
from residualformer.errors import UserError
from residualformer.model.identity import IfChanged, decisive_values, section_values
from residualformer.train.nodes import check_ranks
from residualformer.workflow.inputs import content
from residualformer.workflow.marker import is_finished
from residualformer.workflow.plan import BASE, Experiment, config_file, plan
from residualformer.workflow.start_from import architecture, model_file
from residualformer.workflow.step import Step

COMPILED = "grammar.json"  # of a run: the corpus's grammar for its tokens, with the distance to reject
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # for work that is spread over processes


@dataclass(frozen=True)
class Recipe:
    """The paths and options that all stages of a recipe share.

    Attributes:
        conf: folder of its configurations.
        egs: folder of its results.
        sets: values over those of the configurations, `a.b=c` or `@FILE`.
        nproc: processes of a training, on each of its machines; 0 leaves it to steps/train.py.
        if_changed: what becomes of a training of other options.
        nodes: machines of a training.
        start_from: run folder or model file from which trainings start that name no experiment of their own.
        device: of trainings and decodings, one of `model.device.DEVICES`.
    """

    conf: Path
    egs: Path
    sets: tuple[str, ...] = ()
    nproc: int = 0
    if_changed: IfChanged = "aside"
    nodes: int = 1
    start_from: Path | None = None
    device: str = "auto"

    @property
    def data(self) -> Path:
        return self.egs / "data"

    @property
    def exp(self) -> Path:
        return self.egs / "exp"

    @property
    def all_sets(self) -> list[str]:
        """What stage 1 chose for the corpus, which comes over base.yaml alone; the sizes of `start_from`; `sets`."""
        chosen = self.data / "manifests" / "chosen.yaml"
        own = [*(architecture(self.start_from) if self.start_from else []), *self.sets]
        return [f"@{chosen}", *own] if chosen.is_file() else own

    def plan(self, names: Sequence[str]) -> list[Experiment]:
        """Return the named experiments in the order of training; raise UserError if a configuration is wrong."""
        return plan(self.conf, names, self.all_sets)

    def check_needs(self, experiments: Sequence[Experiment], stages: range) -> None:
        """Raise UserError if a training within `stages` needs another, neither finished nor among `experiments`."""
        names = [each.name for each in experiments]
        for each in experiments:
            lacking = [need for need in each.needs if need not in names and not is_finished(self.exp / need)]
            if lacking and each.stage in stages:
                wanted = " ".join([*lacking, *names])
                needed = " ".join(lacking)
                raise UserError(f'{each.name} needs {needed}, which is not trained: --experiments "{wanted}"')

    def check_processes(self, experiments: Sequence[Experiment], stages: range) -> None:
        """Raise UserError if a training within `stages` has more processes than its updates have batches."""
        for each in experiments:
            if each.stage in stages:
                check_ranks(self.nproc * self.nodes, each.config.train.batches_per_update)

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

    def obtain(self, program: Path, options: Sequence[str], inputs: Mapping[str, str]) -> Step:
        """Return stage 0. `inputs`: fingerprints of the user's files, by their paths."""
        out = self.data / "raw"
        return Step(
            number=0,
            title=f"obtain corpus {program.stem}",
            command=[str(program), "obtain", *options, "--out", str(out)],
            out=out,
            inputs=inputs,
            environment=ONE_THREAD,
        )

    def manifests(self, program: Path, options: Sequence[str]) -> Step:
        """Return stage 1."""
        raw, out = self.data / "raw", self.data / "manifests"
        return Step(
            number=1,
            title="manifests",
            command=[str(program), "manifests", "--corpus", str(raw), *options, "--out", str(out)],
            out=out,
            makes=["cuts_*.jsonl.gz", "chosen.yaml"],
            after=[raw],
            environment=ONE_THREAD,
        )

    def features(self, jobs: int, backend: str | None) -> Step:
        """Return stage 2."""
        further = ["--jobs", str(jobs), *(["--backend", backend] if backend else [])]
        values = ["features", "data.speeds", "data.shard_size"]
        step = self._from_manifests(2, "features", "fbank", "compute_fbank", values, further)
        return replace(step, makes=["cuts_*.jsonl.gz", "*.json"], environment=ONE_THREAD)

    def tokens(self) -> Step:
        """Return stage 3."""
        source = ["--start-from", str(self.start_from)] if self.start_from else []
        step = self._from_manifests(3, "tokens", "lang", "train_tokenizer", ["tokens"], source)
        return replace(step, makes=["tokenizer.json"], inputs=self._source())

    def language_model(self) -> Step | None:
        """Return the training of a language model in stage 3, None if base.yaml trains none."""
        config = load_config(self.conf / f"{BASE}.yaml", self.all_sets).lm
        if config.kind == "none":
            return None
        lang = self.data / "lang"
        step = self._from_manifests(3, "language model", "lm", "train_lm", ["tokens", "lm"], ["--lang", str(lang)])
        texts = {path: content(Path(path)) for path in config.text}
        made = ["ngram.arpa"] if config.kind == "ngram" else ["lstm.onnx"]
        return replace(step, makes=[*made, "lm.json"], after=[*step.after, lang], inputs=texts)

    def training(self, experiment: Experiment) -> Step:
        """Return the training of an experiment, stage 4, 5 or 6."""
        out, config = self.exp / experiment.name, self.conf / f"{experiment.name}.yaml"
        options = _options("--set", [each for each in self.all_sets if not each.startswith("decode.")])
        options += ["--if-changed", self.if_changed]
        options += ["--nproc", str(self.nproc)] if self.nproc else []
        options += ["--nodes", str(self.nodes)] if self.nodes > 1 else []
        starts_here = self.start_from is not None and experiment.config.warm_start is None
        options += ["--warm-start", str(self.start_from)] if starts_here else []
        options += self._device
        return Step(
            number=experiment.stage,
            title=f"train {experiment.name}",
            command=["steps/train.py", "--config", str(config), "--data", str(self.data), "--exp", str(out), *options],
            out=out,
            makes=[MODEL_FILE],
            after=[self.data / "fbank", self.data / "lang", *(self.exp / need for need in experiment.needs)],
            values=decisive_values(experiment.config),  # not those of decode: another search trains nothing again
            inputs=self._source() if starts_here else {},
            if_changed=self.if_changed,
            log=out / "train.log",
        )

    def decodings(self, split: str, name: str, jobs: int = 1) -> list[Step]:
        """Return the decodings of a split with an experiment, stage 7: its own, and one for each control."""
        config = load_config(config_file(self.conf, name), self.all_sets)
        return [self.decoding(split, name, jobs, control) for control in ("", *config.amnet.controls)]

    def decoding(self, split: str, name: str, jobs: int = 1, control: str = "") -> Step:
        """Return a decoding in `jobs` processes, by the arbitrator or by a control of it (`amnet.controls`)."""
        run, fbank, values = self.exp / name, self.data / "fbank", self._values(name, ["decode"])
        command = ["steps/decode.py", str(run), "--cuts", str(cuts_file(fbank, split)), "--jobs", str(jobs)]
        command += ["--branches", control] if control else []
        end = f"_{control}" if control else ""
        return Step(
            number=7,
            title=f"decode {split} with {name}" + (f", branches: {control}" if control else ""),
            command=[*command, *self._device, *self._configured(name)],
            out=run,
            part=f"decode_{split}{end}",
            makes=[f"decode_{split}_{search}*{end}/hyp.jsonl" for search in ("greedy", "beam")],
            after=[run, fbank],
            values=values,
            inputs=_language_model(values),
            environment=ONE_THREAD,
        )

    @property
    def grammar(self) -> Path | None:
        """What stage 1 wrote as the grammar of the corpus, if it has one."""
        files = [self.data / "manifests" / f"grammar.{suffix}" for suffix in ("yaml", "txt")]
        return next((file for file in files if file.is_file()), None)

    def grammar_decodings(self, splits: Sequence[str], name: str, jobs: int = 1) -> Iterator[Step]:
        """Yield what stage 7 does with the grammar of the corpus: dev, what to reject by it, and the splits."""
        grammar, out = self.grammar, self.exp / name / "grammar"
        if grammar is None:
            return
        yield self._grammar_decoding("dev", name, jobs, str(grammar), self.data / "manifests")
        compiled, tuned = out / COMPILED, out / "tuned"
        command = ["-m", "residualformer", "grammar", str(grammar), "--model", str(self.exp / name)]
        yield Step(
            number=7,
            title=f"choose what {name} rejects",
            command=[*command, "--out", str(compiled), "--tune", str(out / "dev" / "hyp.jsonl")],
            out=out,
            part=tuned.name,
            makes=[COMPILED],
            after=[out / "dev"],
        )
        for split in splits:
            yield self._grammar_decoding(split, name, jobs, str(compiled), tuned)

    def _grammar_decoding(self, split: str, name: str, jobs: int, grammar: str, after: Path) -> Step:
        step = self.decoding(split, name, jobs)
        out = self.exp / name / "grammar" / split
        return replace(
            step,
            title=f"{step.title} and the grammar",
            command=[*step.command, "--grammar", grammar, "--out", str(out)],
            out=out,
            part="",
            makes=["hyp.jsonl"],
            after=[*step.after, after],
        )

    def export(self, name: str) -> Step:
        """Return the export of an experiment, stage 9."""
        run, values = self.exp / name, self._values(name, ["decode"])
        return Step(
            number=9,
            title=f"export {name}",
            command=["steps/export.py", str(run), "--int8", *self._configured(name)],
            out=run / "export",
            makes=["*.onnx", "tokens.txt", "model.json"],
            after=[run],
            values=values,
            inputs=_language_model(values),
        )

    def _from_manifests(
        self, number: int, title: str, name: str, script: str, sections: Sequence[str], further: Sequence[str] = ()
    ) -> Step:
        """Return a step that writes data/<name> from the manifests, as `sections` of base.yaml tell."""
        manifests, out = self.data / "manifests", self.data / name
        command = [f"steps/{script}.py", "--manifests", str(manifests), *further, "--out", str(out)]
        return Step(
            number=number,
            title=title,
            command=[*command, *self._configured(BASE)],
            out=out,
            after=[manifests],
            values=self._values(BASE, sections),
        )

    def _source(self) -> dict[str, str]:
        """Return the fingerprint of what trainings start from."""
        return {str(self.start_from): content(model_file(self.start_from))} if self.start_from else {}

    @property
    def _device(self) -> list[str]:
        return [] if self.device == "auto" else ["--device", self.device]

    def _configured(self, name: str) -> list[str]:
        return ["--config", str(self.conf / f"{name}.yaml"), *_options("--set", self.all_sets)]

    def _values(self, name: str, sections: Sequence[str]) -> dict[str, object]:
        file = self.conf / f"{BASE}.yaml" if name == BASE else config_file(self.conf, name)
        return section_values(load_config(file, self.all_sets), sections)


def _language_model(values: Mapping[str, object]) -> dict[str, str]:
    """Return the fingerprint of the language model that a search is to use, by its path."""
    file = values.get("decode.lm")
    return {str(file): content(Path(str(file)))} if file else {}


def _options(name: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (name, value)]
