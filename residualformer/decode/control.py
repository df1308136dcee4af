"""Controls of an arbitrator: other ways to choose the branch of each frame, or depth of each chunk, of a set of cuts.

`random` draws as many frames of each branch as the arbitrator chose, or chunks of each depth; `loud` gives the slow
branch the loudest ones, `oracle` those at which a dense model is least certain, `blank` the full depth the chunks in
which CTC at the least depth finds labels; `slow` and `fast`, which take one branch alone, are the bounds. All are
planned before the set is decoded, so that the shares are exact, and batches, processes and streaming change nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from residualformer.config.amnet import BranchControl
from residualformer.config.schema import Config
from residualformer.constants import BLANK, MODEL_FILE
from residualformer.decode.corpus import Outcome, Plan, batches, load_readable
from residualformer.decode.encode import encode
from residualformer.decode.recognize import padded_batch
from residualformer.decode.teacher import Teacher
from residualformer.errors import UserError
from residualformer.model.checkpoint import Bundle, fingerprint, read_run
from residualformer.nn.encoder import BranchedEncoder
from residualformer.nn.transducer import Transducer
from residualformer.nn.transformer import TransformerEncoder
from residualformer.padding import chunk_maximum


@dataclass(frozen=True)
class Control:
    """Who chooses branches in the arbitrator's place.

    Attributes:
        slow_share: of all but `slow` and `fast`: the share of slow frames, the others are of the fastest branch; None
            to take as many frames of each branch as the arbitrator does on the same set.
        seed: of `random`.
        oracle: run folder or model file of the dense model.
    """

    by: BranchControl
    slow_share: float | None = None
    seed: int = 1
    oracle: Path | None = None

    @property
    def name(self) -> str:
        """The end of the names of folders: `random`, `random_seed2`, `oracle_share0.4`."""
        seed = f"_seed{self.seed}" if self.by == "random" and self.seed != 1 else ""
        return self.by + seed + (f"_share{self.slow_share:g}" if self.slow_share is not None else "")


class Planned(NamedTuple):
    """The branches of a control, and what decided them as plain values."""

    plan: Plan
    told: dict[str, Any]


def add_control_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a control to those of a command."""
    add = parser.add_argument
    add("--branches", choices=get_args(BranchControl), help="who chooses in the arbitrator's place")
    add("--slow-share", type=float, metavar="S", help="of random, loud, oracle, blank: share of slow frames or chunks")
    add("--branch-seed", type=int, metavar="N", help="of random: another draw (default 1)")
    add("--oracle", type=Path, metavar="RUN", help="of oracle: the dense model (the teacher of the arbitrator)")


def control_of(args: argparse.Namespace, model: Path, bundle: Bundle) -> Control | None:
    """Return the control that the options ask for, None if it is the arbitrator.

    Args:
        model: run folder or model file of `bundle`, beside which the dense model is looked for.

    Raises:
        UserError: the model has one branch, an option is not of this control, or there is no dense model.
    """
    by, share = args.branches, args.slow_share
    for option, value, of in (
        ("--slow-share", share, ("random", "loud", "oracle", "blank")),
        ("--branch-seed", args.branch_seed, ("random",)),
        ("--oracle", args.oracle, ("oracle",)),
    ):
        if value is not None and by not in of:
            raise UserError(f"{option} {value} is for --branches {' or '.join(of)}: add that, or leave it out.")
    if by is None:
        return None
    encoder = bundle.model.encoder
    assert isinstance(encoder, BranchedEncoder)
    if isinstance(encoder, TransformerEncoder) and encoder.num_branches > 1:
        if encoder.arbitrator is None and (by == "oracle" or (by in ("random", "loud", "blank") and share is None)):
            raise UserError(f"--branches {by}: {model} has depths, but no arbitrator; take random with --slow-share S.")
        if by == "blank" and ("ctc" not in bundle.model.training_only or bundle.config.loss.ctc_target != "tokens"):
            raise UserError(
                f"--branches blank: {model} has no CTC of its tokens; train it with loss.ctc_scale above 0."
            )
    elif encoder.num_branches < 2 or by == "blank":
        raise UserError(f"--branches {by}: {model} has no branches to choose from so; give an AmNet, such as mf_avg.")
    seed = 1 if args.branch_seed is None else args.branch_seed
    if seed < 0:
        raise UserError(f"--branch-seed {seed}: give 0 or more.")
    if share is not None and not 0 <= share <= 1:
        raise UserError(f"--slow-share {share}: give a number from 0 to 1.")
    run = model if model.is_dir() else model.parent
    dense = (args.oracle or dense_model(run, bundle.config)) if by == "oracle" else None
    return Control(by, share, seed, dense)


def dense_model(run: Path, config: Config) -> Path:
    """Return the run folder of the teacher from which the arbitrator in `run` learned, beside it.

    An AmNet that starts from another one has its teacher from there. Raises UserError if the teacher is not found.
    """
    exp = run.resolve().parent
    while config.amnet.arbitrator.teacher is None and config.warm_start is not None:
        config = read_run(exp / config.warm_start).config
    teacher = config.amnet.arbitrator.teacher
    if teacher is None:
        raise UserError(f"the arbitrator in {run} had no teacher, whose entropy the oracle takes: give --oracle RUN.")
    if not (exp / teacher / MODEL_FILE).is_file():
        raise UserError(
            f"{exp / teacher}, the teacher of {run}, holds no {MODEL_FILE}: train it, or give --oracle RUN."
        )
    return exp / teacher


