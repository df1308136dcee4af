"""A device that seems to be a GPU, computes on the CPU, and counts what a GPU would launch and the host would wait for.

Within `CountingDevice` tensors made on `cuda`, or moved there, are `DeviceTensor`s: they report `cuda:0`, so that code
takes its CUDA branches, and hold CPU memory, so that results are real. As on a GPU, tensors of two devices do not mix
and numpy cannot see them.

Launches are operators that compute; views and empty tensors are free. An operator counts as one kernel, though on a GPU
some take two or three (`nonzero`, sums over long rows). Attention counts as its plain operators, though a GPU has one
kernel; a layer of an LSTM or GRU as one each way, and the lattice recursion as Triton's. What autocast casts on CUDA is
not cast, nor counted.

Waits (synchronisations) are what `torch.cuda.set_sync_debug_mode` tells of: values read by the host, blocking copies in
either direction, and operators whose result has a shape that depends on data.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from support.device_tensor import CPU, DeviceTensor, held, is_cuda, is_device, on_cpu, wrapped
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from residualformer.kernels.recursion import lattice_recursion

aten = torch.ops.aten

FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.is_same_size}
FREE |= {aten.detach, aten.detach_, aten.alias, aten.lift_fresh, aten._unsafe_view, aten._reshape_alias, aten.set_}
# Operators for which the host waits, and how often.
WAITS = {aten._local_scalar_dense: 1, aten.nonzero: 1, aten.masked_select: 1, aten.equal: 1, aten._unique2: 1}
WAITS |= {aten.bincount: 1, aten.repeat_interleave: 1, aten.unique_dim: 1, aten.unique_consecutive: 1}
# CTC copies its lengths to the host, where they are not there yet, and back together with offsets, twice.
WAITS |= {aten._ctc_loss: 3, aten._ctc_loss_backward: 3}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPIES = {aten._to_copy, aten.copy_, aten.copy}
FACTORIES = {aten.zeros, aten.ones, aten.full, aten.arange, aten.eye, aten.empty}
FACTORIES_OF_LISTS = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}


class CountingDevice:
    """A context in which `cuda` exists; `launches` and `waits` count, by operator, since the last `reset`.

    `waits` names the line of this repository, or of the test, that made the host wait: "file.py:12 operator".
    """

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies = 0  # asynchronous ones between host and device
        self.silent = False
        self.makes_on_device = True  # whether torch would make new tensors on the device, unless it is told where
        self._contexts = ExitStack()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.launches.clear()
        self.waits.clear()
        self.copies = 0

    def __enter__(self) -> CountingDevice:
        enter = self._contexts.enter_context
        supported = [*_foreach_utils._foreach_supported_types, DeviceTensor]
        enter(mock.patch.object(_foreach_utils, "_foreach_supported_types", supported))
        enter(mock.patch("torch.amp.autocast_mode.torch.cuda.is_bf16_supported", lambda *_: True))
        enter(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        enter(mock.patch("torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype", _grouped))
        enter(_parameters_are_replaced())
        recursion = self.as_kernels(lattice_recursion, 3)  # Triton's, and the zeros of both gradients
        enter(mock.patch("residualformer.loss.recursion.lattice_recursion", recursion))
        # Triton would take CPU memory for a GPU's: what else has kernels in it counts as its plain reference.
        enter(mock.patch("residualformer.kernels.dispatch.is_usable", lambda engine: engine != "triton"))
        functions = enter(_Functions(self))
        run_backward = torch.autograd.graph._engine_run_backward

        def backward(*args: Any, **kwargs: Any) -> Any:
            with functions, self.making_on_device(True):  # for what Python does in it
                return run_backward(*args, **kwargs)

        enter(mock.patch("torch.autograd._engine_run_backward", backward))
        enter(_Operators(self))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._contexts.close()

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Count nothing within the context."""
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before

    @contextmanager
    def making_on_device(self, value: bool) -> Iterator[None]:
        """Set `makes_on_device` within the context."""
        before, self.makes_on_device = self.makes_on_device, value
        try:
            yield
        finally:
            self.makes_on_device = before

    def as_kernels(self, function: Callable[..., Any], launches: int) -> Callable[..., Any]:
        """Return a stand-in for a function that on a GPU is so many launches: it runs on the CPU, without a graph."""

        def run(*args: Any, **kwargs: Any) -> Any:
            leaves, _ = tree_flatten((args, kwargs))
            if not any(isinstance(each, DeviceTensor) for each in leaves):
                return function(*args, **kwargs)
            self.launch(getattr(function, "__name__", str(function)), launches)
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                return tree_map(wrapped, function(*tree_map(held, args), **tree_map(held, kwargs)))

        return run

    def launch(self, name: str, times: int = 1) -> None:
        """Count launches."""
        if not self.silent:
            self.launches[name] += times

    def wait(self, name: str, times: int = 1) -> None:
        """Count synchronisations."""
        if not self.silent and times:
            self.waits[f"{_caller()} {name}"] += times


