"""Publish the results of a recipe: merge egs/RECIPE/exp/ into docs/results/RECIPE/, which no run writes to.

Rows of experiments that this run does not have are kept. Every change is listed; commit the result with git. With
`--draw DIR` nothing is published: it draws the pictures of what is published into DIR.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from residualformer.errors import UserError, run_main
from residualformer.report.publish import draw, prepare, write
from residualformer.workflow.options import OptionParser

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    args = parse_arguments()
    exp, folder = args.egs / args.recipe / "exp", args.to / args.recipe
    if args.draw is not None:
        if not (folder / "results.json").is_file():
            raise UserError(f"{folder} holds no results.json: nothing is published of '{args.recipe}'.")
        print(*draw(folder, args.draw), sep="\n")
        return
    if not (exp / "results.json").is_file():
        raise UserError(f"{exp} holds no results.json: run stage 8 first.")
    publication = prepare(exp, folder, ROOT)
    print(*publication.changes, sep="\n")
    if not args.dry_run:
        write(publication, folder)
    print(f"publish: {len(publication.results.rows)} rows {'would be' if args.dry_run else 'are'} in {folder}")


def parse_arguments() -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument("recipe", metavar="RECIPE", help="a folder of --egs, such as mini")
    parser.add_argument("--egs", type=Path, default=ROOT / "egs", help="where the recipes are (default: egs)")
    parser.add_argument("--to", type=Path, default=ROOT / "docs/results", help="where to publish (docs/results)")
    parser.add_argument("--dry-run", action="store_true", help="only list what would change")
    parser.add_argument("--draw", type=Path, metavar="DIR", help="draw the published pictures into DIR instead")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
