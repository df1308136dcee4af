"""`residualformer.load`: the same interface, and the same words, for a run folder and an exported one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from support.audio import tone
from support.exported import RATE, random_bundle, run_and_export, utterances

import residualformer
from residualformer.errors import UserError
from residualformer.library import trained
from residualformer.library.sound import Sound
from residualformer.library.transcript import Transcript


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run folder and its export, and a folder of recordings in files."""
    folder = tmp_path_factory.mktemp("library")
    bundle = random_bundle("transformer", "lstm", "sherpa")
    run_and_export(bundle, folder)
    for number, samples in enumerate(utterances()):
        soundfile.write(folder / f"{number}.wav", samples, RATE, subtype="FLOAT")
    return folder


@pytest.fixture(params=["run", "export"])
def model(request, folders):
    return residualformer.load(folders / request.param)


def known(text: str) -> str:
    """An exported folder spells the unknown token as sherpa-onnx does."""
    return text.replace("<UNK>", "<unk>")


def same(found: Transcript, expected: Transcript) -> None:
    assert (known(found.text), found.times) == (known(expected.text), expected.times)
    assert list(map(known, found.tokens)) == list(map(known, expected.tokens))
    if found.tokens:  # a stream forgets a segment without any
        assert found.score == pytest.approx(expected.score, abs=2e-3)  # sums of float32 log-probabilities
    assert [known(word.word) for word in found.words] == [known(word.word) for word in expected.words]
    assert [word.confidence for word in found.words] == pytest.approx([w.confidence for w in expected.words], abs=2e-3)


@pytest.mark.parametrize("options", [{}, {"beam": 4}, {"greedy": True}], ids=str)
def test_run_and_export_say_the_same(folders, options):
    run, export = (residualformer.load(folders / name, **options) for name in ("run", "export"))
    expected = [run.transcribe(samples, RATE) for samples in utterances()]
    assert sum(len(each.text) for each in expected) > 20 and all(each.words for each in expected if each.text.strip())
    for samples, one in zip(utterances(), expected, strict=True):
        same(export.transcribe(samples, RATE), one)
        assert (one.start, one.end) == (0.0, round(len(samples) / RATE, 3))
        assert all(0 <= word.start < word.end <= one.end + 1e-9 for word in one.words)


def test_many_are_one_by_one_in_their_order(folders, model):
    paths = [folders / f"{number}.wav" for number in (1, 0, 3, 2, 1)]
    alone = [model.transcribe(path) for path in paths]
    together = list(model.transcribe_many(paths))
    for found, expected in zip(together, alone, strict=True):
        same(found, expected)
    arrays = [utterances()[number] for number in (1, 0, 3, 2, 1)]
    for found, expected in zip(model.transcribe_many(arrays, RATE), alone, strict=True):
        same(found, expected)


def test_a_stream_hears_what_the_whole_says(model):
    for samples in utterances():
        stream = model.stream()
        texts = []
        for start in range(0, len(samples), 1234):
            stream.accept(samples[start : start + 1234], RATE)
            texts.append(stream.partial().text)
        stream.finish()
        whole = model.transcribe(samples, RATE)
        segments = list(stream)
        assert [segment.text for segment in segments] == ([whole.text] if whole.tokens else [])
        for segment in segments:
            same(segment, whole)
        assert list(stream) == [] and len(texts[-1]) <= len(whole.text) + 3


def test_endpoints_close_segments(model):
    """After 20 s at the latest: this model is never silent."""
    stream = model.stream(endpoints=True)
    for _ in range(8):
        stream.accept(utterances()[1], RATE)
    (first,) = stream
    assert first.start == 0 and first.end == pytest.approx(20.0, abs=0.5)
    assert list(stream) == [] and stream.partial().start == first.end
    stream.finish()
    (second,) = stream
    assert second.start == first.end and second.end == pytest.approx(8 * 3.1, abs=0.05)
    assert first.words and second.words and second.words[0].start >= second.start


