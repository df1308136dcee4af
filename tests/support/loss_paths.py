"""Reference for the transducer losses: every path of a small lattice, one by one, and small random problems."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TYPES = ["regular", "modified", "constrained"]


def paths(S: int, T: int, rnnt_type: str) -> Iterator[list[tuple[str, int, int]]]:
    """Every way to emit S labels in T frames, as a list of (kind, s, t) with kind `label` or `blank`.

    A path is fixed by the frames of its labels: never falling if a label consumes no frame (regular), else rising.
    """
    regular = rnnt_type == "regular"
    choose = itertools.combinations_with_replacement if regular else itertools.combinations
    for frames in choose(range(T), S):
        steps = [("label", s, t) for s, t in enumerate(frames)]
        for t in range(T):
            if regular or t not in frames:
                steps.append(("blank", sum(frame <= t for frame in frames), t))
            elif rnnt_type == "constrained":  # the label consumes the frame, and the blank after it is paid for
                steps.append(("blank", frames.index(t) + 1, t))
        yield steps


def loss_by_paths(
    log_probs: Tensor,
    symbols: Tensor,
    boundary: Tensor,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    blank: int = 0,
) -> Tensor:
    """-log of the summed probability of all paths, (B,); log_probs (B, T, S+1, C)."""
    losses = []
    for b, (s0, t0, s1, t1) in enumerate(boundary.tolist()):
        scores = []
        for path in paths(s1 - s0, t1 - t0, rnnt_type):
            terms = []
            for kind, s, t in path:
                s, t = s + s0, t + t0
                terms.append(log_probs[b, t, s, symbols[b, s] if kind == "label" else blank])
                if kind == "label":
                    terms[-1] = terms[-1] + delay_penalty * ((t1 - 1) / 2 - t)
            scores.append(torch.stack(terms).sum())
        losses.append(-torch.logsumexp(torch.stack(scores), 0))
    return torch.stack(losses)


def case(seed: int, T: int = 5, S: int = 3, C: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Random float64 logits (5, T, S+1, C), symbols (5, S) and a ragged boundary with an empty transcript.

    One row begins late, in labels and frames; one has a single frame; every row has a path of every type.
    """
    generator = torch.Generator().manual_seed(seed)
    boundary = torch.tensor([[0, 0, 3, 5], [0, 0, 2, 4], [0, 0, 0, 3], [1, 1, 3, 5], [0, 0, 1, 1]])
    logits = torch.randn(5, T, S + 1, C, generator=generator, dtype=torch.float64)
    return logits, torch.randint(1, C, (5, S), generator=generator), boundary


def additive_case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """lm (5, S+1, C), am (5, T, C), symbols and boundary as in `case`."""
    logits, symbols, boundary = case(seed)
    generator = torch.Generator().manual_seed(seed)
    lm, am = (torch.randn(5, n, logits.shape[3], generator=generator, dtype=torch.float64) for n in (4, 5))
    return lm, am, symbols, boundary


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.untyped_storage().nbytes() // each.element_size())
        return result
