"""LibriSpeech: English audio books, 960 h to train on (Panayotov et al., 2015; https://www.openslr.org/12, CC BY 4.0).

Train is train-clean-100 (--subset 100), with train-clean-360 as well (460), or with train-other-500 too (960). Dev is
dev-clean and dev-other together; the test sets are splits of their own, test-clean and test-other. Texts are the
corpus's: capital letters and apostrophes.

Left to itself, `obtain` fetches the parts from OpenSLR (8 GB for 100 h, 60 GB for 960 h), goes on where it was
interrupted, checks their MD5 and removes each archive once it is unpacked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from local.common.corpus import check_there, fetch, remember, remembered, unpack
from residualformer.data.validate import CorpusUtterance, write_cuts
from residualformer.errors import UserError, run_main
from residualformer.files import read_text
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, nonempty, one_of

URL = "https://www.openslr.org/resources/12"
MD5 = {  # https://www.openslr.org/resources/12/md5sum.txt
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
TRAIN = {
    "100": ["train-clean-100"],
    "460": ["train-clean-100", "train-clean-360"],
    "960": ["train-clean-100", "train-clean-360", "train-other-500"],
}
SAMPLING_RATE = 16000


def splits(subset: str) -> dict[str, list[str]]:
    """The parts of the corpus in each split."""
    tests = {name: [name] for name in ("test-clean", "test-other")}
    return {"train": TRAIN[subset], "dev": ["dev-clean", "dev-other"], **tests}


def parts(subset: str) -> list[str]:
    """The parts needed, small ones first."""
    return sorted((part for names in splits(subset).values() for part in names), key=list(MD5).index)


def check_layout(folder: Path, subset: str) -> None:
    """Raise a UserError that names the first part missing from a copy of LibriSpeech."""
    advice = (
        "the layout must be that of the unpacked archives of https://www.openslr.org/12; give the folder that holds "
        "the parts as --corpus-dir, or leave the option out to fetch them"
    )
    check_there("LibriSpeech", folder, parts(subset), advice)


def given_folder(corpus_dir: str) -> Path:
    """The folder that holds the parts; it may be the `LibriSpeech` in the one that was given."""
    inside = Path(corpus_dir) / "LibriSpeech"
    return inside if inside.is_dir() else Path(corpus_dir)


def download(out: Path, subset: str, url: str) -> Path:
    """Fetch and unpack the parts that are not in `out`/LibriSpeech yet; gives that folder."""
    folder = out / "LibriSpeech"
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts(subset):
        if not (folder / part).exists():
            archive = fetch(f"{url}/{part}.tar.gz", out, MD5[part])
            unpack(archive, f"LibriSpeech/{part}", folder / part)
    return folder


def read_part(folder: Path) -> tuple[list[CorpusUtterance], list[str]]:
    """The utterances of a part, and "id: reason" for each recording without a transcript.

    Lhotse's recipe reads the same, but drops what has no recording and stops at an empty text: the gate names both.
    """
    utterances, orphans = [], []
    transcripts = sorted(folder.glob("*/*/*.trans.txt"))  # <speaker>/<chapter>/<speaker>-<chapter>.trans.txt
    if not transcripts:
        raise UserError(f"LibriSpeech's '{folder}' holds no */*/*.trans.txt: unpack or fetch that part again.")
    for transcript in transcripts:
        lines = [line.split(maxsplit=1) for line in read_text(transcript, "unpack or fetch it again").splitlines()]
        texts = {words[0]: "".join(words[1:]).strip() for words in lines if words}
        utterances += [
            CorpusUtterance(name, transcript.with_name(f"{name}.flac"), text, speaker=name.split("-")[0])
            for name, text in texts.items()
        ]
        audio = sorted(path.stem for path in transcript.parent.glob("*.flac"))
        orphans += [f"{name}: there is audio but no transcript" for name in audio if name not in texts]
    return utterances, orphans


def obtain(args: argparse.Namespace) -> None:
    out = Path(args.out)
    folder = given_folder(args.corpus_dir) if args.corpus_dir else download(out, args.subset, args.url)
    check_layout(folder, args.subset)
    remember(out, corpus_dir=folder)
    print(f"LibriSpeech in {folder}: {', '.join(parts(args.subset))}")


def manifests(args: argparse.Namespace) -> None:
    recorded = remembered(Path(args.corpus), "corpus_dir", "librispeech.py") if not args.corpus_dir else None
    folder = recorded or given_folder(args.corpus_dir)
    check_layout(folder, args.subset)
    for name, names in splits(args.subset).items():
        read = [read_part(folder / part) for part in names]
        utterances, orphans = (sum(lists, []) for lists in zip(*read))
        path = Path(args.out) / f"cuts_{name}.jsonl.gz"
        write_cuts(utterances, name, path, SAMPLING_RATE, orphans, args.jobs)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--corpus-dir",
        type=caller_path,
        metavar="DIR",
        help="an existing copy, used in place (none: it is fetched)",
    )
    add("--subset", type=one_of(*TRAIN), default="960", metavar="|".join(TRAIN), help="hours of train (%(default)s)")
    add("--url", type=nonempty, default=URL, help="where the archives are fetched (%(default)s)")


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, of_manifests=["corpus_dir", "subset"])


if __name__ == "__main__":
    run_main(main)
