#!/usr/bin/env bash
# Common Voice: read sentences of a language with an alphabet; small models for two cores.
#   egs/common_voice/run.sh --corpus-dir DIR      DIR: a language of a release, which Mozilla gives on request
# Options: --help lists them. What it needs: docs/corpora.md.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus common_voice \
    --experiments "shared control residual" "$@"
