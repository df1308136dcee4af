# shellcheck shell=bash
# Sourced by every script (`. ./path.sh`): the repository on PYTHONPATH, and first on PATH a Python with all packages.
# The active `python` is used when it has them all; else .venv beside this file, which is made on the first call.
# RESIDUALFORMER_PYTHON=/path/to/python skips all that and takes the interpreter as it is.

residualformer_root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ":${PYTHONPATH:-}:" in
    *":$residualformer_root:"*) ;;
    *) export PYTHONPATH="$residualformer_root${PYTHONPATH:+:$PYTHONPATH}" ;;
esac
export PYTHONUTF8=1 # text files are UTF-8 whatever the locale

# More threads than physical cores make training slower, not faster.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
    OMP_NUM_THREADS=$(bash "$residualformer_root/utils/cores.sh")
fi
export OMP_NUM_THREADS MKL_NUM_THREADS="${MKL_NUM_THREADS:-$OMP_NUM_THREADS}"

# Threads that have nothing to do wait by spinning. By default for so long that two trainings at once, or one beside any
# other load, take many times longer; with this they share the cores.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"

# Keep freed memory instead of returning it: to ask the system for it anew takes a tenth of an update's time.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1000000000}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-1000000000}"

# Training meets more shapes than oneDNN by default keeps operators for, and to make them anew is slow.
export ONEDNN_PRIMITIVE_CACHE_CAPACITY="${ONEDNN_PRIMITIVE_CACHE_CAPACITY:-8192}"

if [ -z "${RESIDUALFORMER_PYTHON:-}" ]; then
    RESIDUALFORMER_PYTHON=$(bash "$residualformer_root/utils/environment.sh") || {
        unset RESIDUALFORMER_PYTHON
        return 1
    }
elif [ "$("$RESIDUALFORMER_PYTHON" -S -c 'print("yes")' 2>/dev/null)" != yes ]; then
    echo "error: '$RESIDUALFORMER_PYTHON' is not a Python:" \
        "give another one (--python, RESIDUALFORMER_PYTHON) or none" >&2
    return 2
fi
export RESIDUALFORMER_PYTHON
PATH=$(dirname "$RESIDUALFORMER_PYTHON"):$PATH
export PATH
