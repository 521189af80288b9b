#!/usr/bin/env bash
# The paper's pretraining experiments. Each is a function that can be edited and run separately:
#
#   bash script_pretrain.sh                       list the experiments
#   bash script_pretrain.sh ntu60_cross_view
#   CUDA_VISIBLE_DEVICES=0,1 DATA_ROOT=/data bash script_pretrain.sh pku1_cross_subject
#
# Re-running an interrupted experiment resumes it. reproduce_tables.py runs all of those of the paper.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_experiments.sh"

checkpoints="${CHECKPOINTS:-./checkpoints}"
common=(--data-root "${DATA_ROOT:-data}" --lr 0.01 --wd 1e-4 --momentum 0.9 --batch-size 64
    --mlp --moco-t 0.07 --moco-m 0.999 --resume auto)
inter=(main_moco_inter_skeleton.py "${common[@]}")
intra=(main_moco_intra_skeleton.py "${common[@]}")

# Contrast of sequence and graph: Tables 1, 2, 3, 4 and 7

ntu60_cross_view() { # sequence + graph; also Tables 6 and 10
    run "${inter[@]}" --pre-dataset ntu60 --protocol cross_view --moco-k 16384 --epochs 451 --schedule 351 \
        --skeleton-representation seq-based_and_graph-based \
        --checkpoint-path "$checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based"
}

ntu60_cross_subject() { # sequence + graph
    run "${inter[@]}" --pre-dataset ntu60 --protocol cross_subject --moco-k 16384 --epochs 451 --schedule 351 \
        --skeleton-representation seq-based_and_graph-based \
        --checkpoint-path "$checkpoints/ntu_60_cross_subject/interskeleton_seq_based_graph_based"
}

ntu120_cross_setup() { # sequence + graph
    run "${inter[@]}" --pre-dataset ntu120 --protocol cross_setup --moco-k 16384 --epochs 351 --schedule 251 \
        --skeleton-representation seq-based_and_graph-based \
        --checkpoint-path "$checkpoints/ntu_120_cross_setup/interskeleton_seq_based_graph_based"
}

ntu120_cross_subject() { # sequence + graph
    run "${inter[@]}" --pre-dataset ntu120 --protocol cross_subject --moco-k 16384 --epochs 351 --schedule 251 \
        --skeleton-representation seq-based_and_graph-based \
        --checkpoint-path "$checkpoints/ntu_120_cross_subject/interskeleton_seq_based_graph_based"
}

pku1_cross_subject() { # sequence + graph
    run "${inter[@]}" --pre-dataset pku1 --protocol cross_subject --moco-k 8192 --epochs 600 --schedule \
        --skeleton-representation seq-based_and_graph-based \
        --checkpoint-path "$checkpoints/pku_1_cross_subject/interskeleton_seq_based_graph_based"
}

pku2_cross_subject() { # sequence + graph
    run "${inter[@]}" --pre-dataset pku2 --protocol cross_subject --moco-k 2048 --epochs 600 --schedule \
        --skeleton-representation seq-based_and_graph-based \
        --checkpoint-path "$checkpoints/pku_2_cross_subject/interskeleton_seq_based_graph_based"
}

# NTU-60 cross-view, other contrasts: Tables 6 and 10

ablation=(--pre-dataset ntu60 --protocol cross_view --moco-k 16384 --epochs 451 --schedule 351)
folder="$checkpoints/ntu_60_cross_view"

ntu60_cross_view_seq_image() { # sequence + image
    run "${inter[@]}" "${ablation[@]}" --skeleton-representation seq-based_and_image-based \
        --checkpoint-path "$folder/interskeleton_seq_based_image_based"
}

ntu60_cross_view_graph_image() { # graph + image
    run "${inter[@]}" "${ablation[@]}" --skeleton-representation graph-based_and_image-based \
        --checkpoint-path "$folder/interskeleton_graph_based_image_based"
}

ntu60_cross_view_all() { # sequence + graph + image
    run "${inter[@]}" "${ablation[@]}" --skeleton-representation seq-based_and_graph-based_and_image-based \
        --checkpoint-path "$folder/interskeleton_seq_based_graph_based_image_based"
}

ntu60_cross_view_intra() { # each representation against itself; also Table 5
    local name
    for name in seq graph image; do
        run "${intra[@]}" "${ablation[@]}" --skeleton-representation "$name-based" \
            --checkpoint-path "$folder/intraskeleton_${name}_based"
    done
}

# NTU-60 cross-view, augmentation ablations: Tables 5, 8 and 9

table5_augmentations() { # intra-skeleton, zero to two augmentations
    local name kinds
    for kinds in "" crop pose jitter "crop pose" "crop jitter"; do
        for name in image graph seq; do
            run "${intra[@]}" "${ablation[@]}" --skeleton-representation "$name-based" --augmentations $kinds \
                --checkpoint-path "$folder/intraskeleton_${name}_based_$(tr " " _ <<<"${kinds:-unaugmented}")"
        done
    done
}

table8_jittered_joints() { # image, jittering only; 15 joints are in Table 5
    local joints
    for joints in 2 5 10 20; do
        run "${intra[@]}" "${ablation[@]}" --skeleton-representation image-based --augmentations jitter \
            --jitter-joints $joints --checkpoint-path "$folder/intraskeleton_image_based_jitter_$joints"
    done
}

table9_shortest_crop() { # image, cropping only; ratio 0.1 is in Table 5
    local ratio
    for ratio in 0.3 0.5; do
        run "${intra[@]}" "${ablation[@]}" --skeleton-representation image-based --augmentations crop \
            --min-crop-ratio $ratio --checkpoint-path "$folder/intraskeleton_image_based_crop_$ratio"
    done
}

# Beyond the paper: streams of the sequence encoder, fused by script_action_classification.sh

ntu60_cross_view_streams() { # intra-skeleton, sequence: bone and motion (joint: ntu60_cross_view_intra)
    local stream
    for stream in bone motion; do
        run "${intra[@]}" "${ablation[@]}" --skeleton-representation seq-based --stream $stream \
            --checkpoint-path "$folder/intraskeleton_seq_based_$stream"
    done
}

# Beyond the paper: CMD (ECCV 2022), three streams of the sequence encoder that are distilled to each other

pretrain_cmd() {
    run main_moco_inter_skeleton.py "@presets/cmd_$1.txt" --protocol "$2" --data-root "${DATA_ROOT:-data}" \
        --resume auto --checkpoint-path "$checkpoints/cmd_$1_$2"
}

cmd_ntu60_cross_subject() { # joint, bone and motion with distillation
    pretrain_cmd ntu60 cross_subject
}

cmd_ntu60_cross_view() { # joint, bone and motion with distillation
    pretrain_cmd ntu60 cross_view
}

cmd_ntu120_cross_subject() { # joint, bone and motion with distillation
    pretrain_cmd ntu120 cross_subject
}

cmd_ntu120_cross_setup() { # joint, bone and motion with distillation
    pretrain_cmd ntu120 cross_setup
}

cmd_pku2_cross_subject() { # joint, bone and motion with distillation
    pretrain_cmd pku2 cross_subject
}

run_experiments "$@"
