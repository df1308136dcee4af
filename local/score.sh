#!/usr/bin/env bash
# Score all decoding runs of a recipe: print the table, write EGS_DIR/exp/results.json and EGS_DIR/exp/RESULTS.md
# (results_dev.json, RESULTS_dev.md with --split dev).
#
#   local/score.sh EGS_DIR [--split "test ..."] [--baseline NAME]
#   local/score.sh egs/mini

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../path.sh"
exec "$RESIDUALFORMER_PYTHON" "$residualformer_root/steps/score.py" "$@"
