#!/usr/bin/env bash
# The AmNets paper's table on its own corpus: LibriSpeech, 960 hours, 64 mel bins, test-clean; conf/librispeech_amnet.
# Options: as egs/librispeech/run.sh.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --corpus librispeech --recipe librispeech_amnet \
    --subset 960 --test-set "test-clean" \
    --experiments "rnnt sparse sparse_avg sparse_amr sparse_biased mf mf_avg mf_amr mf_biased" "$@"
