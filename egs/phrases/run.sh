#!/usr/bin/env bash
# Your own phrases: a list of sentences, or a grammar with slots, becomes a streaming recognizer of exactly these,
# without a recording (docs/phrases.md).
#   egs/phrases/run.sh preview --phrases FILE            sentences, counts, and how long all takes
#   egs/phrases/run.sh --phrases FILE --name NAME        results in egs/NAME/exp
#   egs/phrases/run.sh --phrases FILE --start-from RUN --experiments finetune     start from a trained model
#   egs/phrases/run.sh --phrases FILE --recordings mine=DIR --test-set "test other mine"     score recordings, too
# Options: --help lists them.

set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ "${1:-}" = preview ]; then
    . "$here/../../utils/start.sh"
    exec "$RESIDUALFORMER_PYTHON" local/phrases.py "$@"
fi
exec "$here/../../run.sh" --corpus phrases --test-set "test other" --stop-stage 9 \
    --experiments "shared" "$@"