def test_batches_are_bounded_in_seconds_and_a_bad_file_stays_in_its_place(folders, tmp_path, monkeypatch):
    model = residualformer.load(folders / "run", greedy=True)
    sizes: list[tuple[int, int]] = []
    encode_batch = trained.encode_batch

    def counting(network, features):
        sizes.append((len(features), max(map(len, features))))
        return encode_batch(network, features)

    monkeypatch.setattr(trained, "encode_batch", counting)
    object.__setattr__(model.decode, "max_batch_s", 4.0)
    (tmp_path / "bad.wav").write_bytes(b"no audio at all")
    paths = [folders / f"{n % 4}.wav" for n in range(23)] + [tmp_path / "bad.wav", tmp_path / "none.wav"]
    order = np.random.default_rng(0).permutation(len(paths))
    outcomes = list(model.transcribe_many([paths[n] for n in order], errors="return"))
    assert all(frames * count <= 400 for count, frames in sizes) and max(count for count, _ in sizes) > 4
    assert sum(count for count, _ in sizes) == 23
    for n, outcome in zip(order, outcomes, strict=True):
        if n >= 23:
            assert isinstance(outcome, UserError) and paths[n].name in str(outcome)
        else:
            same(outcome, model.transcribe(paths[n]))
    with pytest.raises(UserError, match="bad.wav cannot be read"):
        list(model.transcribe_many([paths[0], tmp_path / "bad.wav"]))


def test_the_first_batch_comes_before_later_files_are_read(folders, monkeypatch):
    model = residualformer.load(folders / "run", greedy=True)
    object.__setattr__(model.decode, "max_batch_s", 1.0)
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield folders / "1.wav"

    assert next(model.transcribe_many(endless())).text
    assert len(asked) <= trained.BATCHES_AHEAD


SAMPLES = utterances()[0]
SHAPES = {
    "channels first": np.stack([SAMPLES, SAMPLES]),
    "channels last": np.stack([SAMPLES, SAMPLES], axis=1),
    "one channel, first": SAMPLES[None],
    "one channel, last": SAMPLES[:, None],
    "float64": SAMPLES.astype(np.float64),
    "float32": SAMPLES,
    "a list": SAMPLES.tolist(),
}


@pytest.mark.parametrize("name", SHAPES)
def test_orientation_and_type_are_told_apart(model, name):
    expected = model.transcribe(SAMPLES, RATE)
    same(model.transcribe(SHAPES[name], RATE), expected)
    stream = model.stream()
    stream.accept(SHAPES[name], RATE)
    stream.finish()
    (segment,) = stream
    same(segment, expected)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_integers_are_full_scale(model, dtype):
    scaled = (SAMPLES * -float(np.iinfo(dtype).min)).round().astype(dtype)
    expected = model.transcribe(scaled / -np.float32(np.iinfo(dtype).min), RATE)
    same(model.transcribe(scaled, RATE), expected)


def test_channels_are_heard_one_by_one(folders, model, tmp_path):
    left, right = utterances()[0], utterances()[1][: len(utterances()[0])]
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    for channel, samples in enumerate((left, right)):
        expected = model.transcribe(samples, RATE)
        same(model.transcribe(tmp_path / "call.wav", channel=channel), expected)
        same(model.transcribe(np.stack([left, right]), RATE, channel=channel), expected)
        same(next(model.transcribe_many([Sound(tmp_path / "call.wav", channel=channel)])), expected)
    with pytest.raises(UserError, match=r"call.wav has 2 channels, from 0; there is no channel 2"):
        model.transcribe(tmp_path / "call.wav", channel=2)


