"""The cost losses against a simulated device, finite differences and what the paper says of them."""

import pytest
import torch

from residualformer.loss.amortized import amortized_latency, average_cost, backlog

MU, RHO = 650e6, 100 / 3  # the paper's device; frames of 30 ms
SLOW, FAST = 30.4e6, 15e6  # FLOPs per frame, above and below the 19.5M that are free


def simulated_delay(costs, mu, rho):
    """Seconds from the end of the last frame's period to the end of all work; a queue, event by event."""
    done = 0.0
    for t, cost in enumerate(costs):
        arrival = t / rho
        done = max(arrival, done) + cost / mu
    return max(done - len(costs) / rho, 0.0)


def random_costs(seed, shape=(6, 40)):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, shape[1] + 1, shape[:1], generator=generator)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 * MU / RHO, lengths


@pytest.mark.parametrize("seed", range(5))
def test_the_latency_is_that_of_a_simulated_device(seed):
    q, lengths = random_costs(seed)
    expected = [simulated_delay(row[:length].tolist(), MU, RHO) for row, length in zip(q, lengths, strict=True)]
    # The simulation adds up clock times of seconds: 1e-12 s is their rounding.
    assert amortized_latency(q, lengths, MU, RHO).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_backlog_is_the_papers_recursion():
    q, lengths = random_costs(7)
    found = backlog(q, lengths, MU, RHO)
    for row, length, levels in zip(q.tolist(), lengths.tolist(), found.tolist(), strict=True):
        level, expected = 0.0, []
        for t, cost in enumerate(row):
            level = max(level + cost - MU / RHO, 0.0) if t < length else level
            expected.append(level)
        assert levels == pytest.approx(expected, abs=1e-5)  # FLOPs, of sums of 1e9 in float64
    assert torch.equal(found[:, -1] / MU, amortized_latency(q, lengths, MU, RHO))


def test_the_average_is_the_real_time_factor():
    q, lengths = random_costs(1)
    for cost, row, length in zip(average_cost(q, lengths, MU, RHO), q, lengths.tolist(), strict=True):
        assert float(cost) == pytest.approx(float(row[:length].sum()) / max(length, 1) / 19.5e6, rel=1e-12)
    assert average_cost(torch.full((1, 9), MU / RHO), torch.tensor([9]), MU, RHO).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("loss", [average_cost, amortized_latency, backlog])
def test_gradients_are_finite_differences(loss):
    q, lengths = random_costs(3, (3, 12))
    # One FLOP per second and frame, so that the step of 1e-6 is small beside q, and no kink lies within it.
    scaled = (q / (MU / RHO)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, lengths, 1.0, 1.0), scaled, atol=1e-7)


def test_the_derivative_is_one_over_mu_since_the_processor_was_last_idle():
    q = torch.tensor([[9.0, 1, 3, 1, 4]], requires_grad=True)  # 2 are free: l = 7, 6, 7, 6, 8
    amortized_latency(q, torch.tensor([5]), 4.0, 2.0).sum().backward()
    assert q.grad.tolist() == [[0.25] * 5]
    q = torch.tensor([[3.0, 1, 3, 2, 4]], requires_grad=True)  # l = 1, 0, 1, 1, 3: idle after frame 2
    amortized_latency(q, torch.tensor([5]), 4.0, 2.0).sum().backward()
    assert q.grad.tolist() == [[0, 0, 0.25, 0.25, 0.25]]


@pytest.mark.parametrize("seed", range(3))
def test_convex_and_never_below_its_tangents(seed):
    """Whole multiples of mu / rho among the costs put half of the points on kinks."""
    lengths = torch.full((400,), 15)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(0, 4, (400, 15), generator=generator).double() for _ in range(2))
    x.requires_grad_()
    at_x, at_y = amortized_latency(x, lengths, 1.5, 1.5), amortized_latency(y, lengths, 1.5, 1.5)
    middle = amortized_latency((x + y) / 2, lengths, 1.5, 1.5)
    assert (middle <= (at_x + at_y) / 2 + 1e-12).all()
    (slope,) = torch.autograd.grad(at_x.sum(), x)
    assert (at_y >= at_x + (slope * (y - x)).sum(1) - 1e-12).all()
    assert set((slope * 1.5).unique().tolist()) == {0.0, 1.0}


def test_the_order_of_the_same_decisions_makes_the_latency():
    """The paper's figure 2: fast frames first leave the processor idle, slow frames first do not."""
    late, early = torch.tensor([[FAST] * 40 + [SLOW] * 10, [SLOW] * 10 + [FAST] * 40], dtype=torch.float64)
    q, lengths = torch.stack([late, early]), torch.tensor([50, 50])
    assert average_cost(q, lengths, MU, RHO).diff().abs() < 1e-12
    latency = amortized_latency(q, lengths, MU, RHO)
    assert latency[0].item() == pytest.approx(10 * (SLOW / MU - 1 / RHO)) and latency[1] == 0


def test_the_papers_baseline():
    """42.755M FLOPs per frame at 650 MFLOP/s: 35.8 ms of delay per frame, 6154 ms after 172 frames."""
    latency = amortized_latency(torch.full((1, 172), 42.755e6), torch.tensor([172]), MU, RHO).item()
    assert round(latency, 3) == 6.154 and 1e3 * latency / 172 == pytest.approx(35.777, abs=0.001)
    assert 1e3 * amortized_latency(torch.full((1, 1), 42.7e6), torch.tensor([1]), MU, RHO).item() == pytest.approx(
        35.7, abs=0.05
    )


def test_long_utterances_keep_their_precision_in_float32():
    q = torch.full((1, 100_000), 19.5e6) + torch.tensor([0.0, 2.0]).repeat(50_000)  # an hour; 1 FLOP of surplus a frame
    left = amortized_latency(q, torch.tensor([100_000]), MU, RHO)
    assert left.dtype == torch.float32 and left.item() == pytest.approx(1e5 / MU, rel=1e-6)


def test_padding_and_empty_utterances_weigh_nothing():
    q = torch.full((2, 5), float("nan"))
    q[0, :3] = SLOW
    q.requires_grad_()
    lengths = torch.tensor([3, 0])
    total = sum(loss(q, lengths, MU, RHO).sum() for loss in (average_cost, amortized_latency))
    total.backward()
    assert total.isfinite() and (q.grad[0, :3] > 0).all() and not q.grad[0, 3:].any() and not q.grad[1].any()
    assert amortized_latency(torch.zeros(2, 0), torch.tensor([0, 0]), MU, RHO).tolist() == [0, 0]
