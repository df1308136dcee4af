"""Stage 8, of a corpus with a grammar: what is right, what is refused, and what is wrongly accepted.

It reads exp/<experiment>/grammar/<split>/hyp.jsonl, and what was found without the grammar, and writes exp/grammar.json
and exp/GRAMMAR.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from residualformer.context.grammar.network import build
from residualformer.context.grammar.source import read_source
from residualformer.data.splits import set_of
from residualformer.errors import UserError, run_main
from residualformer.files import write_json, write_text
from residualformer.provenance import provenance
from residualformer.report.grammar import render_grammar, score_decoded
from residualformer.workflow.options import OptionParser


def main() -> None:
    args = parse_args()
    sets, exp = args.split.split(), args.egs_dir / "exp"
    network = build(read_source(args.grammar))
    folders = sorted(file.parent for file in exp.glob("*/grammar/*/hyp.jsonl"))
    rows = [score_decoded(folder, network) for folder in folders if set_of(folder.name) in sets]
    if not rows:
        raise UserError(f"{exp} holds nothing that was decoded with the grammar: run stage 7 first.")
    command = shlex.join(["steps/score_grammar.py", *sys.argv[1:]])
    lines = render_grammar(args.egs_dir.resolve().name, command, rows)
    write_json(exp / "grammar.json", {**provenance(), "rows": [asdict(row) for row in rows]})
    write_text(exp / "GRAMMAR.md", "\n".join(lines) + "\n")
    print("\n".join(line for line in lines if line.startswith("|")))
    print(f"score: {len(rows)} rows -> {exp / 'grammar.json'}, {exp / 'GRAMMAR.md'}")


def parse_args() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("egs_dir", type=Path, metavar="EGS_DIR", help="the recipe's folder, which holds exp/")
    parser.add_argument("--grammar", type=Path, required=True, help="the grammar that was decoded with, not compiled")
    parser.add_argument("--split", default="test", metavar="'SET ...'", help="test sets (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
