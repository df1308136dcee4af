"""AN4: people spelling names and dictating numbers, dates and commands (948 + 130 utterances, 16 kHz).

The layout is that of https://github.com/cmusphinx/an4: `etc/an4_{train,test}.transcription`, `wav/an4{,test}_clstk/`.
Test is that of the corpus. Dev has every ninth training speaker, by name, starting with the fifth: 8 speakers of both
sexes, as names begin with f or m. Train has the other 66 speakers.

Optionally, synthetic speech of the same domain is added to train: parts of two of its transcripts (none of dev or test)
joined at word boundaries, and random strings of letters and digits, spoken by espeak-ng in noise and reverberation.
Results must declare its use; the ids of such utterances start with `syn-`.

Each utterance has a word-for-word Chinese translation (an4_corpus/lexicon.py).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
from tqdm import tqdm

from local.an4_corpus.lexicon import LETTERS, translate
from local.common import espeak
from local.common.corpus import check_paths, record_paths, recorded_path
from local.common.synthesis import (
    VARIANTS,
    Conditions,
    Line,
    Renderer,
    generator,
    make_speakers,
    prepare_folder,
    write_transcripts,
)
from local.common.synthesis import (
    read_transcripts as read_rendered,
)
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.errors import UserError, run_main
from residualformer.files import read_text
from residualformer.parallel import worker_map
from residualformer.workflow.corpus import run_program
from residualformer.workflow.options import caller_path, whole_number

REPOSITORY = "https://github.com/cmusphinx/an4"
SAMPLING_RATE = 16000
AUDIO_FOLDERS = {"train": "wav/an4_clstk", "test": "wav/an4test_clstk"}
TRANSCRIPTS = {"train": "etc/an4_train.transcription", "test": "etc/an4_test.transcription"}
SYNTHETIC_SPEAKERS = 150
SYNTHETIC_CONDITIONS = Conditions(snr_db=(5.0, 25.0), reverb_share=0.4)
REJOINED_SHARE = 0.6  # of the synthetic texts; the others are random strings
MAX_WORDS = 12
COMMANDS = ["ENTER", "RUBOUT", "ERASE"]
DIGITS = "ZERO OH ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
TEENS = "TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN EIGHTEEN NINETEEN".split()
TENS = "TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY".split()
TRANSCRIPT_LINE = re.compile(r"(?:<s> )?(?P<text>.*?)(?: </s>)? *\((?P<id>[^()]+)\)$")


def check_layout(folder: Path) -> None:
    """Check that a copy of AN4 is complete.

    Raises:
        UserError: a file or folder is missing; the message names the first.
    """
    advice = (
        f"the layout must be that of {REPOSITORY}; give the folder that holds etc/ and wav/ as --corpus-dir, or leave "
        "the option out to fetch the corpus"
    )
    check_paths("AN4", folder, [*TRANSCRIPTS.values(), *AUDIO_FOLDERS.values()], advice)


def clone(out: Path) -> Path:
    """Clone the repository of the corpus to `out`/an4, unless that exists, and return the path.

    Raises:
        UserError: git is missing or fails.
    """
    target, partial = out / "an4", out / f".an4.{os.getpid()}"
    if target.exists():
        return target
    out.mkdir(parents=True, exist_ok=True)
    advice = f"fetch {REPOSITORY} yourself and give its folder as --corpus-dir."
    try:
        subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", REPOSITORY, str(partial)],
            check=True,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
        partial.replace(target)
    except FileNotFoundError as error:
        raise UserError(f"git is needed to fetch AN4 and was not found: install it, or {advice}") from error
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())
        raise UserError(f"AN4 could not be fetched (git: {reason}): {advice}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read_transcripts(path: Path) -> list[tuple[str, str]]:
    """Return the id and the text of each line, without sentence marks.

    Raises:
        UserError: a line is not 'TEXT (id)'.
    """
    transcripts = []
    text = read_text(path, "repair or fetch it").removeprefix("\ufeff")  # byte order mark
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = TRANSCRIPT_LINE.match(line.strip())
        if match is None:
            raise UserError(f"{path}, line {number} is '{line.strip()}', not '<s> TEXT </s> (id)'; repair or fetch it.")
        transcripts.append((match["id"], match["text"]))
    return transcripts


def read_split(folder: Path, split: str) -> tuple[list[CorpusUtterance], list[str]]:
    """Return the utterances of a split of the corpus, and "id: reason" for recordings without a transcript."""
    transcripts = read_transcripts(folder / TRANSCRIPTS[split])
    audio = {path.stem: path for path in sorted((folder / AUDIO_FOLDERS[split]).rglob("*.wav"))}
    utterances = [
        CorpusUtterance(
            id=name,
            audio=audio.get(name),
            text=text,
            speaker=name.split("-")[1] if "-" in name else name,
            translation=translate(text),
        )
        for name, text in transcripts
    ]
    named = {utterance.id for utterance in utterances}
    orphans = [f"{name}: there is audio but no transcript" for name in audio if name not in named]
    return utterances, orphans


def dev_speakers(utterances: list[CorpusUtterance]) -> set[str]:
    """Return every ninth speaker by name, starting with the fifth."""
    return set(sorted({utterance.speaker for utterance in utterances})[4::9])


def split_training(utterances: list[CorpusUtterance]) -> tuple[list[CorpusUtterance], list[CorpusUtterance]]:
    """Split the training utterances of the corpus into (train, dev), by speaker."""
    held_out = dev_speakers(utterances)
    train = [utterance for utterance in utterances if utterance.speaker not in held_out]
    return train, [utterance for utterance in utterances if utterance.speaker in held_out]


def rejoin(texts: list[str], rng: np.random.Generator) -> str:
    """Join the first words of a random text and the last words of another; each part may be the whole text."""
    first, second = (texts[rng.integers(len(texts))].split() for _ in range(2))
    words = first[: rng.integers(0, len(first) + 1)] + second[rng.integers(0, len(second)) :]
    return " ".join(words[:MAX_WORDS])


def random_string(rng: np.random.Generator) -> str:
    """Draw letters, digits and two-digit numbers in the style of the corpus: 'ENTER G M E F SEVENTY NINE'."""
    words = [str(rng.choice(COMMANDS))] if rng.random() < 0.25 else []
    if rng.random() < 0.7:
        words += rng.choice(LETTERS, rng.integers(1, 8)).tolist()
    if rng.random() < 0.6 or len(words) < 2:
        for _ in range(rng.integers(1, 5)):
            kind = rng.random()
            if kind < 0.6:
                words.append(str(rng.choice(DIGITS)))
            elif kind < 0.7:
                words.append(str(rng.choice(TEENS)))
            else:
                words.append(str(rng.choice(TENS)))
                words += [str(rng.choice(DIGITS[2:]))] if rng.random() < 0.7 else []
    return " ".join(words[:MAX_WORDS])


def synthetic_lines(texts: list[str], count: int, seed: int) -> list[Line]:
    """Draw `count` lines in the domain of `texts`; single letters are said by name, Z as in American English."""
    rng = generator(seed, "an4 synthetic")
    speakers = make_speakers("syn", SYNTHETIC_SPEAKERS, list(VARIANTS), rng)
    lines = []
    for number in range(count):
        text = rejoin(texts, rng) if rng.random() < REJOINED_SHARE else random_string(rng)
        spoken = espeak.spell_letters(re.sub(r"\bZ\b", "ZEE", text))
        lines.append(Line(f"syn-{number:05d}", "synthetic", text, spoken, speakers[rng.integers(len(speakers))]))
    return lines


def synthesize(texts: list[str], args: argparse.Namespace) -> None:
    """Render `args.synthetic` utterances to `args.out`/synthetic; an interrupted run is resumed."""
    folder, options = Path(args.out), {"synthetic": args.synthetic, "seed": args.seed, "texts": len(texts)}
    keep = prepare_folder(folder, ["synthetic"], options, SYNTHETIC_CONDITIONS)
    lines = synthetic_lines(texts, args.synthetic, args.seed)
    renderer = Renderer(folder, args.seed, SYNTHETIC_CONDITIONS, lines[:200], keep)
    with worker_map(args.jobs, items_at_once=8) as map_:
        durations = tqdm(map_(renderer, lines), total=len(lines), desc="synthetic speech", unit="utt")
        records = [renderer.record(line, duration) for line, duration in zip(lines, durations)]
    write_transcripts(folder, records)
    minutes = sum(record["duration"] for record in records) / 60
    print(f"synthetic: {len(records)} utterances, {minutes:.1f} minutes in {folder / 'synthetic'}")


def obtain(args: argparse.Namespace) -> None:
    """Clone the corpus or check a given copy, and render the synthetic speech."""
    folder = Path(args.corpus_dir) if args.corpus_dir else clone(Path(args.out))
    check_layout(folder)
    if args.synthetic:
        train, _ = split_training(read_split(folder, "train")[0])
        synthesize([utterance.text for utterance in train if utterance.text], args)
    record_paths(Path(args.out), corpus_dir=folder)
    print(f"AN4 in {folder}")


def corpus_folder(args: argparse.Namespace) -> Path:
    """Return the folder of the corpus: --corpus-dir, else the one recorded by stage 0."""
    return Path(args.corpus_dir) if args.corpus_dir else recorded_path(Path(args.corpus), "corpus_dir", "an4.py")


def read_synthetic(folder: Path) -> list[CorpusUtterance]:
    """Return the utterances that `obtain --synthetic` has rendered in `folder`."""
    records = read_rendered(folder)
    if not records:
        raise UserError(f"no synthetic speech in '{folder}': run an4.py obtain --out {folder} --synthetic N first.")
    return [
        CorpusUtterance(
            id=row["id"],
            audio=folder / row["audio"],
            text=row["text"],
            speaker=row["speaker"],
            translation=translate(row["text"]),
            origin="synthetic",
        )
        for row in records
    ]


def manifests(args: argparse.Namespace) -> None:
    """Write the validated cuts of each split."""
    from residualformer.data.validate import write_cuts  # imports torch, not needed by options

    folder = corpus_folder(args)
    check_layout(folder)
    training, orphans = read_split(folder, "train")
    test, test_orphans = read_split(folder, "test")
    train, dev = split_training(training)
    if args.synthetic:
        train += read_synthetic(Path(args.corpus))
    splits = {"train": (train, orphans), "dev": (dev, []), "test": (test, test_orphans)}
    for name, (utterances, left_out) in splits.items():
        path = Path(args.out) / f"cuts_{name}.jsonl.gz"
        write_cuts(utterances, name, path, SAMPLING_RATE, left_out, args.jobs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this corpus."""
    add = parser.add_argument
    add("--corpus-dir", type=caller_path, metavar="DIR", help="an existing copy, used in place (none: it is fetched)")
    add("--synthetic", type=whole_number, default=0, metavar="N", help="synthetic utterances in train (default 0)")
    add("--seed", type=whole_number, default=1, metavar="N", help="random seed of the synthetic speech (default 1)")


def main() -> None:
    run_program(__doc__, obtain, manifests, add_options, of_manifests=["corpus_dir", "synthetic"])


if __name__ == "__main__":
    run_main(main)
