"""LibriSpeech: English audio books, 960 h of train (Panayotov et al., 2015; https://www.openslr.org/12, CC BY 4.0).

Train is train-clean-100 (--subset 100), plus train-clean-360 (460), plus train-other-500 (960). Dev is dev-clean and
dev-other together; test-clean and test-other are splits of their own. With --subset 5, train and dev are those of Mini
LibriSpeech (https://www.openslr.org/31), train-clean-5 and dev-clean-2, and the test set is test-clean. Texts are those
of the corpus: capital letters and apostrophes.

Without --corpus-dir, `obtain` downloads the parts from OpenSLR (0.8 GB for 5 h, 8 GB for 100 h, 60 GB for 960 h),
resumes interrupted downloads, checks their MD5 checksums and removes each archive after unpacking it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from local.common.corpus import OPENSLR, check_paths, fetch, record_paths, recorded_path, unpack
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError, run_main
from residualformer.files import read_text
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, nonempty, one_of

MD5 = {  # https://www.openslr.org/resources/12/md5sum.txt and 31/md5sum.txt
    "dev-clean-2": "6d7ab67ac6a1d2c993d050e16d61080d",
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-5": "5df7d4e78065366204ca6845bb08f490",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
MINI = ("train-clean-5", "dev-clean-2")  # parts of OpenSLR 31; the others are of 12
TRAIN = {
    "5": ["train-clean-5"],
    "100": ["train-clean-100"],
    "460": ["train-clean-100", "train-clean-360"],
    "960": ["train-clean-100", "train-clean-360", "train-other-500"],
}
SAMPLING_RATE = 16000


def splits(subset: str) -> dict[str, list[str]]:
    """Return the parts of the corpus in each split."""
    if subset == "5":
        return {"train": TRAIN[subset], "dev": ["dev-clean-2"], "test-clean": ["test-clean"]}
    tests = {name: [name] for name in ("test-clean", "test-other")}
    return {"train": TRAIN[subset], "dev": ["dev-clean", "dev-other"], **tests}


def parts(subset: str) -> list[str]:
    """Return all parts that a subset needs, small ones first."""
    return sorted((part for names in splits(subset).values() for part in names), key=list(MD5).index)


def check_layout(folder: Path, subset: str) -> None:
    """Check that a copy of LibriSpeech has the parts that a subset needs.

    Raises:
        UserError: a part is missing; the message names the first.
    """
    advice = (
        "the layout must be that of the unpacked archives of https://www.openslr.org/12; give the folder that holds "
        "the parts as --corpus-dir, or leave the option out to fetch them"
    )
    check_paths("LibriSpeech", folder, parts(subset), advice)


def given_folder(corpus_dir: str) -> Path:
    """Return the folder that holds the parts: the given one, or `LibriSpeech` in it."""
    inside = Path(corpus_dir) / "LibriSpeech"
    return inside if inside.is_dir() else Path(corpus_dir)


def download(out: Path, wanted: Iterable[str], url: str) -> Path:
    """Download and unpack the wanted parts that are not yet in `out`/LibriSpeech, and return that folder."""
    folder = out / "LibriSpeech"
    folder.mkdir(parents=True, exist_ok=True)
    for part in wanted:
        if not (folder / part).exists():
            resource = 31 if part in MINI else 12
            archive = fetch(f"{url}/{resource}/{part}.tar.gz", out, MD5[part])
            unpack(archive, f"LibriSpeech/{part}", folder / part)
    return folder


def read_part(folder: Path) -> tuple[list[CorpusUtterance], list[str]]:
    """Return the utterances of a part, and "id: reason" for recordings without a transcript.

    Unlike Lhotse's recipe, it keeps utterances without recording or text, so that validation reports them.

    Raises:
        UserError: the part has no transcripts.
    """
    utterances: list[CorpusUtterance] = []
    orphans: list[str] = []
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
    """Download the corpus or check a given copy."""
    out = Path(args.out)
    folder = given_folder(args.corpus_dir) if args.corpus_dir else download(out, parts(args.subset), args.url)
    check_layout(folder, args.subset)
    record_paths(out, corpus_dir=folder)
    print(f"LibriSpeech in {folder}: {', '.join(parts(args.subset))}")


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split."""
    from residualformer.data.validate import write_cuts  # imports torch, not needed by options

    if args.corpus_dir:
        folder = given_folder(args.corpus_dir)
    else:
        folder = recorded_path(Path(args.corpus), "corpus_dir", "librispeech.py")
    check_layout(folder, args.subset)
    for name, names in splits(args.subset).items():
        read = [read_part(folder / part) for part in names]
        utterances = [utterance for found, _ in read for utterance in found]
        orphans = [orphan for _, left_out in read for orphan in left_out]
        path = Path(args.out) / f"cuts_{name}.jsonl.gz"
        write_cuts(utterances, name, path, SAMPLING_RATE, orphans, args.jobs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add = parser.add_argument
    add("--corpus-dir", type=caller_path, metavar="DIR", help="an existing copy, used in place (none: it is fetched)")
    add("--subset", type=one_of(*TRAIN), default="960", metavar="|".join(TRAIN), help="hours of train (%(default)s)")
    add("--url", type=nonempty, default=OPENSLR, help="address of OpenSLR's resources (%(default)s)")


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, of_manifests=["corpus_dir", "subset"])


if __name__ == "__main__":
    run_main(main)
