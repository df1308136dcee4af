#!/usr/bin/env bash
# Mini LibriSpeech: 5 hours of English audio books, scored on the official test-clean; small models for two cores.
#   egs/mini_librispeech/run.sh                   fetch it (0.8 GB)
#   egs/mini_librispeech/run.sh --corpus-dir DIR  use the copy in DIR: train-clean-5, dev-clean-2, test-clean
# Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus librispeech --recipe mini_librispeech \
    --subset 5 --test-set test-clean \
    --experiments "baseline shared residual" "$@"
