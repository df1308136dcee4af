"""MSLT v1.1: English conversations over Skype, with Chinese translations (Federmann and Lewis, 2017); test sets only.

The layout is that of the release of 2017-09-14: for each of the 2,223 and 2,127 utterances of
`MSLT_{Dev,Test}_EN_20170914` (some copies leave out the date) there are `NAME.T0.en.wav`, the transcripts
`NAME.T1.en.snt` (verbatim) and `NAME.T2.en.snt` (fluent, in sentences), and the translations of T2, `NAME.T3.zh.snt`
and `NAME.T3.ja.snt`; .snt files are UTF-16. The text of an utterance is T2. Speakers are not known, so each utterance
counts as one.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from local.common.corpus import check_paths
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError

SETS = {"dev": "MSLT_Dev_EN", "test": "MSLT_Test_EN"}
RELEASE = "_20170914"
ADVICE = (
    "MSLT_Corpus.zip of v1.1 is at https://www.microsoft.com/en-us/download/details.aspx?id=55951, under a license "
    "for research; unpack it and give its folder as mslt-dir"
)


def find(folder: Path) -> dict[str, Path]:
    """Return the folder of each set; they are in `folder`, its Data or its MSLT_Corpus/Data.

    Raises:
        UserError: one is missing.
    """
    places = [_sets(place) for place in (folder, folder / "Data", folder / "MSLT_Corpus" / "Data")]
    sets = next((place for place in places if any(path.is_dir() for path in place.values())), places[0])
    check_paths("MSLT v1.1", sets["dev"].parent, [path.name for path in sets.values()], ADVICE)
    return sets


def _sets(data: Path) -> dict[str, Path]:
    """Return the folder of each set in `data`, or the expected path if it is missing."""
    names = {name: (data / (inside + RELEASE), data / inside) for name, inside in SETS.items()}
    return {name: next((path for path in paths if path.is_dir()), paths[0]) for name, paths in names.items()}


def read_set(folder: Path) -> tuple[list[CorpusUtterance], list[str]]:
    """Return the utterances of a set, and "id: reason" for recordings without transcript or translation.

    Raises:
        UserError: the set has no utterance.
    """
    utterances, orphans = [], []
    for audio in sorted(folder.rglob("*.T0.en.wav")):
        name = audio.name.removesuffix(".T0.en.wav")
        try:
            text = " ".join(read_snt(audio.with_name(f"{name}.T2.en.snt")))
            translation = "".join(read_snt(audio.with_name(f"{name}.T3.zh.snt")))
        except (FileNotFoundError, UnicodeError) as error:
            orphans.append(f"{name}: its transcript or translation cannot be read ({error})")
            continue
        if translation:
            utterances.append(CorpusUtterance(name, audio, text, speaker=name, translation=translation))
        else:
            orphans.append(f"{name}: its translation is empty")
    if not utterances:
        raise UserError(f"MSLT's '{folder}' holds no *.T0.en.wav with its T2.en.snt and T3.zh.snt: {ADVICE}.")
    return utterances, orphans


def read_snt(path: Path) -> list[str]:
    """Return the non-empty lines of a text file in UTF-16 or UTF-8."""
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if marked else "utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]
