#!/usr/bin/env bash
# From a corpus to a table of word error rates, in stages.
#
#   ./run.sh                       all stages on corpus mini, which is synthesized: no network, no data files
#   egs/an4/run.sh                 the same stages on AN4, with its own numbers
#   ./run.sh --stage 4 --set train.max_steps=500
#   ./run.sh --help                all options, those of the corpus as well
#
# A stage is skipped if it finished with the same options and inputs. Everything is written under egs/<recipe>/.
#
#   0 obtain the corpus        local/<corpus>.py obtain      -> data/raw
#   1 Lhotse manifests         local/<corpus>.py manifests   -> data/manifests
#   2 features                 steps/compute_fbank.py        -> data/fbank
#   3 tokens                   steps/train_tokenizer.py      -> data/lang
#
#   4 train baselines and sharing              steps/train.py    -> exp/<experiment>
#   5 train residual models from a warm start  steps/train.py    -> exp/<experiment>
#   6 train compressed encoders and AmNets     steps/train.py    -> exp/<experiment>
#
#   7 decode the test sets     steps/decode.py               -> exp/<experiment>/decode_<split>_<search>
#   8 score                    local/score.sh                -> RESULTS.md, results.json
#   9 export for devices       steps/export.py               -> exp/<experiment>/export; with --stop-stage 9
#
# The commands of the stages are in residualformer/workflow/recipe.py.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
"$RESIDUALFORMER_PYTHON" utils/stages.py "$@" # without exec: it notices the end of this script, even by SIGKILL
