#!/usr/bin/env bash
# Three large dense models of Penn Treebank on one CUDA device, side by side, within eight minutes:
# 2 x 650 tied (ptb_650), 1 x 1200 with an embedding of 256 tied through a projection (ptb_1200),
# and Zaremba's medium by his recipe (ptb_medium).
#
#   studies/ptb/gpu.sh [FOLDER] [SETTING=VALUE ...]
#
# FOLDER (by default $OUT, else out/gpu) gets NAME.lmb, in uniform codes of 0.18 sd, at most 12 MB a
# file, and NAME.json, the record of its training. As studies/NAME/dense.lmb and dense.json they are
# the dense model of study NAME with the epochs that the record has. A line a model at the end has
# its size and its perplexities, measured on the reloaded file. SETTINGs are given to each training.
#
# It needs no network. It expects a Python (PYTHON, by default python3) with lmpareto and the
# packages of pyproject.toml, and Penn Treebank's train.txt, valid.txt and test.txt in
# $LMPARETO_DATA/ptb, or corpus.dir=FOLDER. Stopped, it goes on where it was, if it is started again
# with the same cache (LMPARETO_CACHE).
#
# Time (MINUTES=8): an update of ptb_650 at batch 40 is 110 GFLOP, of ptb_1200 75, of ptb_medium at
# batch 20 83; at 40 TFLOP/s in float32, and with what the steps of the recurrence wait for, about
# 5, 4 and 5 ms alone. So 32 epochs of 663 updates, as many, and 39 of 1,327 are some 400 s of one
# GPU, if they do not get in each other's way. A first training of 300 updates each, side by side,
# measures that; where the time does not suffice, all three take as many epochs less.
# EPOCHS=0.01 gives each that many, without the measurement; MODELS="ptb_650 ptb_medium" trains these
# alone; DEVICE=cpu needs no GPU.
set -euo pipefail
set -m # a process group for each training: what is stopped is stopped whole
trap 'for job in $(jobs -p); do kill -TERM -- "-$job"; done 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
began=$SECONDS
out=${OUT:-out/gpu}
if [[ $# -gt 0 && $1 != *=* ]]; then
    out=$1
    shift
fi
settings=("$@")
mkdir -p "$out"
out=$(cd "$out" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
seconds=$((60 * ${MINUTES:-8} - 30)) # the last 30 for the files
cache=${LMPARETO_CACHE:-$HOME/.cache/lmpareto}
read -r -a names <<<"${MODELS:-ptb_650 ptb_1200 ptb_medium}"
threads=$((($(nproc) + 2) / 3))
settings+=("device=$device" "threads=$threads")
work=$cache/gpu
mkdir -p "$work"
asked=$(printf '%s\n' "${EPOCHS:-}" "$seconds" "${names[@]}" "${settings[@]}" | cksum)
plan=$work/plan.${asked%% *} # of what is asked for now: another call has another

stop() {
    echo "gpu.sh: $*" >&2
    exit 1
}

helper() {
    "$python" -P "$here/gpu.py" "$@"
}

train() { # NAME FOLDER SETTING...: the document is FOLDER/NAME.json, what it says FOLDER/NAME.log
    "$python" -P -c 'from search.cli import main; main()' \
        train "study=$1" format=json "${settings[@]}" "${@:3}" >"$2/$1.json" 2>"$2/$1.log"
}

failed() { # FOLDER NAME: what the training said
    tail -n 5 "$1/$2.log" >&2 || true
    stop "$2 did not end; its log is $1/$2.log. Start it again to go on."
}

each() { # COMMAND: runs it for each model side by side; stops where one fails
    local -A jobs
    for name in "${names[@]}"; do
        "$1" "$name" &
        jobs[$name]=$!
    done
    local ended=()
    for name in "${names[@]}"; do
        wait "${jobs[$name]}" || ended+=("$name")
    done
    [[ ${#ended[@]} -eq 0 ]] || failed "$2" "${ended[0]}"
}

helper check "$device" || exit 1
if [[ " ${settings[*]} " != *" corpus"* ]]; then
    data=${LMPARETO_DATA:+$LMPARETO_DATA/ptb}
    data=${data:-$cache/data/ptb}
    for split in train valid test; do
        [[ -f $data/$split.txt ]] || stop "Penn Treebank is not at hand: there is no" \
            "$data/$split.txt; set LMPARETO_DATA to the folder that has ptb/, or corpus.dir=FOLDER"
    done
fi

probe() { # 300 updates
    local epochs=0.452
    [[ $1 != ptb_medium ]] || epochs=0.226
    LMPARETO_CACHE=$work/probe train "$1" "$work/probe" "training.epochs=$epochs"
}

if [[ -n ${EPOCHS:-} ]]; then
    for name in "${names[@]}"; do
        echo "$name training.epochs=$EPOCHS"
    done >"$plan"
elif [[ ! -s $plan ]]; then
    rm -rf "$work/probe"
    mkdir -p "$work/probe"
    if [[ ${LMPARETO_DATA:-} == "" && -d $cache/data ]]; then ln -s "$cache/data" "$work/probe/data"; fi
    each probe "$work/probe"
    left=$((seconds - (SECONDS - began)))
    records=("${names[@]/#/$work/probe/}")
    helper plan "$left" 929589 "${records[@]/%/.json}" >"$plan.new"
    mv "$plan.new" "$plan"
    rm -rf "$work/probe"
fi

model() { # trains it, then writes its file
    local given
    read -r -a given < <(grep "^$1 " "$plan") # NAME SETTING...
    train "$1" "$work" "${given[@]:1}"
    helper write "$1" "$out" "${settings[@]}" "${given[@]:1}" >"$work/$1.line" 2>>"$work/$1.log"
}

each model "$work"
for name in "${names[@]}"; do
    cat "$work/$name.line"
done
echo "$((SECONDS - began)) s, in $out"
