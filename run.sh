#!/usr/bin/env bash
# From a corpus to a table of word error rates, in stages:
#
#   0 obtain the corpus    4 train baseline and sharing              8 score
#   1 Lhotse manifests     5 warm-start and train residual           9 export for devices (with --stop-stage 9)
#   2 features             6 train compressed encoders and AmNets
#   3 tokens               7 decode
#
#   ./run.sh                       all stages on corpus mini, which is synthesised: no network, no data files
#   egs/an4/run.sh                 the same stages on AN4, with its own numbers
#   ./run.sh --stage 4 --set train.max_steps=500
#
# A stage is skipped if it finished with the same options and inputs. Everything is written under egs/<recipe>/.

corpus=mini          # which corpus: local/<corpus>.py
recipe=              # whose conf/<recipe>/ and egs/<recipe>/: one corpus may have several (left out: the corpus's name)
conf=                # whose conf/<conf>/, where it is not the recipe's
stage=0              # first stage to run
stop_stage=8         # last stage to run; 9 exports for devices as well
corpus_dir=          # where the corpus is, used in place (left out: it is fetched); not for mini
train_hours=3.0      # mini: hours of speech to train on
dev_minutes=20.0     # mini: minutes of speech to watch the training by
test_minutes=30.0    # mini: minutes of speech to test on
long_test_hours=0.0  # mini: hours of speech in a second test set, test_long, for small differences
synthetic=0          # an4: synthetic utterances to add to the training set
corpus_option=()     # other corpora: an option of local/<corpus>.py, as in --corpus-option subset=100; may be repeated
seed=1               # of synthetic speech; that of trainings is train.seed
feature_backend=     # who computes the features: knf (left out), kaldifeat (on a GPU) or auto
jobs=0               # processes for speech and features (stages 0 to 2); 0 = one for each core
experiments="baseline shared residual" # names of conf/<recipe>/<name>.yaml
test_set=test        # what to decode and score: one or more test sets, as in "test dev"; see docs/translation.md
set=()               # another value in the configuration, as in --set encoder.dim=192; may be repeated
overwrite=false      # run finished stages again
python=              # Python to use as it is, with no check and no set-up
# End of configuration

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/parse_options.sh"
called_from=${RESIDUALFORMER_CALLED_FROM:-$PWD} # where relative paths of the options begin
cd "$(dirname "${BASH_SOURCE[0]}")"
[ $# -eq 0 ] || _die "there is no use for the argument '$1'; --help lists the options"
recipe=${recipe:-$corpus}
[ -f "local/$corpus.py" ] || _die "there is no corpus '$corpus': local/$corpus.py is missing"
conf=conf/${conf:-$recipe}
[ -f "$conf/base.yaml" ] || _die "there is no recipe '$recipe': $conf/base.yaml is missing"
[ "$stop_stage" -le 9 ] || _die "--stop-stage $stop_stage: the last stage is 9"
[ "$stage" -le "$stop_stage" ] || _die "--stage $stage comes after --stop-stage $stop_stage"

case $python in
    '' | /*) ;;
    */*) python=$called_from/$python ;;
    *) python=$(command -v "$python" || echo "$python") ;; # path.sh refuses what is none
esac
if [ -n "$python" ]; then export RESIDUALFORMER_PYTHON=$python; fi
. ./path.sh
python=$RESIDUALFORMER_PYTHON

if [ "$jobs" -eq 0 ]; then jobs=$(bash utils/cores.sh); fi
if [ -n "$corpus_dir" ]; then # the same for DIR and DIR/, or all would run again
    corpus_dir=$("$python" -c 'import os, sys; print(os.path.abspath(os.path.join(*sys.argv[1:])))' \
        "$called_from" "$corpus_dir")
fi
base=$conf/base.yaml
dir=egs/$recipe
data=$dir/data
exp=$dir/exp

sets=() # all of them, for what reads a whole configuration
train_sets=() # without decode.*, so that another search does not train again
for each in "${set[@]}"; do
    sets+=(--set "$each")
    if [[ $each != decode.* ]]; then train_sets+=(--set "$each"); fi
