#!/usr/bin/env bash
# The whole method on a small synthetic dataset in NTU's file format, in minutes on a CPU:
# raw files -> store -> pretraining -> linear probe and retrieval -> report page.
#
#   bash script_demo.sh            seed 0, output in runs/demo
#   SEED=1 bash script_demo.sh     other synthetic subjects and initial weights, output in runs/demo_seed1
#   QUICK=1 bash script_demo.sh    a minute, only checks that every step runs, output in runs/demo_quick
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_environment.sh"
cd "$REPOSITORY"
export OMP_NUM_THREADS=1 # encoders this small gain little from a second thread; other evaluations use that core

seed="${SEED:-0}"
runs="runs/demo"
[ "$seed" = 0 ] || runs="runs/demo_seed$seed"
repetitions=4 steps=4000 probe_epochs=40
if [ -n "${QUICK:-}" ]; then
    runs="runs/demo_quick" repetitions=1 steps=1 probe_epochs=2
fi
rm -rf "$runs" # removes only a previous demo run
mkdir -p "$runs"
start=$SECONDS
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

step() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - start)); }
run() {
    printf '+ python %s\n' "$*"
    printf 'python %s\n' "$*" >> "$runs/commands.txt" # the report page shows these commands
    "$PYTHON" "$@"
}
background() { # start a function in the background, with its output in a log file named after it
    log="$runs/$1.log"
    printf 'in the background: %s (output in %s)\n' "$1" "$log"
    "$1" > "$log" 2>&1 &
    job=$!
}
finish() { # wait for the function in the background
    wait "$job" || { cat "$log" >&2; exit 1; }
}

actions="1 6 7 8 9 10 20 22 23 24 27 28 31 38" # those of one person
data="--data-root $runs/data --protocol cross_subject --seed $seed"
probe="--epochs $probe_epochs --schedule 25 35 --print-freq 10"
# Flags after the preset override it: a smaller graph encoder and fewer steps, which fit in minutes, and no
# joint jittering, which takes more steps to pay off.
views="--augmentations crop pose --min-crop-ratio 0.5 --min-crop-frames 24"
preset="@presets/small_dataset.txt $views --graph-width 8 --steps $steps"
untrained="--pretrained random --num-frames 16 --gru-hidden-size 64 --gru-num-layers 2" # as in the preset
pretrained="--pretrained $runs/pretrained"
concatenated="--finetune-skeleton-representation seq-based_and_graph-based"

step "1. raw files in the NTU RGB+D format: 20 subjects, 14 actions, 3 cameras"
# As in NTU: idle time around the action, slow and fast clips, people who do not face the same way in the
# first frame, which normalization aligns, and people of different sizes.
run data_gen/synthetic/make_ntu.py --seed "$seed" --in-turn --repetitions "$repetitions" --actions $actions \
    --difficulty 0.4 --idle 2.5 --tempo 0.4 --turn 60 --body 0.1 --out_folder "$runs/raw"

step "2. one store for all protocols (synthetic data has no missing skeletons: ignore the warning about their list)"
run data_gen/ntu_gendata.py --data_path "$runs/raw" --out_folder "$runs/data/ntu60"

references() { # normalized coordinates and an untrained encoder
    local waving
    waving="$(grep -m 1 -o '^S...C...P...R...A023' "$runs/data/ntu60/clips.csv")"
    run -m visual.clips $data --name "$waving" $views --out "$runs/clips/as_in_this_demo"
    run -m visual.clips $data --name "$waving" --out "$runs/clips/as_in_the_paper"
    run action_retrieval.py $data $untrained --output-dir "$runs/untrained/retrieval"
    run action_classification.py $data $untrained --output-dir "$runs/untrained/linear" $probe
    run action_retrieval.py $data --pretrained coordinates --output-dir "$runs/coordinates/retrieval"
    run action_classification.py $data --pretrained coordinates --output-dir "$runs/coordinates/linear" $probe
}
concatenated_features() { # of the sequence and the graph encoder
    run action_retrieval.py $data $pretrained $concatenated --output-dir "$runs/concatenated/retrieval"
    run action_classification.py $data $pretrained $concatenated --output-dir "$runs/concatenated/linear" $probe
}

step "3. pretraining of small sequence and graph encoders, without labels"
background references
run main_moco_inter_skeleton.py $preset --pairs all $data --checkpoint-path "$runs/pretrained"

step "4. retrieval and linear probe with the frozen encoders"
finish
background concatenated_features
run action_retrieval.py $data $pretrained --finetune-skeleton-representation seq-based \
    --output-dir "$runs/pretrained/retrieval" --gallery "$runs/pretrained/gallery" --tsne "$runs/pretrained/tsne"
run action_classification.py $data $pretrained --finetune-skeleton-representation seq-based \
    --output-dir "$runs/pretrained/linear" $probe
finish

step "results"
"$PYTHON" -m engine.report "$runs" | tee "$runs/table.md"
"$PYTHON" -m visual.page "$runs"
cat <<MESSAGE

Open the page in any browser. Checkpoints, results.json and logs are in $runs; training curves:
  tensorboard --logdir $runs
MESSAGE
