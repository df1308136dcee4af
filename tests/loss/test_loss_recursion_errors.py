"""Logits that are not finite: every loss names the utterances, and padding may hold what it likes."""

import pytest
import torch

from residualformer.loss import rnnt_loss, rnnt_loss_pruned, rnnt_loss_simple
from residualformer.loss.arcs import NotFiniteError, loss_of_arcs
from residualformer.loss.recursion import recursion_engine

B, T, S, C = 4, 6, 3, 5
SYMBOLS = torch.tensor([[1, 2, 3]] * B)
BOUNDARY = torch.tensor([[0, 0, 3, 6], [0, 0, 2, 4], [0, 0, 3, 6], [0, 0, 0, 3]])


def exact(frames: torch.Tensor) -> torch.Tensor:
    return rnnt_loss(frames[:, :, None] + torch.zeros(S + 1, C), SYMBOLS, 0, BOUNDARY, reduction="none")


def simple(frames: torch.Tensor) -> torch.Tensor:
    return rnnt_loss_simple(torch.zeros(B, S + 1, C), frames, SYMBOLS, 0, BOUNDARY, reduction="none")


def pruned(frames: torch.Tensor) -> torch.Tensor:
    ranges = torch.arange(S + 1).expand(B, T, S + 1)
    return rnnt_loss_pruned(frames[:, :, None].expand(B, T, S + 1, C), SYMBOLS, ranges, 0, BOUNDARY, reduction="none")


@pytest.mark.parametrize("loss", [exact, simple, pruned])
@pytest.mark.parametrize("engine", ["plain", "auto"])
def test_nan_is_named_by_utterance(loss, engine):
    frames = torch.randn(B, T, C, generator=torch.Generator().manual_seed(0))
    frames[2, 5, 1] = torch.nan
    frames[1, 3, 4] = torch.nan
    with recursion_engine(engine), pytest.raises(NotFiniteError, match="utterances 1, 2 of the batch: logits hold nan"):
        loss(frames)


@pytest.mark.parametrize("loss", [exact, simple, pruned])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_padding_may_hold_anything(loss, value):
    frames = torch.randn(B, T, C, generator=torch.Generator().manual_seed(0))
    expected = loss(frames)
    frames[1, 4:] = value
    frames[3, 3:] = value
    assert torch.equal(loss(frames), expected)


@pytest.mark.parametrize("engine", ["plain", "auto"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("regular", [True, False])
def test_wherever_it_stands_on_a_path_it_is_found(engine, value, regular):
    generator = torch.Generator().manual_seed(1)
    arcs = [torch.randn(1, S, T + regular, generator=generator), torch.randn(1, S + 1, T, generator=generator)]
    for which, s, t in ((0, 0, 0), (0, 2, 4), (1, 1, 2), (1, 0, 0), (1, 3, 5)):
        bad = [p.clone() for p in arcs]
        bad[which][0, s, t] = value
        with recursion_engine(engine), pytest.raises(NotFiniteError) as caught:
            loss_of_arcs(*bad, None, 0.0, "mean")
        assert caught.value.rows == [0] and isinstance(caught.value, ValueError)
        assert str(caught.value) == "utterance 0 of the batch: logits hold nan or inf, so there is no loss"


def test_many_are_not_all_listed():
    assert str(NotFiniteError(list(range(9)))).startswith("utterances 0, 1, 2, 3, 4, 5, 6, 7, ... of the batch")


def test_no_path_at_all_is_an_infinite_loss():
    px, py = torch.zeros(1, 3, 2), torch.zeros(1, 4, 2)  # three labels cannot consume two frames
    assert loss_of_arcs(px, py, None, 0.0, "sum") == torch.inf
