"""English from several public corpora in one training set; the test sets are those of the corpora.

  --librispeech   every part train-* is train, test-clean is a test set
  --speechocean   speechocean762: its train is train, its test is the test set `speechocean`
  --common-voice  the validated sentences of a release, in train
  --untranscribed any recordings without text, in train with the texts on which recognizers agree (--recognizer)

Without their folders LibriSpeech, as much as --subset tells, and speechocean762 are fetched from OpenSLR. Common Voice
must be given, because Mozilla requires each user to accept its terms.

Dev are speakers held out of train, of each corpus a tenth and an hour at most. Texts have one convention: capital
letters, no punctuation but apostrophes. Sentences with other characters, such as digits, are left out: how they were
said is not known.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from local import common_voice, librispeech, speechocean
from local.common.corpus import OPENSLR, check_paths, record_paths, recorded_path
from local.common.splits import hold_out
from local.common.transcripts import as_spoken
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.splits import cuts_file
from residualformer.data.text import ENGLISH
from residualformer.errors import UserError, run_main
from residualformer.label.options import add_label_options, check_label_options, label_folder
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, nonempty, one_of

TEST = "test-clean"
SUBSET = "5"  # hours of LibriSpeech that are fetched
FETCHED = ("librispeech", "speechocean")
LABELED = "labeled"  # folder, in that of stage 0, of what recognizers heard, and the name of its cuts
FOLDERS = (*FETCHED, "common_voice")


def given_folders(args: argparse.Namespace) -> dict[str, Path]:
    """Return the folders of the corpora that are given."""
    inside = {"librispeech": librispeech.given_folder, "speechocean": speechocean.given_folder, "common_voice": Path}
    return {name: inside[name](getattr(args, name)) for name in FOLDERS if getattr(args, name)}


def train_parts(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Return the parts of LibriSpeech that are for training: all of a given folder, or those of --subset."""
    if not args.librispeech:
        return [folder / part for part in librispeech.TRAIN[args.subset or SUBSET]]
    return sorted(path for path in folder.glob("train-*") if path.is_dir())


def check_layout(folders: dict[str, Path], parts: list[Path]) -> None:
    """Raise UserError if a corpus lacks something, or there is no part of LibriSpeech to train on."""
    folder = folders["librispeech"]
    needed = [TEST, *(part.name for part in parts)]
    check_paths("LibriSpeech", folder, needed, "give the folder that holds its parts, or leave the option out")
    if not parts:
        raise UserError(f"'{folder}' holds no part train-*: give the folder that holds them.")
    speechocean.check_layout(folders["speechocean"])
    if "common_voice" in folders:
        common_voice.check_layout(folders["common_voice"])


def obtain(args: argparse.Namespace) -> None:
    """Check the given copies, which stay in place, and download what is not given."""
    out, url, folders = Path(args.out), args.url or OPENSLR, given_folders(args)
    if "librispeech" not in folders:
        wanted = [TEST, *librispeech.TRAIN[args.subset or SUBSET]]
        folders["librispeech"] = librispeech.download(out, wanted, url)
    if "speechocean" not in folders:
        folders["speechocean"] = speechocean.download(out, url)
    parts = train_parts(folders["librispeech"], args)
    check_layout(folders, parts)
    record_paths(out, **folders)
    if args.untranscribed:
        label_folder(args, args.untranscribed, out / LABELED, others=transcribed(folders, parts))
    print(f"English: {', '.join(folders)}; of LibriSpeech {', '.join(part.name for part in parts)}")


