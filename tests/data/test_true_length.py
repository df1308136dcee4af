"""Audio is as long as it decodes to, whatever its header says, in transcribing and in training data alike."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.audio import RATE, noise, tone, without_its_first_frame

from residualformer.data.audio import audio_blocks, audio_length_s, read_audio
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.validate import validate_cuts
from residualformer.errors import UserError
from residualformer.runtime.audio import file_blocks

MP3_RATE = 44100
FRAME = 1152  # samples of an MP3's frame; a decoder delivers the encoder's delay and whole frames


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Five seconds of noise, which takes large frames, and fifteen of a tone, which takes small ones."""
    samples = tone(MP3_RATE, 20.0).astype(np.float32)
    samples[: 5 * MP3_RATE] += noise(5 * MP3_RATE)
    return 0.5 * samples


@pytest.fixture(scope="module")
def stated(tmp_path_factory, speech) -> bytes:
    """An MP3 of variable bit rate that states its length."""
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    soundfile.write(path, speech, MP3_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.4)
    return path.read_bytes()


def wav_of_mp3(mp3: bytes) -> bytes:
    coding = struct.pack("<HHIIHHHHIHHH", 0x55, 1, MP3_RATE, 16000, 1, 0, 12, 1, 2, 418, 1, 1393)
    chunks = b"fmt " + struct.pack("<I", len(coding)) + coding + b"data" + struct.pack("<I", len(mp3)) + mp3
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def flac_from_a_pipe(path: Path, samples: np.ndarray) -> bytes:
    soundfile.write(path, samples, MP3_RATE, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples: 36 bits from the middle of byte 21; 0 is unknown
    content[22:26] = bytes(4)
    return bytes(content)


CASES = {
    "variable rate, no header": (".mp3", without_its_first_frame),
    "the same after a tag": (".mp3", lambda mp3: b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + without_its_first_frame(mp3)),
    "in a WAV": (".wav", lambda mp3: wav_of_mp3(without_its_first_frame(mp3))),
    "in a WAV, with its header": (".wav", wav_of_mp3),
}


@pytest.mark.parametrize("name", CASES)
def test_mp3_is_decoded_to_its_end(tmp_path, speech, stated, name):
    suffix, change = CASES[name]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(change(stated))
    samples = read_audio(path, MP3_RATE)
    assert len(speech) <= len(samples) <= len(speech) + 3 * FRAME
    assert audio_length_s(path) == pytest.approx(len(samples) / MP3_RATE, abs=3 * FRAME / MP3_RATE)
    assert sum(len(block.samples) for block in file_blocks(path)) == len(samples)
    cuts, skipped = validate_cuts([CorpusUtterance("a", path, "HELLO", "s")], "train")
    assert skipped == [] and cuts["a"].num_samples == len(samples)
    np.testing.assert_array_equal(cuts["a"].load_audio()[0], samples)
    last = CorpusUtterance("a", path, "HELLO", "s", start=18.5)  # far beyond libsndfile's guess
    (cut,), _ = validate_cuts([last], "train")
    np.testing.assert_allclose(cut.load_audio()[0], samples[round(18.5 * MP3_RATE) :], atol=1e-4)  # a seek


def test_libsndfile_alone_would_cut_it(tmp_path, speech, stated):
    """The reason for all this: when it fails, mp3.py may go."""
    (tmp_path / "a.mp3").write_bytes(without_its_first_frame(stated))
    assert soundfile.info(tmp_path / "a.mp3").frames < 0.6 * len(speech)


def test_files_joined_to_one_are_all_heard(tmp_path, speech, stated):
    (tmp_path / "a.mp3").write_bytes(stated * 2)
    assert 2 * len(speech) <= len(read_audio(tmp_path / "a.mp3", MP3_RATE)) <= 2 * len(speech) + 6 * FRAME


def test_a_header_that_is_right_is_believed(tmp_path, speech, stated):
    """Encoders note the delay and the padding to be left out."""
    (tmp_path / "a.mp3").write_bytes(stated)
    assert len(read_audio(tmp_path / "a.mp3", MP3_RATE)) == len(speech)
    (tmp_path / "a.mp3").write_bytes(stated[: len(stated) // 2])
    with pytest.raises(UserError, match=r"a.mp3 is truncated"):
        read_audio(tmp_path / "a.mp3", MP3_RATE)


def test_a_flac_that_was_written_into_a_pipe(tmp_path, speech):
    path = tmp_path / "a.flac"
    content = flac_from_a_pipe(path, speech)
    whole = read_audio(path, MP3_RATE)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_audio(path, MP3_RATE), whole)
    assert audio_length_s(path) is None
    cuts, skipped = validate_cuts([CorpusUtterance("a", path, "HELLO", "s", start=19.0)], "train")
    assert skipped == [] and cuts["a"].duration == 1.0
    np.testing.assert_array_equal(cuts["a"].load_audio()[0], whole[19 * MP3_RATE :])


def test_raw_samples_in_a_file_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "x.raw").write_bytes(b"x\n")
    with pytest.raises(UserError, match=r"x.raw is raw audio without a header that tells its rate: convert it"):
        read_audio(tmp_path / "x.raw", RATE)
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    given = [CorpusUtterance(name, tmp_path / name, "HELLO", "s") for name in ("x.raw", "a.wav")]
    cuts, (skipped,) = validate_cuts(given, "train")
    assert list(cuts.ids) == ["a.wav"] and "raw audio without a header" in skipped


def test_a_name_that_is_not_utf8_is_a_name(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    with open(path, "wb") as file:
        soundfile.write(file, tone(RATE), RATE, format="WAV")
    assert len(read_audio(path, RATE)) == RATE


def test_floats_on_the_scale_of_integers_are_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, 32768 * tone(RATE), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="a.wav holds floats of up to 16384, .* divide by 32768"):
        read_audio(path, RATE)
    with pytest.raises(UserError, match="no usable utterance .* divide by 32768"):
        validate_cuts([CorpusUtterance("a", path, "HELLO", "s")], "train")


M4A = b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100)
FAKE = """#!/bin/sh
printf '%s\\n' "$@" > "{folder}/arguments"
{does}
"""


