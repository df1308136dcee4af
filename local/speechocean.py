"""speechocean762: English sentences read by 250 people whose first language is Mandarin (Zhang et al., 2021).

5,000 utterances, 5.6 h (https://www.openslr.org/101, CC BY 4.0). Train and test are those of the corpus; dev are
speakers held out of train. Texts are those of the corpus: capital letters and apostrophes.

Without --corpus-dir, `obtain` downloads the corpus from OpenSLR (0.5 GB), which states no checksum of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from local.common.corpus import OPENSLR, check_paths, fetch, record_paths, recorded_path, unpack
from local.common.splits import write_splits
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError, run_main
from residualformer.files import read_text
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, nonempty

NAME = "speechocean762"  # of the archive, and of the folder in it
SPLITS = ("train", "test")
TABLES = ("wav.scp", "text", "utt2spk")
ADVICE = "get https://www.openslr.org/101, unpack it and give the folder that holds train/, test/ and WAVE/"


def given_folder(corpus_dir: Path) -> Path:
    """Return the folder that holds the splits: the given one, or `speechocean762` in it."""
    inside = corpus_dir / NAME
    return inside if inside.is_dir() else corpus_dir


def download(out: Path, url: str) -> Path:
    """Download and unpack the corpus unless it is in `out`, and return its folder."""
    folder = out / NAME
    return folder if folder.exists() else unpack(fetch(f"{url}/101/{NAME}.tar.gz", out), NAME, folder)


def check_layout(folder: Path) -> None:
    """Raise UserError if a part of the corpus is missing."""
    check_paths(NAME, folder, ["WAVE", *(f"{split}/{table}" for split in SPLITS for table in TABLES)], ADVICE)


def read_split(folder: Path, split: str) -> list[CorpusUtterance]:
    """Return the utterances of `train` or `test`; UserError if one of its tables is damaged."""
    audio, texts, speakers = (_read_pairs(folder / split / table) for table in TABLES)
    return [
        CorpusUtterance(
            f"speechocean-{name}", folder / path, texts.get(name, ""), f"speechocean-{speakers.get(name, name)}"
        )
        for name, path in audio.items()
    ]


def _read_pairs(path: Path) -> dict[str, str]:
    """Return the rest of each line by its first word."""
    pairs = {}
    for number, line in enumerate(read_text(path, ADVICE).splitlines(), 1):
        words = line.split(maxsplit=1)
        if len(words) != 2:
            raise UserError(f"{path}, line {number} is '{line}'; it must be a name and what belongs to it: {ADVICE}.")
        pairs[words[0]] = words[1].strip()
    return pairs


def obtain(args: argparse.Namespace) -> None:
    """Download the corpus or check a given copy."""
    out = Path(args.out)
    folder = given_folder(args.corpus_dir) if args.corpus_dir else download(out, args.url)
    check_layout(folder)
    record_paths(out, corpus_dir=folder)
    print(f"{NAME} in {folder}")


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split."""
    given = args.corpus_dir
    folder = given_folder(given) if given else recorded_path(Path(args.corpus), "corpus_dir", "speechocean.py")
    check_layout(folder)
    write_splits({split: (read_split(folder, split), []) for split in SPLITS}, Path(args.out), args.jobs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add = parser.add_argument
    add("--corpus-dir", type=caller_path, metavar="DIR", help="an existing copy, used in place (none: it is fetched)")
    add("--url", type=nonempty, default=OPENSLR, help="address of OpenSLR's resources (%(default)s)")


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, of_manifests=["corpus_dir"])


if __name__ == "__main__":
    run_main(main)
