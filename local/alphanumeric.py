"""Alphanumeric audio dataset: names spelled letter by letter and telephone numbers, by 70 people (Patil, 2024; MIT).

Half an hour, most of it Indian English (https://github.com/Sakshee5/alphanumeric-audio-dataset); real letters and
digits, to be mixed with speech of programs that spell and count. Give a clone of it as --corpus-dir: the folder that
holds metadata.csv and audio_data/.

Texts are the letters of the name that people were to spell, or the words of the digits: "A R J U N", "ONE TWO ZERO".
Names that were said instead of spelled are left out, and so are the people in OTHER, who read something else, and
addresses: how their numbers were said is not known. Train, dev and test have different speakers.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from local.common.corpus import check_paths, record_paths, recorded_path
from local.common.splits import write_splits
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError, run_main
from residualformer.files import read_text
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path

TABLE, AUDIO = "metadata.csv", "audio_data"
COLUMNS = ("Response_ID", "file_name", "Name", "Number")
ADVICE = f"clone https://github.com/Sakshee5/alphanumeric-audio-dataset and give the folder that holds {TABLE}"
OTHER = ("R_34Kh357EGklz2X7", "R_1bhWwiBjHlA1GcF", "R_14L9qNxUlipFmsF")  # their recordings hold other names and numbers
LETTER_S = 0.4  # who spells takes more time for a letter, who says the name takes less
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
NO_ZERO = 9  # a number of so many digits began with a zero, which the table has lost


def check_layout(folder: Path) -> None:
    """Raise UserError if a part of the corpus is missing."""
    check_paths("The alphanumeric audio dataset", folder, [TABLE, AUDIO], ADVICE)


def read_recordings(folder: Path) -> tuple[list[CorpusUtterance], list[str]]:
    """Return names and numbers, and "id: reason" for the recordings that are left out.

    Raises:
        UserError: the table is damaged.
    """
    from residualformer.data.audio import audio_length_s  # imports NumPy and libsndfile, not needed by options

    utterances, left_out = [], []
    rows = csv.DictReader(io.StringIO(read_text(folder / TABLE, ADVICE)))
    if missing := set(COLUMNS) - set(rows.fieldnames or []):
        raise UserError(f"{folder / TABLE} lacks the column {min(missing)}: {ADVICE}.")
    for row in rows:
        speaker, path, name, number = (row[column] or "" for column in COLUMNS)
        kind, audio = Path(path).parent.name, folder / path
        utterance = f"alphanumeric-{kind}-{speaker}"
        text = spelled(name) if kind == "Names" else counted(number)
        if kind == "Addresses" or speaker in OTHER or not text:
            left_out.append(f"{utterance}: what was said is not known")
            continue
        seconds = audio_length_s(audio) if kind == "Names" else None
        letters = len(text.split())
        if seconds is not None and seconds < LETTER_S * letters:
            left_out.append(f"{utterance}: {letters} letters in {seconds:.1f} s, so the name was not spelled")
        else:
            utterances.append(CorpusUtterance(utterance, audio, text, f"alphanumeric-{speaker}", "English"))
    return utterances, left_out


def spelled(name: str) -> str:
    """Return the letters of a name, as they are said; "" if there are others than those of English."""
    letters = name.upper().replace(" ", "")
    return " ".join(letters) if letters.isascii() and letters.isalpha() else ""


def counted(number: str) -> str:
    """Return the digits of a telephone number as words; "" if it is something else."""
    digits = number.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) > 1):
        return ""
    return " ".join(DIGITS[int(digit)] for digit in ("0" + digits if len(digits) == NO_ZERO else digits))


def obtain(args: argparse.Namespace) -> None:
    """Check the given copy; it stays in place."""
    if not args.corpus_dir:
        raise UserError(f"--corpus-dir is missing: {ADVICE}.")
    check_layout(args.corpus_dir)
    record_paths(Path(args.out), corpus_dir=args.corpus_dir)
    print(f"Alphanumeric audio dataset in {args.corpus_dir}")


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of train, dev and test."""
    folder = args.corpus_dir or recorded_path(Path(args.corpus), "corpus_dir", "alphanumeric.py")
    check_layout(folder)
    write_splits({"train": read_recordings(folder)}, Path(args.out), args.jobs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    parser.add_argument("--corpus-dir", type=caller_path, metavar="DIR", help="a clone of it, used in place")


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, of_manifests=["corpus_dir"])


if __name__ == "__main__":
    run_main(main)
