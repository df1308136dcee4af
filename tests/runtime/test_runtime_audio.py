"""Audio in blocks: the samples of a whole-file reader, and one sentence about what is no audio."""

import io
import struct

import numpy as np
import pytest
import soundfile
from support.audio import damaged, tone

from residualformer.data.audio import read_audio
from residualformer.errors import UserError
from residualformer.runtime.audio import Resampler, file_blocks, microphone_blocks, standard_input_blocks, to_mono

RATE = 16000


def joined(blocks) -> tuple[np.ndarray, int]:
    blocks = list(blocks)
    assert len({block.sample_rate_hz for block in blocks}) == 1
    assert all(block.samples.dtype == np.float32 and block.samples.ndim == 1 for block in blocks)
    return np.concatenate([block.samples for block in blocks]), blocks[0].sample_rate_hz


FORMATS = [("wav", "PCM_U8"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("ogg", None)]


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 96000])
@pytest.mark.parametrize(("suffix", "subtype"), FORMATS)
def test_blocks_of_a_file_are_the_file(tmp_path, rate, suffix, subtype):
    channels = 6 if suffix == "wav" else 2
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.repeat(tone(rate, 0.73)[:, None], channels, axis=1), rate, subtype=subtype)
    samples, found = joined(file_blocks(path))
    assert found == rate
    np.testing.assert_array_equal(samples, read_audio(path, rate))
    resampler = Resampler(rate, RATE)
    pieces = [resampler(samples[i : i + 777]) for i in range(0, len(samples), 777)]
    # soxr, block by block, is its own whole-file result up to the rounding of float32
    np.testing.assert_allclose(
        np.concatenate([*pieces, resampler(samples[:0], last=True)]), read_audio(path, RATE), atol=1e-6
    )


def test_unusable_files_are_refused_by_name(tmp_path):
    for name, word in damaged(tmp_path).items():
        with pytest.raises(UserError, match=word) as refused:
            list(file_blocks(tmp_path / name))
        assert name in str(refused.value) and "\n" not in str(refused.value)


def wav(samples: np.ndarray, subtype: str, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format="WAV")
    return file.getvalue()


class Pipe(io.RawIOBase):
    """Bytes that come a few at a time and cannot be sought, as through a pipe; buffered as standard input is."""

    def __init__(self, data: bytes):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.data.read(min(len(buffer), 1000))
        buffer[: len(data)] = data
        return len(data)


def through_pipe(data: bytes, rate: int = RATE):
    return standard_input_blocks(rate, file=io.BufferedReader(Pipe(data), 256))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_wav_through_a_pipe_is_the_file(tmp_path, subtype, channels):
    samples = np.stack([tone(44100, 0.3, 100 + 50 * c) for c in range(channels)], axis=1)
    data = wav(samples, subtype, 44100)
    (tmp_path / "a.wav").write_bytes(data)
    found, rate = joined(through_pipe(data))
    assert rate == 44100
    np.testing.assert_allclose(found, read_audio(tmp_path / "a.wav", 44100), atol=1e-7)


def test_a_wav_of_unknown_length_and_chunks_around_the_samples():
    data = bytearray(wav(tone(RATE, 0.5), "PCM_16"))
    start = data.index(b"data")
    stated = struct.pack("<I", len(data) - start - 8)
    whole = joined(through_pipe(bytes(data)))[0]
    note = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # chunks are padded to an even size
    unknown = [struct.pack("<I", size) for size in (0xFFFFFFFF, 0, 0x80000000, 0x7FFFF000, 0x7FFFEFFC)]
    for size, tail in (*((size, b"") for size in unknown), (stated, note * 5)):
        changed = data[:start] + note + b"data" + size + data[start + 8 :] + tail
        np.testing.assert_array_equal(joined(through_pipe(bytes(changed)))[0], whole)


def test_raw_samples_through_a_pipe():
    samples = (np.arange(5001) % 1000 - 500).astype("<i2")
    found, rate = joined(through_pipe(samples.tobytes() + b"\x01", 8000))  # half a sample at the end
    assert rate == 8000
    np.testing.assert_array_equal(found, samples / np.float32(32768))


def test_what_a_pipe_may_not_hold():
    samples = wav(tone(RATE), "PCM_16")
    cases = {
        "no samples": b"",
        "truncated": samples[:9000],
        "without samples": samples[:38],
        "FLAC": b"fLaC" + bytes(100),
        "coding 7": wav(tone(RATE), "ULAW"),
        "sampling rate of 1 Hz": samples[:24] + struct.pack("<I", 1) + samples[28:],
        "65535 channels": samples[:22] + b"\xff\xff" + samples[24:],  # 20 GB in 0.1 s at 384 kHz
        "damaged header": b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0abcd",
        "not finite": wav(np.full(100, np.nan), "FLOAT"),
    }
    for word, data in cases.items():
        with pytest.raises(UserError, match=word) as refused:
            list(through_pipe(data))
        assert "standard input" in str(refused.value)


class Endless(io.RawIOBase):
    """A pipe that gives zeros after its head, and never more than a mebibyte at once."""

    def __init__(self, head: bytes):
        self.head = head

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= 1 << 20, "all of it would be held in memory"
        taken, self.head = self.head[:size], self.head[size:]
        return taken + bytes(size - len(taken))


@pytest.mark.parametrize("chunk", [b"LIST", b"fmt "])
def test_a_chunk_of_gigabytes_before_the_samples_is_not_held(chunk):
    """It may be damage; what comes after 4 GB of zeros is no chunk of samples."""
    size = 1 << 24
    head = b"RIFF\0\0\0\0WAVE" + chunk + struct.pack("<I", size)
    content = Endless(head)
    with pytest.raises(UserError, match="without samples|damaged"):
        list(standard_input_blocks(RATE, file=io.BytesIO(head + bytes(size))))
    blocks = standard_input_blocks(RATE, file=content)
    content.head += bytes(size) + b"fmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    content.head += b"data\xff\xff\xff\xff"
    assert next(blocks).samples.tolist() == [0.0] * 1600


def test_integers_to_floats():
    for dtype in (np.int8, np.int16, np.int32):
        limits = np.iinfo(dtype)
        assert to_mono(np.array([limits.min, 0], dtype)).tolist() == [-1, 0]
        assert to_mono(np.array([limits.max], dtype))[0] == pytest.approx(1, abs=0.01)
    assert to_mono(np.array([0, 128, 255], np.uint8)).tolist() == [-1, 0, 127 / 128]
    assert to_mono(np.array([[1.0, 0.0], [0.5, 0.5]])).tolist() == [0.5, 0.5]


SOUNDDEVICE = """
import numpy
__version__ = "0.5"
class PortAudioError(Exception): pass
class InputStream:
    def __init__(self, samplerate, blocksize, channels, dtype):
        if samplerate == 1: raise PortAudioError("no device")
        self.size = blocksize
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def read(self, size): return numpy.ones((size, 1), "float32"), False
"""


def test_the_microphone(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", None)  # a real one is not asked
    monkeypatch.delitem(__import__("sys").modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text(SOUNDDEVICE)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = microphone_blocks(8000)
    assert [next(blocks).samples.shape for _ in range(3)] == [(800,)] * 3
    with pytest.raises(UserError, match="no device"):
        next(microphone_blocks(1))
