#!/usr/bin/env bash
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# A job of Slurm that runs a command; utils/slurm.sh submits it. Shortly before its time is over, or when another job
# takes its place, the command is told to save and end, and goes on when the job is started anew. A job of an array does
# its part of the work.

set -uo pipefail
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi # else srun takes one
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then set -- "$@" --job "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"; fi

again=false
trap 'again=true; kill -TERM "$running" 2>/dev/null' USR1
trap 'kill -TERM "$running" 2>/dev/null' TERM # a preempted job is started anew by Slurm itself, a cancelled one is not
"$@" &
running=$!
wait "$running"
status=$?
while kill -0 "$running" 2>/dev/null; do # a trap has ended `wait`
    wait "$running"
    status=$?
done
if $again && [ "$status" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
