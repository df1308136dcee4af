"""What a GPU would launch, and the host wait for, in the losses: counted without one."""

import pytest
import torch
from support.counting import CountingDevice

from residualformer.loss import simple_joiner_loss


def inputs(N: int, T: int, S: int, C: int, D: int = 8) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Both sides of the simple joiner, its weights and biases; symbols; the boundary of utterances of many lengths."""
    generator = torch.Generator().manual_seed(0)
    shapes = (N, T, D), (N, S + 1, D), (C, D), (C,), (C, D), (C,)
    tensors = [0.3 * torch.randn(shape, generator=generator) for shape in shapes]
    boundary = torch.zeros(N, 4, dtype=torch.int64)
    boundary[:, 2] = torch.randint(S // 2, S + 1, (N,), generator=generator)
    boundary[:, 3] = torch.randint(T // 2, T + 1, (N,), generator=generator)
    return tensors, torch.randint(1, C, (N, S), generator=generator), boundary


def run(tensors: list[torch.Tensor], symbols: torch.Tensor, boundary: torch.Tensor, *scales: float) -> torch.Tensor:
    """Run the simple loss forward and backward."""
    loss, _ = simple_joiner_loss(*tensors, symbols, 0, boundary, *scales, reduction="sum", return_grad=True)
    loss.backward()
    return loss


@pytest.mark.parametrize(("scales", "most"), [((0.0, 0.0), 100), ((0.25, 0.0), 100), ((0.25, 0.1), 150)])
def test_the_simple_loss_takes_few_launches_and_two_waits_whatever_the_number_of_utterances(scales, most):
    tensors, symbols, boundary = inputs(100, 20, 8, 4002)
    reference = [each.clone().requires_grad_() for each in tensors]
    expected = run(reference, symbols, boundary, *scales)
    with CountingDevice() as device:
        moved = [each.to("cuda").requires_grad_() for each in tensors]
        arguments = symbols.to("cuda"), boundary.to("cuda")
        device.reset()
        loss = run(moved, *arguments, *scales)
        assert device.launches.total() <= most
        assert device.waits.total() == 2  # are the arguments right, and is the loss finite
    torch.testing.assert_close(loss.held, expected.detach(), rtol=1e-6, atol=0)
    for ours, theirs in zip(moved, reference):  # float32 sums of some thousand terms, in another order
        torch.testing.assert_close(ours.grad.held, theirs.grad, rtol=0, atol=1e-5 * float(theirs.grad.abs().max()))
