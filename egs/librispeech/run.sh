#!/usr/bin/env bash
# LibriSpeech, 960 hours of English audio books, and ResidualTransformers of the paper's size.
#   egs/librispeech/run.sh                        fetch it (60 GB)
#   egs/librispeech/run.sh --corpus-dir DIR       use the copy in DIR, which holds train-clean-100 and so on
#   egs/librispeech/run.sh --experiments "baseline shared control residual"     see conf/librispeech
# Options: --help lists them. What it needs: docs/corpora.md.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus librispeech \
    --subset 960 --test-set "test-clean test-other" \
    --experiments "baseline shared residual" "$@"
