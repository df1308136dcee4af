#!/usr/bin/env bash
# Tables of the papers, measured: local/reproduce.sh --table 3 --corpus mini_deep. Options: --help lists them.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../utils/start.sh"
exec "$RESIDUALFORMER_PYTHON" utils/reproduce.py "$@"
