"""Your own data: audio and text in one of four layouts.

The layout is recognized: kaldi, pairs (NAME.wav beside NAME.txt), table (TSV or CSV) or cuts (Lhotse's); see
docs/own_data.md. Missing splits are held out of train by speaker. Utterances that cannot be used are dropped, counted
by reason, and listed in dropped.tsv. Text is normalized to composed characters (NFC). Stage 1 also chooses a
configuration for the amount of speech, chosen.yaml, by the table in local/custom_data/choices.py.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from local.common.splits import add_missing_splits, repeated_texts, shared_speakers, total_hours
from local.custom_data.choices import as_lines, as_yaml, choose
from local.custom_data.entries import EMPTY_TEXT, LAYOUT_NAMES, NO_AUDIO, Data, Dropped, Entry
from residualformer.data.text import CASES, normalize
from residualformer.errors import UserError, run_main
from residualformer.files import read_json, write_json, write_text
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, one_of, real_number

if TYPE_CHECKING:
    from lhotse.cut import Cut

# Functions import what imports torch and Lhotse: `options` must answer at once.

SPLITS = ("train", "dev", "test")
RATE = 16000  # of the features, in Hz
FASTEST = 40.0  # characters per second; with more, the text must belong to other audio
MANIFEST_OPTIONS = ("data", "layout", "target", "case", "punctuation", "min_seconds", "max_seconds")
# Reasons to drop an utterance, in addition to those of entries.py.
DUPLICATE, UNREADABLE, NO_TRANSLATION = "duplicate", "unreadable audio", "no translation"
BAD_NAME = "file name that is not UTF-8"
TOO_SHORT, TOO_LONG, TOO_MUCH_TEXT = "too short", "too long", "more text than can be said"


def obtain(args: argparse.Namespace) -> None:
    """Recognize the layout of the data and record where they are; the data stay in place."""
    from local.custom_data.layouts import LAYOUTS, read_data, recognize_layout

    if not args.data:
        raise UserError("--data is missing: give the folder of your data (or the table, or the cuts).")
    source = args.data
    layout = recognize_layout(source) if args.layout == "auto" else args.layout
    data = read_data(source, layout)
    write_json(Path(args.out) / "corpus.json", {"data": str(source.resolve()), "layout": layout})
    others = [name for name in LAYOUTS if args.layout == "auto" and name != layout and LAYOUTS[name].find(source)]
    also = f" (it could also be read as {' or '.join(others)}: --layout)" if others else ""
    splits = Counter(entry.split for entry in data.entries)
    given = ", ".join(f"{name} {splits[name]}" for name in SPLITS if splits[name]) or "no splits given"
    print(f"{source}: layout {layout}{also}, {len(data.entries)} utterances; {given}")


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split, the report on dropped utterances and the chosen configuration."""
    from lhotse import CutSet

    from local.custom_data.layouts import read_data
    from residualformer.data.validate import save_cuts

    corpus = read_json(Path(args.corpus) / "corpus.json", "run stage 0 first, with --overwrite if it ran before")
    data = read_data(Path(args.data or corpus["data"]), corpus["layout"])
    given_splits = {entry.split for entry in data.entries} - {""}
    if given_splits and "train" not in given_splits:
        raise UserError("the data give splits, but no utterance is in train: name one split train, or give no splits.")
    total, found = len(data.entries) + len(data.dropped), len(data.entries)
    out = Path(args.out)
    selected = select(data, args)
    cuts = validate(selected, data, args)
    split = {entry.utterance.id: entry.split or "train" for entry in selected}
    splits = {name: [cut for cut in cuts if split[cut.id] == name] for name in SPLITS}
    if not splits["train"]:
        write_report(data.dropped, out / "dropped.tsv", total)
        raise UserError(f"none of {found} utterances is left to train on: {summary(data.dropped)}.{example(data)}")
    notes = [add_missing_splits(splits), shared_speakers(splits), repeated_texts(splits), conversions(cuts)]
    write_report(data.dropped, out / "dropped.tsv", total)
    for note in filter(None, notes):
        print(f"note: {note}")
    write_choices(splits["train"], args, out / "chosen.yaml")
    for name in SPLITS:
        save_cuts(CutSet.from_cuts(splits[name]), name, out / f"cuts_{name}.jsonl.gz", 0)


