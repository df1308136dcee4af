"""The amortized losses: mean cost of an arbitrator's decisions, and the delay with which a device answers.

Macoskey, Strimel, Su and Rastrow, "Amortized Neural Networks for Low-Latency Speech Recognition", 2021, section 4.
Letters are the paper's: q_t FLOPs of frame t, mu FLOP/s of the device, rho frames per second, so that mu / rho FLOPs
are free per frame; N utterances, T encoder frames.

The device: frame t arrives (t - 1) / rho seconds after the start. An idle processor begins with it at once, a busy one
when all earlier frames are done. L_amr is the time from T / rho, when the next frame would arrive, to the end of work.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from residualformer.kernels.precision import full_precision
from residualformer.padding import real_frames


@full_precision
def average_cost(q: Tensor, lengths: Tensor, mu: float, rho: float) -> Tensor:
    """Return L_avg (eq. 5) as a real-time factor, (N,): the mean of q (N, T) over lengths (N,), divided by mu / rho.

    The result has the dtype of q; an utterance without frames costs nothing.
    """
    total = _real(q, lengths).sum(1)
    return (total / lengths.clamp(min=1) * (rho / mu)).to(q.dtype)


@full_precision
def amortized_latency(q: Tensor, lengths: Tensor, mu: float, rho: float) -> Tensor:
    """Return L_amr (eq. 6) in seconds, (N,): the work left after the last of lengths (N,) frames of q (N, T), over mu.

    L_amr is convex in q. If the processor is idle for the last time after frame s, the derivative is 1 / mu for every
    frame after s and 0 up to s.
    """
    return (_backlog(q, lengths, mu, rho)[:, -1] / mu).to(q.dtype)


@full_precision
def backlog(q: Tensor, lengths: Tensor, mu: float, rho: float) -> Tensor:
    """Return l_1 ... l_T (eq. 7) in FLOPs, (N, T): the work of q (N, T) left when the next frame arrives.

    Beyond lengths (N,) the last value is repeated.
    """
    return _backlog(q, lengths, mu, rho)[:, 1:].to(q.dtype)


def _backlog(q: Tensor, lengths: Tensor, mu: float, rho: float) -> Tensor:
    """Return l_0 ... l_T, (N, T + 1) float64.

    l_t = max(l_{t-1} + a_t, 0), unrolled, is S_t - min_{s <= t} S_s with the running sums S of a = q - mu / rho
    (S_0 = 0). Of equal minima `cummin` takes the last: a processor that has just caught up is idle.
    """
    surplus = _real(q.double() - mu / rho, lengths)
    sums = F.pad(surplus, (1, 0)).cumsum(1)
    return sums - sums.cummin(1).values


def _real(values: Tensor, lengths: Tensor) -> Tensor:
    """Return values (N, T) in float64, so that sums of GFLOPs are exact to a FLOP, and 0 beyond `lengths`."""
    return values.double().masked_fill(~real_frames(values.shape[1], lengths), 0.0)
