#!/usr/bin/env bash
# Your own data: a folder of audio and text, in any of four layouts (docs/own_data.md), becomes streaming models.
#   egs/custom/run.sh --data DIR                         results in egs/custom/exp
#   egs/custom/run.sh --data DIR --name NAME             results in egs/NAME/exp, for several data sets
#   egs/custom/run.sh --data DIR --name NAME --experiments baseline      one model alone
# Options: egs/custom/run.sh --help.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus custom \
    --experiments "baseline shared residual" "$@"
