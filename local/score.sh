#!/usr/bin/env bash
# Scores all decoding runs of a corpus: prints the table and writes EGS_DIR/results.json and EGS_DIR/RESULTS.md
# (results_dev.json, RESULTS_dev.md with --split dev).
#
#   local/score.sh EGS_DIR [--split "test ..."] [--baseline NAME]
#   local/score.sh egs/mini

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../path.sh"
exec "$RESIDUALFORMER_PYTHON" "$residualformer_root/steps/score.py" "$@"
