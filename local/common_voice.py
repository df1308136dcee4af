"""Common Voice: sentences that volunteers read into their own microphones (Ardila et al., 2020; CC0), any release.

A copy must be given as --corpus-dir, because Mozilla requires each user to accept its terms: the folder of a language,
which holds validated.tsv and clips/. Train, dev and test are the release's own, train.tsv, dev.tsv and test.tsv; where
one of these is missing, they are made of validated.tsv, and no speaker is in two of them. Sentences whose clips are not
there are counted and left out.

Texts become capital letters without punctuation but apostrophes. Sentences with digits are left out: how they were said
is not known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from local.common.corpus import check_paths, record_paths, recorded_path
from local.common.splits import write_splits
from local.common.table import read_table
from local.common.transcripts import as_spoken
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.text import ANY_LETTERS
from residualformer.errors import UserError, run_main
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path

OFFICIAL = ("train", "dev", "test")
VALIDATED = "validated"  # all that listeners have confirmed
ADVICE = (
    "get a release of Common Voice from https://commonvoice.mozilla.org/en/datasets, unpack it and give the folder "
    "that holds validated.tsv and clips/"
)


def check_layout(folder: Path) -> None:
    """Raise UserError if a part of the corpus is missing."""
    check_paths("Common Voice", folder, [f"{VALIDATED}.tsv", "clips"], ADVICE)


def read_sentences(folder: Path, table: str = VALIDATED, language: str = "English") -> list[CorpusUtterance]:
    """Return the utterances of a table whose clips are there; tell how many are not."""
    rows = list(read_table(folder / f"{table}.tsv", ("path", "sentence", "client_id")))
    present = {path.name for path in (folder / "clips").iterdir()}
    utterances = [
        CorpusUtterance(
            f"cv-{Path(path).stem}", folder / "clips" / path, sentence.strip(), f"cv-{client[:16]}", language
        )
        for path, sentence, client in rows
        if path in present
    ]
    if absent := len(rows) - len(utterances):
        print(f"Common Voice: {absent} of {len(rows)} sentences of {table}.tsv have no audio in clips/")
    return utterances


def obtain(args: argparse.Namespace) -> None:
    """Check the given copy; it stays in place."""
    if not args.corpus_dir:
        raise UserError(f"--corpus-dir is missing, as a program cannot download Common Voice: {ADVICE}.")
    check_layout(args.corpus_dir)
    record_paths(Path(args.out), corpus_dir=args.corpus_dir)
    print(f"Common Voice in {args.corpus_dir}: {', '.join(tables(args.corpus_dir).values())}")


def tables(folder: Path) -> dict[str, str]:
    """Return the table of each split that a release gives: of all three, or of train alone."""
    given = all((folder / f"{split}.tsv").is_file() for split in OFFICIAL)
    return {split: split for split in OFFICIAL} if given else {"train": VALIDATED}


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split."""
    folder = args.corpus_dir or recorded_path(Path(args.corpus), "corpus_dir", "common_voice.py")
    check_layout(folder)
    given = {
        split: as_spoken(read_sentences(folder, table, language=""), ANY_LETTERS)
        for split, table in tables(folder).items()
    }
    write_splits(given, Path(args.out), args.jobs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    parser.add_argument(
        "--corpus-dir", type=caller_path, metavar="DIR", help="a language of a release of Common Voice, used in place"
    )


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, of_manifests=["corpus_dir"])


if __name__ == "__main__":
    run_main(main)
