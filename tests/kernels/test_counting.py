"""The counting device: known pieces of code, whose launches and waits can be counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from support.counting import CountingDevice, DeviceTensor
from torch import nn

X = torch.arange(12.0).view(3, 4) / 10


@pytest.fixture
def device():
    with CountingDevice() as device:
        yield device


def on_device(device: CountingDevice, x: torch.Tensor) -> torch.Tensor:
    with device.uncounted():
        return x.to("cuda")


@pytest.mark.parametrize(
    ("piece", "launches"),
    [
        (lambda x: x.view(4, 3).t()[1:].unsqueeze(0), 0),
        (lambda x: torch.empty(3, device=x.device), 0),
        (lambda x: torch.zeros(3, device=x.device), 1),
        (lambda x: x.new_full((2, 2), 3.0), 1),
        (lambda x: x + 1, 1),
        (lambda x: x.mul_(2).add_(x), 2),
        (lambda x: torch.arange(4, device="cuda") < 2, 2),
        (lambda x: x @ x.t(), 1),
        (lambda x: x.to(torch.float64), 1),
        (lambda x: torch.cat([x, x, x]), 1),
        (lambda x: x[:, torch.arange(2, device=x.device)], 2),
        (lambda x: F.layer_norm(x, (4,)), 1),
        (lambda x: nn.utils.get_total_norm([x, x[:2]], foreach=True), 3),  # the norms, one tensor of them, its norm
    ],
)
def test_launches_of_known_pieces(device, piece, launches):
    expected = None if "cuda" in piece.__code__.co_consts else piece(X.clone())
    result = piece(on_device(device, X.clone()))
    assert device.launches.total() == launches and not device.waits and device.copies == 0
    assert isinstance(result, DeviceTensor) and result.device.type == "cuda"
    if expected is not None and launches:
        torch.testing.assert_close(result.held, expected)


@pytest.mark.parametrize(
    ("piece", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: float(x[0, 0]) + int(x[0, 1]), 2),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.to("cpu", torch.float64), 1),
        (lambda x: x.to("cpu", non_blocking=True), 0),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0.5], 1),
        (lambda x: x.masked_fill(x > 0.5, 0), 0),
        (lambda x: x[torch.tensor([0, 1])], 1),  # indices have to get there
        (lambda x: x.index_fill_(0, torch.tensor([0], device="cuda"), 0), 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: torch.ones(3, 4).to(x), 1),
        (lambda x: x.copy_(torch.ones(3, 4)), 1),
        (lambda x: x.copy_(torch.ones(3, 4), non_blocking=True), 0),
        (lambda x: x * torch.tensor(2.0), 0),  # a number on the CPU is an argument of the kernel
        (lambda x: torch.equal(x, x), 1),
    ],
)
def test_waits_of_known_pieces(device, piece, waits):
    x = on_device(device, X.clone())
    piece(x)
    assert device.waits.total() == waits
    assert all(name.startswith("test_counting.py:") for name in device.waits)


def test_backward_is_counted_and_its_gradients_are_those_of_the_cpu(device):
    reference = nn.Linear(4, 5)
    expected = X.clone().requires_grad_()
    reference(expected).tanh().sum().backward()
    layer = nn.Linear(4, 5)
    layer.load_state_dict(reference.state_dict())
    layer.to("cuda")
    x = on_device(device, X.clone()).requires_grad_()
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.device.type == "cuda"
    device.reset()
    layer(x).tanh().sum().backward()
    forward, backward = ["addmm", "tanh", "sum"], ["ones_like", "tanh_backward", "mm", "mm", "sum"]
    assert sorted(device.launches.elements()) == sorted(forward + backward) and not device.waits
    torch.testing.assert_close(x.grad.held, expected.grad)
    torch.testing.assert_close(layer.weight.grad.held, reference.weight.grad)


class Doubled(torch.autograd.Function):
    """Two outputs, of which one gets no gradient, and operators in Python in both directions."""

    @staticmethod
    def forward(ctx, x):
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, first, second):
        assert first.device.type == second.device.type == "cuda"
        return first * 2 + second * 3 + torch.zeros(3, 4, device=first.device)


def test_functions_of_our_own_are_counted_in_backward_too(device):
    x = on_device(device, X.clone()).requires_grad_()
    device.reset()
    Doubled.apply(x)[0].sum().backward()
    # Autograd makes zeros, too, for the output that has no gradient.
    assert {name: device.launches[name] for name in ("mul", "add", "zeros")} == {"mul": 4, "add": 2, "zeros": 2}
    assert torch.equal(x.grad.held, torch.full((3, 4), 2.0))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_layer_is_one_launch_each_way(device, kind):
    layer = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](4, 4)
    expected = X.clone().view(3, 1, 4).requires_grad_()
    layer(expected)[0].sum().backward()
    weight_grad = layer.weight_ih_l0.grad.clone()
    layer.zero_grad(set_to_none=True)
    first = [torch.zeros(1, 1, 4) for _ in range(2 if kind == "lstm" else 1)]
    weights = [on_device(device, each.detach()).requires_grad_() for each in layer.parameters()]
    x, first = on_device(device, X.clone().view(3, 1, 4)).requires_grad_(), [on_device(device, each) for each in first]
    device.reset()
    run = getattr(torch, kind)
    y, *_ = run(x, first if kind == "lstm" else first[0], weights, True, 1, 0.0, True, False, False)
    assert dict(device.launches) == {kind: 1}
    y.sum().backward()
    assert device.launches[f"{kind}_backward"] == 1
    torch.testing.assert_close(x.grad.held, expected.grad)
    torch.testing.assert_close(weights[0].grad.held, weight_grad)


def test_devices_do_not_mix_and_numpy_does_not_see_the_device(device):
    x = on_device(device, X.clone())
    with pytest.raises(RuntimeError, match=r"add: tensors of \[\(3, 4\)\] are on the CPU, others on cuda:0"):
        x + torch.ones(3, 4)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        x.numpy()


def test_autocast_is_that_of_cuda(device):
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16


def test_nothing_is_left_of_it_afterwards():
    with CountingDevice():
        x = torch.ones(2, device="cuda")
    assert torch.equal(x.held, torch.ones(2))
    with pytest.raises(RuntimeError, match="no longer active"):
        x + 1
    layer = nn.Linear(2, 2)
    weight = layer.weight
    assert layer.to("cpu").weight is weight and torch.ones(1).device.type == "cpu"


def test_a_fused_optimizer_is_a_launch(device):
    layer = nn.Linear(4, 5).to("cuda")
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(on_device(device, X.clone())).sum().backward()
    optimizer.step()
    layer(on_device(device, X.clone())).sum().backward()
    device.reset()
    optimizer.step()
    assert device.launches == {"_foreach_add_": 1, "_fused_adamw_": 1} and not device.waits
