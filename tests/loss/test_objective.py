"""The precision of what training minimizes: bf16 products in the losses of large output layers, and only there."""

import dataclasses
import itertools
import math

import pytest
import torch

from residualformer.config.schema import Config, EncoderConfig, FeatureConfig, JoinerConfig, LossConfig, PredictorConfig
from residualformer.data.collate import Batch
from residualformer.kernels.precision import bf16_products, is_bf16_autocast
from residualformer.loss import get_backend, objective
from residualformer.loss.objective import TransducerObjective
from residualformer.nn.joiner import AdditiveJoiner, TanhJoiner
from residualformer.nn.transducer import build_model

BINS, V = 10, 300
CONFIG = Config(
    features=FeatureConfig(num_mel_bins=BINS),
    encoder=EncoderConfig(num_layers=1, dim=16, num_heads=2, ffn_dim=16, conv_channels=4, dropout=0.0),
    predictor=PredictorConfig(embedding_dim=8, hidden_dim=16, num_layers=1, dropout=0.0),
    joiner=JoinerConfig(dim=64),
)
ADDITIVE = dataclasses.replace(CONFIG, joiner=JoinerConfig(kind="additive"), loss=LossConfig(kind="simple"))
EXACT = dataclasses.replace(CONFIG, loss=LossConfig(kind="exact"))


def batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 80, BINS, generator=generator)
    tokens = torch.randint(1, V, (3, 6), generator=generator)
    lengths = torch.tensor([80, 64, 40])
    return Batch(["a", "b", "c"], features, lengths, tokens, torch.tensor([6, 4, 0]), ["", "", ""])


def losses_and_grads(config, bf16, seed=0):
    """Losses from fixed encoder frames on, and gradients of all that is behind these."""
    torch.manual_seed(seed)
    model, data = build_model(config, V), batch()
    encoded, lengths = torch.randn(3, 20, 16, requires_grad=True), torch.tensor([20, 16, 10])
    losses = TransducerObjective(config.loss, bf16)(model, encoded, lengths, data)
    heads = [*model.joiner.parameters(), *model.training_only.parameters()]
    return losses, torch.autograd.grad(losses["loss"], [encoded, *heads])


@pytest.mark.parametrize("config", [CONFIG, EXACT, ADDITIVE], ids=["pruned", "exact", "additive"])
def test_bf16_products_bound_the_error_of_losses_and_gradients(config, monkeypatch):
    """Factors are rounded by 2^-9 at most, relatively, two of them to each product; sums of these cancel partly.

    In losses, sums over log-probabilities of whose logits the rounding is independent, less than a tenth of it is left.
    """
    monkeypatch.setattr(objective, "MIN_BF16_WEIGHTS", 1)
    monkeypatch.setattr("residualformer.loss.fused_simple.SMALL", 0)
    (exact, exact_grads), (rounded, grads) = (losses_and_grads(config, bf16) for bf16 in (False, True))
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=2**-8 / 10, atol=0)
    for ours, theirs in zip(grads, exact_grads, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 2**-7 * theirs.norm()
    assert cpu_rounds_products() == any(are_rounded(*pair) for pair in zip(grads, exact_grads, strict=True))


def cpu_rounds_products() -> bool:
    """Whether this processor takes bf16 factors when it may: with AVX-512 alone oneDNN goes on in float32."""
    a, b = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    with bf16_products("cpu", enabled=True):
        rounded = a @ b
    return are_rounded(rounded, a @ b)


def are_rounded(numbers: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether numbers differ by more than float32's own rounding, 2^-24, as another order of sums does."""
    return bool((numbers - exact).norm() > 2**-14 * exact.norm())


@pytest.mark.parametrize("config", [CONFIG, EXACT, ADDITIVE], ids=["pruned", "exact", "additive"])
def test_a_small_output_layer_stays_float32_to_the_bit(config):
    assert V * 64 < objective.MIN_BF16_WEIGHTS
    (exact, exact_grads), (same, grads) = (losses_and_grads(config, bf16) for bf16 in (False, True))
    assert all(torch.equal(same[name], exact[name]) for name in exact)
    assert all(map(torch.equal, grads, exact_grads))


def test_where_bf16_products_are_taken():
    paper, an4 = TanhJoiner(8, 8, 512, 4002), TanhJoiner(8, 8, 512, 29)
    amnets = AdditiveJoiner(640, 8, 4097)
    ours, other = get_backend("torch"), dataclasses.replace(get_backend("torch"), name="k2")
    cases = [(paper, ours, True), (amnets, ours, True), (an4, ours, False), (paper, other, False)]
    for joiner, backend, expected in cases:
        for bf16 in (True, False):
            with objective.loss_autocast(joiner, torch.zeros(1), backend, bf16):
                assert is_bf16_autocast("cpu") == (expected and bf16)
    assert not is_bf16_autocast("cpu")


def test_the_transcripts_ctc_is_that_of_its_bytes():
    """As if the transducer's own tokens were those: with them the sum over all alignments is written out."""
    config = dataclasses.replace(EXACT, loss=LossConfig("exact", ctc_scale=0.5, ctc_target="transcript"))
    said = ["AB", "é", ""]
    model, data = build_model(config, V), dataclasses.replace(batch(), transcripts=said)
    assert model.training_only["ctc"].out_features == 257
    encoded, lengths = torch.randn(3, 4, 16), torch.tensor([4, 3, 2])
    losses = TransducerObjective(config.loss)(model, encoded, lengths, data)
    torch.testing.assert_close(losses["loss"], losses["transducer"] + 0.5 * losses["ctc"])
    expected, p = 0.0, model.training_only["ctc"](encoded).double().softmax(-1)
    for n, text in enumerate(said):
        labels = [1 + byte for byte in text.encode()]
        paths = itertools.product({0, *labels}, repeat=int(lengths[n]))
        fits = [path for path in paths if [label for label, _ in itertools.groupby(path) if label] == labels]
        expected -= sum(math.prod(p[n, t, label] for t, label in enumerate(path)) for path in fits).log()
    torch.testing.assert_close(losses["ctc"].double(), expected, rtol=1e-5, atol=0)  # float32 sums
