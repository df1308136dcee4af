"""Exported graphs against PyTorch, step by step; what is shared is stored once, in fp32 and in int8."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from support.export_models import BINS, ENCODERS, PREDICTORS, Session, config_of, contract_of, random_model, zeros
from torch.nn.functional import one_hot

from residualformer.config.schema import ResidualConfig
from residualformer.export.builder import Graph
from residualformer.nn.recurrent import RecurrentEncoder

LENGTHS = torch.tensor([61, 40, 57])  # frames of the streams: they end in different steps, inside a window
CLOSE = dict(rtol=0, atol=2e-5)  # fp32; values are of the order of 1


def features(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LENGTHS), int(LENGTHS.max()), BINS, generator=generator) * 3 - 8


@torch.no_grad()
def torch_steps(model, x, full_windows: bool):
    """(features, real frames, frames in the joint space, real frames of them, the state) of every `encoder.step`."""
    encoder, state = model.encoder, model.encoder.init_state(len(x))
    padded = torch.nn.functional.pad(x, (0, 0, 0, encoder.window))
    for start in range(0, x.size(1), encoder.shift):
        real = (LENGTHS - start).clamp(0, encoder.window)
        real = torch.full_like(real, encoder.window) if full_windows else real
        window = padded[:, start : start + encoder.window]
        frames, state = encoder.step(window, real, state)
        valid = encoder.output_lengths(real.clamp(max=encoder.shift))
        yield window.numpy(), real.numpy(), model.joiner.project_encoder(frames), valid, state


@pytest.mark.parametrize("merged", [False, True], ids=["factored", "merged"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_nemo_encoder_is_the_step_of_pytorch(encoder, merged):
    model = random_model(config_of(encoder))
    contract = contract_of(model, "nemo", merged)
    run, states = Session(contract.models(int8=False).encoder), zeros(contract.encoder_states, len(LENGTHS))
    taken = set()
    for x, real, expected, valid, state in torch_steps(model, features(), full_windows=False):
        found, lengths, *states = run(x.transpose(0, 2, 1), real, *states)
        assert torch.equal(lengths, valid)
        for n, length in enumerate(valid):
            torch.testing.assert_close(found[n, :, :length].T, expected[n, :length], **CLOSE)
        taken |= set(state.branch.tolist())
        if model.encoder.arbitrator is not None:
            kept = carried(model.encoder, state)
            torch.testing.assert_close(states[1][:, 0, 0, -kept.size(1) :], kept, **CLOSE)
    if model.encoder.arbitrator is not None:
        assert len(taken) == model.encoder.num_branches, "the test should go through every branch"


def carried(encoder, state) -> torch.Tensor:
    """The end of an exported encoder's `front`: the arbitrator's states, the backlog if it sees that, its decision."""
    parts = [part for layer in state.arbitrator for part in layer]
    if isinstance(encoder, RecurrentEncoder):
        return torch.cat([*parts, state.decision[:, 1:]], 1)
    backlog = [] if encoder.arbitrator.backlog is None else [state.backlog[:, None]]
    return torch.cat([*parts, *backlog, one_hot(state.branch, encoder.num_branches)[:, 1:]], 1)


@pytest.mark.parametrize("encoder", ["residual", "no look-back", "lstm", "gru", "factorised branches"])
def test_an_ebranchformer_encoder_is_the_step_of_pytorch(encoder):
    model = random_model(config_of(encoder, "three labels"))
    contract = contract_of(model, "ebranchformer")
    run, states = Session(contract.models(int8=False).encoder), zeros(contract.encoder_states, len(LENGTHS))
    for x, _, expected, _, _ in torch_steps(model, features(), full_windows=True):
        found, *states = run(x, *states)
        torch.testing.assert_close(found, expected, **CLOSE)


def test_an_endless_stream_keeps_to_its_left_context():
    """The masks and positions of a step that has long filled its cache are those of PyTorch too."""
    model = random_model(config_of())
    contract = contract_of(model, "nemo")
    run, states = Session(contract.models(int8=False).encoder), zeros(contract.encoder_states, 1)
    state = model.encoder.init_state(1)
    states[2][:], state.seen[:] = 10**9, 10**9
    full = np.array([model.encoder.window])
    for x in features()[:1].split(model.encoder.window, 1)[:4]:
        with torch.no_grad():
            expected, state = model.encoder.step(x, torch.from_numpy(full), state)
            expected = model.joiner.project_encoder(expected)
        found, _, *states = run(x.transpose(1, 2), full, *states)
        torch.testing.assert_close(found.transpose(1, 2), expected, **CLOSE)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_nemo_decoder_is_the_predictor_with_the_blank_last(predictor):
    model, batch_size = random_model(config_of(predictor=predictor)), 2
    contract = contract_of(model, "nemo")
    run, states = Session(contract.models(int8=False).decoder), zeros(contract.decoder_states, batch_size)
    labels = torch.tensor([[0, 3, 8, 1, 5], [0, 2, 2, 7, 4]])  # after the start: 0 is the blank of training
    with torch.no_grad():
        expected = model.joiner.project_predictor(model.predictor(labels[:, 1:]))  # (2, 5, J)
    for position in range(labels.size(1)):
        ids = ((labels[:, position] - 1) % model.vocab_size).to(torch.int32)
        found, _, *states = run(ids[:, None], np.ones(batch_size, np.int32), *states)
        torch.testing.assert_close(found[:, :, 0], expected[:, position], **CLOSE)


@pytest.mark.parametrize("predictor", ["one label", "three labels"])
def test_an_ebranchformer_decoder_reads_what_was_not_said_as_the_start(predictor):
    model = random_model(config_of(predictor=predictor))
    context = model.predictor.config.context_size
    run = Session(contract_of(model, "ebranchformer").models(int8=False).decoder)
    labels = torch.tensor([[3, 8, 1, 5]])
    with torch.no_grad():
        expected = model.joiner.project_predictor(model.predictor(labels))[0]
    history = [-1] * (context - 1) + [0, *labels[0].tolist()]
    for position in range(len(expected)):
        found = run(np.array([history[position : position + context]]))[0]
        torch.testing.assert_close(found[0], expected[position], **CLOSE)


@pytest.mark.parametrize("joiner", ["tanh", "additive"])
def test_the_joiner_gives_the_logits_in_the_order_of_the_folder(joiner):
    model = random_model(config_of(predictor="three labels", joiner=joiner))
    generator = torch.Generator().manual_seed(2)
    size = model.joiner.project_encoder.out_features
    sides = [torch.randn(4, size, generator=generator) for _ in range(2)]
    with torch.no_grad():
        expected = model.joiner.output(sides[0] + sides[1])
    nemo = Session(contract_of(model, "nemo").models(int8=False).joiner)(*(side[:, :, None] for side in sides))[0]
    torch.testing.assert_close(nemo, expected.roll(-1, 1), **CLOSE)
    other = Session(contract_of(model, "ebranchformer").models(int8=False).joiner)(*sides)[0]
    torch.testing.assert_close(other, expected, **CLOSE)


def weights(model) -> dict[str, onnx.TensorProto]:
    """The initialisers that are no constants, by name; every initialiser is used, and no weight is held twice."""
    used = {name for graph in subgraphs(model.graph) for node in graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    found = {tensor.name: tensor for tensor in model.graph.initializer if not tensor.name.startswith("constant")}
    assert len({tensor.raw_data for tensor in found.values()}) == len(found)  # random ones are all different
    return found


def subgraphs(graph: onnx.GraphProto):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                assert not attribute.g.initializer
                yield from subgraphs(attribute.g)


def elements(tensors) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in tensors)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_is_stored_once(encoder):
    model = random_model(config_of(encoder))
    stored = weights(contract_of(model, "nemo").models(int8=False).encoder)
    parameters = [*model.encoder.parameters(), *model.joiner.project_encoder.parameters()]
    statistics = [model.encoder.mean, model.encoder.std]
    if "arbitrator.added" in stored:
        statistics.append(model.encoder.load)
    assert elements(stored.values()) == sum(tensor.numel() for tensor in parameters + statistics)


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_a_group_has_one_matrix_for_all_its_layers(int8):
    config = config_of()
    graph = contract_of(random_model(config), "nemo").models(int8).encoder.graph
    product, suffix = ("MatMulInteger", ".weight_quantized") if int8 else ("MatMul", ".weight")
    uses = Counter(name for node in graph.node if node.op_type == product for name in node.input)
    bank = {name: count for name, count in uses.items() if name.startswith("bank.")}
    assert len(bank) == 6 * 2 and set(bank.values()) == {2}  # six projections of two groups, of two layers each
    assert all(name.endswith(suffix) for name in bank)


@pytest.mark.parametrize("encoder", ["factorised branches", "sparse branches"])
def test_weights_of_a_branch_are_used_where_it_was_chosen_alone(encoder):
    graph = contract_of(random_model(config_of(encoder)), "nemo").models(int8=False).encoder.graph
    layers = {tensor.name for tensor in graph.initializer if tensor.name.startswith("layers.")}
    assert not layers & {name for node in graph.node for name in node.input}  # but within an If
    assert sum(node.op_type == "If" for node in graph.node) == len(ENCODERS[encoder][1].compression)


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_a_layer_that_is_not_run_costs_its_keys_and_values_alone(int8):
    graph = contract_of(random_model(config_of("depths")), "nemo").models(int8).encoder.graph
    always, chosen = {"0", "3"}, {"1", "2", "4"}  # layers; the first of each group are run at any depth

    def residuals(nodes) -> set[tuple[str, str]]:
        names = (name.split(".") for node in nodes for name in node.input if name.startswith("layers."))
        return {(layer, part) for _, layer, part, *_ in names}

    within = [graph.node for graph in subgraphs(graph)][1:]
    assert residuals(graph.node) == {
        *itertools.product(always, ["norm1", "q", "k", "v", "out", "norm2", "up", "down"]),
        *itertools.product(chosen, ["norm1", "k", "v"]),
    }
    assert residuals(itertools.chain(*within)) == {*itertools.product(chosen, ["q", "out", "norm2", "up", "down"])}
    assert sum(node.op_type == "If" for node in graph.node) == len(chosen)


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_sharing_makes_the_file_smaller_by_the_layers_that_share(int8):
    def size(sharing: int) -> int:
        wide = replace(config_of().encoder, num_layers=6, dim=64, ffn_dim=256, sharing=sharing)
        model = random_model(replace(config_of(), encoder=replace(wide, residual=ResidualConfig())))
        return len(contract_of(model, "nemo").models(int8).encoder.SerializeToString())

    matrices, columns = 4 * 64 * 64 + 2 * 64 * 256, 5 * 64 + 256
    per_layer = matrices + 2 * 4 * columns if int8 else 4 * (matrices + columns)  # int8: scale and bias in fp32
    names = 150 * 12  # bytes for the names and sizes of each initialiser
    assert size(1) - size(6) == pytest.approx(5 * per_layer, abs=5 * names)


def test_merged_weights_are_one_matrix_for_each_layer():
    stored = weights(contract_of(random_model(config_of()), "nemo", merged=True).models(int8=False).encoder)
    own = [name for name in stored if name.startswith("layers.") and name.endswith(".weight") and "norm" not in name]
    assert len(own) == 6 * 4
    assert not any(name.startswith("bank.") and name.endswith(".weight") for name in stored)
    unshared = config_of("own weights, no look-ahead")  # nothing to merge: as factored
    stored = weights(contract_of(random_model(unshared), "nemo", merged=True).models(int8=False).encoder)
    assert sum(name.startswith("bank.") and name.endswith(".weight") for name in stored) == 6 * 4


@pytest.mark.parametrize("part", ["encoder", "decoder", "joiner"])
@pytest.mark.parametrize("encoder", ["residual", "factorised branches", "depths"])
def test_int8_files_hold_every_matrix_in_8_bits(encoder, part):
    contract = contract_of(random_model(config_of(encoder)), "nemo")
    fp32, int8 = (weights(getattr(contract.models(kind), part)) for kind in (False, True))
    matrices = {name for name, tensor in fp32.items() if len(tensor.dims) == 2}
    assert matrices and {f"{name}_quantized" for name in matrices} == {
        name for name, tensor in int8.items() if tensor.data_type == onnx.TensorProto.INT8
    }
    assert set(fp32) - matrices == {name for name in int8 if not name.endswith(("_quantized", "_scale"))}


@pytest.mark.parametrize("encoder", ["residual", "depths", "lstm", "gru", "factorised"])
def test_int8_is_near_fp32(encoder):
    """Quantisation steps are 1/127 of a column's largest weight and 1/255 of the range of what comes in."""
    model = random_model(config_of(encoder))
    if model.encoder.arbitrator is not None:
        model.encoder.arbitrator.out.bias.data[1] = 1e3  # rounding decides nothing
    contract, full = contract_of(model, "nemo"), np.full(len(LENGTHS), model.encoder.window)
    x = features()[:, : model.encoder.window].transpose(1, 2)
    given = x, full, *zeros(contract.encoder_states, len(x))
    fp32, int8 = (Session(contract.models(kind).encoder)(*given) for kind in (False, True))
    error = (fp32[0] - int8[0]).square().mean().sqrt() / fp32[0].std()
    assert 0 < error < 0.05


def test_quantised_embeddings_keep_their_rows():
    table = torch.randn(7, 5) * torch.logspace(-3, 3, 7)[:, None]
    g = Graph(int8=True)
    rows = g.embedding(g.input("ids", "int64", ["N", 1]), "embedding", table)
    g.output("rows", rows, "float32", ["N", 1, 5])
    found = Session(g.model("embedding", {}))(np.arange(7)[:, None])[0][:, 0]
    assert ((found - table).abs() <= table.abs().amax(1, keepdim=True) / 254 * 1.001).all()
