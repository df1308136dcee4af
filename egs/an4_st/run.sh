#!/usr/bin/env bash
# Speech translation, English to Chinese word for word, on AN4 and synthetic speech of its domain. Options: as
# egs/an4/run.sh.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus an4 --recipe an4_st \
    --seed 1 --synthetic 1500 \
    --experiments "baseline shared residual" "$@"
