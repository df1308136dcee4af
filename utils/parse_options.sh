# Sourced after the defaults of a script, which end with the line "# End of configuration":
#
#   #!/usr/bin/env bash
#   # What the script does, and how it is called.
#
#   stage=0        # first stage to run                 --stage 3, or --stage=3; a whole number, as the default is one
#   hours=3.0      # hours of speech                    --hours 2 or --hours 0.5: any number
#   overwrite=false # run finished stages again         --overwrite
#   set=()         # another value in the config        --set a=1 --set @FILE: once or more; FILE as seen by the caller
#   # End of configuration
#   . utils/parse_options.sh
#
# `-` in an option stands for `_` in the variable; `--help` prints the comments. What is left in "$@" are the arguments.
# An unknown option, a missing or ill-typed value end the script with status 2.

unset CDPATH # or `cd` might go elsewhere, and says so on stdout
_script=$0
_known=$(sed -n '/^# End of configuration/q; s/^\([a-z][a-z_0-9]*\)=.*/\1/p' "$_script")

_die() {
    echo "error: $(basename "$_script"): $*" >&2
    exit 2
}

_help() {
    awk '
        NR == 1 { next }
        /^# End of configuration/ { exit }
        /^#/ && !options { sub(/^# ?/, ""); print; next }
        /^[a-z][a-z_0-9]*=/ {
            if (!options++) print "\nOptions (and their defaults):"
            name = default_ = $0
            sub(/=.*/, "", name); gsub(/_/, "-", name)
            sub(/^[^=]*=/, "", default_); sub(/ *#.*/, "", default_)
            sub(/^[^#]*# ?/, "")
            if (default_ == "" || default_ == "()") default_ = "none"
            printf "  --%-15s %s (%s)\n", name, $0, default_
        }' "$_script"
}

_closest() { # the known option nearest to $1, as a sentence, or nothing
    PYTHONPATH=$(dirname "${BASH_SOURCE[0]}")/.. python3 -c '
import sys
from residualformer.errors import closest
print(closest(sys.argv[1], sys.argv[2:]))' "$1" $(sed 's/^/--/; s/_/-/g' <<<"$_known") 2>/dev/null || true
}

_check_type() { # option $1 has default $2; is $3 of the same type?
    [[ $3 == *[![:space:]]* ]] || _die "$1 is empty; give it a value, or leave it out"
    case $2 in
        true | false) [[ $3 =~ ^(true|false)$ ]] || _die "$1 is '$3'; it must be true or false" ;;
        *[!0-9.]* | '') ;;
        *.*) [[ $3 =~ ^[0-9]+(\.[0-9]*)?$|^\.[0-9]+$ ]] || _die "$1 is '$3'; it must be a number, 0 or more" ;;
        *) [[ $3 =~ ^[0-9]{1,18}$ ]] || _die "$1 is '$3'; it must be a whole number, 0 or more, of 18 digits at most" ;;
    esac
}

_given= # the options on the command line, each as ` variable `
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            _help
            exit 0
            ;;
        --)
            shift
            break
            ;;
        --*) ;;
        -?*) _die "there is no option '$1'; --help lists them all" ;;
        *) break ;;
    esac
    _option=${1%%=*}
    _variable=${_option#--}
    _variable=${_variable//-/_}
    grep -qx -- "$_variable" <<<"$_known" ||
        _die "there is no option '$_option'.$(_closest "$_option") --help lists them all"
    _is_list=$(declare -p "$_variable" 2>/dev/null | grep -c '^declare -a') || true
    _default=${!_variable-}
    if [[ $1 == *=* ]]; then
        _value=${1#*=}
    elif [[ $_default =~ ^(true|false)$ ]] && ! [[ ${2-} =~ ^(true|false)$ ]]; then
        _value=true # a switch needs no value
    elif [ $# -lt 2 ] || [[ $2 == --* ]]; then
        _die "$_option needs a value"
    else
        _value=$2
        shift
    fi
    shift
    _given+=" $_variable "
    if [ "$_is_list" = 1 ]; then
        if [[ $_value == @[!/]* ]]; then _value=@${RESIDUALFORMER_CALLED_FROM:-$PWD}/${_value#@}; fi
        eval "$_variable+=(\"\$_value\")"
    else
        _check_type "$_option" "$_default" "$_value"
        printf -v "$_variable" %s "$_value"
    fi
done
