"""Your own data: a folder of audio and text in one of four layouts becomes the cuts and the values of a recipe.

The layout is recognized: kaldi, pairs (NAME.wav beside NAME.txt), table (TSV or CSV) or cuts (Lhotse's); see
local/custom_data/layouts.py and docs/own_data.md. Splits that the data lack are held out of train by speaker. What
cannot be used is dropped, counted by reason, and listed in dropped.tsv. Text keeps its characters, in composed form
(NFC). Stage 1 also chooses a configuration for the amount of speech: chosen.yaml, from the table in
local/custom_data/choices.py.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut

from local.custom_data.choices import as_lines, as_yaml, choose
from local.custom_data.cuts import described
from local.custom_data.entries import EMPTY_TEXT, NO_AUDIO, Data, Dropped, Entry, shell_problem
from local.custom_data.layouts import LAYOUTS, read_data, recognise
from local.custom_data.splits import complete, repeated_texts, shared_speakers, total_hours
from residualformer.data.text import CASES, normalize
from residualformer.data.utterance import target_text
from residualformer.data.validate import save_cuts, validate_cuts
from residualformer.errors import UserError, run_main
from residualformer.files import read_json, write_json, write_text
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, one_of, real_number

SPLITS = ("train", "dev", "test")
RATE = 16000  # of the features
FASTEST = 40.0  # characters a second; nobody speaks faster, so that the text must belong to other audio
DUPLICATE, UNREADABLE, NO_TRANSLATION = "duplicate", "unreadable audio", "no translation"
# options that decide the manifests
DECISIVE = ("data", "layout", "target", "case", "punctuation", "min_seconds", "max_seconds")
TOO_SHORT, TOO_LONG, TOO_MUCH_TEXT = "too short", "too long", "more text than can be said"


def obtain(args: argparse.Namespace) -> None:
    if not args.data:
        raise UserError("where is your data? Give its folder (or table, or cuts) as --data DIR.")
    source = args.data
    layout = recognise(source) if args.layout == "auto" else args.layout
    data = read_data(source, layout)
    write_json(Path(args.out) / "corpus.json", {"data": str(source.resolve()), "layout": layout})
    others = [name for name in LAYOUTS if name != layout and LAYOUTS[name][0](source)] if args.layout == "auto" else []
    also = f" (it could also be read as {' or '.join(others)}: --layout)" if others else ""
    splits = Counter(entry.split for entry in data.entries)
    given = ", ".join(f"{name} {splits[name]}" for name in SPLITS if splits[name]) or "no splits given"
    print(f"{source}: layout {layout}{also}, {len(data.entries)} utterances; {given}")


def manifests(args: argparse.Namespace) -> None:
    record = Path(args.corpus) / "corpus.json"
    told = read_json(record, "run stage 0 first, with --overwrite if it ran before")
    data = read_data(Path(args.data or told["data"]), told["layout"])
    if {entry.split for entry in data.entries} - {""} and not any(entry.split == "train" for entry in data.entries):
        raise UserError("the data gives splits, but none of its utterances is of train: name it train, or give none.")
    total, found = len(data.entries) + len(data.dropped), len(data.entries)
    chosen = wanted(data, args)
    cuts = validated(chosen, data, args)
    split = {entry.utterance.id: entry.split or "train" for entry in chosen}
    splits = {name: [cut for cut in cuts if split[cut.id] == name] for name in SPLITS}
    if not splits["train"]:
        raise UserError(f"nothing to train on is left of {found} utterances: {summary(data.dropped)}.")
    notes = [complete(splits), shared_speakers(splits)]
    notes += [repeated_texts(splits), rates(cuts)]
    out = Path(args.out)
    write_report(data.dropped, out / "dropped.tsv", total)
    for note in filter(None, notes):
        print(f"note: {note}")
    write_choices(splits["train"], args, out / "chosen.yaml")
    for name in SPLITS:
        save_cuts(CutSet.from_cuts(splits[name]), name, out / f"cuts_{name}.jsonl.gz", 0)


def wanted(data: Data, args: argparse.Namespace) -> list[Entry]:
    """The entries with text, audio and an id of their own, normalised; the others are dropped in `data`."""
    content, kept, ids, first = audio_content(data.entries), [], set(), {}
    for entry in data.entries:
        given = entry.utterance
        text, translation = (
            normalize(words, args.case, args.punctuation == "keep") for words in (given.text, given.translation)
        )
        channel = str(entry.cut.channel) if entry.cut else ""
        audio = (content.get(given.audio, given.id), given.start, given.duration, channel)
        if not text:
            data.drop(given.id, EMPTY_TEXT, given.text)
        elif args.target == "translation" and not translation:
            data.drop(given.id, NO_TRANSLATION)
        elif entry.cut is None and given.audio not in content:
            data.drop(given.id, NO_AUDIO, f"{given.audio} is not there" if given.audio else "none is named for it")
        elif problem := next(filter(None, map(shell_problem, entry.files())), ""):
            data.drop(given.id, UNREADABLE, problem)
        elif given.id in ids:
            data.drop(given.id, DUPLICATE, "its id was used before")
        elif audio in first:
            data.drop(given.id, DUPLICATE, f"the same audio as {first[audio]}")
        else:
            ids.add(given.id)
            first[audio] = given.id
            kept.append(replace(entry, utterance=replace(given, text=text, translation=translation)))
    return kept


def audio_content(entries: Iterable[Entry]) -> dict[Path, str]:
    """File -> a name that files of equal bytes share (only those of equal size are read); what is no file has none."""
    by_size = defaultdict(list)
    for path in dict.fromkeys(entry.utterance.audio for entry in entries):
        if path is not None and path.is_file():
            by_size[path.stat().st_size].append(path)
    return {path: str(path) if len(same) == 1 else _digest(path) for same in by_size.values() for path in same}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def validated(entries: list[Entry], data: Data, args: argparse.Namespace) -> list[Cut]:
    """Sound cuts of a length and a text that can be learnt; the others are dropped in `data`."""
    given = [described(entry.cut, entry.utterance) if entry.cut else entry.utterance for entry in entries]
    if not given:
        raise UserError(f"nothing of the data can be used: {summary(data.dropped)}.")
    cuts, skipped = validate_cuts(given, "your data", jobs=args.jobs)
    for line in skipped:
        name, _, why = line.partition(": ")
        data.drop(name, UNREADABLE, why)
    kept = []
    for cut in cuts:
        letters = len(cut.supervisions[0].text)
        if cut.duration < args.min_seconds:
            data.drop(cut.id, TOO_SHORT, f"{cut.duration:.2f} s")
        elif cut.duration > args.max_seconds:
            data.drop(cut.id, TOO_LONG, f"{cut.duration:.2f} s")
        elif letters > FASTEST * cut.duration:
            data.drop(cut.id, TOO_MUCH_TEXT, f"{letters} characters in {cut.duration:.2f} s")
        else:
            kept.append(cut)
    return kept


def summary(dropped: list[Dropped]) -> str:
    """'5 missing audio, 2 empty text'."""
    counts = Counter(each.reason for each in dropped).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in counts) or "nothing"


def write_report(dropped: list[Dropped], path: Path, total: int) -> None:
    """Every utterance that is left out, with its reason, as a table; and one line to be printed."""
    rows = [f"{each.id}\t{each.reason}\t{' '.join(each.detail.split())}" for each in dropped]
    write_text(path, "\n".join(["id\treason\tdetail", *rows]) + "\n")
    print(f"dropped {len(dropped)} of {total} utterances: {summary(dropped)} -> {path}")


def rates(cuts: list[Cut]) -> str:
    """A sentence on the audio that stage 2 will resample or mix down; '' when there is none."""
    other = Counter(cut.sampling_rate for cut in cuts if cut.sampling_rate != RATE).most_common()
    several = sum(cut.num_channels > 1 for cut in cuts)
    parts = [f"{count} utterances at {rate} Hz will be resampled to {RATE} Hz" for rate, count in other]
    parts += [f"of {several} with several channels the mean is taken"] if several else []
    return "; ".join(parts)


def write_choices(train: list[Cut], args: argparse.Namespace, path: Path) -> None:
    """Write and print the values for so much speech and such text."""
    hours, texts = total_hours(train), [target_text(cut, args.target) for cut in train]
    values = choose(hours, texts, args.target, args.max_seconds)
    write_text(path, as_yaml(values, hours, len(train)))
    print(f"chosen for {hours:.2f} h ({path}; --set beats it):\n{as_lines(values)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=caller_path, metavar="PATH", help="your data, used in place: a folder, a table, or Lhotse cuts")
    _add_choice(add, "--layout", "auto", *LAYOUTS, help="of the data; auto recognizes it")
    _add_choice(add, "--target", "text", "translation", help="what the models write")
    _add_choice(add, "--case", *CASES, help="of all text")
    _add_choice(add, "--punctuation", "keep", "remove", help="of all text")
    add("--min-seconds", type=real_number, default=0.2, metavar="S", help="shorter ones are dropped (%(default)s)")
    add("--max-seconds", type=real_number, default=30.0, metavar="S", help="longer ones are dropped (%(default)s)")


def _add_choice(add: Callable, name: str, *values: str, help: str) -> None:
    """Add an option with the first of some values as its default."""
    add(name, type=one_of(*values), default=values[0], metavar="|".join(values), help=f"{help} ({values[0]})")


def inputs(args: argparse.Namespace) -> list[Path]:
    """Check the options, and return the data, which may change."""
    if not 0 <= args.min_seconds < args.max_seconds:
        raise UserError(
            f"--min-seconds {args.min_seconds} --max-seconds {args.max_seconds}: the first must be less, and 0 or more."
        )
    if args.data and not args.data.exists():
        raise UserError(
            f"--data {args.data} does not exist: give a folder with audio and text, a table or Lhotse cuts."
        )
    return [args.data] if args.data else []


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, DECISIVE, inputs)


if __name__ == "__main__":
    run_main(main)
