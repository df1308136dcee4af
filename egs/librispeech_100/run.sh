#!/usr/bin/env bash
# LibriSpeech's 100 hours (train-clean-100; 8 GB to fetch). Options: as egs/librispeech/run.sh.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus librispeech --recipe librispeech_100 \
    --subset 100 --test-set "test-clean test-other" \
    --experiments "baseline shared residual" "$@"
