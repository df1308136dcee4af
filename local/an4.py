"""AN4: people spelling names and dictating numbers, dates and commands (948 + 130 utterances, 16 kHz).

The layout is that of https://github.com/cmusphinx/an4: `etc/an4_{train,test}.transcription`, `wav/an4{,test}_clstk/`.
Test is the corpus's own. Dev is every ninth training speaker, in order of name, from the fifth on: 8 speakers; names
begin with f or m, so both sexes are there. Train is the other 66 speakers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from residualformer.data.validate import Utterance, write_cuts
from residualformer.errors import UserError, run_main
from residualformer.files import write_json

REPOSITORY = "https://github.com/cmusphinx/an4"
SAMPLING_RATE = 16000
AUDIO_FOLDERS = {"train": "wav/an4_clstk", "test": "wav/an4test_clstk"}
TRANSCRIPTS = {"train": "etc/an4_train.transcription", "test": "etc/an4_test.transcription"}
TRANSCRIPT_LINE = re.compile(r"(?:<s> )?(?P<text>.*?)(?: </s>)? *\((?P<id>[^()]+)\)$")


def check_layout(folder: Path) -> None:
    """Raise a UserError that names the first thing missing from a copy of AN4."""
    for wanted in ("", *TRANSCRIPTS.values(), *AUDIO_FOLDERS.values()):
        if not (folder / wanted).exists():
            raise UserError(
                f"AN4 in '{folder}' lacks '{folder / wanted}': the layout must be that of {REPOSITORY}; "
                "give the folder that holds etc/ and wav/ as --corpus-dir, or leave the option out to fetch the corpus."
            )


def clone(out: Path) -> Path:
    """Fetch the corpus into `out`/an4 unless it is there; a half-fetched copy never gets that name."""
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
    """Each line's id and text, without the sentence marks. Raises UserError on a line that is not '<text> (id)'."""
    transcripts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        match = TRANSCRIPT_LINE.match(line.strip())
        if match is None:
            raise UserError(f"{path}, line {number} is '{line.strip()}', not '<s> TEXT </s> (id)'; repair or fetch it.")
        transcripts.append((match["id"], match["text"]))
    return transcripts


def read_split(folder: Path, split: str) -> tuple[list[Utterance], list[str]]:
    """The utterances of the corpus's own `split`, and "id: reason" for each recording without a transcript."""
    transcripts = read_transcripts(folder / TRANSCRIPTS[split])
    audio = {path.stem: path for path in sorted((folder / AUDIO_FOLDERS[split]).rglob("*.wav"))}
    utterances = [
        Utterance(id=name, audio=audio.get(name), text=text, speaker=name.split("-")[1] if "-" in name else name)
        for name, text in transcripts
    ]
    named = {utterance.id for utterance in utterances}
    orphans = [f"{name}: there is audio but no transcript" for name in audio if name not in named]
    return utterances, orphans


def dev_speakers(utterances: list[Utterance]) -> set[str]:
    """Every ninth speaker by name, from the fifth on."""
    return set(sorted({utterance.speaker for utterance in utterances})[4::9])


def obtain(args: argparse.Namespace) -> None:
    folder = Path(args.corpus_dir) if args.corpus_dir else clone(Path(args.out))
    check_layout(folder)
    write_json(Path(args.out) / "corpus.json", {"corpus_dir": str(folder.resolve())})
    print(f"AN4 in {folder}")


def corpus_folder(args: argparse.Namespace) -> Path:
    """Where the recordings are: --corpus-dir, else what stage 0 recorded."""
    if args.corpus_dir:
        return Path(args.corpus_dir)
    record = Path(args.corpus) / "corpus.json"
    if not record.is_file():
        raise UserError(f"'{record}' does not exist: run stage 0 first (an4.py obtain --out {args.corpus}).")
    return Path(json.loads(record.read_text(encoding="utf-8"))["corpus_dir"])


def manifests(args: argparse.Namespace) -> None:
    folder = corpus_folder(args)
    check_layout(folder)
    training, orphans = read_split(folder, "train")
    test, test_orphans = read_split(folder, "test")
    held_out = dev_speakers(training)
    splits = {
        "train": ([utterance for utterance in training if utterance.speaker not in held_out], orphans),
        "dev": ([utterance for utterance in training if utterance.speaker in held_out], []),
        "test": (test, test_orphans),
    }
    for name, (utterances, left_out) in splits.items():
        write_cuts(utterances, name, Path(args.out) / f"cuts_{name}.jsonl.gz", SAMPLING_RATE, left_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("obtain", help="stage 0: find or fetch the corpus")
    command.add_argument("--out", required=True, help="folder for what is fetched or made, and for the record of it")
    command.add_argument("--corpus-dir", help="an existing copy, used in place; left out: fetched with git")
    command.set_defaults(run=obtain)
    command = commands.add_parser("manifests", help="stage 1: validated Lhotse cuts")
    command.add_argument("--corpus", required=True, help="the --out of obtain")
    command.add_argument("--corpus-dir", help="an existing copy, instead of the one that obtain recorded")
    command.add_argument("--out", required=True, help="folder for cuts_{train,dev,test}.jsonl.gz")
    command.set_defaults(run=manifests)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    run_main(main)
