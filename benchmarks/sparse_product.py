"""One vector through a sparse matrix at run time: our product against torch's dense and CSR ones, on a CPU.

    . ./path.sh && python benchmarks/sparse_product.py [--columns 1024] [--density 0.2 0.85] [--block 1 4 8]

As in a model, the matrix is not in the caches: there are enough of them, one after the other, to hold `--footprint-mb`
dense. All take turns in one process; of each matrix the fastest turn counts, and printed is the mean over matrices.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from residualformer.errors import run_main
from residualformer.kernels.sparse import LAYOUTS, SparseMatrix, best_product
from residualformer.optional import is_installed
from residualformer.workflow.options import OptionParser

Product = Callable[[Tensor], Tensor]


def random_matrix(rows: int, columns: int, density: float, block: int) -> Tensor:
    kept = torch.rand(rows, -(-columns // block)) < density
    return torch.randn(rows, columns) * kept.repeat_interleave(block, 1)[:, :columns]


def products(weight: Tensor, block: int, all_layouts: bool) -> dict[str, Product]:
    """Each takes x (1, v)."""
    found: dict[str, Product] = {"torch dense": lambda x: torch.nn.functional.linear(x, weight)}
    if block == 1:  # CSR knows no blocks: it would be the same again
        csr = weight.to_sparse_csr()
        found["torch CSR"] = lambda x: torch.mv(csr, x[0])
    best = best_product(weight, block)
    found[f"ours, {getattr(best, 'layout', 'dense')}"] = best
    if all_layouts and is_installed("numba"):
        fitting = LAYOUTS if block in (4, 8) else LAYOUTS[:2]
        found |= {f"ours, {layout}": SparseMatrix(weight, block, layout) for layout in fitting}
    return found


@torch.inference_mode()
def measure(candidates: list[dict[str, Product]], x: Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds of each product."""
    fastest = [dict.fromkeys(one, float("inf")) for one in candidates]
    for turn in range(rounds + 1):
        for name in candidates[0]:
            for times, one in zip(fastest, candidates, strict=True):
                started = time.perf_counter()
                one[name](x)
                spent = time.perf_counter() - started
                times[name] = min(times[name], spent) if turn else times[name]  # the first turn warms up
    return {name: 1000 * sum(times[name] for times in fastest) / len(fastest) for name in candidates[0]}


def main() -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--rows", type=int, default=4096, help="w")
    parser.add_argument("--columns", type=int, default=1024, help="v")
    parser.add_argument("--density", type=float, nargs="+", default=[0.2, 0.85], help="shares of weights that are kept")
    parser.add_argument("--block", type=int, nargs="+", default=[1, 4, 8], help="columns kept or dropped together")
    parser.add_argument("--footprint-mb", type=float, default=150, help="of the dense matrices")
    parser.add_argument("--all-layouts", action="store_true", help="measure the layouts that are not chosen, too")
    parser.add_argument("--threads", type=int, default=1, help="torch's; ours has one")
    parser.add_argument("--rounds", type=int, default=12, help="timed turns of each")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    number = max(1, round(args.footprint_mb * 1e6 / (4 * args.rows * args.columns)))
    print(f"{args.rows} x {args.columns}, {number} matrices, {args.threads} thread(s)")
    for density in args.density:
        for block in args.block:
            matrices = [random_matrix(args.rows, args.columns, density, block) for _ in range(number)]
            candidates = [products(weight, block, args.all_layouts) for weight in matrices]
            times = measure(candidates, torch.randn(1, args.columns), args.rounds)
            parts = [f"{name} {ms:.3f} ms ({ms / times['torch dense']:.2f})" for name, ms in times.items()]
            print(f"density {density:g}, block {block}: " + ", ".join(parts), flush=True)


if __name__ == "__main__":
    run_main(main)
