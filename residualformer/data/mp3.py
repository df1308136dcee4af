"""The true length of MP3 files. libsndfile stops where the header says, or where its guess is if there is no header.

The first frame of most files ("Xing", "Info" or "VBRI") states the number of frames. Without it libsndfile takes the
first frame's size for that of all; and of files that were joined, only the first one's frames are stated. Such files
are read through a view that begins with a frame which states more than there is, so that all of it is decoded.
"""

from __future__ import annotations

import io
import mmap
from pathlib import Path
from typing import BinaryIO, NamedTuple

_KBPS = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the version's bits
_SPARE = 1000  # frames that the made-up header states beyond twice those that are there


class Header(NamedTuple):
    """What the four bytes before each frame of MPEG audio, layer III, say."""

    version: int  # 1, or 2 for MPEG 2 and 2.5
    rate_hz: int
    size: int  # bytes of the frame
    samples: int  # per channel
    side: int  # bytes between the header and the data, in which others state lengths


class Frames(NamedTuple):
    """The frames of a stream."""

    start: int  # the place of the first one with audio
    end: int
    header: bytes  # its first four bytes
    number: int
    stated: int | None  # their number by the header, if there is one

    @property
    def seconds(self) -> float:
        """The length, the encoder's delay included."""
        found = read_header(self.header)
        return self.number * found.samples / found.rate_hz if found else 0.0


def read_header(data: bytes) -> Header | None:
    """Return what a frame's first bytes say; None if they begin no frame of layer III, or one of any ("free") size."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE6 != 0xE2:
        return None
    version, kbps, rate = data[1] >> 3 & 3, data[2] >> 4, data[2] >> 2 & 3
    if version == 1 or kbps in (0, 15) or rate == 3:
        return None
    mpeg = 1 if version == 3 else 2
    rate_hz, mono, checked = _RATES_HZ[version][rate], data[3] >> 6 == 3, not data[1] & 1
    size = (144_000 if mpeg == 1 else 72_000) * _KBPS[mpeg][kbps - 1] // rate_hz + (data[2] >> 1 & 1)
    side = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}[mpeg, mono]
    return Header(mpeg, rate_hz, size, 1152 if mpeg == 1 else 576, side + 2 * checked)


def find_frames(path: Path, start: int = 0, end: int | None = None) -> Frames | None:
    """Walk over the frames between two places of a file; None if there are none."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = len(data) if end is None else min(end, len(data))
        place = _next_frame(data, _after_tags(data, start), end)
        first = read_header(data[place : place + 4])
        if first is None:
            return None
        stated = _stated(data[place : place + first.size], first)
        if stated is not None:
            place = _next_frame(data, place + first.size, end)
        begin, count = place, 0
        while place < end:
            header = read_header(data[place : place + 4])
            if header is None:
                place = _next_frame(data, place + 1, end)
                continue
            if place + header.size > end:
                break  # a frame that is cut off
            count += 1
            place += header.size
        return Frames(begin, end, bytes(data[begin : begin + 4]), count, stated)


def whole_stream(path: Path, frames: Frames) -> BinaryIO:
    """Open the frames as a stream that states more of them than there are; the caller closes it."""
    bitrate = 14 << 4  # the highest, so that the header has room
    head = bytes([0xFF, frames.header[1] | 1, bitrate | frames.header[2] & 0x0C, frames.header[3]])
    header = read_header(head)
    assert header is not None  # it was one before
    stated = (2 * frames.number + _SPARE).to_bytes(4, "big")
    first = head + bytes(header.side) + b"Xing" + (1).to_bytes(4, "big") + stated
    return io.BufferedReader(_Prefixed(path, first.ljust(header.size, b"\0"), frames.start, frames.end), 1 << 16)


class _Prefixed(io.RawIOBase):
    """A part of a file after some other bytes."""

    def __init__(self, path: Path, head: bytes, start: int, end: int) -> None:
        self._file, self._head, self._start = open(path, "rb"), head, start - len(head)  # noqa: SIM115
        self._size, self._place = len(head) + end - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # typeshed has no type for buffers here
        if self._place < len(self._head):
            data = self._head[self._place : self._place + len(target)]
        else:
            self._file.seek(self._start + self._place)
            data = self._file.read(max(0, min(len(target), self._size - self._place)))
        target[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _after_tags(data: mmap.mmap, place: int) -> int:
    """Return the place after the ID3 tags at a place."""
    while data[place : place + 3] == b"ID3" and len(size := data[place + 6 : place + 10]) == 4:
        place += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    return place


def _next_frame(data: mmap.mmap, place: int, end: int) -> int:
    """Return the place of the next frame that another follows, or that ends the file; `end` if there is none."""
    while (place := data.find(b"\xff", place, end)) >= 0:
        header = read_header(data[place : place + 4])
        if header is not None:
            after = place + header.size
            if after >= end - 4 or read_header(data[after : after + 4]) or data[after : after + 3] in (b"TAG", b"ID3"):
                return place
        place += 1
    return end


def _stated(frame: bytes, header: Header) -> int | None:
    """Return the number of frames that a first frame states."""
    place = 4 + header.side
    if frame[place : place + 4] in (b"Xing", b"Info"):
        has_frames = int.from_bytes(frame[place + 4 : place + 8], "big") & 1
        return int.from_bytes(frame[place + 8 : place + 12], "big") if has_frames else 0
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big")
    return None
