"""Transducer losses: k2's functions by k2's names, and three that never hold the logits (`*_joiner_loss`)."""

from residualformer.loss.arcs import NotFiniteError
from residualformer.loss.backends import get_backend
from residualformer.loss.exact import get_rnnt_logprobs_joint, rnnt_loss
from residualformer.loss.fused_joiner import exact_joiner_loss, pruned_joiner_loss
from residualformer.loss.fused_simple import simple_joiner_loss
from residualformer.loss.pruning import (
    do_rnnt_pruning,
    get_rnnt_logprobs_pruned,
    get_rnnt_prune_ranges,
    rnnt_loss_pruned,
)
from residualformer.loss.recursion import mutual_information_recursion
from residualformer.loss.simple import (
    get_rnnt_logprobs,
    get_rnnt_logprobs_smoothed,
    rnnt_loss_simple,
    rnnt_loss_smoothed,
)

__all__ = [
    "NotFiniteError",
    "do_rnnt_pruning",
    "exact_joiner_loss",
    "get_backend",
    "get_rnnt_logprobs",
    "get_rnnt_logprobs_joint",
    "get_rnnt_logprobs_pruned",
    "get_rnnt_logprobs_smoothed",
    "get_rnnt_prune_ranges",
    "mutual_information_recursion",
    "pruned_joiner_loss",
    "rnnt_loss",
    "rnnt_loss_pruned",
    "rnnt_loss_simple",
    "rnnt_loss_smoothed",
    "simple_joiner_loss",
]
