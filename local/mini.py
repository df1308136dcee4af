"""`mini`: English sentences from a grammar, spoken by espeak-ng, with Chinese translations. Needs no download.

Sentences are about 3 s long; train, dev and test share no sentence, speaker or voice file. The seed determines
everything, and dev and test do not depend on the size of train. CONDITIONS sets the acoustic conditions.

The optional `test_long` has other sentences and more speakers, with the voice files of test: hours of speech, to
measure small differences between models. With `--pauses` all sets but train are streams of several sentences.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from local.common import espeak
from local.common.streams import STREAMS, join_records
from local.common.synthesis import (
    VARIANTS,
    Conditions,
    Line,
    Record,
    Renderer,
    Speaker,
    generator,
    make_speakers,
    prepare_folder,
    write_rendered_cuts,
    write_transcripts,
)
from local.mini_corpus.grammar import draw_sentence
from residualformer.errors import run_main
from residualformer.parallel import worker_map
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import positive_number, real_number, whole_number

CONDITIONS = Conditions(snr_db=(15.0, 40.0), babble_share=0.15, reverb_share=0.2, rt60_s=(0.15, 0.4))
SPEAKERS = {"test": 24, "dev": 12, "train": 150}  # in the order of drawing: test does not depend on the others
VOICE_FILES = {"test": 12, "dev": 6}  # number of VARIANTS; train has the rest
LONG_TEST_SPEAKERS = 96
MAX_WORDS = 16
MOST_PAUSES = 0.95  # of the time of a stream
BABBLERS = 100  # lines of the split that serve as background babble
LINES_AT_A_TIME = 128
Map = Callable[[Renderer, Iterable[Line]], Iterator[float]]


def split_speakers(seed: int) -> dict[str, list[Speaker]]:
    """Return the speakers of each split; test_long shares the voice files of test, no other splits share one."""
    rng = generator(seed, "mini voices")
    variants = rng.permutation(VARIANTS).tolist()
    speakers = {}
    for split, count in SPEAKERS.items():
        size = VOICE_FILES.get(split, len(variants))
        speakers[split] = make_speakers(split, count, variants[:size], rng)
        if split == "test":
            rng_long = generator(seed, "mini voices of test_long")
            speakers["test_long"] = make_speakers("test_long", LONG_TEST_SPEAKERS, variants[:size], rng_long)
        variants = variants[size:]
    return speakers


def draw_lines(split: str, speakers: list[Speaker], seed: int, used: set[str]) -> Iterator[Line]:
    """Yield lines without end, with random speakers and sentences that are not in `used`; add the sentences to it."""
    rng = generator(seed, "mini", split)
    for number in itertools.count():
        sentence = draw_sentence(rng)
        while sentence.text in used or len(sentence.text.split()) > MAX_WORDS:
            sentence = draw_sentence(rng)
        used.add(sentence.text)
        yield Line(
            id=f"{split}-{number:05d}",
            split=split,
            text=sentence.text,
            spoken=to_ssml(sentence.spoken),
            speaker=speakers[rng.integers(len(speakers))],
            translation=sentence.translation,
        )


def to_ssml(marked: str) -> str:
    """Convert a marked sentence to SSML: '~A' to the name of the letter, the rest to lower case (no abbreviations)."""
    return re.sub(r"~([a-z])", lambda match: espeak.say_letter(match[1]), marked.lower())


def render_split(lines: Iterator[Line], target_s: float, renderer: Renderer, map_: Map) -> list[Record]:
    """Render lines until there are `target_s` seconds, and return their records; `map_` may use several processes."""
    records: list[Record] = []
    total_s = 0.0
    with tqdm(total=round(target_s), desc=renderer.others[0].split, unit="s of audio") as bar:
        while total_s < target_s:
            batch = list(itertools.islice(lines, LINES_AT_A_TIME))
            for line, duration_s in zip(batch, map_(renderer, batch)):
                if total_s < target_s:
                    records.append(renderer.record(line, duration_s))
                    total_s += duration_s
                    bar.update(round(total_s) - bar.n)
                else:
                    (renderer.folder / line.split / f"{line.id}.flac").unlink()
    return records


def obtain(args: argparse.Namespace) -> None:
    """Render the corpus; an interrupted run with the same options is resumed."""
    folder = Path(args.out)
    target_s = {"test": 60 * args.test_minutes, "dev": 60 * args.dev_minutes, "train": 3600 * args.train_hours}
    if args.long_test_hours > 0:
        target_s |= {"test_long": 3600 * args.long_test_hours}
        target_s["train"] = target_s.pop("train")  # drawn last, so that train avoids the sentences of test_long
    keep = prepare_folder(folder, list(target_s), {"seed": args.seed, **target_s}, CONDITIONS)
    shutil.rmtree(folder / STREAMS, ignore_errors=True)  # they are joined anew, from what is kept
    records: list[Record] = []
    used: set[str] = set()
    speakers = split_speakers(args.seed)
    with worker_map(args.jobs, items_at_once=8) as map_:
        for split, seconds in target_s.items():
            lines = draw_lines(split, speakers[split], args.seed, used)
            babblers = list(itertools.islice(lines, BABBLERS))
            renderer = Renderer(folder, args.seed, CONDITIONS, babblers, keep)
            rendered = render_split(itertools.chain(babblers, lines), seconds, renderer, map_)
            are_streams = args.pauses > 0 and split != "train"
            records += join_records(rendered, folder, args.pauses, args.seed) if are_streams else rendered
    write_transcripts(folder, records)
    hours = sum(record["duration"] for record in records) / 3600
    print(f"mini: {len(records)} utterances, {hours:.2f} h in {folder}")


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split."""
    folder = Path(args.corpus)
    write_rendered_cuts(folder, Path(args.out), args.jobs, f"run stage 0 first (mini.py obtain --out {folder})")


def share_of_pauses(value: str) -> float:
    """Return a share of the time that leaves some for speech."""
    if real_number(value) > MOST_PAUSES:
        raise argparse.ArgumentTypeError(f"is '{value}'; it must be a number from 0 to {MOST_PAUSES}")
    return real_number(value)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add = parser.add_argument
    add("--seed", type=whole_number, default=1, metavar="N", help="random seed of the corpus (default %(default)s)")
    add("--train-hours", type=positive_number, default=3.0, metavar="H", help="hours of train (default %(default)s)")
    add("--dev-minutes", type=positive_number, default=20.0, metavar="M", help="minutes of dev (default %(default)s)")
    add("--test-minutes", type=positive_number, default=30.0, metavar="M", help="minutes of test (default %(default)s)")
    add("--long-test-hours", type=real_number, default=0.0, metavar="H", help="hours of a second test set, test_long")
    streams = "in dev and tests, sentences in threes with pauses for this share of the time (default: each by itself)"
    add("--pauses", type=share_of_pauses, default=0.0, metavar="SHARE", help=streams)


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options)


if __name__ == "__main__":
    run_main(main)
