"""Your own phrases: sentences, or a grammar with slots, spoken by many voices in rooms and noise. Needs no recording.

    local/phrases.py preview --phrases FILE      print sentences, what they count and how long all takes

Every value of every slot is said at least `--repeats` times in train, each time by another voice. Train and dev also
have other speech, by which a model learns what the phrases are not: sentences of mini's grammar or of --other, and
phrases with a wrong word; the test sets other@speech and other@near have such. Dev and test have voices of their own.
Recordings of people, if there are any, are further test sets, or dev: --recordings NAME=PATH.

An utterance is named by its content, and what was spoken before is kept: a longer list costs only what is new.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from local.common.synthesis import (
    Conditions,
    Line,
    Record,
    Renderer,
    Speaker,
    generator,
    read_transcripts,
    write_rendered_cuts,
    write_transcripts,
)
from local.custom_data.choices import as_yaml, choose_tokens
from local.phrases_corpus.engines import ENGINES, ENGLISH, Engine
from local.phrases_corpus.estimate import speech_time, training_time
from local.phrases_corpus.others import near_misses, other_sentences
from local.phrases_corpus.recordings import by_split, recordings, write_recordings
from local.phrases_corpus.sentences import Sampler
from residualformer.context.grammar.network import Network, build, count_sentences
from residualformer.context.grammar.source import YAML_SUFFIXES, Source, read_source
from residualformer.errors import UserError, closest, run_main
from residualformer.files import digest, write_text
from residualformer.parallel import worker_map
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, nonempty, positive_whole_number, real_number, whole_number

CONDITIONS = Conditions(snr_db=(8.0, 35.0), reverb_share=0.4, rt60_s=(0.15, 0.5))
FEWEST, MOST = 600, 20_000  # utterances of the phrases in train
HELD_OUT = {"test": 24, "dev": 12}  # speakers
TIMBRES = {"test": 0.172, "dev": 0.086}  # shares of the timbres of an engine; of espeak's 70 so many as in mini
PHRASES = {"test": (300, 1000), "dev": (150, 400)}  # fewest and most utterances
OTHERS = {"other@speech": 200, "other@near": 200, "dev": 100}  # utterances, of dev half of each kind
BABBLERS = 100
GRAMMARS = ("grammar.yaml", "grammar.txt")  # the phrases among the manifests
SAMPLES = 20  # sentences of the preview
Splits = dict[str, list[Line]]


@dataclass(frozen=True)
class Phrases:
    """A grammar as it is written and as an automaton."""

    source: Source
    network: Network

    @property
    def upper(self) -> bool:
        """True if all words are in upper case."""
        return "".join(self.network.words[2:]).isupper()

    def spelled(self, text: str) -> bool:
        """Return True for a sentence of a grammar that has the whole alphabet: single letters in it are names."""
        return set(string.ascii_lowercase) <= {word.lower() for word in self.network.words} and self.network.accepts(
            text
        )


def read_phrases(args: argparse.Namespace) -> Phrases:
    """Read the file of --phrases; UserError if it is missing or wrong."""
    if not args.phrases:
        raise UserError("--phrases is missing: give a file with a sentence a line, or a grammar (docs/phrases.md).")
    return parse_phrases(args.phrases)


def parse_phrases(path: Path) -> Phrases:
    """Read a grammar; UserError if it is wrong."""
    source = read_source(path)
    return Phrases(source, build(source))


def speakers_by_split(engines: Sequence[Engine], voices: int, seed: int) -> dict[str, list[tuple[Engine, Speaker]]]:
    """Return the speakers of train (so many `voices`), dev and test; no two splits share a timbre.

    Those of espeak are split as in mini of the same seed, so that a model of mini may be the start.

    Raises:
        UserError: the engines have too few timbres to hold any out.
    """
    found: dict[str, list[tuple[Engine, Speaker]]] = {"test": [], "dev": [], "train": []}
    for engine in engines:
        rng = generator(seed, "mini voices")
        timbres = rng.permutation(list(engine.timbres)).tolist()
        for split, its in found.items():
            size = int(len(engine.timbres) * TIMBRES[split]) if split in TIMBRES else len(timbres)
            count = -(-HELD_OUT.get(split, voices) // len(engines)) if size else 0
            its += [(engine, speaker) for speaker in engine.speakers(split, count, timbres[:size], rng)]
            timbres = timbres[size:]
    for split in HELD_OUT:
        if not found[split]:
            raise UserError(f"--engines: too few voices to keep some for {split}; add espeak, such as espeak,piper.")
    return found


def texts_by_split(phrases: Phrases, args: argparse.Namespace) -> dict[str, list[str]]:
    """Return what is said in each split, in random order; different sentences in each where others are concerned."""
    others = other_sentences(args.other, phrases.upper, generator(args.seed, "phrases others"))
    words = sorted({word for text in others for word in text.split()})
    needed = Sampler(phrases.source, words, generator(0)).needed
    counts = {split: min(max(needed, fewest), most) for split, (fewest, most) in PHRASES.items()}
    counts["train"] = min(max(needed * args.repeats, FEWEST), MOST)
    said = {}
    for split, count in counts.items():
        rng = generator(args.seed, "phrases", split)
        said[split] = list(itertools.islice(Sampler(phrases.source, words, rng), count))
    further = {**OTHERS, "train": round(len(said["train"]) * args.other_share)}
    parts = _parts(others, ["other@speech", "dev", "train"])
    for split, count in further.items():
        rng = generator(args.seed, "phrases near", split)
        own = said.get(split, said["test"])
        near = near_misses(own, words, phrases.network.accepts, rng)
        kinds: list[Iterator[str]] = []
        kinds += [itertools.cycle(parts[split])] if split in parts else []
        kinds += [near] if split != "other@speech" else []
        said[split] = said.get(split, []) + [next(kinds[number % len(kinds)]) for number in range(count)]
    return {split: _shuffled(texts, generator(args.seed, "order", split)) for split, texts in said.items()}


def _parts(texts: list[str], splits: Sequence[str]) -> dict[str, list[str]]:
    """Return texts of each split: a fifth of all, once at least; the last has the rest."""
    size = max(1, len(texts) // 5)
    parts = {split: texts[number * size : (number + 1) * size] or texts for number, split in enumerate(splits[:-1])}
    return {**parts, splits[-1]: texts[len(parts) * size :] or texts}


def _shuffled(texts: list[str], rng: np.random.Generator) -> list[str]:
    return [texts[number] for number in rng.permutation(len(texts))]


def lines_of(
    split: str,
    texts: Sequence[str],
    speakers: list[tuple[Engine, Speaker]],
    seed: int,
    spelled: Callable[[str], bool] = lambda text: False,
) -> list[Line]:
    """Return the lines of a split: a text that is said again is said by another speaker.

    Args:
        spelled: whether the single letters of a text are all names of letters.
    """
    said: Counter[str] = Counter()
    lines = []
    for text in texts:
        order = generator(seed, split, text).permutation(len(speakers))
        engine, speaker = speakers[order[said[text] % len(speakers)]]
        written = engine.written(text, spelled(text))
        content = [seed, asdict(CONDITIONS), text, written, repr(speaker), said[text]]
        said[text] += 1
        lines.append(Line(f"{split}-{digest(content)}", split, text, written, speaker))
    return lines


def plan(phrases: Phrases, args: argparse.Namespace) -> tuple[Splits, Splits]:
    """Return the lines of each split, and those of its background babble, which do not depend on the phrases."""
    engines = [ENGINES[name](args.language, getattr(args, name, None)) for name in args.engines.split(",")]
    speakers = speakers_by_split(engines, args.voices, args.seed)
    lines, babble = {}, {}
    background = other_sentences(args.other, False, generator(args.seed, "phrases babble"))[:BABBLERS]
    for split, texts in texts_by_split(phrases, args).items():
        voices = speakers.get(split, speakers["test"])
        lines[split] = lines_of(split, texts, voices, args.seed, phrases.spelled)
        babble[split] = lines_of(f"{split}-babble", background, voices[: min(HELD_OUT.values())], args.seed)
    return lines, babble


def obtain(args: argparse.Namespace) -> None:
    """Speak the utterances that are not there yet."""
    folder = Path(args.out)
    splits, babble = plan(read_phrases(args), args)
    splits = {split: lines for split, lines in splits.items() if split not in by_split(args.recordings)}
    for half_written in folder.glob("*/.*.flac"):  # left by killed processes
        half_written.unlink()
    kept = sum((folder / split / f"{line.id}.flac").exists() for split, lines in splits.items() for line in lines)
    records: list[Record] = []
    with worker_map(args.jobs, items_at_once=8) as map_:
        for split, lines in splits.items():
            renderer = Renderer(folder, args.seed, CONDITIONS, babble[split], keep=True)
            durations = tqdm(map_(renderer, lines), total=len(lines), desc=split, unit="utt")
            records += [renderer.record(line, duration_s) for line, duration_s in zip(lines, durations)]
    write_transcripts(folder, records)
    for name in GRAMMARS:
        (folder / name).unlink(missing_ok=True)
    shutil.copyfile(args.phrases, folder / GRAMMARS[args.phrases.suffix.lower() not in YAML_SUFFIXES])
    hours = sum(record["duration"] for record in records) / 3600
    print(f"phrases: {len(records)} utterances, {hours:.2f} h in {folder}; {kept} were there before")


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split, the grammar and the tokens that suit the texts."""
    folder, out = Path(args.corpus), Path(args.out)
    write_rendered_cuts(folder, out, args.jobs, f"run stage 0 first (phrases.py obtain --out {folder})")
    records = [each for each in read_transcripts(folder) if each["split"] == "train"]
    hours = sum(record["duration"] for record in records) / 3600
    tokens = choose_tokens(0, [record["text"] for record in records])  # characters: phrases have few words
    write_text(out / "chosen.yaml", as_yaml({"tokens": tokens}, hours, len(records)))
    for name in GRAMMARS:
        (out / name).unlink(missing_ok=True)
    grammar = next(file for file in (folder / name for name in GRAMMARS) if file.is_file())
    shutil.copyfile(grammar, out / grammar.name)
    for split, source in by_split(args.recordings).items():
        write_recordings(split, source, parse_phrases(grammar).upper, out, args.jobs)


