#!/usr/bin/env bash
# speechocean762: English of 250 people whose first language is Mandarin, 2.8 h to train on; small models for two cores.
#   egs/speechocean/run.sh                        fetch it (0.5 GB)
#   egs/speechocean/run.sh --corpus-dir DIR       use the copy in DIR
# Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus speechocean \
    --experiments "shared control residual" "$@"