class _Functions(TorchFunctionMode):
    """What C++ would do before an operator is dispatched: make or move tensors on a device that this torch lacks."""

    def __init__(self, device: CountingDevice) -> None:
        super().__init__()
        self.counts = device

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and isinstance(args[0], DeviceTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.tolist and isinstance(args[0], DeviceTensor):
            self.counts.wait("tolist")
            return args[0].held.tolist()
        if func in (torch.lstm, torch.gru) and isinstance(args[0], DeviceTensor):
            return self._recurrent_layer(func, args, kwargs)
        if func is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor) and "device" not in kwargs:
            self.counts.wait("new_tensor")
            return wrapped(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
        if func in (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu):
            return self._move(func, args, kwargs)
        if func is torch.device or not is_cuda(kwargs.get("device")):
            leaves, _ = tree_flatten((args, kwargs))
            with self.counts.making_on_device(any(isinstance(each, DeviceTensor) for each in leaves)):
                return func(*args, **kwargs)
        with self.counts.uncounted():
            made = func(*tree_map(held, args), **{**kwargs, "device": CPU})
        if func in FACTORIES_OF_LISTS:
            self.counts.wait(func.__name__)
        elif "empty" not in func.__name__:
            self.counts.launch(func.__name__)
        return tree_map(wrapped, made)

    def _move(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Run `to`, `cuda` or `cpu`; C++ would not notice that a move is one."""
        x, rest = args[0], [*args[1:], *kwargs.values()]
        like = next((each for each in rest if isinstance(each, torch.Tensor)), None)
        dtype = next((each for each in rest if isinstance(each, torch.dtype)), None if like is None else like.dtype)
        on_device = isinstance(x, DeviceTensor)
        if func is torch.Tensor.to and like is None and not any(map(is_device, rest)):
            return func(*args, **kwargs)
        to_device = func is torch.Tensor.cuda or isinstance(like, DeviceTensor) or any(map(is_cuda, rest))
        if to_device == on_device:
            return x if dtype in (None, x.dtype) else func(x, dtype)
        blocking = not (kwargs.get("non_blocking") or (like is None and any(each is True for each in args[1:])))
        return _Move.apply(x, dtype or x.dtype, to_device, blocking, self.counts)

    def _recurrent_layer(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Run PyTorch's layer, which cuDNN does in a few kernels; counted as one each way."""
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [each for each in leaves if isinstance(each, torch.Tensor)]
        places = [i for i, each in enumerate(leaves) if isinstance(each, torch.Tensor)]

        def run(*given: torch.Tensor) -> Any:
            filled = list(leaves)
            for i, each in zip(places, given):
                filled[i] = each
            args, kwargs = tree_unflatten(filled, spec)
            return func(*args, **kwargs)

        return _Layer.apply(self.counts, func.__name__, run, *tensors)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, dtype: torch.dtype, to_device: bool, blocking: bool, counts: CountingDevice
    ) -> torch.Tensor:
        ctx.dtype, ctx.to_device, ctx.counts = x.dtype, to_device, counts
        return _moved(x, dtype, to_device, blocking, counts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return _moved(grad, ctx.dtype, not ctx.to_device, True, ctx.counts), None, None, None, None


def _moved(
    x: torch.Tensor, dtype: torch.dtype, to_device: bool, blocking: bool, counts: CountingDevice
) -> torch.Tensor:
    if blocking:
        counts.wait(f"copy to the {'device' if to_device else 'host'}")
    elif not counts.silent:
        counts.copies += 1
    with counts.uncounted(), _disable_current_modes():
        made = held(x).detach().to(dtype, copy=True)
    return wrapped(made) if to_device else made


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counts: CountingDevice, name: str, run: Callable[..., Any], *inputs: torch.Tensor) -> Any:
        counts.launch(name)
        with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.enable_grad():
            copies = [
                held(each).detach().requires_grad_(needed) for each, needed in zip(inputs, ctx.needs_input_grad[3:])
            ]
            made = run(*copies)
        ctx.counts, ctx.name, ctx.copies, ctx.made = counts, name, copies, made
        return tuple(wrapped(each.detach()) for each in made)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        ctx.counts.launch(ctx.name + "_backward")
        needed = [each for each in ctx.copies if each.requires_grad]
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            found = iter(torch.autograd.grad(ctx.made, needed, [held(each) for each in grads], allow_unused=True))
        return None, None, None, *(wrapped(next(found)) if each.requires_grad else None for each in ctx.copies)


class _Operators(TorchDispatchMode):
    """Every operator below autograd: counted, and run on the CPU."""

    def __init__(self, device: CountingDevice) -> None:
        super().__init__()
        self.counts = device

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        operator, kwargs = func.overloadpacket, kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        given = {id(each.held): each for each in leaves if isinstance(each, DeviceTensor)}
        to_device = any(is_cuda(each) for each in leaves)
        if not given and not to_device:
            made = func(*args, **kwargs)
            if operator not in FACTORIES or not self.counts.makes_on_device:
                return made
            self.counts.launch(operator.__name__, int(operator is not aten.empty))
            return wrapped(made)  # C++ takes all tensors here to be on the CPU, and makes others beside them
        if operator in COPIES:
            return self._copy(operator, func, args, kwargs)
        self._check(operator, leaves)
        self._count(operator, func, args, leaves)
        if operator is aten._fused_sdp_choice:
            return 0  # attention by plain operators
        held_args, held_kwargs = tree_unflatten([on_cpu(held(each)) for each in leaves], spec)
        result = func(*held_args, **held_kwargs)
        if operator is aten._local_scalar_dense:
            return result
        return tree_map(lambda each: given[id(each)] if id(each) in given else wrapped(each), result)

    def _count(self, operator: Any, func: Any, args: tuple, leaves: list[Any]) -> None:
        name = operator.__name__
        self.counts.wait(name, WAITS.get(operator, 0))
        if operator is aten._ctc_loss:
            self.counts.wait("lengths of _ctc_loss", sum(isinstance(each, DeviceTensor) for each in args[2:4]))
        if operator in INDEXING:
            indices = [each for each in args[1] if each is not None]
            masks = sum(each.dtype in (torch.bool, torch.uint8) for each in indices)
            self.counts.wait(name + " by a mask", masks)
            self.counts.wait(
                name + " by indices on the CPU", sum(not isinstance(each, DeviceTensor) for each in indices)
            )
        is_view = func.is_view or operator in FREE or name.startswith("sym_") or operator is aten._fused_sdp_choice
        if not is_view and operator is not aten._local_scalar_dense:
            self.counts.launch(name)

    def _check(self, operator: Any, leaves: list[Any]) -> None:
        """Raise RuntimeError, as CUDA does, if tensors of two devices meet; numbers, and indices, may be on the CPU."""
        if operator in INDEXING or operator is aten._ctc_loss or operator is aten._ctc_loss_backward:
            return
        tensors = [each for each in leaves if isinstance(each, torch.Tensor)]
        strangers = [each for each in tensors if not isinstance(each, DeviceTensor) and each.dim() > 0]
        if strangers and len(strangers) < len(tensors):
            shapes = [tuple(each.shape) for each in strangers]
            raise RuntimeError(f"{operator.__name__}: tensors of {shapes} are on the CPU, others on cuda:0")

    def _copy(self, operator: Any, func: Any, args: tuple, kwargs: dict) -> Any:
        """Run a copy: within the device a kernel like any other, else the host waits for it if it is blocking."""
        target = source = isinstance(args[0], DeviceTensor)
        if operator is not aten._to_copy:
            source = isinstance(args[1], DeviceTensor)
        else:  # by C++, which takes all tensors here to be on the CPU; Python's moves come to `_move`
            target = source or is_cuda(kwargs.get("device"))
        made = func(*tree_map(held, args), **tree_map(lambda each: on_cpu(held(each)), kwargs))
        if source and target:
            self.counts.launch(operator.__name__)
        elif source != target and (kwargs.get("non_blocking") or (operator is aten.copy_ and True in args[2:])):
            self.counts.copies += 1
        elif source != target:
            self.counts.wait(f"{operator.__name__} to the {'device' if target else 'host'}")
        if operator is aten.copy_:
            return args[0]
        return wrapped(made) if target else made


@contextmanager
def _parameters_are_replaced() -> Iterator[None]:
    """Let `Module.to` make new parameters: memory of the old ones cannot become a DeviceTensor's."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _grouped(tensors: Any, *args: Any) -> dict[tuple[torch.device, torch.dtype], Any]:
    """Group tensors as torch does; C++ takes all tensors here to be on the CPU."""
    groups = _foreach_utils._group_tensors_by_device_and_dtype(tensors, *args)
    return {(group[0][0][0].device, dtype): group for (_, dtype), group in groups.items()}


def _caller() -> str:
    """Return file and line of the innermost frame that is neither torch's nor this file's."""
    frame: Any = sys._getframe(1)
    while frame:
        path = frame.f_code.co_filename
        if path != __file__ and "/torch/" not in path and "contextlib" not in path:
            return f"{path.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
