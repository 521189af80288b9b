#!/usr/bin/env bash
# The whole method on a small synthetic dataset in NTU's file format, on a CPU, in minutes:
# raw files -> store -> inter-skeleton pretraining -> linear probe and retrieval -> one page.
#
#   bash script_demo.sh            seed 0, into runs/demo
#   SEED=1 bash script_demo.sh     other synthetic people, other weights, into runs/demo_seed1
#   QUICK=1 bash script_demo.sh    every step in half a minute, into runs/demo_quick; its numbers mean nothing
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_environment.sh"
cd "$REPOSITORY"
# Layers this small gain next to nothing from a second thread, and two threads that wait for each
# other lose much where the machine is busy with something else.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

seed="${SEED:-0}"
runs="runs/demo"
[ "$seed" = 0 ] || runs="runs/demo_seed$seed"
repetitions=4 epochs=60 probe_epochs=40
if [ -n "${QUICK:-}" ]; then
    runs="runs/demo_quick" repetitions=1 epochs=1 probe_epochs=2
fi
rm -rf "$runs" # an earlier demo's, and nobody else's
mkdir -p "$runs"
start=$SECONDS

step() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - start)); }
run() {
    printf '+ python %s\n' "$*"
    printf 'python %s\n' "$*" >> "$runs/commands.txt" # the page tells which command made what
    "$PYTHON" "$@"
}

sizes="--num-frames 16 --gru-hidden-size 64 --gru-num-layers 2"
views="--augmentations crop pose --min-crop-ratio 0.5 --min-crop-frames 24"
data="--data-root $runs/data --protocol cross_subject --seed $seed"
probe="--epochs $probe_epochs --schedule 25 35 --print-freq 10"

step "1. raw files as NTU RGB+D has them: 20 people, 16 actions, 3 cameras"
run data_gen/synthetic_gendata.py --seed "$seed" --in-turn --repetitions "$repetitions" \
    --difficulty 0.1 --settle 2 --out_folder "$runs/raw"

step "2. one store for all protocols"
run data_gen/ntu_gendata.py --data_path "$runs/raw" --out_folder "$runs/data/ntu60"

waving="$(grep -m 1 -o '^S...C...P...R...A023' "$runs/data/ntu60/clips.csv")"
run -m visual.clips $data --name "$waving" $views --out "$runs/clips/as_in_this_demo"
run -m visual.clips $data --name "$waving" --out "$runs/clips/as_in_the_paper"

step "3. inter-skeleton pretraining of sequence and graph, no labels, at a small size"
run main_moco_inter_skeleton.py $data $sizes --graph-width 8 --graph-num-blocks 2 \
    --skeleton-representation seq-based_and_graph-based $views \
    --moco-k 256 --moco-m 0.99 --moco-t 0.2 \
    --batch-size 16 --lr 0.1 --cos --epochs "$epochs" --checkpoint-path "$runs/pretrained"
pretrained="$runs/pretrained/checkpoint_$(printf %04d $((epochs - 1))).pth.tar"

step "4. the sequence encoder, frozen: linear probe and retrieval"
run action_retrieval.py $data --pretrained "$pretrained" \
    --finetune-skeleton-representation seq-based --output-dir "$runs/pretrained/retrieval" \
    --gallery "$runs/pretrained/gallery" --tsne "$runs/pretrained/tsne"
run action_classification.py $data --pretrained "$pretrained" \
    --finetune-skeleton-representation seq-based --output-dir "$runs/pretrained/linear" $probe

step "5. the same for an untrained encoder, and retrieval without any encoder"
run action_retrieval.py $data $sizes --pretrained random --output-dir "$runs/untrained/retrieval"
run action_classification.py $data $sizes --pretrained random \
    --output-dir "$runs/untrained/linear" $probe
run action_retrieval.py $data --pretrained coordinates --output-dir "$runs/coordinates/retrieval"

step "results"
"$PYTHON" -m engine.report "$runs" | tee "$runs/table.md"
"$PYTHON" -m visual.page "$runs"
cat <<EOF

the page opens in any browser; checkpoints, results.json and curves are in $runs; the curves:
  tensorboard --logdir $runs
EOF
