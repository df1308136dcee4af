"""The memory-lean runner against onnxruntime on the same files, and what of the files it holds."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.exported import by_runtime, exported, random_bundle, utterances

from residualformer.errors import UserError
from residualformer.runtime import Recognizer, load_exported
from residualformer.runtime.weights import BLOCK_BYTES, MappedWeights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exported folders by type, predictor and weights; each with int8 files."""
    made, root = {}, tmp_path_factory.mktemp("lean")
    for name, predictor, weights in (
        ("nemo", "lstm", "factored"),
        ("nemo", "stateless", "merged"),
        ("ebranchformer", "stateless", "factored"),
    ):
        frame_ms = 40 if predictor == "lstm" else 80
        bundle = random_bundle("transformer", predictor, "sherpa" if name == "nemo" else "kaldi", frame_ms)
        made[name, predictor, weights] = exported(bundle, name, root / f"{name}-{predictor}", weights, int8=True)
    return made


KINDS = [("nemo", "lstm", "factored"), ("nemo", "stateless", "merged"), ("ebranchformer", "stateless", "factored")]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_the_networks_are_those_of_onnxruntime(folders, kind):
    lean, onnxruntime = (load_exported(folders[kind], lean=lean) for lean in (True, False))
    rng = np.random.default_rng(0)
    states = [[model.encoder_state()] * 3 for model in (lean, onnxruntime)]
    full = lean.window
    ragged = [full, 13, 1] if kind[0] == "nemo" else [full] * 3  # the other type's files take no lengths
    for lengths in ([full] * 3, [full] * 3, [full] * 3, ragged):
        features = (rng.standard_normal((3, full, 80)) * 3 - 8).astype(np.float32)
        found = [
            model.encode(features, np.array(lengths), state)
            for model, state in zip((lean, onnxruntime), states, strict=True)
        ]
        states = [new for _, new in found]
        for ours, theirs, length in zip(found[0][0], found[1][0], lengths, strict=True):
            real = -(-min(length, lean.shift) // lean.stride)
            np.testing.assert_allclose(ours[:real], theirs[:real], rtol=1e-4, atol=1e-4)  # values of up to 100
    memories = [[model.predictor_state()] * 2 for model in (lean, onnxruntime)]
    for labels in ([lean.blank] * 2, [1, 2], [3, 1]):
        ours, theirs = (
            model.predict(labels, memory) for model, memory in zip((lean, onnxruntime), memories, strict=True)
        )
        memories = [[state for _, state in found] for found in (ours, theirs)]
        for (out, _), (expected, _) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(out, expected, atol=1e-5)
    x, y = rng.standard_normal((2, 4, len(out))).astype(np.float32)
    np.testing.assert_allclose(lean.join(x, y), onnxruntime.join(x, y), atol=1e-5)


@pytest.mark.parametrize("lean", [False, True])
def test_a_state_that_was_given_is_not_changed(folders, lean):
    """A single stream's arrays are not copied into a batch."""
    model = load_exported(folders[KINDS[0]], lean=lean)
    features = (np.random.default_rng(0).standard_normal((1, model.window, 80)) * 3 - 8).astype(np.float32)
    _, [state] = model.encode(features, np.array([model.window]), [model.encoder_state()])
    frames, [later] = model.encode(features, np.array([model.window]), [state])
    again, [same] = model.encode(features, np.array([model.window]), [state])
    np.testing.assert_array_equal(frames, again)
    assert all(np.array_equal(*parts) for parts in zip(later, same, strict=True))
    _, memory = model.predict([model.blank], [model.predictor_state()])[0]
    ours, theirs = (model.predict([1], [memory])[0][0] for _ in range(2))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("kind", KINDS[1:], ids="-".join)
def test_a_stateless_predictor_answers_once_for_each_history(folders, kind, lean, monkeypatch):
    model = load_exported(folders[kind], lean=lean)
    asked, answer = [], model._predict

    def counted(labels, states):
        asked.extend((label, *(part.tobytes() for part in state)) for label, state in zip(labels, states, strict=True))
        return answer(labels, states)

    monkeypatch.setattr(model, "_predict", counted)
    states, rng = [model.predictor_state()] * 3, np.random.default_rng(0)
    for step in range(30):
        labels = [model.blank] * 3 if step == 0 else rng.integers(0, len(model.pieces) - 1, 3).tolist()
        expected = answer(labels, states)
        found = model.predict(labels, states)
        for (out, state), (other, new) in zip(found, expected, strict=True):
            np.testing.assert_allclose(out, other, rtol=1e-6, atol=1e-6)  # of a batch of another size
            assert all(np.array_equal(*parts) for parts in zip(state, new, strict=True))
        states = [state for _, state in found]
    assert len(asked) == len(set(asked)) < 90
    model._cache.clear()
    monkeypatch.setattr("residualformer.runtime.model.CACHE_SIZE", 5)
    for label in range(len(model.pieces) - 1):
        model.predict([label], [states[0]])
        assert len(model._cache) <= 5
        states = [model.predict([label], [states[0]])[0][1]]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_int8_files_differ_by_their_rounding(folders, kind):
    """Weights of 8 bits are off by up to half of 1/127 of a column's largest, here ten times in a row.

    That is 1% rms each, which a narrow random network amplifies: 2% to 6% come out.
    """
    fine, coarse = (load_exported(folders[kind], lean=True, int8=int8) for int8 in (False, True))
    features = (np.random.default_rng(0).standard_normal((1, fine.window, 80)) * 3 - 8).astype(np.float32)
    exact, rounded = (
        model.encode(features, np.array([model.window]), [model.encoder_state()])[0] for model in (fine, coarse)
    )
    error = np.sqrt(np.square(exact - rounded).mean() / np.square(exact).mean())
    assert 1e-4 < error < 0.1


def test_the_whole_way_is_that_of_onnxruntime(folders):
    signals = utterances()
    found = [
        [s.pop_segments() for s in by_runtime(Recognizer(load_exported(folders[KINDS[0]], lean=lean)), signals)]
        for lean in (False, True)
    ]
    told = [[(s.text, s.times, s.end) for segments in each for s in segments] for each in found]
    assert told[0] == told[1] and any(text for text, *_ in told[0])


def test_onnxruntime_is_not_imported(folders):
    code = (
        "import sys\n"
        "from residualformer.runtime import Recognizer, load_exported\n"
        f"Recognizer(load_exported({str(folders[KINDS[0]])!r}, lean=True, int8=True))\n"
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(root)}).returncode == 0


