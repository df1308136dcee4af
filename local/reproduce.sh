#!/usr/bin/env bash
# Tables of the papers, measured: trains what is missing, decodes, scores, and writes
# egs/<recipe>/exp/tables/table<N>.md with our numbers beside the paper's.
#
#   local/reproduce.sh --table 3 --corpus mini_deep
#   local/reproduce.sh --table "1 3 5 6" --corpus mini_deep --dry-run     what would be trained, and how long it takes
#   local/reproduce.sh --table amnets --corpus an4 -- --corpus-dir DIR    after -- : options of egs/<recipe>/run.sh
#   local/reproduce.sh --table 3 --corpus custom --name french -- --data DIR    your own data, in egs/french
#
# Interrupted, the same command goes on where it stopped; what is done is skipped.

table=             # 1 to 6: those of ResidualTransformer (2 and 4 for translation); amnets: table 1 of AmNets
corpus=mini        # a recipe: egs/<recipe>/run.sh and conf/<recipe>/
name=              # your own data, --corpus custom: the --name of egs/custom/run.sh
test_set=          # test sets; the orderings are judged on the first (left out: those of egs/<recipe>/run.sh)
set=()             # another value in the configuration, as in --set decode.kind=greedy; may be repeated
jobs=0             # trainings at the same time (0: one for each GPU, without any one)
train=true         # false: write the tables from what is there
dry_run=false      # only list what would be trained
# End of configuration

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../utils/parse_options.sh"
export RESIDUALFORMER_CALLED_FROM=$PWD # for relative paths among the options of run.sh
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -n "$table" ] || _die "--table is missing: give 1 to 6, amnets, or several in quotes"
[ -f "egs/$corpus/run.sh" ] || _die "there is no recipe '$corpus': egs/$corpus/run.sh is missing"
. ./path.sh

[ -z "$name" ] || [ "$corpus" = custom ] || _die "--name is for your own data, --corpus custom"
for each in "$@"; do
    case $each in --name | --name=*) _die "$each: give it before the --, or its results are not found" ;; esac
done

options=(${test_set:+--test-set "$test_set"} "$@")
sets=()
for each in "${set[@]}"; do sets+=(--set "$each"); done
tables=()
for each in $table; do tables+=(--table "$each"); done

failed=0
if $train || $dry_run; then
    queue=(utils/sweep.py --recipe "$corpus" ${name:+--name "$name"} "${tables[@]}" --jobs "$jobs" "${sets[@]}")
    if $dry_run; then queue+=(--dry-run); fi
    "$RESIDUALFORMER_PYTHON" "${queue[@]}" -- "${options[@]}" || failed=$?
    [ "$failed" -le 1 ] || exit "$failed" # 1: some trainings failed, the others can be shown
    if $dry_run; then exit "$failed"; fi
    bash "egs/$corpus/run.sh" ${name:+--name "$name"} "${options[@]}" "${sets[@]}" --stage 8 --stop-stage 8 ||
        failed=$?
fi
for each in $table; do
    "$RESIDUALFORMER_PYTHON" steps/table.py "egs/${name:-$corpus}" --conf "conf/$corpus" --table "$each" \
        ${test_set:+--split "$test_set"} "${sets[@]}" || failed=$?
done
exit "$failed"