BAD = {
    "give it in Hz": (SAMPLES, None),
    "looks like 16-bit integers as floats: divide by 32768": (SAMPLES * 32768, RATE),
    "not finite": (np.append(SAMPLES, np.nan), RATE),
    r"\(100, 100\) is neither clearly": (np.zeros((100, 100), np.float32), RATE),
    r"\(65, 1000\) is neither clearly": (np.zeros((65, 1000), np.float32), RATE),
    r"given is \(1, 2, 3\)": (np.zeros((1, 2, 3), np.float32), RATE),
    "or unsigned ones of 8; given is int64": (np.zeros(1000, np.int64), RATE),
    "or unsigned ones of 8; given is uint16": (np.zeros(1000, np.uint16), RATE),
    "sampling rate of 16 Hz": (SAMPLES, 16),
    "too short": (np.zeros(40, np.float32), RATE),
    "x.wav is not a file": ("x.wav", None),
    "x.wav, whose header has one": ("x.wav", RATE),
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_no_audio_is_refused(model, words):
    with pytest.raises(UserError, match=words):
        model.transcribe(*BAD[words])


def test_the_number_of_channels_of_a_stream_stays(model):
    stream = model.stream()
    stream.accept(np.zeros((1000, 2), np.float32), RATE)
    stream.accept(np.zeros((1, 2), np.float32), RATE)  # one sample of two channels
    assert stream.received_s == 1001 / RATE
    with pytest.raises(UserError, match=r"shape \(1000, 3\) comes after audio of 2 channels"):
        stream.accept(np.zeros((1000, 3), np.float32), RATE)


def test_hotwords_help_alike(folders):
    found = []
    for name in ("run", "export"):
        model = residualformer.load(folders / name, beam=4)
        names = model.hotwords(["cab :4", "bead"])
        plain, helped = (model.transcribe(utterances()[1], RATE, context=context) for context in (None, names))
        assert helped.text != plain.text and helped.context > 0 == plain.context
        stream = model.stream(context=names)
        stream.accept(utterances()[1], RATE)
        stream.finish()
        (segment,) = stream
        same(segment, helped)
        found.append(helped)
    same(*found)
    with pytest.raises(UserError, match="the model writes no 'C'"):
        model.hotwords(["Cab"])


def test_a_grammar_restricts_alike_and_judges_by_greedy_search(folders, tmp_path):
    pytest.importorskip("kaldifst", reason="compiling grammars needs kaldifst")
    words = "sentences: ['{first=any} [{rest=words}]']\nrules:\n  words: {repeat: <any>}\n"
    (tmp_path / "words.yaml").write_text(words)
    found = []
    for name in ("run", "export"):
        model, greedy = (residualformer.load(folders / name, **options) for options in ({"beam": 4}, {"greedy": True}))
        grammar = model.grammar(tmp_path / "words.yaml", reject=1e6)
        for samples in utterances()[:2]:
            one, free = model.transcribe(samples, RATE, context=grammar), greedy.transcribe(samples, RATE)
            first, _, rest = one.text.partition(" ")
            slots = {"first": first, "rest": rest} if rest else {"first": first}
            assert one.verdict.match and one.slots == slots and one.words
            seconds = max(free.times[-1] - free.times[0] + model._model.stride / 100, 0.5)
            assert one.verdict.distance == pytest.approx((free.score - one.score) / seconds, abs=1e-3)  # rounded
            stream = model.stream(context=grammar)
            stream.accept(samples, RATE)
            stream.finish()
            (segment,) = stream
            same(segment, one)
            assert segment.slots == one.slots
            found.append(one)
        (tmp_path / "long.txt").write_text("a b c d e " * 50)
        refused = model.transcribe(samples, RATE, context=model.grammar(tmp_path / "long.txt"))
        assert (refused.text, refused.score, refused.words, refused.slots) == ("", None, [], {})
        assert not refused.verdict.match and refused.verdict.distance is None
        with pytest.raises(UserError, match="a grammar needs beam search"):
            greedy.grammar(tmp_path / "words.yaml")
    for run, export in zip(found[:2], found[2:], strict=True):
        same(export, run)
        assert export.verdict.distance == pytest.approx(run.verdict.distance, abs=0.01)


def test_unknown_options_and_models_are_refused_with_the_closest_name(folders):
    with pytest.raises(UserError, match="there is no option 'thread'. Did you mean 'threads'?"):
        residualformer.load(folders / "run", thread=4)
    with pytest.raises(UserError, match="runn does not exist. Did you mean 'run'?"):
        residualformer.load(folders / "runn")
    with pytest.raises(UserError, match="contradict each other"):
        residualformer.load(folders / "run", beam=2, greedy=True)
    with pytest.raises(UserError, match="int8 needs an exported folder"):
        residualformer.load(folders / "run", int8=True)
    with pytest.raises(UserError, match="device cuda: an exported folder runs on the CPU"):
        residualformer.load(folders / "export", device="cuda")
    with pytest.raises(UserError, match="errors is 'ignore'"):
        residualformer.load(folders / "export").transcribe_many([], errors="ignore")
    with pytest.raises(UserError, match="a list of recordings, not the single path a.wav: use transcribe"):
        residualformer.load(folders / "export").transcribe_many("a.wav")


def test_other_rates_are_resampled(model, tmp_path):
    rate, samples = 44100, tone(44100, 1.3)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    same(model.transcribe(samples, rate), model.transcribe(tmp_path / "a.wav"))


def test_the_import_is_light(root):
    code = (
        "import sys, residualformer\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'soundfile', 'lhotse', 'yaml'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_run_folder_without_torch_tells_how_to_install_it(root, folders):
    code = (
        "import sys, residualformer\n"
        "from residualformer.errors import UserError\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(f\"No module named '{name}'\", name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        f"print(residualformer.load({str(folders / 'export')!r}).transcribe({str(folders / '1.wav')!r}).text)\n"
        "try:\n"
        f"    residualformer.load({str(folders / 'run')!r})\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text, error = done.stdout.splitlines()
    assert text and error == "torch is not installed; to get it: pip install '.[train]' in the repository"