def preview(args: argparse.Namespace) -> None:
    """Print random sentences, and how much speech is made of them."""
    phrases = read_phrases(args)
    splits, babble = plan(phrases, args)
    heard = {line.text for line in splits["train"]}
    own = [line.text for line in splits["test"]]
    for text in own[:SAMPLES]:
        print(text)
    count = count_sentences(phrases.network)
    size = "sentences without end" if count is None else f"{count:,} sentences"
    slots = ", ".join(dict.fromkeys(slot.name for slot in phrases.network.slots)) or "none"
    print(f"\n{args.phrases}: {size}, {phrases.network.num_words:,} different words; slots: {slots}")
    print("utterances: " + ", ".join(f"{split} {len(lines):,}" for split, lines in splits.items()))
    new = sum(text not in heard for text in own)
    print(f"{new} of the {len(own)} test sentences are not in train, and none of the voices")
    print(speech_time(splits, babble["train"], args.seed, CONDITIONS))
    print(training_time(args.start_from))


def add_preview_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `preview` alone."""
    what = "run folder whose model the training is to start from, for the time that it takes"
    parser.add_argument("--start-from", type=caller_path, metavar="RUN", help=what)


def engine_names(value: str) -> str:
    """Return names of engines with commas between them."""
    names = [name.strip() for name in nonempty(value).split(",")]
    for name in names:
        if name not in ENGINES:
            advice = closest(name, ENGINES)
            raise argparse.ArgumentTypeError(f"has '{name}'; there are: {', '.join(ENGINES)}.{advice}")
    return ",".join(dict.fromkeys(names))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add = parser.add_argument
    add("--phrases", type=caller_path, metavar="FILE", help="a sentence a line, or a grammar in YAML (docs/grammar.md)")
    add("--repeats", type=positive_whole_number, default=10, metavar="N", help="of each value in train (%(default)s)")
    add("--voices", type=positive_whole_number, default=150, metavar="N", help="speakers of train (%(default)s)")
    what = "utterances of other speech for each of the phrases (%(default)s)"
    add("--other-share", type=real_number, default=1.0, metavar="X", help=what)
    add(
        "--other", type=caller_path, metavar="FILE", help="other sentences, one a line (English ones of mini's grammar)"
    )
    known = ",".join(ENGINES)
    add(
        "--engines", type=engine_names, default="espeak", metavar="NAMES", help=f"of {known}, with commas (%(default)s)"
    )
    add("--kokoro", type=caller_path, metavar="DIR", help="model and voices of the engine kokoro, as published")
    add("--piper", type=caller_path, metavar="DIR", help="models of the engine piper, NAME.onnx with NAME.onnx.json")
    add("--language", type=nonempty, default=ENGLISH, metavar="CODE", help="of the voices, such as de (%(default)s)")
    what = "recordings with texts that become a test set, or dev: a folder, a table or cuts; may be repeated"
    add("--recordings", type=recordings, action="append", metavar="NAME=PATH", help=what)
    add("--seed", type=whole_number, default=1, metavar="N", help="random seed of the corpus (%(default)s)")


def inputs(args: argparse.Namespace) -> list[Path]:
    """Return the user's files, which may change; UserError if one is missing, or not there for the language."""
    for option, path in (("--phrases", args.phrases), ("--other", args.other)):
        if path and not path.is_file():
            raise UserError(f"{option} {path} is no file: give one with a sentence a line, or a grammar in YAML.")
    if args.language != ENGLISH and not args.other:
        raise UserError(f"--language {args.language} needs --other FILE: sentences of that language, one a line.")
    return [path for path in (args.phrases, args.other, *by_split(args.recordings).values()) if path]


def main() -> None:
    run_program(
        __doc__, obtain, manifests, add_options, ["recordings"], inputs, {"preview": (preview, add_preview_options)}
    )


if __name__ == "__main__":
    run_main(main)