def transcribed(folders: dict[str, Path], parts: list[Path]) -> list[Path]:
    """Return the recordings that have a text, none of which is to be labeled."""
    every = [*read_train(folders, parts).values(), *read_tests(folders).values()]
    return [utterance.audio for utterances in every for utterance in utterances if utterance.audio]


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of train, dev and the test sets."""
    from lhotse import CutSet

    from residualformer.data.manifest import read_cuts
    from residualformer.data.validate import save_cuts, usable_cuts, write_cuts  # import torch, not needed by options

    folders = given_folders(args)
    for name in set(FETCHED) - set(folders):
        folders[name] = recorded_path(Path(args.corpus), name, "english.py")
    parts = train_parts(folders["librispeech"], args)
    check_layout(folders, parts)
    out, train, dev, skipped = Path(args.out), [], [], 0
    for name, utterances in read_train(folders, parts).items():
        spoken, strange = as_spoken(utterances, ENGLISH)
        cuts, unused = usable_cuts(spoken, name, orphans=strange, jobs=args.jobs)
        skipped += unused
        seconds: dict[str, float] = defaultdict(float)
        for cut in cuts:
            seconds[cut.supervisions[0].speaker] += cut.duration
        held = hold_out(seconds, ["dev"]) or {}
        train += [cut for cut in cuts if cut.supervisions[0].speaker not in held]
        dev += [cut for cut in cuts if cut.supervisions[0].speaker in held]
    if args.untranscribed:
        train += read_cuts(cuts_file(Path(args.corpus) / LABELED, LABELED), stage=0)
    for split, found in {"train": train, "dev": dev}.items():
        save_cuts(CutSet.from_cuts(found), split, cuts_file(out, split), skipped if split == "train" else 0)
    for split, test in read_tests(folders).items():
        write_cuts(test, split, cuts_file(out, split), jobs=args.jobs)


def read_train(folders: dict[str, Path], parts: list[Path]) -> dict[str, list[CorpusUtterance]]:
    """Return the utterances to train on, by corpus."""
    corpora = {
        "librispeech": [utterance for part in parts for utterance in librispeech.read_part(part)[0]],
        "speechocean": speechocean.read_split(folders["speechocean"], "train"),
    }
    if "common_voice" in folders:
        corpora["common_voice"] = common_voice.read_sentences(folders["common_voice"])
    return corpora


def read_tests(folders: dict[str, Path]) -> dict[str, list[CorpusUtterance]]:
    """Return the utterances of the test sets."""
    return {
        TEST: librispeech.read_part(folders["librispeech"] / TEST)[0],
        "speechocean": speechocean.read_split(folders["speechocean"], "test"),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add, subsets = parser.add_argument, librispeech.TRAIN
    add("--librispeech", type=caller_path, metavar="DIR", help="LibriSpeech or parts of it, in place (none: fetched)")
    add("--speechocean", type=caller_path, metavar="DIR", help="speechocean762, used in place (none: it is fetched)")
    add("--common-voice", type=caller_path, metavar="DIR", help="the English of a release of Common Voice (none)")
    add(
        "--untranscribed",
        type=caller_path,
        metavar="DIR",
        help="recordings to label; those with a text stay out (none)",
    )
    add_label_options(parser)
    add("--subset", type=one_of(*subsets), metavar="|".join(subsets), help=f"hours of LibriSpeech to fetch ({SUBSET})")
    add("--url", type=nonempty, help=f"address of OpenSLR's resources ({OPENSLR})")


def check_options(args: argparse.Namespace) -> list[Path]:
    """Refuse options that contradict each other; the folders are named by the options themselves."""
    if args.librispeech and args.subset:
        raise UserError("--subset says what to fetch of LibriSpeech, but --librispeech gives a copy: leave one out.")
    if not args.untranscribed:
        if args.recognizer or args.max_wer is not None:
            raise UserError(
                "--recognizer and --max-wer are for --untranscribed DIR, which is missing: give it as well."
            )
        return []
    check_label_options(args)
    if not args.untranscribed.is_dir():
        raise UserError(f"--untranscribed {args.untranscribed} is not a folder: give the folder of the recordings.")
    return [args.untranscribed]


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, (*FOLDERS, "subset", "untranscribed"), check_options)


if __name__ == "__main__":
    run_main(main)
