#!/usr/bin/env bash
# Letters and digits by 70 people, to be mixed with other speech (data.shar), so it ends with the features.
#   egs/alphanumeric/run.sh --corpus-dir DIR      DIR: a clone of the alphanumeric audio dataset
# Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus alphanumeric \
    --stop-stage 2 --experiments "baseline" "$@"
