#!/usr/bin/env bash
# The whole method on a small synthetic dataset in NTU's file format, in minutes on a CPU:
# raw files -> store -> inter-skeleton pretraining -> linear probe and retrieval -> report page.
#
#   bash script_demo.sh            seed 0, output in runs/demo
#   SEED=1 bash script_demo.sh     other synthetic subjects and initial weights, output in runs/demo_seed1
#   QUICK=1 bash script_demo.sh    half a minute, only checks that every step runs, output in runs/demo_quick
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_environment.sh"
cd "$REPOSITORY"
# More threads barely speed up encoders this small and slow them down if other jobs use the CPU cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

seed="${SEED:-0}"
runs="runs/demo"
[ "$seed" = 0 ] || runs="runs/demo_seed$seed"
repetitions=4 epochs=60 probe_epochs=40
if [ -n "${QUICK:-}" ]; then
    runs="runs/demo_quick" repetitions=1 epochs=1 probe_epochs=2
fi
rm -rf "$runs" # removes only a previous demo run
mkdir -p "$runs"
start=$SECONDS

step() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - start)); }
run() {
    printf '+ python %s\n' "$*"
    printf 'python %s\n' "$*" >> "$runs/commands.txt" # the report page shows these commands
    "$PYTHON" "$@"
}

sizes="--num-frames 16 --gru-hidden-size 64 --gru-num-layers 2"
views="--augmentations crop pose --min-crop-ratio 0.5 --min-crop-frames 24"
data="--data-root $runs/data --protocol cross_subject --seed $seed"
probe="--epochs $probe_epochs --schedule 25 35 --print-freq 10"

step "1. raw files in the NTU RGB+D format: 20 subjects, 16 actions, 3 cameras"
run data_gen/synthetic/make_ntu.py --seed "$seed" --in-turn --repetitions "$repetitions" \
    --difficulty 0.1 --settle 2 --out_folder "$runs/raw"

step "2. one store for all protocols (synthetic data has no missing skeletons: ignore the warning about their list)"
run data_gen/ntu_gendata.py --data_path "$runs/raw" --out_folder "$runs/data/ntu60"

waving="$(grep -m 1 -o '^S...C...P...R...A023' "$runs/data/ntu60/clips.csv")"
run -m visual.clips $data --name "$waving" $views --out "$runs/clips/as_in_this_demo"
run -m visual.clips $data --name "$waving" --out "$runs/clips/as_in_the_paper"

step "3. inter-skeleton pretraining of small sequence and graph encoders, without labels"
run main_moco_inter_skeleton.py $data $sizes --graph-width 8 --graph-num-blocks 2 \
    --skeleton-representation seq-based_and_graph-based $views \
    --moco-k 256 --moco-m 0.99 --moco-t 0.2 --no-mlp \
    --batch-size 16 --lr 0.1 --cos --epochs "$epochs" --checkpoint-path "$runs/pretrained"
pretrained="$runs/pretrained/checkpoint_$(printf %04d $((epochs - 1))).pth.tar"

step "4. retrieval and linear probe with the frozen sequence encoder"
run action_retrieval.py $data --pretrained "$pretrained" \
    --finetune-skeleton-representation seq-based --output-dir "$runs/pretrained/retrieval" \
    --gallery "$runs/pretrained/gallery" --tsne "$runs/pretrained/tsne"
run action_classification.py $data --pretrained "$pretrained" \
    --finetune-skeleton-representation seq-based --output-dir "$runs/pretrained/linear" $probe

step "5. the same with an untrained encoder, and retrieval without an encoder"
run action_retrieval.py $data $sizes --pretrained random --output-dir "$runs/untrained/retrieval"
run action_classification.py $data $sizes --pretrained random \
    --output-dir "$runs/untrained/linear" $probe
run action_retrieval.py $data --pretrained coordinates --output-dir "$runs/coordinates/retrieval"

step "results"
"$PYTHON" -m engine.report "$runs" | tee "$runs/table.md"
"$PYTHON" -m visual.page "$runs"
cat <<EOF

Open the page in any browser. Checkpoints, results.json and logs are in $runs; training curves:
  tensorboard --logdir $runs
EOF
