#!/usr/bin/env bash
# Corpus mini as an always-on device hears it: half of dev and test are pauses, between sentences in threes. AmNets are
# for that, see docs/training.md. Options: --help lists them. It goes on from mini's RNN-T:
#   ./run.sh --experiments rnnt --stop-stage 4      # first

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# In training sentences are joined as well, at random.
exec "$here/../../run.sh" --corpus mini --recipe mini --name mini_streams \
    --train-hours 3.0 --dev-minutes 10.0 --test-minutes 30.0 --pauses 0.5 --seed 1 \
    --set data.concat_probability=0.25 --set data.concat_most=3 \
    --set data.pad_start_ms=1000 --set data.pause.longest_s=4 \
    --set data.pause.long_probability=0.1 --set data.pause.very_long_s=10 \
    --start-from "$here/../mini/exp/rnnt" --set train.max_steps=3000 \
    --experiments "rnnt mf mf97_pauses static_mf97_pauses" "$@"