def plan_branches(bundle: Bundle, control: Control, cuts: Sequence[Cut], max_batch_s: float) -> Planned:
    """Choose the branch of each frame, of a Transformer the depth of each chunk, of all cuts that can be read.

    Those of the whole set are ranked, by chance, loudness or entropy, and the first are slow, or run at the full depth.
    Random numbers follow the order of `cuts`, so that the size of a batch, `max_batch_s`, changes nothing.

    Raises:
        UserError: the dense model has other frames or features.
    """
    encoder = bundle.model.encoder
    assert isinstance(encoder, BranchedEncoder)
    share = {"slow": 1.0, "fast": 0.0}.get(control.by, control.slow_share)
    taken = _each_step(bundle, cuts, max_batch_s, partial(_arbitrated if share is None else _nothing, bundle.model))
    told: dict[str, Any] = {"by": control.by}
    if not taken:
        return Planned({}, told)
    chosen = np.concatenate(list(taken.values()))
    counts = np.bincount(chosen, minlength=encoder.num_branches)
    if share is not None:
        slow = round(share * len(chosen))
        counts = np.array([slow, *[0] * (encoder.num_branches - 2), len(chosen) - slow])
    told["slow_share"] = round(float(counts[0]) / len(chosen), 4)
    if isinstance(encoder, TransformerEncoder):
        told["shares"] = [round(float(each), 4) for each in counts / len(chosen)]
        told["mflop"] = round(float(counts @ encoder.branch_flops(by_chunk=True)) / len(chosen) / 1e6, 4)  # of a frame
    first = np.zeros(len(chosen))  # the lower, the slower
    if control.by == "random":
        told["seed"] = control.seed
        first = np.random.default_rng(control.seed).random(len(chosen))
    elif control.oracle is not None:
        teacher = Teacher(control.oracle, bundle.config).to(bundle.device)
        told["oracle"] = fingerprint(teacher.model.state_dict())
        entropy = partial(_entropy, teacher, bundle.model)
        first = -np.concatenate(list(_each_step(bundle, cuts, max_batch_s, entropy).values()))
    elif control.by == "loud":
        first = -np.concatenate(list(_each_step(bundle, cuts, max_batch_s, partial(_loudness, bundle.model)).values()))
    elif control.by == "blank":
        first = np.concatenate(list(_each_step(bundle, cuts, max_batch_s, partial(_blank, bundle.model)).values()))
    branches = np.empty_like(chosen)
    branches[first.argsort(kind="stable")] = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum([len(each) for each in taken.values()])[:-1]
    return Planned(dict(zip(taken, np.split(branches, ends), strict=True)), told)


Measure = Callable[[Tensor, Tensor], Tensor]  # features (N, T, F) and lengths (N,) -> (N, steps)


def _each_step(bundle: Bundle, cuts: Sequence[Cut], max_batch_s: float, measure: Measure) -> dict[str, np.ndarray]:
    """Return a measure of each frame or chunk, (steps,) by utterance, in the order of `cuts`, of readable ones."""
    found: dict[str, np.ndarray] = {}
    for batch in tqdm(batches(cuts, max_batch_s), desc="choose branches", unit="batch"):
        unread = {cut.id: "" for cut in batch}
        readable = list(load_readable(batch, bundle.config.features.num_mel_bins, unread, Outcome()))
        if readable:
            features, sizes = padded_batch(bundle.model, [each for _, each in readable])
            values = measure(features, sizes).cpu().numpy()
            lengths = bundle.model.encoder.num_steps(sizes).tolist()
            found |= {cut.id: values[n, :length] for n, ((cut, _), length) in enumerate(zip(readable, lengths))}
    return {cut.id: found[cut.id] for cut in cuts if cut.id in found}


def _arbitrated(model: Transducer, features: Tensor, lengths: Tensor) -> Tensor:
    taken = encode(model, features, lengths).branches
    assert taken is not None
    return taken


def _nothing(model: Transducer, features: Tensor, lengths: Tensor) -> Tensor:
    return torch.zeros(len(features), int(model.encoder.num_steps(lengths).max()), dtype=torch.int64)


def _loudness(model: Transducer, features: Tensor, lengths: Tensor) -> Tensor:
    """Return the largest log-mel energy of each step, the mean of a frame's bins, beside that of its utterance."""
    loudest = chunk_maximum(features.mean(2), lengths, model.encoder.shift)
    return loudest - loudest.amax(1, keepdim=True)


def _entropy(teacher: Teacher, model: Transducer, features: Tensor, lengths: Tensor) -> Tensor:
    encoder = model.encoder
    return chunk_maximum(teacher.entropy(features, lengths), encoder.output_lengths(lengths), encoder.frames_per_step)


@torch.no_grad()
def _blank(model: Transducer, features: Tensor, lengths: Tensor) -> Tensor:
    """Return the least log-probability of the blank in each chunk, by CTC on the encoder at the least depth."""
    encoder = model.encoder
    assert isinstance(encoder, TransformerEncoder)
    fast = torch.full_like(_nothing(model, features, lengths), encoder.num_branches - 1)
    encoded = encode(model, features, lengths, given=fast)
    blank = model.training_only["ctc"](encoded.frames).log_softmax(2)[..., BLANK]  # (N, T')
    return -chunk_maximum(-blank, encoded.lengths, encoder.chunk)
