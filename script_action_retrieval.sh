#!/usr/bin/env bash
# The paper's nearest-neighbor retrieval (Table 3) on the checkpoints that script_pretrain.sh writes.
# Each experiment is a function:
#
#   bash script_action_retrieval.sh                       list the experiments
#   bash script_action_retrieval.sh ntu60_cross_view
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_experiments.sh"

checkpoints="${CHECKPOINTS:-./checkpoints}"
retrieval=(action_retrieval.py --data-root "${DATA_ROOT:-data}" --knn-neighbours 1
    --finetune-skeleton-representation seq-based)
pair=interskeleton_seq_based_graph_based

ntu60_cross_view() { # sequence encoder
    run "${retrieval[@]}" --finetune-dataset ntu60 --protocol cross_view \
        --pretrained "$checkpoints/ntu_60_cross_view/$pair/checkpoint_0450.pth.tar"
}

ntu60_cross_subject() { # sequence encoder
    run "${retrieval[@]}" --finetune-dataset ntu60 --protocol cross_subject \
        --pretrained "$checkpoints/ntu_60_cross_subject/$pair/checkpoint_0450.pth.tar"
}

ntu120_cross_setup() { # sequence encoder
    run "${retrieval[@]}" --finetune-dataset ntu120 --protocol cross_setup \
        --pretrained "$checkpoints/ntu_120_cross_setup/$pair/checkpoint_0350.pth.tar"
}

ntu120_cross_subject() { # sequence encoder
    run "${retrieval[@]}" --finetune-dataset ntu120 --protocol cross_subject \
        --pretrained "$checkpoints/ntu_120_cross_subject/$pair/checkpoint_0350.pth.tar"
}

run_experiments "$@"
