"""Time of depths that are chosen chunk by chunk, against the FLOPs that they save: exported, one stream, one thread.

    . ./path.sh && python benchmarks/depth_wall_clock.py [--config conf/paper_asr.yaml] [--sharing 6] [--loops 6 4 3 2]
        [--int8] [--rounds 8] [--clock wall]

Models have random weights and the shape of `--config`, in groups of `--sharing` layers. Of those without an arbitrator
one has the full depth, the baseline, and one the least. In the other one the arbitrator runs, but is made to obey: a
share of the chunks, drawn by `--seed`, has the full depth and the others the least, or all have a depth between. Rows
take turns in one process; of each chunk the fastest turn counts. Encoder and its projection to the joint space alone
are run. A saving is that against the baseline; `ratio` is time saving / FLOP saving. On a busy machine `--clock cpu`
leaves the waiting out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from amnet_wall_clock import print_savings
from device_table import random_bundle

from residualformer.config.amnet import AmNetConfig, ArbitratorConfig
from residualformer.config.depth import DepthConfig
from residualformer.config.loading import load_config
from residualformer.config.schema import Config
from residualformer.errors import run_main
from residualformer.export.folder import choose_contract, encoder_graph, write_folder
from residualformer.model.depth import config_at
from residualformer.nn.arbitrator import Arbitrator
from residualformer.nn.transformer import TransformerEncoder
from residualformer.runtime.loading import load_exported
from residualformer.runtime.model import FRONT_STATE, Array, ExportedModel, State
from residualformer.workflow.options import OptionParser

CHUNKS, WARM_UP = 20, 2
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of chunks at the full depth


class Loaded(NamedTuple):
    """An exported model and its FLOPs per encoder frame at each depth."""

    model: ExportedModel
    flops: list[float]
    front: int  # which of its states the arbitrator's is in
    hidden_dim: int  # of the arbitrator; 0 where there is none


class Row(NamedTuple):
    """A line of the table: a model, and the number of each chunk's depth."""

    name: str
    loaded: Loaded
    depths: list[int]


@torch.no_grad()
def obey(arbitrator: Arbitrator) -> None:
    """Let an arbitrator of one layer choose the depth whose number its cell c (N, H) is largest in."""
    for weight in arbitrator.parameters():
        weight.zero_()
    for gate, value in zip(arbitrator.bias[0].chunk(4), (-1e3, 1e3, 0.0, 1e3), strict=True):  # c stays as it is
        gate.fill_(value)
    arbitrator.out.weight.fill_diagonal_(1.0)


def export(config: Config, int8: bool, folder: Path) -> Loaded:
    """Export a random model of `config`."""
    bundle = random_bundle(config)
    encoder, hidden_dim = bundle.model.encoder, 0
    assert isinstance(encoder, TransformerEncoder)
    if encoder.arbitrator is not None:
        obey(encoder.arbitrator)
        hidden_dim = encoder.arbitrator.dim
    folder.mkdir()
    kind = choose_contract(config)
    write_folder(folder, folder.name, bundle, kind(bundle.model, encoder_graph(bundle.model)), "factored", int8)
    rest = encoder.arbitrator_flops() + bundle.model.joiner.project_encoder.weight.numel()
    flops = [rest + each for each in encoder.branch_flops()]
    return Loaded(load_exported(folder, int8=int8), flops, FRONT_STATE[kind.name], hidden_dim)


def ordered(loaded: Loaded, state: State, depth: int) -> State:
    """Return the state of a stream in which the arbitrator's cell says `depth`."""
    front = state[loaded.front].copy()
    end = front.size - (loaded.model.num_branches - 1)  # the last decision comes last
    front.reshape(-1)[end - loaded.hidden_dim : end] = np.arange(loaded.hidden_dim) == depth
    return *state[: loaded.front], front, *state[loaded.front + 1 :]


def run(row: Row, features: Array, clock: Callable[[], float]) -> list[float]:
    """Seconds of each chunk of features (chunks, 1, window, F)."""
    model, times = row.loaded.model, []
    state, lengths = model.encoder_state(), np.array([model.window])
    for window, depth in zip(features, row.depths[:1] * WARM_UP + row.depths, strict=True):
        if row.loaded.hidden_dim:
            state = ordered(row.loaded, state, depth)
        started = clock()
        _, [state] = model.encode(window, lengths, [state])
        times.append(clock() - started)
        assert (model.branch(state) or 0) == depth
    return times[WARM_UP:]


def rows_of(config: Config, args: argparse.Namespace, folder: Path) -> list[Row]:
    """The lines of the table, the baseline first."""
    full, least = args.loops[0], args.loops[-1]
    chosen = export(config, args.int8, folder / "chosen")
    rows = [
        Row(f"{loops} loops, fixed", export(config_at(config, loops), args.int8, folder / str(loops)), [0] * CHUNKS)
        for loops in (full, least)
    ]
    order = np.random.default_rng(args.seed).permutation(CHUNKS)
    for share in SHARES:
        depths = np.where(order < share * CHUNKS, 0, len(args.loops) - 1).tolist()
        rows.append(Row(f"{share:.0%} at {full}, rest at {least}", chosen, depths))
    between = list(enumerate(args.loops))[1:-1]
    return rows + [Row(f"100% at {loops}", chosen, [depth] * CHUNKS) for depth, loops in between]


def measure(rows: list[Row], rounds: int, clock: Callable[[], float]) -> list[tuple[str, float, float]]:
    """Of each row: name, FLOPs per frame, milliseconds per second of audio."""
    model = rows[0].loaded.model
    size = (CHUNKS + WARM_UP, 1, model.window, model.features.num_mel_bins)
    features = (np.random.default_rng(1).standard_normal(size) * 3 - 8).astype(np.float32)
    fastest = [[float("inf")] * CHUNKS for _ in rows]
    for turn in range(rounds + 1):
        for number, row in enumerate(rows):
            times = run(row, features, clock)
            if turn:  # the first one warms up
                fastest[number] = [min(pair) for pair in zip(fastest[number], times, strict=True)]
    audio_s = CHUNKS * model.shift / 100
    return [
        (row.name, sum(row.loaded.flops[depth] for depth in row.depths) / CHUNKS, 1000 * sum(times) / audio_s)
        for row, times in zip(rows, fastest, strict=True)
    ]


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--config", type=Path, default=Path("conf/paper_asr.yaml"))
    parser.add_argument("--sharing", type=int, default=6, help="layers of a group")
    parser.add_argument("--loops", type=int, nargs="+", default=[6, 4, 3, 2], help="the depths, falling")
    parser.add_argument("--hidden-dim", type=int, default=64, help="of the arbitrator")
    parser.add_argument("--int8", action="store_true", help="weights of 8 bits")
    parser.add_argument("--rounds", type=int, default=8, help="timed turns of each row")
    parser.add_argument("--seed", type=int, default=1, help="of the chunks at the full depth")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="passing time, or computing time")
    args = parser.parse_args()
    config = load_config(args.config)
    encoder = replace(config.encoder, sharing=args.sharing, depth=DepthConfig(args.loops, arbitrator=True))
    amnet = AmNetConfig(arbitrator=ArbitratorConfig(args.hidden_dim, num_layers=1))
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(replace(config, encoder=encoder, amnet=amnet), args, Path(folder))
        results = measure(rows, args.rounds, clock)
    print(f"{args.clock} clock, {'int8' if args.int8 else 'fp32'}")
    print_savings(results)


if __name__ == "__main__":
    run_main(main)
