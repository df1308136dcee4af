#!/usr/bin/env bash
# English: small streaming models of real speech from several public corpora, scored on LibriSpeech test-clean.
#   egs/english/run.sh                            fetch 5 h of LibriSpeech and speechocean762 (1.2 GB)
#   egs/english/run.sh --librispeech DIR --speechocean DIR2 --common-voice DIR3      use these copies
# Options: --help lists them. What the corpora are and where to get them: docs/corpora.md.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus english --test-set test-clean \
    --experiments "shared control residual" "$@"
