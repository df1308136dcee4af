#!/usr/bin/env bash
# Corpus AN4: 948 training and 130 test utterances of real speech, spelled letters and numbers (Carnegie Mellon, 1991).
#   egs/an4/run.sh                        fetch it with git
#   egs/an4/run.sh --corpus-dir DIR       use the copy in DIR
# 1,500 synthetic utterances of the same domain join the training set unless told otherwise; the results say so. AN4's
# own 38 minutes alone: egs/an4_own/run.sh.
# Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus an4 \
    --seed 1 --synthetic 1500 \
    --experiments "baseline shared residual" "$@"