done

useless() { # options that mean nothing for this corpus
    for each in "$@"; do
        [[ $_given != *" $each "* ]] || _die "--${each//_/-} is of no use for corpus $corpus; see --help"
    done
}
if [ "$corpus" != an4 ]; then useless synthetic; fi
if [ "$corpus" = mini ]; then
    useless corpus_dir corpus_option
    obtain=(--seed "$seed" --train-hours "$train_hours" --dev-minutes "$dev_minutes" --test-minutes "$test_minutes"
        --jobs "$jobs")
    if [[ $long_test_hours == *[1-9]* ]]; then obtain+=(--long-test-hours "$long_test_hours"); fi
    manifests=()
else
    useless train_hours dev_minutes test_minutes long_test_hours
    obtain=(${corpus_dir:+--corpus-dir "$corpus_dir"})
    manifests=(${corpus_dir:+--corpus-dir "$corpus_dir"} --jobs "$jobs")
    if [ "$synthetic" -gt 0 ]; then
        obtain+=(--synthetic "$synthetic" --seed "$seed" --jobs "$jobs")
        manifests+=(--with-synthetic)
    fi
    for each in "${corpus_option[@]}"; do
        [[ $each == ?*=* ]] || _die "--corpus-option $each must be NAME=VALUE"
        obtain+=("--${each%%=*}" "${each#*=}")
        manifests+=("--${each%%=*}" "${each#*=}")
    done
fi

if [ "$corpus" = custom ]; then # somebody's data may change, a public corpus does not
    if [ "$stage" -eq 0 ] && [ -n "$corpus_dir" ]; then
        content=$("$python" local/custom_data/content.py "$corpus_dir")
        obtain+=(--content "$content")
    fi
fi

chosen=$data/manifests/chosen.yaml # values that stage 1 may choose for the corpus; they come over base.yaml alone
make_plan() { # refuses a wrong configuration before any work
    if [ -f "$chosen" ] && [ "${sets[1]-}" != "@$chosen" ]; then
        sets=(--set "@$chosen" "${sets[@]}")
        train_sets=(--set "@$chosen" "${train_sets[@]}")
    fi
    # shellcheck disable=SC2086  # one word each
    plan=$(set -f && "$python" utils/plan.py "${sets[@]}" -- "$conf" $experiments)
}
make_plan

wanted() { [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ]; }

check_needs() { # refuses a training that needs another, which is neither there nor asked for
    local name number needs each lacking
    while read -r name number needs; do
        lacking=
        for each in $needs; do
            [ -f "$exp/.$each.done" ] || grep -q "^$each " <<<"$plan" || lacking+="$each "
        done
        if wanted "$number" && [ -n "$lacking" ]; then
            _die "$name needs ${lacking% }, which is not trained: --experiments \"$lacking$experiments\""
        fi
    done <<<"$plan"
}
check_needs

run_stage() { # number, title, then options of utils/stage.py, `--` and the command
    local number=$1 title=$2
    shift 2
    local again=()
    if $overwrite; then again=(--overwrite); fi
    "$python" utils/stage.py --number "$number" --title "$title" "${again[@]}" "$@"
}

train_sections="warm_start features tokens encoder predictor joiner amnet loss data train" # all a training depends on
train() { # stage, experiment, then the experiments it needs
    local number=$1 name=$2 each
    shift 2
    local after=("$data/.fbank.done" "$data/.lang.done")
    for each in "$@"; do after+=("$exp/.$each.done"); done
    # shellcheck disable=SC2086  # one word each
    run_stage "$number" "train $name" --out "$exp/$name" --makes model.pt --aside --after "${after[@]}" \
        --log "$exp/$name/train.log" --config "$conf/$name.yaml" --sections $train_sections \
        "${train_sets[@]}" -- \
        "$python" steps/train.py --config "$conf/$name.yaml" --data "$data" --exp "$exp/$name" "${train_sets[@]}"
}

