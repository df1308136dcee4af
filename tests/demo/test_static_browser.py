"""The page without a server in headless Chromium: features, searches and results against the Python runtime's."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from support.browser import fake_microphone, opened
from support.export_models import config_of, contract_of, random_bundle
from support.loud_model import RATE, SPEECH

from residualformer.config.schema import DecodeConfig, FeatureConfig
from residualformer.data.fbank import compute_fbank
from residualformer.demo.static_page import feature_settings, page_settings, write_static_page
from residualformer.export.folder import write_folder
from residualformer.runtime import ENDPOINT_RULES, Recognizer, load_exported
from residualformer.runtime.settings import read_settings

# Speech-like noise: bursts of several levels, and digital silence.
NOISE = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
NOISE *= np.repeat(np.float32([0.1, 0.001, 0.3, 0.0, 0.03] * 4), RATE // 4)

ARRAY = "(text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer)"
FEATURES = f"""async ([settings, encoded, block]) => {{
  const {{ OnlineFbank }} = await import("./fbank.js");
  const samples = ({ARRAY})(encoded), fbank = new OnlineFbank(settings), frames = [];
  for (let start = 0; start < samples.length; start += block) {{
    fbank.accept(samples.subarray(start, start + block));
    frames.push(...fbank.pop());
  }}
  fbank.finish();
  return [...frames, ...fbank.pop()].map((frame) => [...frame]);
}}"""
RESAMPLED = f"""async ([from, to, encoded, block]) => {{
  const {{ Resampler }} = await import("./resampler.js");
  const samples = ({ARRAY})(encoded), resampler = new Resampler(from, to), found = [];
  for (let start = 0; start < samples.length; start += block) {{
    found.push(...resampler.resample(samples.subarray(start, start + block)));
  }}
  return [...found, ...resampler.resample(new Float32Array(0), true)];
}}"""
SEGMENTS = f"""async ([searchSettings, encoded, block]) => {{
  const {{ loadModel }} = await import("./model.js"), {{ createSearch }} = await import("./search.js");
  const {{ Recognizer }} = await import("./recognizer.js");
  const settings = await (await fetch("settings.json")).json(), samples = ({ARRAY})(encoded);
  globalThis.loaded ??= await loadModel(settings.model);
  const search = await createSearch(globalThis.loaded, searchSettings);
  const recognizer = new Recognizer(globalThis.loaded, search, settings, settings.features.sample_rate_hz);
  const segments = [], branches = [];
  const take = (message) => {{
    segments.push(...message.segments);
    branches.push(message.branch);
  }};
  for (let start = 0; start < samples.length; start += block) {{
    take(await recognizer.accept(samples.subarray(start, start + block), performance.now()));
  }}
  take(await recognizer.finish());
  return {{ segments, branches }};
}}"""
OUTSIDE = """() => new Promise((resolve) => {
  document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
  fetch("http://127.0.0.1:9/").catch(() => {});
})"""


def encoded(samples: np.ndarray) -> str:
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


@pytest.fixture(scope="module")
def loud_site(folder, onnxruntime_web, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("loud") / "site"
    write_static_page(folder, out, package=onnxruntime_web)
    return out


@pytest.fixture
def page(loud_site, site, folder):
    heard = folder / "microphone.wav"
    silence = np.zeros(4 * RATE, np.float32)
    soundfile.write(heard, np.concatenate([SPEECH, silence]), RATE, subtype="PCM_16")
    with site(loud_site) as address, opened(address, *fake_microphone(heard), expected="127.0.0.1:9") as page:
        page.locator("#state", has_text="ready").wait_for()
        yield page


def test_files_are_read_and_a_microphone_is_heard(page, folder):
    soundfile.write(folder / "stereo.flac", np.stack([SPEECH, SPEECH], 1), RATE)
    (folder / "broken.wav").write_text("no audio")
    assert page.inner_text("#model") == "loud" and page.is_hidden("#branches") and page.is_hidden("#hotwords")
    page.set_input_files("#files", [str(folder / "speech.wav"), str(folder / "stereo.flac")])
    page.locator("#text .segment").nth(1).wait_for()
    assert page.locator("#text .segment").all_inner_texts() == ["a b a"] * 2
    assert page.locator("#text .name").all_inner_texts() == ["speech.wav", "stereo.flac"]
    assert float(page.inner_text("#rtf")) > 0 and page.inner_text("#latency").endswith(" ms")
    page.set_input_files("#files", [str(folder / "broken.wav")])
    page.locator("#state", has_text="broken.wav: ").wait_for()
    page.click("#microphone")
    page.locator("#text .segment").nth(2).wait_for()  # the rule for silence holds
    page.click("#microphone")
    # On a busy machine Chromium drops parts of what it plays, so that words may be missing; files are exact, above.
    words = page.locator("#text .segment").nth(2).inner_text().split()
    assert words and {*words} <= {"a", "b"}
    assert page.evaluate(OUTSIDE) == "connect-src"


@pytest.mark.parametrize(
    "config",
    [
        FeatureConfig(preset="sherpa"),
        FeatureConfig(preset="kaldi", num_mel_bins=40, level="normalized"),
        FeatureConfig(preset="kaldi", sample_rate_hz=8000, num_mel_bins=23),
    ],
    ids=["sherpa", "kaldi, level", "telephone"],
)
def test_features_equal_those_of_kaldi_native_fbank(page, config):
    for samples, block in ((NOISE, 1777), (NOISE[:300], 7), (NOISE[:0], 1)):
        expected = compute_fbank(samples, config)
        found = np.array(page.evaluate(FEATURES, [feature_settings(config), encoded(samples), block]))
        # Both are natural logarithms; the other one's Fourier transform is of float32, with 24 bits.
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=2e-3)
        assert np.abs(found.reshape(expected.shape) - expected).sum() <= 2e-5 * expected.size


@pytest.mark.parametrize("from_hz", [48000, 44100, 8000])
def test_resampling_is_that_of_soxr_within_the_band_of_both(page, from_hz):
    time = np.arange(from_hz) / from_hz
    tones = sum(0.1 * np.sin(2 * np.pi * hz * time + hz) for hz in (100, 1000, 3300)).astype(np.float32)
    found = np.array(page.evaluate(RESAMPLED, [from_hz, RATE, encoded(tones), 1000]))
    expected = soxr.resample(tones, from_hz, RATE)
    assert len(found) == len(expected) == RATE
    inside = slice(RATE // 20, -RATE // 20)  # both filters reach beyond the ends
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-4)  # -90 dB of ripple, of three tones
    assert page.evaluate(RESAMPLED, [from_hz, RATE, encoded(tones), 333]) == found.tolist()
    high = (0.3 * np.sin(2 * np.pi * 0.9 * from_hz / 2 * time)).astype(np.float32)
    if from_hz > RATE:  # beyond the band of the model
        assert np.abs(page.evaluate(RESAMPLED, [from_hz, RATE, encoded(high), 1000])[800:-800]).max() < 1e-4


MODELS = {
    "residual": (config_of(), "nemo"),
    "stateless": (config_of(predictor="three labels", preset="kaldi"), "ebranchformer"),
    "sparse branches": (config_of("sparse branches"), "nemo"),
}
SEARCHES = {
    "greedy": DecodeConfig(kind="greedy"),
    "beam": DecodeConfig(kind="beam", beam=4, nbest=1),
    "other greedy": DecodeConfig(kind="greedy", blank_penalty=1.0, token_reward=0.3, max_symbols=2, restart_s=0.2),
    "other beam": DecodeConfig(
        kind="beam", beam=3, nbest=1, blank_penalty=0.5, token_reward=-0.5, length_norm=True, restart_s=0.2
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_results_equal_those_of_the_python_runtime(name, site, onnxruntime_web, tmp_path):
    config, kind = MODELS[name]
    bundle = random_bundle(config)
    (tmp_path / "export").mkdir()
    write_folder(tmp_path / "export", name, bundle, contract_of(bundle.model, kind), "factored", int8=False)
    write_static_page(tmp_path / "export", tmp_path / "site", package=onnxruntime_web)
    settings, model = read_settings(tmp_path / "export"), load_exported(tmp_path / "export")
    with site(tmp_path / "site") as address, opened(address) as page:
        page.locator("#state", has_text="ready").wait_for()
        for label, decode in SEARCHES.items():
            asked = page_settings(settings, model, decode, "fp32")["search"]
            recognizer = Recognizer(model, decode, ENDPOINT_RULES)
            stream = recognizer.create_stream()
            stream.accept_waveform(NOISE)
            stream.finish()
            recognizer.decode([stream])
            expected = stream.pop_segments()
            found = page.evaluate(SEGMENTS, [asked, encoded(NOISE), 4001])
            assert [each["tokens"] for each in found["segments"]] == [each.tokens for each in expected], label
            for mine, other in zip(found["segments"], expected, strict=True):
                assert mine["text"] == other.text and len(mine["latencies"]) == len(other.tokens) > 0
                assert (mine["start"], mine["end"]) == pytest.approx((other.start, other.end), abs=0.006)  # rounded
                np.testing.assert_allclose(mine["times"], other.times, rtol=0, atol=0.006)
                # Sums over some hundred frames of values that agree within 1e-4.
                assert mine["score"] == pytest.approx(other.score, abs=1e-2), label
        branches = {*found["branches"]}
        assert branches == {0, 1} if model.num_branches > 1 else branches == {None}
    assert json.loads((tmp_path / "site" / "settings.json").read_text())["model"]["name"] == name