def select(data: Data, args: argparse.Namespace) -> list[Entry]:
    """Return the entries with text, audio and a unique id, with normalized text; drop the others in `data`."""
    content, kept, ids = audio_content(data.entries), [], set()
    first: dict[tuple, str] = {}  # id of the first utterance with a piece of audio
    for entry in data.entries:
        given = entry.utterance
        text, translation = (
            normalize(words, args.case, args.punctuation == "keep") for words in (given.text, given.translation)
        )
        channel = entry.cut.channel if entry.cut else given.channel
        file = content.get(given.audio) if given.audio else None
        audio = (file or given.id, given.start, given.duration, str(channel))
        if not (is_utf8(given.id) and is_utf8(str(given.audio))):
            data.drop(given.id, BAD_NAME, f"{given.audio}: rename it, in UTF-8")
        elif not text:
            data.drop(given.id, EMPTY_TEXT, given.text)
        elif args.target == "translation" and not translation:
            data.drop(given.id, NO_TRANSLATION)
        elif entry.cut is None and file is None:
            data.drop(given.id, NO_AUDIO, f"{given.audio} is missing" if given.audio else "no file is named for it")
        elif given.id in ids:
            data.drop(given.id, DUPLICATE, "its id was used before")
        elif audio in first:
            data.drop(given.id, DUPLICATE, f"the same audio as {first[audio]}")
        else:
            ids.add(given.id)
            first[audio] = given.id
            kept.append(replace(entry, utterance=replace(given, text=text, translation=translation)))
    return kept


def is_utf8(name: str) -> bool:
    """Return whether a name, as Python read it from a file system, can be written to a manifest."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def audio_content(entries: Iterable[Entry]) -> dict[Path, str]:
    """Return a name for the content of each file that exists; files of equal bytes have the same.

    Only files of equal size are read.
    """
    by_size = defaultdict(list)
    for path in dict.fromkeys(entry.utterance.audio for entry in entries):
        if path is not None and path.is_file():
            by_size[path.stat().st_size].append(path)
    return {path: str(path) if len(same) == 1 else _digest(path) for same in by_size.values() for path in same}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def validate(entries: list[Entry], data: Data, args: argparse.Namespace) -> list[Cut]:
    """Return valid cuts whose length and amount of text are plausible; drop the others in `data`."""
    from local.custom_data.cuts import relabel
    from residualformer.data.validate import validate_cuts

    given = [relabel(entry.cut, entry.utterance) if entry.cut else entry.utterance for entry in entries]
    out = Path(args.out)
    if not given:
        write_report(data.dropped, out / "dropped.tsv", len(data.dropped))
        raise UserError(f"no utterance can be used: {summary(data.dropped)}.{example(data)}")
    cuts, skipped = validate_cuts(given, "your data", jobs=args.jobs, decoded=out / "audio")
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
    """Return the number of utterances per reason: "5 missing audio, 2 empty text"."""
    counts = Counter(each.reason for each in dropped).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in counts) or "nothing"


def example(data: Data) -> str:
    """Return a sentence about the first utterance that was dropped, "" if there is none."""
    first = next(iter(data.dropped), None)
    return f" The first, {first.id}: {' '.join(f'{first.reason}, {first.detail}'.split())}." if first else ""


def write_report(dropped: list[Dropped], path: Path, total: int) -> None:
    """Write a table of dropped utterances and their reasons, and print a summary."""
    rows = [f"{each.id}\t{each.reason}\t{' '.join(each.detail.split())}" for each in dropped]
    table = "\n".join(["id\treason\tdetail", *rows]) + "\n"
    write_text(path, table.encode(errors="backslashreplace").decode())  # a name may hold bytes that are not UTF-8
    print(f"dropped {len(dropped)} of {total} utterances: {summary(dropped)} -> {path}")


def conversions(cuts: list[Cut]) -> str:
    """Return a sentence on audio that stage 2 will resample or mix down, "" if there is none."""
    other = Counter(cut.sampling_rate for cut in cuts if cut.sampling_rate != RATE).most_common()
    several = sum(cut.num_channels > 1 for cut in cuts)
    parts = [f"{count} utterances at {rate} Hz will be resampled to {RATE} Hz" for rate, count in other]
    parts += [f"the channels of {several} utterances will be averaged"] if several else []
    return "; ".join(parts)


def write_choices(train: list[Cut], args: argparse.Namespace, path: Path) -> None:
    """Choose a configuration for the training cuts, write it to `path` and print it."""
    from residualformer.data.utterance import target_text

    hours, texts = total_hours(train), [target_text(cut, args.target) for cut in train]
    values = choose(hours, texts, args.target, args.max_seconds)
    write_text(path, as_yaml(values, hours, len(train)))
    print(f"chosen for {hours:.2f} h ({path}; --set overrides it):\n{as_lines(values)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add = parser.add_argument
    add("--data", type=caller_path, metavar="PATH", help="your data, used in place: a folder, a table, or Lhotse cuts")
    _add_choice(add, "--layout", "auto", *LAYOUT_NAMES, help="of the data; auto recognizes it")
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
    run_program(__doc__, obtain, manifests, add_options, MANIFEST_OPTIONS, inputs)


if __name__ == "__main__":
    run_main(main)
