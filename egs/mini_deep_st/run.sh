#!/usr/bin/env bash
# Speech translation, English to Chinese, on corpus mini for tables 2 and 4 of the ResidualTransformer paper.
# Options: --help lists them. All cells of a table: local/reproduce.sh.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus mini --recipe mini_deep_st \
    --train-hours 3.0 --dev-minutes 20.0 --test-minutes 30.0 --long-test-hours 4.0 --seed 1 \
    --test-set "test_long test" --experiments "baseline shared control residual" "$@"
