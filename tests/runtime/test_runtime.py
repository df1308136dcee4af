"""The streaming recognizer on a model whose outputs are known: pieces, batches, endpoints, times, bad audio."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.loud_model import AHEAD, CHUNK, RATE, SPEECH, STRIDE, A, B, save_folder, sound

from residualformer.errors import UserError
from residualformer.runtime import ENDPOINT_RULES, Recognizer, Rule, load_exported

CHUNK_S, FRAME_S = CHUNK * STRIDE / 100, STRIDE / 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_folder(tmp_path_factory.mktemp("runtime") / "export")


@pytest.fixture(scope="module")
def model(folder):
    return load_exported(folder)


def beam(model, width: int = 4):
    return replace(model.decode, kind="beam", beam=width)


def recognize(recognizer: Recognizer, samples: np.ndarray, piece: int = 1600, rate: int = RATE) -> list:
    """The segments of one stream that is fed `piece` samples at a time."""
    stream = recognizer.create_stream()
    for start in range(0, len(samples), piece):
        stream.accept_waveform(samples[start : start + piece], rate)
        recognizer.decode([stream])
    stream.finish()
    recognizer.decode([stream])
    return stream.pop_segments()


def test_neither_torch_nor_lhotse_is_imported(folder):
    code = (
        "import sys, numpy, residualformer.cli.transcribe\n"
        "from residualformer.runtime import Recognizer\n"
        f"recognizer = Recognizer({str(folder)!r})\n"
        "stream = recognizer.create_stream()\n"
        "stream.accept_waveform(numpy.zeros(16000))\n"
        "recognizer.decode([stream])\n"
        "sys.exit(bool({'torch', 'lhotse', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(root)}).returncode == 0


@pytest.mark.parametrize("width", [None, 4])
def test_what_is_heard_is_written_with_its_time(model, width):
    [segment] = recognize(Recognizer(model, beam(model) if width else None), SPEECH)
    assert segment.text == "a b a" and segment.tokens == ["\u2581a", "\u2581b", "\u2581a"]
    assert segment.times == pytest.approx([0.5, 1.0, 2.1], abs=FRAME_S)
    assert (segment.start, segment.end) == (0.0, pytest.approx(len(SPEECH) / RATE))


def test_needed_audio_and_latency(model):
    [segment] = recognize(Recognizer(model), SPEECH)
    for time, needed, latency in zip(segment.times, segment.needed, segment.latencies, strict=True):
        chunk_start = time // CHUNK_S * CHUNK_S
        # the window's last frame, half of whose 25 ms lie beyond its middle
        assert needed == pytest.approx(chunk_start + CHUNK_S + AHEAD * FRAME_S - 0.005 + 0.0125, abs=1e-6)
        assert 0 < latency < 1
    recognizer = Recognizer(model)
    stream = recognizer.create_stream()
    stream.accept_waveform(SPEECH, arrived=-1e6)  # long ago by any clock
    stream.finish()
    recognizer.decode([stream])
    assert all(latency > 1e5 for latency in stream.pop_segments()[0].latencies)


@pytest.mark.parametrize("piece", [1, 77, 1600, 10**6])
def test_the_cut_of_the_audio_changes_nothing(model, piece):
    samples = SPEECH[: RATE + RATE // 2] if piece == 1 else SPEECH
    rules = (Rule(True, 0.3, 0.0),)
    expected = recognize(Recognizer(model, endpoint_rules=rules), samples, 5000)
    found = recognize(Recognizer(model, endpoint_rules=rules), samples, piece)
    assert [replace(s, latencies=[]) for s in found] == [replace(s, latencies=[]) for s in expected]


def test_streams_together_are_as_alone(model):
    signals = [SPEECH, SPEECH[:9000], sound((B, 0.2)), np.zeros(0, np.float32), sound((0, 3), (B, 0.3), (A, 1.1))]
    for decode in (None, beam(model)):
        alone = [recognize(Recognizer(model, decode, ENDPOINT_RULES), signal) for signal in signals]
        recognizer = Recognizer(model, decode, ENDPOINT_RULES)
        streams = [recognizer.create_stream() for _ in signals]
        for start in range(0, max(map(len, signals)), 2000):
            for stream, signal in zip(streams, signals, strict=True):
                stream.accept_waveform(signal[start : start + 2000])
            recognizer.decode(streams)
        for stream in streams:
            stream.finish()
        recognizer.decode(streams)
        for stream, expected in zip(streams, alone, strict=True):
            found = stream.pop_segments()
            assert [(s.text, s.times, s.start, s.end) for s in found] == [
                (s.text, s.times, s.start, s.end) for s in expected
            ]


def test_partial_results_grow(model):
    recognizer = Recognizer(model)
    stream = recognizer.create_stream()
    texts = []
    for start in range(0, len(SPEECH), 1600):
        stream.accept_waveform(SPEECH[start : start + 1600])
        recognizer.decode([stream])
        texts.append(recognizer.partial(stream).text)
    assert list(dict.fromkeys(texts)) == ["", "a", "a b", "a b a"]
    assert texts.index("a") == pytest.approx(5, abs=2)  # 0.5 s of silence, then at most chunk and look-ahead


def test_endpoints_after_speech_and_the_search_starts_afresh(model):
    samples = sound((0, 1.0), (A, 0.4), (0, 2.0), (A, 0.4), (0, 5.0), (A, 0.2), (B, 0.3))
    assert [s.text for s in recognize(Recognizer(model), samples)] == ["a b"]  # a label is written once
    segments = recognize(Recognizer(model, endpoint_rules=ENDPOINT_RULES), samples)
    assert [s.text for s in segments] == ["a", "a", "a b"]
    assert [s.times[0] for s in segments] == pytest.approx([1.0, 3.4, 8.8], abs=FRAME_S)
    # 1.2 s of silence after the frame that wrote `a`, seen at the end of a chunk
    for segment in segments[:2]:
        assert segment.end - segment.times[0] - FRAME_S == pytest.approx(1.2, abs=CHUNK_S)
    assert segments[1].start == segments[0].end
    assert segments[2].start > segments[1].end  # silence alone makes segments that are not told


def test_a_long_utterance_is_cut(model):
    rules = (Rule(needs_tokens=False, trailing_s=0.0, length_s=2.0),)
    segments = recognize(Recognizer(model, endpoint_rules=rules), sound((A, 5.0)))
    assert [s.text for s in segments] == ["a", "a", "a"]
    assert [s.start for s in segments] == [0.0, 2.0, 4.0]


def test_silence_alone_gives_no_segment(model):
    for rules in ((), ENDPOINT_RULES):
        assert recognize(Recognizer(model, endpoint_rules=rules), np.zeros(10 * RATE, np.float32)) == []
    assert recognize(Recognizer(model), np.zeros(0, np.float32)) == []


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
def test_any_rate(model, rate):
    samples = sound((0, 0.5), (A, 0.5), (B if rate > 11025 else 3500, 0.7), (0, 0.4), rate=rate)
    [segment] = recognize(Recognizer(model), samples, 1000, rate)
    assert segment.text == "a b" and segment.times == pytest.approx([0.5, 1.0], abs=FRAME_S)


def test_integers_channels_and_clipping(model):
    scaled = {np.uint8: (128, 128), np.int8: (128, 0), np.int16: (32768, 0), np.int32: (2**31, 0)}
    for dtype, (scale, offset) in scaled.items():
        [segment] = recognize(Recognizer(model), (SPEECH.astype(np.float64) * scale + offset).astype(dtype))
        assert segment.text == "a b a"
    [segment] = recognize(Recognizer(model), np.stack([SPEECH] * 6, axis=1))
    assert segment.text == "a b a"
    [segment] = recognize(Recognizer(model), np.clip(SPEECH * 100, -1, 1))
    assert segment.text.startswith("a b")


def test_what_is_no_audio_is_refused(model):
    recognizer = Recognizer(model)
    for samples, word in (
        (np.full(9, np.nan), "not finite"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.zeros(3, np.int64), "int64"),
    ):
        with pytest.raises(UserError, match=word):
            recognizer.create_stream().accept_waveform(samples)
    stream = recognizer.create_stream()
    stream.accept_waveform(np.zeros(10), 8000)
    for rate in (16000, 0, -1):
        with pytest.raises(UserError, match="8000"):
            stream.accept_waveform(np.zeros(10), rate)
    for rate in (0, -1, 1999, 10**13):
        with pytest.raises(UserError, match=f"{rate} Hz; allowed are 2000 to 384000 Hz"):
            recognizer.create_stream().accept_waveform(np.zeros(10), rate)
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.accept_waveform(np.zeros(10), 8000)


def test_a_caller_may_use_its_buffer_again(model):
    recognizer = Recognizer(model)
    stream, buffer = recognizer.create_stream(), np.empty(1600, np.float32)
    for start in range(0, len(SPEECH) - 1600, 1600):
        buffer[:] = SPEECH[start : start + 1600]
        stream.accept_waveform(buffer)
    buffer[:] = 0
    stream.finish()
    recognizer.decode([stream])
    assert stream.pop_segments()[0].text == "a b a"


def test_damaged_folders_are_told_in_one_sentence(tmp_path, folder):
    with pytest.raises(UserError, match="missing"):
        load_exported(tmp_path / "absent")
    with pytest.raises(UserError, match="--int8"):
        load_exported(folder, int8=True)
    damages = {
        "model.json": [("not JSON", "{"), ("format 7", '{"format": 7}'), ("damaged", '{"format": 1, "type": "nemo"}')],
        "tokens.txt": [("line 2", "a 0\nb 2\n"), ("do not fit", "a 0\n")],
        "encoder.onnx": [("cannot be loaded", "x")],
    }
    for name, cases in damages.items():
        for word, content in cases:
            bad = save_folder(tmp_path / name.replace(".", "_"))
            (bad / name).write_text(content, encoding="utf-8")
            with pytest.raises(UserError, match=word) as refused:
                load_exported(bad)
            assert "\n" not in str(refused.value)
    (bad / "encoder.onnx").unlink()
    with pytest.raises(UserError, match="encoder.onnx is missing"):
        load_exported(bad)


def test_searches_that_cannot_be_are_refused(model):
    for changed, word in ((dict(kind="best"), "greedy, beam"), (dict(kind="beam", beam=0), "decode.beam is 0")):
        with pytest.raises(UserError, match=word):
            Recognizer(model, replace(model.decode, **changed))
    assert json.dumps(recognize(Recognizer(model), SPEECH)[0].to_dict())
