"""PyTorch, onnxruntime and sherpa-onnx on the same audio, and the step that exports nothing else than what agrees."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import onnx
import pytest
import soundfile
from onnx import numpy_helper
from support.export_models import config_of, contract_of, random_bundle
from support.programs import run_program

from residualformer.errors import UserError
from residualformer.export.audio import noise, utterances_of_cuts
from residualformer.export.check import CheckAudio, check_folder, sherpa_recognizer, steps, with_tail
from residualformer.export.folder import write_folder
from residualformer.model.checkpoint import save_model
from residualformer.optional import is_installed

AUDIO = [CheckAudio(f"noise-{seed}", noise(16000, seed)[0].samples[: 16000 + 7000 * seed]) for seed in range(3)]
KINDS = {
    "nemo": ("lstm", "sherpa"),
    "nemo, stateless": ("three labels", "sherpa"),
    "ebranchformer": ("three labels", "kaldi"),
}


def folder_of(path, kind: str, encoder: str = "residual", int8: bool = False):
    """(settings, bundle, contract) of a folder that is written to `path`."""
    bundle = random_bundle(config_of(encoder, *KINDS[kind][:1], preset=KINDS[kind][1]))
    contract = contract_of(bundle.model, kind.split(",")[0])
    return write_folder(path, "toy", bundle, contract, "factored", int8), bundle, contract


@pytest.mark.parametrize("encoder", ["residual", "depths", "lstm", "sparse branches"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_programs_write_the_same_tokens(tmp_path, kind, encoder):
    settings, bundle, contract = folder_of(tmp_path, kind, encoder, int8=True)
    report = check_folder(tmp_path, settings, bundle, contract, AUDIO)
    assert report.utterances == 3 and report.tokens > 20
    programs = ["onnxruntime", *(["sherpa-onnx"] if is_installed("sherpa_onnx") else [])]
    assert report.differing["fp32"] == dict.fromkeys(programs, 0)
    assert list(report.differing["int8"]) == programs


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_off_is_found(tmp_path, kind):
    settings, bundle, contract = folder_of(tmp_path, kind)
    model = onnx.load(tmp_path / "encoder.onnx")
    mean = next(tensor for tensor in model.graph.initializer if tensor.name == "mean")
    mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + 2, "mean"))
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(UserError, match=r"^utterance noise-\d: onnxruntime writes .* as token \d+ where PyTorch"):
        check_folder(tmp_path, settings, bundle, contract, AUDIO)


def test_steps_are_those_of_sherpa_onnx():
    """ceil((T - window) / shift), and none where there is not one frame more than the window."""
    assert list(steps(33, 32, 16)) == [0] and not steps(32, 32, 16)
    for num_frames in range(0, 200, 7):
        assert len(steps(num_frames, 32, 16)) == max(0, -(-(num_frames - 32) // 16))


@pytest.mark.parametrize("kind", ["nemo", "ebranchformer"])
def test_the_tail_lets_every_frame_through(tmp_path, kind):
    settings, *_ = folder_of(tmp_path, kind)
    window, shift = settings.window, settings.shift
    for num_samples in range(160, 160 * 40, 80):
        frames = len(with_tail(np.zeros(num_samples, np.float32), settings)) // 160
        assert len(steps(frames, window, shift)) * shift >= round(num_samples / 160)


@pytest.mark.parametrize("kind", KINDS)
def test_sherpa_onnx_serves_several_streams_at_once(tmp_path, kind):
    pytest.importorskip("sherpa_onnx")
    settings, *_ = folder_of(tmp_path, kind)
    recognizer = sherpa_recognizer(tmp_path, settings)

    def streams():
        for utterance in AUDIO:
            stream = recognizer.create_stream()
            stream.accept_waveform(16000, with_tail(utterance.samples, settings))
            stream.input_finished()
            yield stream

    alone, together = list(streams()), list(streams())
    for stream in alone:
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    while ready := [stream for stream in together if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready)
    assert [recognizer.tokens(stream) for stream in alone] == [recognizer.tokens(stream) for stream in together]
    assert all(recognizer.tokens(stream) for stream in alone)


@pytest.mark.parametrize("kind", ["nemo", "ebranchformer"])
def test_sherpa_onnx_searches_with_a_beam(tmp_path, kind):
    pytest.importorskip("sherpa_onnx")
    settings, *_ = folder_of(tmp_path, kind)
    recognizer = sherpa_recognizer(tmp_path, settings, decoding_method="modified_beam_search")
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, with_tail(AUDIO[0].samples, settings))
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    assert recognizer.tokens(stream)


def test_sherpa_onnx_takes_hotwords_as_text(tmp_path):
    """As text with `bpe.vocab` they have the effect that they have spelled out in tokens."""
    pytest.importorskip("sherpa_onnx")
    settings, bundle, *_ = folder_of(tmp_path, "nemo")
    word = "".join(bundle.tokenizer.pieces[-3:])
    beam = {"decoding_method": "modified_beam_search", "max_active_paths": 8, "hotwords_score": 3.0}
    by_text = {"modeling_unit": "bpe", "bpe_vocab": str(tmp_path / "bpe.vocab")}

    def heard(hotwords: str | None, **options) -> list[str]:
        recognizer = sherpa_recognizer(tmp_path, settings, **beam, **options)
        stream = recognizer.create_stream(hotwords)
        stream.accept_waveform(16000, with_tail(AUDIO[0].samples, settings))
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        return recognizer.tokens(stream)

    spelled = heard(" ".join(["▁", *word]))
    assert heard(word, **by_text) == spelled != heard(None)


def run_step(*arguments: object) -> subprocess.CompletedProcess:
    return run_program("steps/export.py", *arguments)


@pytest.fixture
def run(tmp_path):
    """A run folder with a random model and a score."""
    bundle = random_bundle(config_of())
    folder = tmp_path / "exp" / "toy"
    (folder / "decode_test_greedy").mkdir(parents=True)
    save_model(folder / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, bundle.info)
    rate = {"value": 12.5, "low": 10, "high": 15}
    score = {"search": "greedy", "utterances": 7, "wer": rate, "decoding": {"cuts": "x"}}
    (folder / "decode_test_greedy" / "score.json").write_text(json.dumps(score))
    return folder


def test_the_step_writes_a_checked_folder(run, tmp_path):
    soundfile.write(tmp_path / "speech.wav", AUDIO[0].samples, 16000)
    done = run_step(run, "--int8", "--weights", "merged", "--check-audio", tmp_path / "speech.wav")
    assert done.returncode == 0, done.stderr
    assert "write the same tokens" in done.stdout and ", on 1 utterance, " in done.stdout
    assert f"-> {run / 'export'}" in done.stdout
    names = {path.name for path in (run / "export").iterdir()}
    models = {f"{part}{kind}.onnx" for part in ("encoder", "decoder", "joiner") for kind in ("", ".int8")}
    assert names == models | {"tokens.txt", "bpe.vocab", "model.json", "check.json", "README.md"}
    card = (run / "export" / "README.md").read_text(encoding="utf-8")
    assert "trained on: noise" in card and "| WER | 12.50 | 10.00 to 15.00 |" in card
    assert 'encoder="encoder.int8.onnx"' in card
    check = json.loads((run / "export" / "check.json").read_text())
    assert check["utterances"] == 1 and check["tokens"] > 0 and check["differing"]["fp32"]["onnxruntime"] == 0


def test_a_folder_searches_as_a_configuration_asks_that_changed_after_the_training(run, tmp_path):
    soundfile.write(tmp_path / "speech.wav", AUDIO[0].samples, 16000)
    (tmp_path / "changed.yaml").write_text("decode:\n  beam: 2\n  blank_penalty: 1.5\n  token_reward: 0.5\n")
    options = ["--config", tmp_path / "changed.yaml", "--set", "decode.max_symbols=3", "--set", "encoder.dim=144"]
    done = run_step(run, "--check-audio", tmp_path / "speech.wav", *options)
    assert done.returncode == 0, done.stderr
    decode = json.loads((run / "export" / "model.json").read_text())["decode"]
    assert (decode["beam"], decode["blank_penalty"], decode["max_symbols"]) == (2, 1.5, 3)
    assert decode["token_reward"] == 0.5
    card = (run / "export" / "README.md").read_text(encoding="utf-8")
    assert "--blank-penalty=2 audio.wav" in card and "    blank_penalty=2,\n" in card


def test_the_step_refuses_in_one_sentence_and_leaves_nothing(run, tmp_path):
    for arguments, message in (
        (["--type", "nemmo"], "--type nemmo is unknown"),
        (["--check-cuts", tmp_path / "none.jsonl.gz"], "none.jsonl.gz is missing"),
    ):
        done = run_step(run, *arguments)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (run / "export").exists()


def test_cuts_whose_audio_is_gone_are_named(tmp_path):
    from lhotse import CutSet, MonoCut, Recording
    from lhotse.audio import AudioSource

    source = AudioSource("file", [0], str(tmp_path / "gone.wav"))
    recording = Recording("gone", [source], sampling_rate=16000, num_samples=16000, duration=1.0)
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts([MonoCut("gone-1", 0.0, 1.0, 0, recording=recording)]).to_file(path)
    with pytest.raises(UserError, match="the audio of cut gone-1 cannot be read"):
        utterances_of_cuts(path, 10, 16000)
