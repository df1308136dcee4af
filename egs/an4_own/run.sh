#!/usr/bin/env bash
# AN4's own 38 minutes alone, without synthetic speech. Options: as egs/an4/run.sh.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus an4 --recipe an4_own \
    --experiments "baseline shared residual" "$@"
