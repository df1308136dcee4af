"""From a corpus to a table of word error rates, in stages:

  0 obtain the corpus    4 train baseline and sharing              8 score
  1 Lhotse manifests     5 warm-start and train residual           9 export for devices (with --stop-stage 9)
  2 features             6 train compressed encoders and AmNets
  3 tokens               7 decode

A stage is skipped if it finished with the same options and inputs. Everything is written under egs/NAME.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from residualformer.errors import run_main
from residualformer.journal import share
from residualformer.model.device import add_device_option
from residualformer.workflow.corpus import options_help
from residualformer.workflow.options import (
    OptionParser,
    add_settings,
    add_switch,
    caller_path,
    nonempty,
    one_of,
    positive_whole_number,
    wants_help,
    whole_number,
)


def main() -> None:
    parser, words = run_parser(), sys.argv[1:]
    if wants_help(words):
        print(run_help(parser, words))
        return
    from residualformer.workflow.stages import Stages  # not before: help needs no installed package

    options, of_the_corpus = parser.parse_known_args(words)
    stages = Stages(options, of_the_corpus, parser.names())
    stages.check()
    sys.exit(stages.run())


def run_parser() -> OptionParser:
    """Return the options that are the same for all corpora."""
    options = OptionParser(__doc__, prog="run.sh")
    add = options.add_argument
    add("--corpus", type=nonempty, default="mini", metavar="NAME", help="which corpus: local/NAME.py (%(default)s)")
    add("--recipe", type=nonempty, metavar="NAME", help="configurations: conf/NAME (the corpus's name)")
    add("--name", type=nonempty, metavar="NAME", help="results: egs/NAME (the recipe's name)")
    add("--stage", type=whole_number, default=0, metavar="N", help="first stage to run (%(default)s)")
    add("--stop-stage", type=whole_number, default=8, metavar="N", help="last stage to run (%(default)s)")
    experiments = "baseline shared residual"
    add("--experiments", type=nonempty, default=experiments, metavar="'NAME ...'", help="what to train (%(default)s)")
    add("--test-set", type=nonempty, default="test", metavar="'SET ...'", help="what to decode and score (%(default)s)")
    add_settings(options)
    source = "run folder whose model trainings start from, with its layers and sizes (finetune, adapt)"
    add("--start-from", type=caller_path, metavar="RUN", help=source)
    add_switch(options, "--overwrite", "run finished stages again")
    changed = "a training of other options: move it to old/ (aside), go on with the new ones (go-on), or stop (refuse)"
    add("--if-changed", type=one_of("aside", "go-on", "refuse"), default="aside", metavar="WHAT", help=changed)
    add("--jobs", type=whole_number, default=0, metavar="N", help="processes of stages 0 to 2 (one for each core)")
    ranks = "processes of stages 4 to 7 (one for each GPU, else core; of a training up to train.batches_per_update)"
    add("--nproc", type=whole_number, default=0, metavar="N", help=ranks)
    nodes = "machines of a training, each with --nproc processes; utils/slurm.sh starts them (%(default)s)"
    add("--nodes", type=positive_whole_number, default=1, metavar="N", help=nodes)
    add_device_option(options)
    add("--job", type=share, metavar="I/N", help="of stage 7, only the part of job I of N; without it, the rest")
    add("--feature-backend", type=nonempty, metavar="NAME", help="computes features: knf (default), kaldifeat, auto")
    add("--python", type=nonempty, metavar="PATH", help="the Python to use as it is, with no check and no set-up")
    return options


def run_help(parser: OptionParser, words: Sequence[str]) -> str:
    """Return the help of run.sh and of the corpus that `words` choose, with what they choose as the defaults."""
    given = parser.parse_known_args([word for word in words if word not in ("-h", "--help")])[0]
    parser.set_defaults(corpus=given.corpus, experiments=given.experiments, test_set=given.test_set)
    program = Path("local", f"{given.corpus}.py")
    if not program.is_file():
        return parser.format_help()
    return f"{parser.format_help()}\nCorpus {given.corpus}: {options_help(program)}".rstrip()


if __name__ == "__main__":
    run_main(main)
