"""Splits of a corpus: written, and where they are not given held out by speaker, deterministically."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.splits import cuts_file
from residualformer.errors import UserError

if TYPE_CHECKING:  # imports torch, not needed by options
    from lhotse.cut import Cut

SHARE = 0.1  # of the speech, for each of dev and test ...
MOST_S = 3600.0  # ... up to this many seconds
LARGEST = 0.2  # largest share of either, as speakers are not divided


def write_splits(given: Mapping[str, tuple[Iterable[CorpusUtterance], list[str]]], out: Path, jobs: int) -> None:
    """Write the validated cuts of train, dev and test to `out`; those of dev and test that are not given are held out.

    Args:
        given: utterances of each split, and "id: reason" for those that the corpus script left out.
        jobs: processes that read the audio.
    """
    from lhotse import CutSet

    from residualformer.data.validate import save_cuts, usable_cuts  # import torch, not needed by options

    splits: dict[str, list[Cut]] = {"train": [], "dev": [], "test": []}
    skipped: dict[str, int] = defaultdict(int)
    for name, (utterances, left_out) in given.items():
        cuts, skipped[name] = usable_cuts(utterances, name, orphans=left_out, jobs=jobs)
        splits[name] = list(cuts)
    if note := add_missing_splits(splits):
        print(f"note: {note}")
    for name, found in splits.items():
        save_cuts(CutSet.from_cuts(found), name, cuts_file(out, name), skipped[name])


def add_missing_splits(splits: dict[str, list[Cut]]) -> str:
    """Move cuts from train to dev and test if these are empty; return a sentence on how, "" if nothing is moved.

    No speaker is then in two splits; if there are too few speakers, no recording; else no utterance.

    Raises:
        UserError: there are too few utterances.
    """
    missing = [name for name in ("test", "dev") if not splits[name]]
    if not missing:
        return ""
    train, names = splits["train"], " and ".join(reversed(missing))
    for unit, key in (("speaker", _speaker), ("recording", _recording), ("utterance", lambda cut: cut.id)):
        groups: dict[str, float] = defaultdict(float)
        for cut in train:
            groups[key(cut)] += cut.duration
        chosen = hold_out(groups, missing) if all(groups) else None
        if chosen is None:
            continue
        for name in ("train", *missing):
            splits[name] = [cut for cut in train if chosen.get(key(cut), "train") == name]
        if unit == "speaker":
            return f"{names} held out by speaker: no speaker is in two splits"
        named = {_speaker(cut) for cut in train} - {""}
        why = f"only {len(named)} speaker{'s' * (len(named) != 1)} named" if named else "no speakers are named"
        return (
            f"{names} held out by {unit}, not by speaker ({why}): voices of test may be in train, and error rates on "
            "new voices will be higher"
        )
    raise UserError(f"{len(train)} utterances are too few to hold out {names}: give ten or more, or give the splits.")


def hold_out(groups: dict[str, float], names: Sequence[str]) -> dict[str, str] | None:
    """Choose groups to move from train to the splits `names`.

    Groups are taken in the order of the hashes of their names, which is independent of the order of the data.

    Args:
        groups: seconds of speech of each group, by its name.

    Returns:
        The split of each group that leaves train, or None if the groups are too few or too large.
    """
    total = sum(groups.values())
    target, most = min(SHARE * total, MOST_S), LARGEST * total * (1 + 1e-9)
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen: dict[str, str] = {}
    seconds = dict.fromkeys(names, 0.0)
    for name in order:
        split = min(names, key=seconds.__getitem__)
        if seconds[split] < target and seconds[split] + groups[name] <= min(2 * target, most):
            chosen[name] = split
            seconds[split] += groups[name]
    for split in names:
        left = [name for name in order if name not in chosen]
        if not seconds[split] and left and groups[smallest := min(left, key=groups.__getitem__)] <= most:
            chosen[smallest] = split
    return chosen if set(chosen.values()) == set(names) and len(chosen) < len(groups) else None


def shared_speakers(splits: dict[str, list[Cut]]) -> str:
    """Return a sentence on the speakers of dev and test who are also in train, "" if there are none."""
    named = {name: {_speaker(cut) for cut in cuts} - {""} for name, cuts in splits.items()}
    both = (named["dev"] | named["test"]) & named["train"]
    return f"{len(both)} speakers of dev or test are also in train, as the data give it" if both else ""


def repeated_texts(splits: dict[str, list[Cut]]) -> str:
    """Return a sentence on the texts of test that are also in train, "" if there are none."""
    texts = {name: [cut.supervisions[0].text for cut in cuts] for name, cuts in splits.items()}
    trained = set(texts["train"])
    count = sum(text in trained for text in texts["test"])
    return f"{count} of {len(texts['test'])} test utterances have a text that is also in train" if count else ""


def total_hours(cuts: Iterable[Cut]) -> float:
    """Return the duration of cuts in hours."""
    return sum(cut.duration for cut in cuts) / 3600


def _speaker(cut: Cut) -> str:
    return cut.supervisions[0].speaker or ""


def _recording(cut: Cut) -> str:
    """Return the files of a cut's recording; its id differs between the utterances of one recording."""
    return " ".join(str(source.source) for source in cut.recording.sources)