def test_weights_are_those_of_the_file(folders):
    for path in sorted(folders[KINDS[0]].glob("*.onnx")):
        weights, model = MappedWeights(path), onnx.load(path)
        for tensor in model.graph.initializer:
            np.testing.assert_array_equal(weights.small(tensor.name), numpy_helper.to_array(tensor))


def test_products_go_block_by_block(tmp_path):
    """Of sizes around those of a block, for fp32 and int8."""
    rng, columns = np.random.default_rng(0), 100
    block = BLOCK_BYTES // (4 * columns)
    for rows in (1, block - 1, block, block + 1, 3 * block + 7):
        matrix = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
        scale = rng.uniform(0.1, 1, columns).astype(np.float32)
        tensors = {"a": matrix.astype(np.float32) * scale, "b_quantized": matrix, "b_scale": scale}
        graph = onnx.helper.make_graph([], "g", [], [], [numpy_helper.from_array(v, k) for k, v in tensors.items()])
        (tmp_path / "w.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        weights, x = MappedWeights(tmp_path / "w.onnx"), rng.standard_normal((3, rows)).astype(np.float32)
        expected = x.astype(np.float64) @ tensors["a"]
        tolerance = 1e-6 * np.abs(x).sum() * 127  # float32 sums
        np.testing.assert_allclose(weights.product(x, "a"), expected, atol=tolerance)
        np.testing.assert_allclose(weights.product(x, "b"), expected, atol=tolerance)
        y = rng.standard_normal((3, columns)).astype(np.float32)
        tolerance = 1e-6 * np.abs(y).sum() * 127
        np.testing.assert_allclose(weights.product_transposed(y, "a"), y @ tensors["a"].T, atol=tolerance)


def resident_mb(path: Path) -> float:
    """How much of a mapped file is in this process's memory."""
    lines, inside, total = Path("/proc/self/smaps").read_text().splitlines(), False, 0
    for line in lines:
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is resident")
def test_what_was_used_is_given_back(tmp_path):
    matrix = np.zeros((1 << 11, 1 << 10), np.float32)  # 8 MB
    graph = onnx.helper.make_graph([], "g", [], [], [numpy_helper.from_array(matrix, "a")])
    (tmp_path / "w.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    weights = MappedWeights(tmp_path / "w.onnx")
    assert resident_mb(tmp_path / "w.onnx") < 0.5  # the outline alone was read
    weights.product(np.ones((1, len(matrix)), np.float32), "a")
    assert resident_mb(tmp_path / "w.onnx") > 7.5
    weights.release()
    assert resident_mb(tmp_path / "w.onnx") < 0.1


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("part", ["encoder.int8.onnx", "decoder.int8.onnx", "joiner.int8.onnx", "model.json"])
def test_a_folder_copied_in_part_over_another_is_refused(tmp_path, folders, part, lean):
    """Its files load and fit, and would write nonsense."""
    bundle = random_bundle("transformer", "lstm", "sherpa")
    with torch.no_grad():
        bundle.model.joiner.vocabulary.bias += 1
    new = exported(bundle, "nemo", tmp_path / "new", int8=True)
    mixed = Path(shutil.copytree(folders[KINDS[0]], tmp_path / "mixed"))
    load_exported(mixed, int8=True, lean=lean)
    shutil.copy(new / part, mixed)
    with pytest.raises(UserError, match="are of different models: copy the whole folder again"):
        load_exported(mixed, int8=True, lean=lean)


def test_what_it_cannot_run_is_told(tmp_path, folders):
    bundle = random_bundle("lstm", "lstm", "sherpa")
    recurrent = exported(bundle, "nemo", tmp_path / "lstm")
    with pytest.raises(UserError, match="'lstm'.*Transformers"):
        load_exported(recurrent, lean=True)
    for content in (b"", b"no model", bytes(200), (recurrent / "joiner.onnx").read_bytes()[:-50]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(UserError, match="cannot be loaded"):
            MappedWeights(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match="no weight 'x'"):
        MappedWeights(recurrent / "joiner.onnx").product(np.zeros((1, 1)), "x")
