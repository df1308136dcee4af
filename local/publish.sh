#!/usr/bin/env bash
# Publish the results of a recipe: merge egs/RECIPE/exp/ into docs/results/RECIPE/, and list what changes.
#
#   local/publish.sh mini                 after a run
#   local/publish.sh mini --dry-run       only list what would change
#   local/publish.sh mini --draw DIR      draw the pictures of what is published into DIR

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../path.sh"
exec "$RESIDUALFORMER_PYTHON" "$residualformer_root/steps/publish.py" "$@"
