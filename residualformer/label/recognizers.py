"""Recognizers that label speech: Whisper models, models of our own, and any command that prints a text.

What is given to `--recognizer` says which:

    faster-whisper:MODEL    a name that faster-whisper knows, such as base.en, or the folder of a converted model
    RUN                     a run folder, a model.safetensors or an exported folder
    PROGRAM ... {audio}     a command, whose standard output is the text

A command is run without a shell, with the path of the recording as one word of its own: nothing that comes with the
data is executed. Imports that take time wait until a recording is heard.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from residualformer.errors import UserError
from residualformer.label.whisper import Whisper
from residualformer.optional import optional
from residualformer.workflow.inputs import content
from residualformer.workflow.options import CALLED_FROM, caller_path, nonempty

if TYPE_CHECKING:
    from residualformer.library.transcriber import Transcriber

AUDIO = "{audio}"
WHISPER = "faster-whisper:"
_ALONE = re.compile(r"(--?[\w-]+=)?\{audio\}")
TIMEOUT_S = 600.0  # of a command, for a recording
ALLOWED = f"{WHISPER}MODEL, a run folder or an exported one, or a command with {AUDIO}, such as 'my-asr --in {AUDIO}'"


class Recognizer(Protocol):
    """What turns a recording into a text. It can be sent to other processes, which load what they need."""

    @property
    def name(self) -> str:
        """What it is, with the version: texts of recognizers of other names are not taken for its own."""

    def load(self) -> None:
        """Load what it needs, once a process; raise UserError if there is none."""

    def hear(self, audio: Path) -> str:
        """Return the text of a recording; raise UserError if it cannot be heard."""


@dataclass(frozen=True)
class Own:
    """A trained or exported model of this package, with its own search."""

    model: Path
    name: str

    def load(self) -> None:
        _own(self.model)

    def hear(self, audio: Path) -> str:
        return _own(self.model).transcribe(audio).text


@dataclass(frozen=True)
class Command:
    """A program with its arguments, in which AUDIO stands for the recording."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return shlex.join(self.words)

    def load(self) -> None:
        """Each recording starts it anew."""

    def hear(self, audio: Path) -> str:
        command = [word.replace(AUDIO, str(audio)) for word in self.words]
        where = os.environ.get(CALLED_FROM)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, cwd=where, check=False
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"{self.words[0]} took longer than {TIMEOUT_S:.0f} s") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise UserError(f"{self.words[0]} ended with {done.returncode} ({said[-1][:160]})")
        return " ".join(done.stdout.decode(errors="replace").split())


def recognizer_words(value: str) -> str:
    """Return what names a recognizer, with absolute paths; a relative one is seen from where the script was called."""
    if AUDIO in nonempty(value):
        return value
    kind = WHISPER if value.startswith(WHISPER) else ""
    model = value.removeprefix(kind)
    if not model:
        raise argparse.ArgumentTypeError(f"is '{value}'; it must be {ALLOWED}")
    path = caller_path(model)
    return value if kind and not path.is_dir() else f"{kind}{path}"  # else the name of a model


def make_recognizer(words: str) -> Recognizer:
    """Return the recognizer that `words` name, see the top of this file; UserError if it cannot be used."""
    if AUDIO in words:
        return _command(words)
    if words.startswith(WHISPER):
        version, model = optional("faster_whisper").__version__, words.removeprefix(WHISPER)
        named = _with_content(Path(model)) if Path(model).is_dir() else model
        return Whisper(model, f"faster-whisper {version} {named}")
    path = Path(words)
    if not path.exists():
        raise UserError(f"--recognizer {words} does not exist: give {ALLOWED}.")
    from residualformer import __version__
    from residualformer.constants import MODEL_FILE

    file = path / MODEL_FILE if (path / MODEL_FILE).is_file() else path
    return Own(path, f"residualformer {__version__} {_with_content(file)}")


def _command(words: str) -> Command:
    """Return the command of a template; UserError unless its program exists and the audio is a word of its own."""
    try:
        program, *rest = shlex.split(words)
    except ValueError as error:
        raise UserError(f"--recognizer {words}: {error}; write the command as in a terminal.") from error
    if AUDIO in program or any(AUDIO in word and not _ALONE.fullmatch(word) for word in rest):
        raise UserError(
            f"--recognizer {words}: {AUDIO} must be an argument of its own, as in 'my-asr --in {AUDIO}' or "
            f"'my-asr --in={AUDIO}', so that the name of a recording is never executed."
        )
    path = str(caller_path(program)) if "/" in program else program
    if shutil.which(path) is None:
        raise UserError(f"--recognizer {words}: there is no program {program}; install it, or give its path.")
    return Command((path, *rest))


def _with_content(path: Path) -> str:
    """Return the name of a file or folder, the one above it too, with digits that change when its content does."""
    return f"{'/'.join(path.parts[-2:])} [{content(path)}]"


@lru_cache(2)
def _own(model: Path) -> Transcriber:
    from residualformer.library.loading import load

    return load(model, words=False)
