#!/usr/bin/env bash
# Run the tests: all but those that take minutes, without a GPU, in a process for each physical core. Arguments go to
# pytest: utils/test.sh -m slow, utils/test.sh -m gpu (on a machine with a GPU; in one process), utils/test.sh -k loss,
# utils/test.sh -n 0 (in one process).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cores=$(bash utils/cores.sh)
case " $* " in *" -n"* | *" --numprocesses"* | *" --dist"* | *" --pdb "* | *" -m gpu "*) cores=1 ;; esac
if [ "$cores" -gt 1 ]; then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
    set -- -n "$cores" --dist worksteal "$@" # which begins with neighboring tests, for they share fixtures
fi
. ./path.sh
exec "$RESIDUALFORMER_PYTHON" -m pytest -q "$@"
