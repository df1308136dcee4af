"""Run one stage of a recipe: `stage.py NUMBER OPTIONS`, with the options of run.sh; nothing if it was not asked for.

`stage.py check OPTIONS` refuses wrong options and configurations before any work; with `--help` it lists the options.
"""

from __future__ import annotations

import sys

from residualformer.errors import UserError, run_main
from residualformer.workflow.options import wants_help
from residualformer.workflow.run_options import LAST, run_help


def main() -> None:
    stage, *words = sys.argv[1:] or ["--help"]
    if wants_help([stage, *words]):
        print(run_help(words))
        return
    from residualformer.workflow.stages import Stages  # not before: help needs no installed package

    stages = Stages(words)
    if stage == "check":
        stages.check()
    elif stage in map(str, range(LAST + 1)):
        sys.exit(stages.run(int(stage)))
    else:
        raise UserError(f"there is no stage '{stage}': give 0 to {LAST}, or check")


if __name__ == "__main__":
    run_main(main)
