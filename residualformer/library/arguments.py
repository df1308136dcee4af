"""The options of command lines that load a model: those of `residualformer.load`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from residualformer.constants import MODEL_FILE
from residualformer.library.loading import load
from residualformer.model.device import add_device_option

if TYPE_CHECKING:
    from residualformer.library.transcriber import Transcriber


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--model", type=Path, required=True, help=f"a run folder, a {MODEL_FILE} or an exported folder")
    add("--adapter", type=Path, metavar="FILE", help="what `residualformer adapter` wrote: the model, adapted")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--beam", type=int, metavar="N", help="beam search with N hypotheses (default: as in the model)")
    kind.add_argument("--greedy", action="store_true", help="greedy search")
    add(
        "--streaming",
        action="store_true",
        help="chunk by chunk, as live speech would be decoded, greedily unless --beam is given (exported: always, by "
        "either search)",
    )
    add("--threads", type=int, metavar="N", help="threads of the CPU (default: torch's own number; exported: 1)")
    add_device_option(parser)
    add(
        "--loops",
        type=int,
        metavar="N",
        help="less work: run the first N layers of each group, if a run folder is trained for it (docs/depth.md)",
    )
    fusion = parser.add_argument_group("language model, for beam search (docs/language_models.md)")
    fusion.add_argument("--lm", type=Path, metavar="FILE", help="an ARPA file, or what steps/train_lm.py wrote")
    fusion.add_argument(
        "--lm-weight", type=float, metavar="X", help="its factor; 0: without the one that the model is set to use"
    )
    fusion.add_argument("--ilm-weight", type=float, metavar="X", help="factor of the model's own, which is taken away")
    exported = parser.add_argument_group("with an exported folder, which streams without torch")
    exported.add_argument("--int8", action="store_true", help="its int8 files")
    exported.add_argument("--lean", action="store_true", help="the least memory: one group's weights at a time, slower")


def load_as_asked(args: argparse.Namespace, words: bool | None = None) -> Transcriber:
    """Return the model that the options describe; `words` and errors as those of `load`."""
    return load(
        args.model,
        greedy=args.greedy,
        beam=args.beam,
        streaming=args.streaming,
        threads=args.threads,
        device=args.device,
        int8=args.int8,
        lean=args.lean,
        words=words,
        adapter=args.adapter,
        lm=args.lm,
        lm_weight=args.lm_weight,
        ilm_weight=args.ilm_weight,
        loops=args.loops,
    )
