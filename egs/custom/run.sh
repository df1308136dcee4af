#!/usr/bin/env bash
# Your own data: a folder of audio and text, in any of four layouts (docs/own_data.md), becomes streaming models.
#   egs/custom/run.sh --data DIR                         results in egs/custom/exp
#   egs/custom/run.sh --data DIR --name NAME             results in egs/NAME/exp, for several data sets
#   egs/custom/run.sh --data DIR --name NAME --experiments baseline      one model alone
#
# Options of your own data, beside those of ../../run.sh --help:
#   --data DIR             folder, TSV or CSV table, or Lhotse cuts; used in place
#   --name NAME            results go to egs/NAME (custom)
#   --layout LAYOUT        kaldi, pairs, table or cuts (recognised)
#   --target TARGET        what models write: text or translation (text)
#   --case CASE            of all text: keep, lower or upper (keep)
#   --punctuation WHAT     keep or remove (keep)
#   --min-seconds S        shorter utterances are dropped (0.2)
#   --max-seconds S        longer utterances are dropped (30)

set -euo pipefail
here=$(CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=custom
given=()
while [ $# -gt 0 ]; do
    option=${1%%=*}
    case $option in
        -h | --help) exec sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
        --data | --name | --layout | --target | --case | --punctuation | --min-seconds | --max-seconds) ;;
        *)
            given+=("$1")
            shift
            continue
            ;;
    esac
    if [[ $1 == *=* ]]; then
        value=${1#*=}
    else
        value=${2-}
        shift $(($# > 1))
    fi
    shift
    if [ -z "$value" ] || [[ $value == --* ]]; then
        echo "error: egs/custom/run.sh: $option needs a value" >&2
        exit 2
    fi
    case $option in
        --data) given+=(--corpus-dir "$value") ;;
        --name) name=$value ;;
        *) given+=(--corpus-option "${option#--}=$value") ;;
    esac
done
if ! [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || { [ "$name" != custom ] && [ -e "$here/../../conf/$name" ]; }; then
    echo "error: egs/custom/run.sh: --name '$name' must be made of letters, digits, '_', '-' and '.'," \
        "and must not be a recipe of this repository" >&2
    exit 2
fi
exec "$here/../../run.sh" --corpus custom --recipe "$name" --conf custom \
    --experiments "baseline shared residual" "${given[@]}"
