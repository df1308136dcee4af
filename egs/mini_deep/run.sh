#!/usr/bin/env bash
# Corpus mini for the tables of the ResidualTransformer paper: models of 18 layers, and a test set of hours (test_long),
# on which small differences show. Options: --help. All cells of a table: local/reproduce.sh.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus mini --recipe mini_deep \
    --train-hours 3.0 --dev-minutes 20.0 --test-minutes 30.0 --long-test-hours 4.0 --seed 1 \
    --test-set "test_long test" --experiments "baseline shared control residual" "$@"
