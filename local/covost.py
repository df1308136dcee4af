"""CoVoST 2, English to Chinese: Common Voice 4 with translations (Wang et al., 2021); MSLT as further test sets.

The English is the Common Voice release of 2019-12-10 (`validated.tsv` and `clips/`, MP3). It must be given as
--corpus-dir, because Mozilla requires each user to accept its terms. The translations, `covost_v2.en_zh-CN.tsv` (CC0),
are downloaded unless they are beside it. Splits are those of CoVoST: train (including train_covost, as its authors use
it), dev and test. Rows without a translation, or with REMOVE in its place, are left out.

With --mslt-dir, the test sets of MSLT v1.1 become the splits mslt@dev and mslt@test of the set `mslt`, whose score is
the mean over the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from local.common.corpus import check_paths, fetch, record_paths, recorded_path, unpack
from local.common.table import read_table
from local.covost_corpus import mslt
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError, run_main
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path

URL = "https://dl.fbaipublicfiles.com/covost"
TRANSLATIONS = "covost_v2.en_zh-CN.tsv"
RELEASE = "cv-corpus-4-2019-12-10"
SPLITS = {"train": "train", "train_covost": "train", "dev": "dev", "test": "test"}  # rows of other splits are not used
ADVICE = (
    f"get the English of Common Voice Corpus 4 ({RELEASE}) from https://commonvoice.mozilla.org/en/datasets, unpack it "
    "and give the folder that holds validated.tsv and clips/ as --corpus-dir"
)


def find(corpus_dir: str | None) -> Path:
    """Return the folder of the English Common Voice: the given one, or `en` in it.

    Raises:
        UserError: no folder is given, or a part is missing.
    """
    if not corpus_dir:
        raise UserError(f"Common Voice cannot be downloaded by a program: {ADVICE}.")
    given = Path(corpus_dir)
    places = [given, given / "en", given / RELEASE / "en"]
    folder = next((place for place in places if (place / "validated.tsv").is_file()), given)
    check_paths("Common Voice 4", folder, ["validated.tsv", "clips"], ADVICE)
    return folder


def find_translations(folder: Path, out: Path) -> Path:
    """Return the table of translations: beside the corpus, or else downloaded to `out`."""
    for path in (folder / TRANSLATIONS, folder.parent / TRANSLATIONS, out / TRANSLATIONS):
        if path.is_file():
            return path
    return unpack(fetch(f"{URL}/{TRANSLATIONS}.tar.gz", out), TRANSLATIONS, out / TRANSLATIONS)


def read_splits(folder: Path, translations: Path) -> dict[str, tuple[list[CorpusUtterance], list[str]]]:
    """Return for each split its utterances, and "id: reason" for those without English or translation."""
    spoken = {path: rest for path, *rest in read_table(folder / "validated.tsv", ("path", "sentence", "client_id"))}
    splits: dict[str, tuple[list[CorpusUtterance], list[str]]] = {name: ([], []) for name in SPLITS.values()}
    for path, translation, split in read_table(translations, ("path", "translation", "split")):
        if split not in SPLITS:
            continue
        utterances, orphans = splits[SPLITS[split]]
        name, translation = path.removesuffix(".mp3"), translation.strip()
        if path not in spoken:
            orphans.append(f"{name}: it is not in validated.tsv")
        elif not translation or "REMOVE" in translation:
            orphans.append(f"{name}: it has no translation ('{translation}')")
        else:
            sentence, speaker = spoken[path]
            audio = folder / "clips" / f"{name}.mp3"
            utterances.append(CorpusUtterance(name, audio, sentence.strip(), speaker, translation=translation))
    return splits


def obtain(args: argparse.Namespace) -> None:
    """Check the given copies, and download the translations if they are missing."""
    folder, out = find(args.corpus_dir), Path(args.out)
    if args.mslt_dir:
        mslt.find(Path(args.mslt_dir))
    translations = find_translations(folder, out)
    record_paths(out, corpus_dir=folder, translations=translations)
    print(f"CoVoST 2: {translations}, of {folder}")


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split."""
    from residualformer.data.validate import write_cuts  # imports torch, not needed by options

    folder, translations = (
        recorded_path(Path(args.corpus), key, "covost.py") for key in ("corpus_dir", "translations")
    )
    splits = read_splits(find(args.corpus_dir) if args.corpus_dir else folder, translations)
    if args.mslt_dir:
        splits |= {f"mslt@{name}": mslt.read_set(inside) for name, inside in mslt.find(Path(args.mslt_dir)).items()}
    for name, (utterances, orphans) in splits.items():
        write_cuts(utterances, name, Path(args.out) / f"cuts_{name}.jsonl.gz", orphans=orphans, jobs=args.jobs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add = parser.add_argument
    add("--corpus-dir", type=caller_path, metavar="DIR", help="the English Common Voice 4, used in place")
    add("--mslt-dir", type=caller_path, metavar="DIR", help="MSLT v1.1, whose sets become test sets (none)")


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, of_manifests=["corpus_dir", "mslt_dir"])


if __name__ == "__main__":
    run_main(main)
