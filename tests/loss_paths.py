"""Reference for the transducer losses: every path of a small lattice, one by one, and small random problems."""

import itertools

import torch
from torch import Tensor

TYPES = ["regular", "modified", "constrained"]


def paths(S: int, T: int, rnnt_type: str):
    """Every way to emit S labels in T frames: lists of (kind, s, t), kind `label` or `blank`.

    A path is the frames at which the labels come: never falling (regular), rising (labels consume a frame).
    """
    regular = rnnt_type == "regular"
    choose = itertools.combinations_with_replacement if regular else itertools.combinations
    for frames in choose(range(T), S):
        steps, s = [], 0
        for t in range(T):
            while s < S and frames[s] == t:
                steps.append(("label", s, t))
                s += 1
                if not regular:
                    break
            else:
                steps.append(("blank", s, t))
                continue
            # a label consumed the frame; `constrained` adds the blank at the next label position
            if rnnt_type == "constrained":
                steps.append(("blank", s, t))
        yield steps


def loss_by_paths(
    logits: Tensor, symbols: Tensor, blank: int, boundary: Tensor, rnnt_type: str, delay_penalty: float = 0.0
) -> Tensor:
    """-log of the summed probability of all paths, (B,); logits (B, T, S+1, C)."""
    log_probs = logits.log_softmax(-1)
    losses = []
    for b, (s0, t0, s1, t1) in enumerate(boundary.tolist()):
        scores = []
        for path in paths(s1 - s0, t1 - t0, rnnt_type):
            score = logits.new_zeros(())
            for kind, s, t in path:
                s, t = s + s0, t + t0
                score = score + log_probs[b, t, s, symbols[b, s] if kind == "label" else blank]
                if kind == "label":
                    score = score + delay_penalty * ((t1 - 1) / 2 - t)
            scores.append(score)
        losses.append(-torch.logsumexp(torch.stack(scores), 0))
    return torch.stack(losses)


def case(seed: int, B: int = 5, T: int = 5, S: int = 3, C: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Random float64 logits (B, T, S+1, C), symbols (B, S) and a ragged boundary with an empty transcript."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, T, S + 1, C, generator=generator, dtype=torch.float64)
    symbols = torch.randint(1, C, (B, S), generator=generator)
    rows = [[0, 0, 3, 5], [0, 0, 2, 4], [0, 0, 0, 3], [1, 1, 3, 5], [0, 0, 1, 1]]
    return logits, symbols, torch.tensor(rows)[:B]
