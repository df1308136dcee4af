"""Surround sound to one channel, wherever it is read; other channels are averaged as ever."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import MultiCut
from support.audio import RATE

from residualformer.data.audio import read_audio
from residualformer.data.manifest import load_mono, open_recording
from residualformer.data.mixing import layout_of, mix
from residualformer.runtime.audio import file_blocks, standard_input_blocks

# Channels in the order of files, and their weights by ITU-R BS.775: left, right, center, low, others.
SURROUND = {
    "5.1": (0x3F, [0.7071, 0.7071, 1, 0, 0.5, 0.5]),
    "5.1 with side speakers": (0x60F, [0.7071, 0.7071, 1, 0, 0.5, 0.5]),
    "7.1": (0x63F, [0.7071, 0.7071, 1, 0, 0.5, 0.5, 0.5, 0.5]),
    "3.0": (0x7, [0.7071, 0.7071, 1]),
    "4.0": (0x107, [0.7071, 0.7071, 1, 0.5]),
}
OTHERS = {
    "unknown": (0, 6),
    "stereo": (0x3, 2),
    "quadraphonic": (0x33, 4),
    "of fewer channels": (0x3F, 4),
    "one": (0x4, 1),
}


def sound(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).uniform(-0.3, 0.3, (RATE // 4, channels)).astype(np.float32)


def extensible(samples: np.ndarray, layout: int) -> bytes:
    """A WAV of floats whose header tells the speakers."""
    data, channels = samples.astype("<f4").tobytes(), samples.shape[1]
    coding = struct.pack("<HHIIHH", 0xFFFE, channels, RATE, RATE * 4 * channels, 4 * channels, 32)
    coding += struct.pack("<HHI", 22, 32, layout) + struct.pack("<IHH", 3, 0, 16) + bytes.fromhex("800000aa00389b71")
    chunks = b"fmt " + struct.pack("<I", len(coding)) + coding + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def everywhere(path: Path) -> dict[str, np.ndarray]:
    """The one channel that each reader makes of a WAV."""
    recording = open_recording(path, "a")
    cut = MultiCut("a", 0, recording.duration, list(range(recording.num_channels)), recording=recording)
    found = {
        "whole": read_audio(path, RATE),
        "blocks": np.concatenate([block.samples for block in file_blocks(path)]),
        "stage 2": load_mono(cut),
    }
    if path.suffix == ".wav":
        blocks = standard_input_blocks(RATE, file=io.BytesIO(path.read_bytes()))
        found["standard input"] = np.concatenate([block.samples for block in blocks])
    return found


@pytest.mark.parametrize("name", SURROUND)
def test_surround_sound_is_mixed_as_the_recommendation_says(tmp_path, name):
    layout, weights = SURROUND[name]
    samples = sound(len(weights))
    (tmp_path / "a.wav").write_bytes(extensible(samples, layout))
    expected = sum(weight * samples[:, c].astype(np.float64) for c, weight in enumerate(weights))
    for found in everywhere(tmp_path / "a.wav").values():
        assert found.dtype == np.float32 and found == pytest.approx(expected, abs=1e-6)  # float32


@pytest.mark.parametrize("channels", [6, 8])
def test_flac_has_one_layout_for_six_and_eight_channels(tmp_path, channels):
    samples = sound(channels)
    soundfile.write(tmp_path / "a.flac", samples, RATE, subtype="PCM_24")
    weights = SURROUND["5.1" if channels == 6 else "7.1"][1]
    for found in everywhere(tmp_path / "a.flac").values():
        assert found == pytest.approx(samples @ np.array(weights), abs=2e-6)  # 24 bits and float32


@pytest.mark.parametrize("name", OTHERS)
def test_other_channels_are_averaged(tmp_path, name):
    layout, channels = OTHERS[name]
    samples = sound(channels)
    (tmp_path / "a.wav").write_bytes(extensible(samples, layout))
    soundfile.write(tmp_path / "plain.wav", samples, RATE, subtype="FLOAT")
    for path in (tmp_path / "a.wav", tmp_path / "plain.wav"):
        for found in everywhere(path).values():
            assert found == pytest.approx(samples.mean(axis=1), abs=1e-7)
    soundfile.write(tmp_path / "plain.flac", samples[:, :2], RATE, subtype="PCM_24")
    assert layout_of(tmp_path / "plain.flac") == 0


@pytest.mark.parametrize("name", ["5.1", "7.1"])
def test_speech_in_the_center_keeps_its_level(tmp_path, name):
    layout, weights = SURROUND[name]
    samples = np.zeros((RATE // 4, len(weights)), np.float32)
    samples[:, 2] = sound(1)[:, 0]
    (tmp_path / "a.wav").write_bytes(extensible(samples, layout))
    for found in everywhere(tmp_path / "a.wav").values():
        assert np.array_equal(found, samples[:, 2])
    assert read_audio(tmp_path / "a.wav", RATE, channel=0).max() == 0


def test_a_layout_that_is_not_known_is_an_average():
    samples = sound(6)
    assert np.array_equal(mix(samples), samples.mean(axis=1))


def test_a_container_tells_its_layout_through_ffmpeg(tmp_path, monkeypatch):
    """A program called ffmpeg writes a WAV of 5.1."""
    layout, weights = SURROUND["5.1"]
    samples = sound(6)
    (tmp_path / "out.wav").write_bytes(extensible(samples, layout))
    (tmp_path / "ffmpeg").write_text(f"#!/bin/sh\ncat {tmp_path}/out.wav\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100))
    blocks = np.concatenate([block.samples for block in file_blocks(tmp_path / "a.m4a")])
    for found in (read_audio(tmp_path / "a.m4a", RATE), blocks):
        assert found == pytest.approx(samples @ np.array(weights), abs=1e-6)
