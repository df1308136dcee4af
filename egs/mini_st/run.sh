#!/usr/bin/env bash
# Speech translation, English to Chinese, on corpus mini. Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus mini --recipe mini_st \
    --train-hours 3.0 --dev-minutes 20.0 --test-minutes 30.0 --seed 1 \
    --experiments "baseline shared residual" "$@"
