#!/usr/bin/env bash
# The stages of run.sh as jobs of Slurm, each after those before it: data (stages 0 to 3), training on several machines
# (4 to 6), decoding and scoring (7 to 9).
#
#   utils/slurm.sh --nodes 4 --array 16 --sbatch "--partition gpu --gpus-per-node 8" egs/librispeech/run.sh --nproc 8
#
#   --nodes N           machines of each training; on each there are as many processes as --nproc of run.sh says (1)
#   --array N           jobs that share the decoding of each test set (1)
#   --sbatch "OPTIONS"  further options of sbatch for all jobs: partition, account, time, GPUs and cores of a machine
#   --dry-run           only print what would be submitted
#   egs/RECIPE/run.sh   whose stages (run.sh); all else are its options
#
# All machines must see this folder. Logs are in slurm/.

set -euo pipefail
export RESIDUALFORMER_CALLED_FROM=${RESIDUALFORMER_CALLED_FROM:-$PWD}
cd "$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

die() {
    echo "error: $*" >&2
    exit 2
}
number() { [[ $2 =~ ^[0-9]{1,6}$ ]] || die "$1 is '$2'; it must be a whole number"; }

run=./run.sh nodes=1 array=1 first=0 last=8 dry=false sbatch=() options=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
        --dry-run) dry=true ;;
        --nodes | --array | --sbatch | --stage | --stop-stage)
            [ $# -gt 1 ] || die "$1 needs a value; --help lists all options"
            set -- "$1=$2" "${@:3}"
            continue
            ;;
        --nodes=* | --array=* | --stage=* | --stop-stage=*)
            number "${1%%=*}" "${1#*=}"
            case $1 in
                --nodes=*) nodes=${1#*=} ;;
                --array=*) array=${1#*=} ;;
                --stage=*) first=${1#*=} ;;
                --stop-stage=*) last=${1#*=} ;;
            esac
            ;;
        --sbatch=*) read -ra sbatch <<<"${1#*=}" ;;
        */run.sh | run.sh) run=./${1#./} ;;
        *) options+=("$1") ;;
    esac
    shift
done
[ -f "$run" ] || die "there is no $run"
$dry || mkdir -p slurm

after=()
# submit NAME FIRST LAST [OPTION OF SBATCH ...] -- [OPTION OF run.sh ...]: a job for those stages that are asked for
submit() {
    local name=$1 from=$(($2 > first ? $2 : first)) to=$(($3 < last ? $3 : last)) own=() job
    shift 3
    while [ "$1" != -- ]; do own+=("$1") && shift; done
    if [ "$from" -gt "$to" ]; then return; fi
    local command=(sbatch --parsable --job-name "$name" --output slurm/%x.%j.log)
    command+=("${after[@]}" "${sbatch[@]}" "${own[@]}" utils/slurm_job.sh)
    command+=("$run" --stage "$from" --stop-stage "$to" "${options[@]}" "${@:2}")
    if $dry; then
        echo "${command[*]@Q}"
        job="<$name>"
    else
        job=$("${command[@]}")
        echo "$name: job ${job%%;*}, stages $from to $to"
    fi
    after=(--dependency "afterok:${job%%;*}")
}

submit data 0 3 --
submit train 4 6 --nodes "$nodes" --ntasks-per-node 1 -- --nodes "$nodes"
if [ "$array" -gt 1 ]; then submit decode 7 7 --array "1-$array" --; fi
submit score 7 9 --
