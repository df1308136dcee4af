"""Train, dev and test for data that comes without: by speaker, the same at every call."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from lhotse.cut import Cut

from residualformer.errors import UserError

SHARE = 0.1  # of the speech, for dev and for test each ...
MOST_S = 3600.0  # ... but no more than this
LARGEST = 0.2  # share that either may come to, since a speaker is not divided


def complete(splits: dict[str, list[Cut]]) -> str:
    """Move what dev and test lack from train; gives the sentence on how, '' when nothing was missing.

    No speaker comes into two splits, or where there are too few of them no recording, or else no utterance.
    """
    missing = [name for name in ("test", "dev") if not splits[name]]
    if not missing:
        return ""
    train, wanted = splits["train"], " and ".join(reversed(missing))
    for what, key in (("speaker", _speaker), ("recording", _recording), ("utterance", lambda cut: cut.id)):
        groups: dict[str, float] = defaultdict(float)
        for cut in train:
            groups[key(cut)] += cut.duration
        chosen = hold_out(groups, missing) if all(groups) else None
        if chosen is None:
            continue
        for name in ("train", *missing):
            splits[name] = [cut for cut in train if chosen.get(key(cut), "train") == name]
        if what == "speaker":
            return f"{wanted} held out by speaker: none of them is in two splits"
        named = {_speaker(cut) for cut in train} - {""}
        why = f"only {len(named)} speaker{'s' * (len(named) != 1)} named" if named else "no speakers are named"
        return (
            f"{wanted} held out by {what}, not by speaker ({why}): the voices of the test may be in train, and "
            "error rates on new voices will be higher"
        )
    raise UserError(f"{len(train)} utterances are too few to hold out {wanted}: give ten or more, or give the splits.")


def hold_out(groups: dict[str, float], wanted: Sequence[str]) -> dict[str, str] | None:
    """Group -> split for those of `groups` (name -> seconds) that leave train; None where they are too few or large.

    The order is that of the names' hashes, so that it does not depend on the data's, nor on what the names begin with.
    """
    total = sum(groups.values())
    target, most = min(SHARE * total, MOST_S), LARGEST * total * (1 + 1e-9)
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen: dict[str, str] = {}
    seconds = dict.fromkeys(wanted, 0.0)
    for name in order:
        split = min(wanted, key=seconds.__getitem__)
        if seconds[split] < target and seconds[split] + groups[name] <= min(2 * target, most):
            chosen[name] = split
            seconds[split] += groups[name]
    for split in wanted:
        left = [name for name in order if name not in chosen]
        if not seconds[split] and left and groups[smallest := min(left, key=groups.__getitem__)] <= most:
            chosen[smallest] = split
    return chosen if set(chosen.values()) == set(wanted) and len(chosen) < len(groups) else None


def shared_speakers(splits: dict[str, list[Cut]]) -> str:
    """A sentence on the speakers of dev and test who are also in train; '' when there are none."""
    named = {name: {_speaker(cut) for cut in cuts} - {""} for name, cuts in splits.items()}
    both = (named["dev"] | named["test"]) & named["train"]
    return f"{len(both)} speakers of dev or test are also in train, as the data has it" if both else ""


def repeated_texts(splits: dict[str, list[Cut]]) -> str:
    """A sentence on the texts of test that train has too; '' when there are none."""
    texts = {name: [cut.supervisions[0].text for cut in cuts] for name, cuts in splits.items()}
    known = set(texts["train"])
    count = sum(text in known for text in texts["test"])
    return f"{count} of {len(texts['test'])} test utterances say what is also said in train" if count else ""


def total_hours(cuts: Iterable[Cut]) -> float:
    return sum(cut.duration for cut in cuts) / 3600


def _speaker(cut: Cut) -> str:
    return cut.supervisions[0].speaker or ""


def _recording(cut: Cut) -> str:
    """What tells recordings apart: their files, for utterances of one recording have recordings of different ids."""
    return " ".join(str(source.source) for source in cut.recording.sources)
