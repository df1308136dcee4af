"""Error rates of exported files beside those of PyTorch, and the warning about a precision that loses accuracy."""

from __future__ import annotations

import json
from dataclasses import replace

import jiwer
import numpy as np
import onnx
import pytest
import sacrebleu
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from onnx import numpy_helper
from support.export_models import config_of, contract_of, random_bundle
from support.programs import run_program

from residualformer.data.fbank import compute_fbank
from residualformer.decode.recognize import recognize
from residualformer.export.audio import noise
from residualformer.export.check import CheckAudio
from residualformer.export.folder import write_folder
from residualformer.export.rates import PrecisionRate, Rates, measure_rates, rate_lines, rate_warnings
from residualformer.metrics.bootstrap import NO_GAP, Gap, Score
from residualformer.model.checkpoint import save_model

COUNT = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder, settings, bundle; and utterances whose references are what PyTorch writes."""
    folder = tmp_path_factory.mktemp("exported")
    bundle = random_bundle(config_of())
    settings = write_folder(folder, "toy", bundle, contract_of(bundle.model, "nemo"), "factored", int8=True)
    samples = [noise(16000, seed)[0].samples[: 20000 + 3000 * seed] for seed in range(COUNT)]
    features = [compute_fbank(each, bundle.config.features) for each in samples]
    found = [recognize(bundle.model, replace(bundle.config.decode, kind="greedy"), [x])[0] for x in features]
    texts = [bundle.tokenizer.decode(each.nbest[0].tokens) for each in found]
    assert all(texts) and len(set(texts)) == COUNT
    audio = [CheckAudio(f"noise-{n}", *pair) for n, pair in enumerate(zip(samples, texts, strict=True))]
    return folder, settings, bundle, audio


def spoil(folder, name: str) -> None:
    """Change the mean that a file takes from the features."""
    model = onnx.load(folder / name)
    mean = next(tensor for tensor in model.graph.initializer if tensor.name == "mean")
    mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + 2, "mean"))
    onnx.save(model, folder / name)


def with_errors(audio: list[CheckAudio]) -> list[CheckAudio]:
    """The references of every third utterance lack what is written, or have a word more."""
    return [each._replace(reference=f"{each.reference} word") if n % 3 == 0 else each for n, each in enumerate(audio)]


def test_the_files_have_the_error_rate_of_pytorch(written):
    folder, settings, bundle, audio = written
    wrong = with_errors(audio)
    rates = measure_rates(folder, settings, bundle, wrong)
    expected = 100 * jiwer.wer([each.reference for each in wrong], [each.reference for each in audio])
    assert (rates.metric, rates.utterances) == ("WER", COUNT)
    assert rates.trained.value == round(expected, 2) > 0
    fp32 = rates.exported["fp32"]
    assert fp32.score == rates.trained and fp32.differing == 0 and fp32.gap.relative == 0
    lines = rate_lines(rates)
    assert lines[0].startswith(f"WER {expected:.2f}% in PyTorch, {COUNT} utterances")
    assert lines[1] == f"WER {expected:.2f}% in fp32, 0 utterances unlike PyTorch" and "in int8" in lines[2]


def test_a_translation_is_scored_by_bleu(written):
    folder, settings, bundle, audio = written
    rates = measure_rates(folder, replace(settings, target="translation"), bundle, wrong := with_errors(audio))
    texts, references = ([each.reference for each in utterances] for utterances in (audio, wrong))
    expected = sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score
    assert rates.metric == "BLEU" and rates.trained.value == round(expected, 2)
    assert rate_lines(rates)[1].startswith(f"BLEU {expected:.2f} in fp32")


def test_without_references_there_are_no_rates(written):
    folder, settings, bundle, audio = written
    rates = measure_rates(folder, settings, bundle, [each._replace(reference=None) for each in audio])
    assert rates == Rates("WER") and not rate_warnings(rates)
    assert "give transcribed cuts with --check-cuts" in rate_lines(rates)[0]


def rate_of(relative: float | None, low: float, value: float = 20.0, differing: int = 1) -> PrecisionRate:
    gap = NO_GAP if relative is None else Gap(relative=relative, relative_low=low, relative_high=60, p_value=0.5)
    return PrecisionRate(Score(value=value, low=0, high=99), gap, differing)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (rate_of(5.0, 1.0), None),
        (rate_of(5.1, 1.0), "+5.1% relative"),
        (rate_of(30, -2.0), "too few to be sure"),
        (rate_of(-30, -60.0), None),
        (rate_of(None, 0), "WER 20.00%"),  # PyTorch makes no errors
        (rate_of(None, 0, value=0.0, differing=0), None),
    ],
)
def test_more_than_five_percent_is_warned_of(rate, words):
    warnings = rate_warnings(Rates("WER", 200, Score(value=10.0, low=9, high=11), {"int8": rate}))
    assert len(warnings) == (words is not None)
    if words is not None:
        assert words in warnings[0] and "Use the fp32 files" in warnings[0] and "instead of WER 10.00%" in warnings[0]
        assert ("too few" in warnings[0]) == (rate.gap.relative_low is None or rate.gap.relative_low <= 0)


@pytest.fixture
def run(tmp_path, written):
    """The run folder of a recipe with a dev set of recordings and texts."""
    _, _, bundle, audio = written
    manifests, folder = tmp_path / "data" / "manifests", tmp_path / "exp" / "toy"
    manifests.mkdir(parents=True)
    cuts = []
    for utterance in with_errors(audio):
        path = manifests / f"{utterance.id}.wav"
        soundfile.write(path, utterance.samples, 16000, subtype="FLOAT")
        recording = Recording.from_file(path)
        text = SupervisionSegment(utterance.id, recording.id, 0, recording.duration, text=utterance.reference)
        cuts.append(MonoCut(utterance.id, 0, recording.duration, 0, [text], recording=recording))
    CutSet.from_cuts(cuts).to_file(manifests / "cuts_dev.jsonl.gz")
    folder.mkdir(parents=True)
    save_model(folder / "model.safetensors", bundle.model.state_dict(), bundle.config, bundle.tokenizer, bundle.info)
    return folder


def test_the_step_records_the_rates_of_the_development_set(run, written):
    done = run_program("steps/export.py", run, "--int8", "--num-check", "1", "--num-scored", "7")
    assert done.returncode == 0, done.stderr
    spread = np.linspace(0, COUNT - 1, 7).round().astype(int)
    audio, wrong = written[3], with_errors(written[3])
    expected = 100 * jiwer.wer([wrong[n].reference for n in spread], [audio[n].reference for n in spread])
    assert f"export: WER {expected:.2f}% in PyTorch, 7 utterances" in done.stdout
    rates = json.loads((run / "export" / "check.json").read_text())["rates"]
    assert rates["utterances"] == 7 and list(rates["exported"]) == ["fp32", "int8"]
    assert rates["exported"]["fp32"]["score"]["value"] == rates["trained"]["value"] == round(expected, 2)
    card = (run / "export" / "README.md").read_text(encoding="utf-8")
    assert f"- WER {expected:.2f}% in fp32, 0 utterances unlike PyTorch" in card


def test_int8_that_collapses_is_told(written, tmp_path):
    folder, settings, bundle, audio = written
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path, "encoder.int8.onnx")
    rates = measure_rates(tmp_path, settings, bundle, with_errors(audio))
    assert rates.exported["fp32"].differing == 0 and rates.exported["int8"].differing > COUNT / 2
    (warning,) = rate_warnings(rates)
    assert warning.startswith("int8 loses accuracy: WER ") and "Use the fp32 files" in warning
