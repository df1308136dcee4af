#!/usr/bin/env bash
# Corpus mini: synthetic English speech with Chinese translations, made on the spot. Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus mini \
    --train-hours 3.0 --dev-minutes 20.0 --test-minutes 30.0 --seed 1 \
    --experiments "baseline shared residual" "$@"