train_all() { # stage
    local name number needed
    while read -r name number needed; do
        # shellcheck disable=SC2086  # one word each
        if [ "$number" = "$1" ]; then train "$1" "$name" $needed </dev/null; fi
    done <<<"$plan"
}

if wanted 0; then
    OMP_NUM_THREADS=1 run_stage 0 "obtain corpus $corpus" --out "$data/raw" -- \
        "$python" "local/$corpus.py" obtain --out "$data/raw" "${obtain[@]}"
fi

if wanted 1; then
    OMP_NUM_THREADS=1 run_stage 1 "manifests" --out "$data/manifests" --makes "cuts_*.jsonl.gz" chosen.yaml \
        --after "$data/.raw.done" -- \
        "$python" "local/$corpus.py" manifests --corpus "$data/raw" --out "$data/manifests" "${manifests[@]}"
    if [ -f "$chosen" ]; then make_plan; fi
fi

if wanted 2; then
    OMP_NUM_THREADS=1 run_stage 2 "features" --out "$data/fbank" --makes "cuts_*.jsonl.gz" "*.json" \
        --after "$data/.manifests.done" --config "$base" --sections features data.speeds "${sets[@]}" -- \
        "$python" steps/compute_fbank.py --manifests "$data/manifests" --out "$data/fbank" --config "$base" \
        "${sets[@]}" --jobs "$jobs" ${feature_backend:+--backend "$feature_backend"}
fi

splits_of() { # test set: its only split, or its subsets
    local file found=false
    for file in "$data/fbank/cuts_$1.jsonl.gz" "$data/fbank/cuts_$1@"*.jsonl.gz; do
        if [ -f "$file" ]; then
            found=true
            basename "${file#"$data/fbank/cuts_"}" .jsonl.gz
        fi
    done
    $found || _die "--test-set $1: $data/fbank holds no cuts_$1.jsonl.gz and no cuts_$1@*.jsonl.gz"
}

all_splits() { for each in $test_set; do splits_of "$each" || exit; done; }

if wanted 7 && [ -f "$data/.fbank.done" ]; then splits=$(all_splits); fi # refuses a wrong name before hours of training

if wanted 3; then
    run_stage 3 "tokens" --out "$data/lang" --makes tokenizer.json \
        --after "$data/.manifests.done" --config "$base" --sections tokens "${sets[@]}" -- \
        "$python" steps/train_tokenizer.py --manifests "$data/manifests" --out "$data/lang" --config "$base" \
        "${sets[@]}"
fi

if wanted 4; then
    train_all 4
fi

if wanted 5; then
    train_all 5
fi

if wanted 6; then
    train_all 6
fi

decode() { # split, experiment
    run_stage 7 "decode $1 with $2" --out "$exp/$2" --marker "$exp/$2/.decode_$1.done" \
        --makes "decode_$1_greedy*/hyp.jsonl" "decode_$1_beam*/hyp.jsonl" \
        --after "$exp/.$2.done" "$data/.fbank.done" --config "$conf/$2.yaml" --sections decode "${sets[@]}" -- \
        "$python" steps/decode.py "$exp/$2" --cuts "$data/fbank/cuts_$1.jsonl.gz" --config "$conf/$2.yaml" "${sets[@]}"
}

if wanted 7; then
    splits=$(all_splits)
    for split in $splits; do
        for name in $experiments; do decode "$split" "$name"; done
    done
fi

if wanted 8; then
    echo "== stage 8: score"
    start=$SECONDS
    bash local/score.sh "$dir" --split "$test_set"
    echo "stage 8 done in $((SECONDS - start)) s: $dir"
fi

if wanted 9; then
    for name in $experiments; do
        run_stage 9 "export $name" --out "$exp/$name/export" --makes "*.onnx" tokens.txt model.json \
            --after "$exp/.$name.done" --config "$conf/$name.yaml" --sections decode "${sets[@]}" -- \
            "$python" steps/export.py "$exp/$name" --int8 --config "$conf/$name.yaml" "${sets[@]}"
    done
fi