def fake_ffmpeg(monkeypatch, folder: Path, does: str) -> None:
    """Put a program called ffmpeg on PATH."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "ffmpeg").write_text(FAKE.format(folder=folder, does=does))
    (folder / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_a_container_goes_through_ffmpeg(tmp_path, monkeypatch):
    stereo = np.stack([tone(RATE), tone(RATE, hz=1000)], axis=1)
    soundfile.write(tmp_path / "out.wav", stereo, RATE, subtype="FLOAT")
    fake_ffmpeg(monkeypatch, tmp_path, f"cat {tmp_path}/out.wav")
    name = tmp_path / "-y; touch PWNED.m4a"
    name.write_bytes(M4A)
    np.testing.assert_allclose(read_audio(name, RATE), stereo.mean(axis=1), atol=1e-6)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("-i") + 1] == f"file:{name}"
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"  # nothing is fetched
    assert arguments[arguments.index("-format_whitelist") + 1] == "mov"  # a playlist is none
    np.testing.assert_allclose(read_audio(name, RATE, channel=1), stereo[:, 1], atol=1e-6)
    given = [CorpusUtterance(n, name, "HELLO", "s", start=s, duration=0.5) for n, s in (("a", 0.0), ("b", 0.5))]
    cuts, skipped = validate_cuts(given, "train", decoded=tmp_path / "decoded")
    assert skipped == [] and [cut.duration for cut in cuts] == [0.5, 0.5]
    np.testing.assert_allclose(cuts["b"].load_audio(), stereo[RATE // 2 :].T, atol=1 / 32768)
    assert [path.suffix for path in (tmp_path / "decoded").iterdir()] == [".flac"]
    with pytest.raises(UserError, match=r"no usable utterance .* is MP4 \(m4a, 3gp\): convert it"):
        validate_cuts(given, "train")


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("echo 'moov atom not found' >&2; exit 1", r"cannot be read by ffmpeg \(moov atom not found\)"),
        ("cat {folder}/out.wav; echo 'partial file' >&2", r"cannot be read by ffmpeg \(partial file\)"),
        ("exit 3", r"cannot be read by ffmpeg \(status 3\)"),
    ],
)
def test_what_ffmpeg_cannot_read_is_told(tmp_path, monkeypatch, does, words):
    soundfile.write(tmp_path / "out.wav", tone(RATE), RATE)
    fake_ffmpeg(monkeypatch, tmp_path, does.format(folder=tmp_path))
    (tmp_path / "a.m4a").write_bytes(M4A)
    with pytest.raises(UserError, match=words):
        read_audio(tmp_path / "a.m4a", RATE)


def test_an_ffmpeg_that_hangs_is_ended(tmp_path, monkeypatch):
    fake_ffmpeg(monkeypatch, tmp_path, "exec sleep 1000")
    (tmp_path / "a.m4a").write_bytes(M4A)
    monkeypatch.setattr("residualformer.data.ffmpeg.PATIENCE_S", 0.2)
    with pytest.raises(UserError, match=r"ffmpeg wrote nothing of .*a.m4a for 0.2 s"):
        read_audio(tmp_path / "a.m4a", RATE)


CONTAINERS = {
    "MP4": M4A,
    "Matroska": bytes.fromhex("1a45dfa3") + bytes(100),
    "AMR": b"#!AMR\n" + bytes(100),
    "ASF": bytes.fromhex("3026b2758e66cf11") + bytes(100),
    "AAC": bytes.fromhex("fff15080") + bytes(100),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_without_ffmpeg_a_sentence_says_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.bin").write_bytes(CONTAINERS[name])
    with pytest.raises(UserError, match=rf"a.bin is {name}.*through ffmpeg.*none on PATH: install it .*, or convert"):
        read_audio(tmp_path / "a.bin", RATE)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not on PATH")
@pytest.mark.parametrize("suffix", ["m4a", "aac", "mka", "webm", "wma"])
def test_a_real_ffmpeg(tmp_path, suffix):
    import subprocess

    soundfile.write(tmp_path / "a.wav", tone(RATE, 3.0), RATE)
    coding = ["-c:a", "libopus"] if suffix == "webm" else []
    made = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *coding, tmp_path / f"a.{suffix}"], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"this ffmpeg does not write {suffix}: {made.stderr.decode()[:100]}")
    assert len(read_audio(tmp_path / f"a.{suffix}", RATE)) == pytest.approx(3 * RATE, abs=0.2 * RATE)  # padded frames
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read by ffmpeg"):
        list(audio_blocks(tmp_path / f"a.{suffix}"))
