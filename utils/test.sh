#!/usr/bin/env bash
# Run the tests: all but those that take minutes, without a GPU. Arguments go to pytest: utils/test.sh -m slow,
# utils/test.sh -m gpu (on a machine with a GPU), utils/test.sh -k loss.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh
exec "$RESIDUALFORMER_PYTHON" -m pytest -q "$@"
