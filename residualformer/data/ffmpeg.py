"""Audio in containers that libsndfile does not know, through ffmpeg where it is on PATH.

ffmpeg is called without a shell, with fixed arguments. It may open this one file, as the container that its first bytes
say it is, and nothing else: a playlist in a file called .m4a is not followed.
"""

from __future__ import annotations

import io
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from numpy.typing import NDArray

from residualformer.data.wav import pcm_blocks, read_wav_header, wav_coding
from residualformer.errors import UserError

PATIENCE_S = 60.0  # for ffmpeg to write something


class Container(NamedTuple):
    """A kind of file: its name for people, and that of ffmpeg's demuxer."""

    name: str
    demuxer: str


def container_of(path: Path) -> Container | None:
    """Return the container that the first bytes of a file are of; None if none of those that need ffmpeg."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head[4:8] == b"ftyp":
        return Container("MP4 (m4a, 3gp)", "mov")
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return Container("Matroska (mka, webm)", "matroska")
    if head.startswith(b"#!AMR"):
        return Container("AMR", "amr")
    if head.startswith(bytes.fromhex("3026b2758e66cf11")):
        return Container("ASF (wma)", "asf")
    if len(head) == 16 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Container("AAC", "aac")
    return None


def ffmpeg_blocks(path: Path, container: Container, block_s: float) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield the first audio track of a file, samples (S, channels) and their rate.

    Raises:
        UserError: ffmpeg is not on PATH, cannot read the file, or writes nothing for `PATIENCE_S`.
    """
    command = [*_command(path, container), "pipe:1"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0)
        try:
            assert process.stdout is not None
            file: BinaryIO = io.BufferedReader(_Patient(process.stdout, path), 1 << 16)
            begins = file.read(4)
            if begins == b"RIFF":
                coding, _ = wav_coding(file, f"ffmpeg's output for {path}")
                yield from pcm_blocks(file, b"", coding, block_s, stated=0)
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise _stuck(path) from error
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        log.seek(0)
        said = log.read(1 << 16).decode(errors="replace").strip()
    if status or said or begins != b"RIFF":
        reason = said.splitlines()[-1][:200] if said else f"status {status}"
        raise UserError(f"{path} cannot be read by ffmpeg ({reason}): copy it again, or convert it to WAV or FLAC.")


def ffmpeg_layout(path: Path, container: Container) -> int:
    """Return the mask of speakers of the first audio track, 0 where there is none; errors as of `ffmpeg_blocks`."""
    command = [*_command(path, container), "-frames:a", "1", "pipe:1"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise _stuck(path) from error
    return read_wav_header(io.BytesIO(done.stdout[4:])).layout if done.stdout.startswith(b"RIFF") else 0


def _command(path: Path, container: Container) -> list[str]:
    """Return the command without its output; UserError if ffmpeg is not on PATH."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UserError(
            f"{path} is {container.name}, which is read through ffmpeg, and there is none on PATH: install it "
            "(apt install ffmpeg), or convert the file to WAV or FLAC."
        )
    command = [program, "-nostdin", "-hide_banner", "-v", "error"]
    command += ["-protocol_whitelist", "file", "-format_whitelist", container.demuxer]
    return [*command, "-i", f"file:{path.resolve()}", "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav"]


class _Patient(io.RawIOBase):
    """A pipe whose reader does not wait for ever."""

    def __init__(self, pipe: Any, path: Path) -> None:
        self._pipe, self._path = pipe, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # typeshed has no type for buffers here
        if not select.select([self._pipe], [], [], PATIENCE_S)[0]:
            raise _stuck(self._path)
        data = self._pipe.read(len(target))
        target[: len(data)] = data
        return len(data)


def _stuck(path: Path) -> UserError:
    return UserError(f"ffmpeg wrote nothing of {path} for {PATIENCE_S:g} s: convert the file to WAV or FLAC.")
