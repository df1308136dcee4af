"""From a folder of recordings to cuts with texts: what recognizers agree on, with where each text comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet, fastcopy
from lhotse.cut import Cut

from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.splits import cuts_file
from residualformer.data.text import ENGLISH, spoken
from residualformer.data.validate import validate_cuts
from residualformer.errors import UserError
from residualformer.files import replacing, write_text
from residualformer.label.hearing import UNREADABLE, Heard, HeardFile, Limits, Unheard, hear_all
from residualformer.label.recognizers import Recognizer
from residualformer.metrics.wer import count_errors
from residualformer.workflow.inputs import AUDIO, files_below

ORIGIN = "labeled"  # of the cuts; also the key of their provenance, and the start of their ids
DROPPED_FILE = "dropped.tsv"
DISAGREE, NOTHING, STRANGE = "disagreement", "nothing heard", "more than letters heard"
BAD_NAME = "file name that is not UTF-8"


@dataclass(frozen=True)
class Label:
    """A text that was kept, and how.

    Attributes:
        heard: by each recognizer, the text's own first.
        wer: of the second against the first, in percent; None if there is no second.
    """

    text: str
    heard: Sequence[Heard]
    wer: float | None


def recordings(folder: Path, others: Collection[Path] = ()) -> dict[str, Path]:
    """Return the audio files in a folder and below, by id, but for `others`, which have a text already.

    Raises:
        UserError: there are none.
    """
    known = {path.resolve() for path in others}
    audio = [path for path in files_below(folder) if path.suffix.lower() in AUDIO]
    found = {f"{ORIGIN}-{path.relative_to(folder).with_suffix('').as_posix()}": path for path in audio}
    left = {name: path for name, path in found.items() if path.resolve() not in known}
    if not left:
        why = f"all {len(audio)} have a text already" if audio else f"none ends in {', '.join(sorted(AUDIO)[:5])}, ..."
        raise UserError(f"{folder} holds no audio to label: {why}.")
    return left


def label(
    files: Mapping[str, Path],
    recognizers: Sequence[Recognizer],
    out: Path,
    limits: Limits,
    max_wer: float = 0.0,
    jobs: int = 1,
) -> None:
    """Write cuts of the recordings on whose text one or two recognizers agree, and a table of the others, to `out`.

    Texts are compared, and written, in capital letters without punctuation but apostrophes (`text.spoken`). What was
    heard is kept in `out`, so that another call hears only what is new.

    Args:
        max_wer: percent of the first text's words by which the second may differ.
    """
    kept, dropped, seconds = HeardFile(out), dict[str, Unheard](), dict[str, float]()
    labels: dict[str, Label] = {}
    left = dict(files)
    for name in [name for name in left if not _is_utf8(name)]:
        dropped[name] = Unheard(BAD_NAME, str(left.pop(name)))
    for recognizer in recognizers:
        for name, outcome in hear_all(recognizer, left, kept, limits, jobs).items():
            seconds[name] = outcome.seconds or seconds.get(name, 0.0)
            found = _judged(outcome, labels.get(name), max_wer)
            if isinstance(found, Label):
                labels[name] = found
            else:
                dropped[name] = found
                labels.pop(name, None)
        left = {name: files[name] for name in labels}
    cuts = _valid_cuts(labels, files, dropped, out, jobs)
    made = cuts_file(out, ORIGIN)
    with replacing(made) as temporary:
        CutSet.from_cuts(cuts).to_file(temporary)
    _write_dropped(dropped, files, out / DROPPED_FILE)
    hours, all_hours = sum(cut.duration for cut in cuts) / 3600, sum(seconds.values()) / 3600
    counts = Counter(each.reason for each in dropped.values()).most_common()
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts) or "none"
    print(
        f"label: {len(cuts)} of {len(files)} recordings kept, {hours:.3g} of {all_hours:.3g} h "
        f"({100 * hours / max(all_hours, 1e-9):.0f}%); dropped: {reasons} -> {made}"
    )


def _judged(outcome: Heard | Unheard, first: Label | None, max_wer: float) -> Label | Unheard:
    """Return what becomes of a recording after a recognizer has heard it, `first` being what another heard."""
    if isinstance(outcome, Unheard):
        return outcome
    text = spoken(outcome.text, ENGLISH)
    if not text:
        return Unheard(STRANGE if outcome.text.strip() else NOTHING, outcome.text, outcome.seconds)
    if first is None:
        return Label(text, [outcome], None)
    wer = count_errors([first.text], [text]).rate
    if wer > max_wer:
        return Unheard(DISAGREE, f"{first.text} | {text}", outcome.seconds)
    return Label(first.text, [*first.heard, outcome], wer)


def _valid_cuts(
    labels: Mapping[str, Label], files: Mapping[str, Path], dropped: dict[str, Unheard], out: Path, jobs: int
) -> list[Cut]:
    """Return cuts of sound audio, with provenance; the others go to `dropped`. UserError if there are none at all."""
    utterances = [CorpusUtterance(name, files[name], each.text, "", origin=ORIGIN) for name, each in labels.items()]
    if not utterances:
        _write_dropped(dropped, files, out / DROPPED_FILE)
        reason, count = Counter(each.reason for each in dropped.values()).most_common(1)[0]
        raise UserError(
            f"none of {len(files)} recordings has a text to keep; most often ({count}): {reason}. "
            f"{out / DROPPED_FILE} names them all."
        )
    cuts, unusable = validate_cuts(utterances, ORIGIN, jobs=jobs, decoded=out / "audio")
    for line in unusable:
        name, _, why = line.partition(": ")
        dropped[name] = Unheard(UNREADABLE, why)
    return [_with_provenance(cut, labels[cut.id]) for cut in cuts]


def _with_provenance(cut: Cut, found: Label) -> Cut:
    (supervision,) = cut.supervisions
    told = {
        "recognizers": [each.recognizer for each in found.heard],
        "wer": found.wer,
        "days": [each.day for each in found.heard],
    }
    custom = {**(supervision.custom or {}), ORIGIN: told}
    return fastcopy(cut, supervisions=[fastcopy(supervision, custom=custom)])


def _write_dropped(dropped: Mapping[str, Unheard], files: Mapping[str, Path], path: Path) -> None:
    """Write a table of the recordings that are left out, each with its file and why."""
    rows = [f"{files[name]}\t{each.reason}\t{' '.join(each.detail.split())}" for name, each in dropped.items()]
    table = "\n".join(["file\treason\tdetail", *rows]) + "\n"
    write_text(path, table.encode(errors="backslashreplace").decode())  # a name may hold bytes that are not UTF-8


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
