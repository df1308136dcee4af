#!/usr/bin/env bash
# CoVoST 2, English to Chinese speech translation, and ResidualTransformers of the paper's size.
#   egs/covost/run.sh --corpus-dir DIR            DIR: the English of Common Voice 4, which Mozilla gives on request
#   egs/covost/run.sh --corpus-dir DIR --mslt-dir DIR2 --test-set "test mslt"
#                                                 DIR2: MSLT v1.1, as further test sets
# Options: --help lists them. What it needs: docs/corpora.md.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus covost \
    --experiments "baseline shared residual" "$@"
