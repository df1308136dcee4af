#!/usr/bin/env bash
# Print the path of a Python that has the packages of pyproject.toml in the versions of constraints.txt.
# The active `python` is taken if it has them all; else .venv in the repository root is made, or completed.
# RESIDUALFORMER_TORCH=cpu or cuda says which build of PyTorch .venv gets; else that for CUDA where nvidia-smi is.
# Messages go to stderr.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
complete=$venv/.complete # a copy of the files that the environment was built from
cpu_index=https://download.pytorch.org/whl/cpu

say() { echo "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
recipe() { cat "$root/pyproject.toml" "$root/constraints.txt" && echo "# PyTorch for: $build"; }
is_complete() { recipe | cmp -s - "$complete" && is_new_enough "$venv/bin/python"; }

make_venv() { # with python $1
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    "$1" -m venv --clear "$venv" >/dev/null 2>&1 && return
    # Debian's python3 without python3-venv cannot put pip into an environment, but its pip can.
    "$1" -m venv --clear --without-pip "$venv" && "$1" -m pip --python "$venv/bin/python" install pip >&2
}

# What is asked of pip for the build, beside the version. PyPI's torch for Linux is that for CUDA.
torch_options() { # for python $1
    if [ "$build" = cpu ]; then
        "$1" -c "import urllib.request; urllib.request.urlopen('$cpu_index/torch/', timeout=10)" >/dev/null 2>&1 ||
            { say "== $cpu_index cannot be reached: PyPI's PyTorch is taken, larger" && return; }
        echo "--extra-index-url $cpu_index"
    elif is_cpu_build "$1"; then # which pip would take for the same version
        echo --force-reinstall
    fi
}
is_cpu_build() { # of python $1
    "$1" -c 'import importlib.metadata as m, sys; sys.exit("+cpu" not in m.version("torch"))' 2>/dev/null
}

install_packages() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install)
    # torch first and without dependencies, so that its own index is asked for nothing else.
    # shellcheck disable=SC2046  # two words or none
    "${pip[@]}" --no-deps $(torch_options "$venv/bin/python") "$("$venv/bin/python" "$root/utils/pins.py" torch)" >&2 &&
        "${pip[@]}" --constraint "$root/constraints.txt" --editable "${root}[train,synthesis,grammar,dev]" >&2
}

asked=${RESIDUALFORMER_TORCH:-auto}
case $asked in
    auto) if command -v nvidia-smi >/dev/null; then build=cuda; else build=cpu; fi ;;
    cpu | cuda) build=$asked ;;
    *) die "RESIDUALFORMER_TORCH is '$asked'; it must be cpu, cuda or auto (cuda where nvidia-smi is)" ;;
esac
if command -v python >/dev/null && python "$root/utils/pins.py" 2>/dev/null; then
    if [ "$asked" != cuda ] || ! is_cpu_build python; then
        command -v python
        exit
    fi
    say "== the active python has PyTorch for the CPU, and RESIDUALFORMER_TORCH asks for CUDA's: .venv gets it"
fi
if ! is_complete; then
    mkdir -p "$venv"
    exec 9>"$root/.venv.lock" # two scripts started together must not install at once
    if command -v flock >/dev/null; then flock 9; fi
fi
if ! is_complete; then
    base=
    for name in python python3 python3.11 python3.12 python3.13 python3.14; do
        if is_new_enough "$name"; then base=$name && break; fi
    done
    [ -n "$base" ] || die "Python 3.11 or newer is needed and none is on PATH; install one and run this again"
    if [ "$build" = cuda ]; then
        size="PyTorch for CUDA: several GB with NVIDIA's libraries (RESIDUALFORMER_TORCH=cpu: 1.3 GB in all)"
    else
        size="PyTorch for the CPU: 1.3 GB in all (RESIDUALFORMER_TORCH=cuda asks for CUDA's, several GB)"
    fi
    say "== setting up $venv with $("$base" --version) and $size; a few minutes, only once"
    make_venv "$base" || die "$base cannot make a virtual environment at $venv; install its venv and pip modules"
    install_packages || die "the packages could not be installed into $venv (see above); is there a network? \
Run this again to go on, or activate an environment where \
'pip install -c constraints.txt -e .[train,synthesis,grammar,dev]' has succeeded"
    recipe >"$complete.part" && mv "$complete.part" "$complete"
    say "== environment ready: $venv"
fi
echo "$venv/bin/python"
