# shellcheck shell=bash
# Sourced first by the scripts that have options, which are in "$@": goes to the repository and sources path.sh, with
# the Python that the options ask for.

export RESIDUALFORMER_CALLED_FROM=${RESIDUALFORMER_CALLED_FROM:-$PWD} # where relative paths of the options begin
cd "$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || exit

asks_for_help=false
_python=
_previous=
for _each in "$@"; do
    if [ "$_previous" = --python ]; then _python=$_each; fi
    case $_each in
        --python=*) _python=${_each#--python=} ;;
        -h | --help) asks_for_help=true ;;
        --) break ;;
    esac
    _previous=$_each
done

case $_python in
    '') ;;
    /*) RESIDUALFORMER_PYTHON=$_python ;;
    */*) RESIDUALFORMER_PYTHON=$RESIDUALFORMER_CALLED_FROM/$_python ;;
    *) RESIDUALFORMER_PYTHON=$(command -v "$_python" || echo "$_python") ;; # path.sh refuses it if it is none
esac
if $asks_for_help && [ -z "${RESIDUALFORMER_PYTHON:-}" ]; then # help must not wait until all packages are installed
    for _each in "$PWD/.venv/bin/python" python python3; do
        if RESIDUALFORMER_PYTHON=$(command -v "$_each"); then break; fi
    done
fi
. ./path.sh
