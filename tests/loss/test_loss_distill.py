"""The distillation loss against every alignment of small lattices, one by one, and its identities."""

from __future__ import annotations

import pytest
import torch
from support.loss_paths import additive_case, paths
from torch import Tensor

from residualformer.constants import BLANK
from residualformer.loss import NotFiniteError, distill
from residualformer.loss.distill import Outputs, soft_targets
from residualformer.nn.joiner import AdditiveJoiner, Joiner, TanhJoiner

C, D = 4, 3


def joiner(kind: str, seed: int) -> Joiner:
    torch.manual_seed(seed)
    return (AdditiveJoiner(D, D, C) if kind == "additive" else TanhJoiner(D, D, 5, C)).double()


def case(kind: str, seed: int = 0) -> tuple[Outputs, Outputs, Tensor, Tensor]:
    """Outputs of a teacher and a student for five utterances, whose boundary is ragged, from frame and label 0 on."""
    _, _, symbols, boundary = additive_case(seed)
    boundary[:, :2] = 0
    sides = []
    for number in (1, 2):
        generator = torch.Generator().manual_seed(10 * seed + number)
        encoded, predicted = (torch.randn(5, n, D, generator=generator, dtype=torch.float64) for n in (5, 4))
        sides.append(Outputs.of(joiner(kind, seed + number), encoded, predicted))
    return sides[0], sides[1], symbols, boundary


def logits(outputs: Outputs) -> Tensor:
    return outputs.joiner.output(outputs.am[:, :, None] + outputs.lm[:, None])  # (N, T, S+1, C)


def by_alignments(teacher: Outputs, student: Outputs, symbols: Tensor, boundary: Tensor, tau: float = 1.0) -> Tensor:
    """The divergence at the nodes of each alignment, weighted with the teacher's posterior of the alignment."""
    log_p = logits(teacher).log_softmax(-1)
    p, q = ((logits(each) / tau).log_softmax(-1) for each in (teacher, student))
    divergence = (p.exp() * (p - q)).sum(-1)  # (N, T, S+1)
    total = torch.zeros((), dtype=torch.float64)
    for n, (_, _, S, T) in enumerate(boundary.tolist()):
        scores, sums = [], []
        for path in paths(S, T, "regular"):
            taken = [log_p[n, t, s, symbols[n, s] if kind == "label" else BLANK] for kind, s, t in path]
            scores.append(torch.stack(taken).sum())
            sums.append(torch.stack([divergence[n, t, s] for _, s, t in path]).sum())
        total = total + torch.stack(scores).softmax(0) @ torch.stack(sums)
    return tau**2 * total


@pytest.mark.parametrize("kind", ["tanh", "additive"])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_it_is_the_mean_over_the_teachers_alignments(kind, tau):
    """In float64; a sum of some hundred terms is off by 1e-13 of it at most."""
    for seed in range(3):
        teacher, student, symbols, boundary = case(kind, seed)
        found = soft_targets(teacher, symbols, boundary, temperature=tau, least=0.0).divergence(student)
        torch.testing.assert_close(found, by_alignments(teacher, student, symbols, boundary, tau), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["tanh", "additive"])
def test_gradients_are_finite_differences(kind, monkeypatch):
    monkeypatch.setattr(distill, "TILE", 7)  # several tiles
    teacher, student, symbols, boundary = case(kind)
    targets = soft_targets(teacher, symbols, boundary, temperature=1.7)
    inputs = [each.detach().requires_grad_() for each in (student.am, student.lm)]
    assert torch.autograd.gradcheck(lambda am, lm: targets.divergence(Outputs(student.joiner, am, lm)), inputs)
    if kind == "tanh":
        weights = [*student.joiner.vocabulary.parameters()]

        def of_weights(*_: Tensor) -> Tensor:  # gradcheck moves them in place
            return targets.divergence(student)

        student = Outputs(student.joiner, student.am.detach(), student.lm.detach())
        assert torch.autograd.gradcheck(of_weights, weights)


def test_the_teacher_itself_has_nothing_to_learn():
    teacher, _, symbols, boundary = case("tanh")
    itself = Outputs(teacher.joiner, *(each.detach().requires_grad_() for each in (teacher.am, teacher.lm)))
    loss = soft_targets(teacher, symbols, boundary).divergence(itself)
    gradients = torch.autograd.grad(loss, [itself.am, itself.lm])
    assert abs(loss.item()) < 1e-14 and max(float(each.abs().max()) for each in gradients) < 1e-15


def test_padding_changes_nothing_and_each_path_has_its_nodes():
    """An alignment visits T + S nodes."""
    teacher, student, symbols, boundary = case("tanh")
    targets = soft_targets(teacher, symbols, boundary, least=0.0)
    assert float(targets.occupation.sum()) == pytest.approx(int(boundary[:, 2:].sum()), abs=1e-12)
    alone = [
        soft_targets(
            *(Outputs(teacher.joiner, teacher.am[n, None, :T], teacher.lm[n, None, : S + 1]), symbols[n, None, :S]),
            torch.tensor([[0, 0, S, T]]),
            least=0.0,
        ).divergence(Outputs(student.joiner, student.am[n, None, :T], student.lm[n, None, : S + 1]))
        for n, (_, _, S, T) in enumerate(boundary.tolist())
    ]
    torch.testing.assert_close(targets.divergence(student), torch.stack(alone).sum(), rtol=1e-13, atol=0)


def test_nodes_that_alignments_hardly_visit_are_left_out():
    teacher, student, symbols, boundary = case("additive")
    every, few = (soft_targets(teacher, symbols, boundary, least=least) for least in (0.0, 0.2))
    assert 0 < len(few.frames) < len(every.frames) and float(few.occupation.min()) > 0.2
    assert 0 < few.divergence(student).item() < every.divergence(student).item()


def test_alignments_keep_to_the_ranges_that_are_given():
    teacher, student, symbols, boundary = case("tanh")
    whole = torch.arange(4).expand(5, 5, -1)
    expected, found = (
        soft_targets(teacher, symbols, boundary, ranges, least=0.0).divergence(student) for ranges in (None, whole)
    )
    assert found.item() == expected.item()
    one_row, narrow = boundary[:1], torch.tensor([[[0, 1], [0, 1], [1, 2], [2, 3], [2, 3]]])
    first = Outputs(teacher.joiner, teacher.am[:1], teacher.lm[:1])
    targets = soft_targets(first, symbols[:1], one_row, narrow, least=0.0)
    nodes = set(zip(targets.frames.tolist(), targets.histories.tolist(), strict=True))
    assert nodes == {(t, s) for t, row in enumerate(narrow[0].tolist()) for s in row}


def test_an_utterance_on_which_the_teacher_is_not_finite_is_named():
    teacher, _, symbols, boundary = case("tanh")
    teacher.am[3, 0] = torch.nan
    with pytest.raises(NotFiniteError) as error:
        soft_targets(teacher, symbols, boundary)
    assert error.value.rows == [3]
