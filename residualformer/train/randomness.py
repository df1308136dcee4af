"""The random numbers of training: seed, update and batch decide them, whichever process computes the batch."""

from __future__ import annotations

import numpy as np
import torch

from residualformer.kernels.dropout import seed_pools

POOL_UPDATES = 200  # updates that share pools of dropout masks; drawing one takes about as long as an update


def seed_batch(seed: int, update: int, number: int) -> int:
    """Seed dropout, Gumbel noise and all else for a batch of an update; return a seed for generators of its own.

    Args:
        seed: of the training.
        update: number of the update.
        number: number of the batch in the update.
    """
    seed_pools(_mixed(seed, update // POOL_UPDATES))
    own, of_torch = (_mixed(seed, update, number, use) for use in range(2))
    torch.manual_seed(of_torch)
    return own


def _mixed(*numbers: int) -> int:
    """Return 63 bits that any change of `numbers` changes at random."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
