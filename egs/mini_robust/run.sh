#!/usr/bin/env bash
# Corpus mini, and models for any level, pauses and telephone lines (docs/robustness.md). Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus mini --recipe mini_robust \
    --train-hours 3.0 --dev-minutes 20.0 --test-minutes 30.0 --seed 1 \
    --experiments "baseline shared residual" "$@"
