#!/usr/bin/env bash
# The paper's linear-probe, fine-tuning, semi-supervised and transfer experiments on the checkpoints
# that script_pretrain.sh writes. Each is a function:
#
#   bash script_action_classification.sh                       list the experiments
#   bash script_action_classification.sh linear_ntu60_cross_view
#   DATA_ROOT=/data CHECKPOINTS=/checkpoints bash script_action_classification.sh finetune_ntu60_cross_view
#
# Results are written next to the checkpoint, for supervised training under runs/random. Print them with
# python -m engine.report checkpoints. Re-running an interrupted experiment resumes it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script_experiments.sh"

checkpoints="${CHECKPOINTS:-./checkpoints}"
data=(--data-root "${DATA_ROOT:-data}" --batch-size 64 --resume auto)
adam=(--optimizer adam --lr 1e-4 --epochs 50 --schedule 30 40)
linear=(action_classification.py "${data[@]}" --mode linear --lr 0.1 --epochs 80 --schedule 50 70)
finetune=(action_classification.py "${data[@]}" --mode finetune "${adam[@]}")
supervised=(action_classification.py "${data[@]}" --mode supervised "${adam[@]}")

seq=(--finetune-skeleton-representation seq-based)
ntu60_view=(--finetune-dataset ntu60 --protocol cross_view)
ntu60_subject=(--finetune-dataset ntu60 --protocol cross_subject)
ntu120_setup=(--finetune-dataset ntu120 --protocol cross_setup)
ntu120_subject=(--finetune-dataset ntu120 --protocol cross_subject)
pku1=(--finetune-dataset pku1 --protocol cross_subject)
pku2=(--finetune-dataset pku2 --protocol cross_subject)

pair=interskeleton_seq_based_graph_based
of_ntu60_view=(--pretrained "$checkpoints/ntu_60_cross_view/$pair/checkpoint_0450.pth.tar")
of_ntu60_subject=(--pretrained "$checkpoints/ntu_60_cross_subject/$pair/checkpoint_0450.pth.tar")
of_ntu120_setup=(--pretrained "$checkpoints/ntu_120_cross_setup/$pair/checkpoint_0350.pth.tar")
of_ntu120_subject=(--pretrained "$checkpoints/ntu_120_cross_subject/$pair/checkpoint_0350.pth.tar")
of_pku1=(--pretrained "$checkpoints/pku_1_cross_subject/$pair/checkpoint_0599.pth.tar")
of_pku2=(--pretrained "$checkpoints/pku_2_cross_subject/$pair/checkpoint_0599.pth.tar")

linear_ntu60_cross_view() { # linear probe (Table 1)
    run "${linear[@]}" "${ntu60_view[@]}" "${of_ntu60_view[@]}" "${seq[@]}"
}
linear_ntu60_cross_subject() { # linear probe (Table 1)
    run "${linear[@]}" "${ntu60_subject[@]}" "${of_ntu60_subject[@]}" "${seq[@]}"
}
linear_ntu120_cross_setup() { # linear probe (Table 1)
    run "${linear[@]}" "${ntu120_setup[@]}" "${of_ntu120_setup[@]}" "${seq[@]}"
}
linear_ntu120_cross_subject() { # linear probe (Table 1)
    run "${linear[@]}" "${ntu120_subject[@]}" "${of_ntu120_subject[@]}" "${seq[@]}"
}
linear_pku1_cross_subject() { # linear probe (Table 1)
    run "${linear[@]}" "${pku1[@]}" "${of_pku1[@]}" "${seq[@]}"
}
linear_pku2_cross_subject() { # linear probe (Table 1)
    run "${linear[@]}" "${pku2[@]}" "${of_pku2[@]}" "${seq[@]}"
}

finetune_ntu60_cross_view() { # fine-tuning and supervised only (Table 7)
    run "${finetune[@]}" "${ntu60_view[@]}" "${of_ntu60_view[@]}" "${seq[@]}"
    run "${supervised[@]}" "${ntu60_view[@]}" "${seq[@]}"
}
finetune_ntu60_cross_subject() { # fine-tuning and supervised only (Table 7)
    run "${finetune[@]}" "${ntu60_subject[@]}" "${of_ntu60_subject[@]}" "${seq[@]}"
    run "${supervised[@]}" "${ntu60_subject[@]}" "${seq[@]}"
}
finetune_ntu120_cross_setup() { # fine-tuning and supervised only (Table 7)
    run "${finetune[@]}" "${ntu120_setup[@]}" "${of_ntu120_setup[@]}" "${seq[@]}"
    run "${supervised[@]}" "${ntu120_setup[@]}" "${seq[@]}"
}
finetune_ntu120_cross_subject() { # fine-tuning and supervised only (Table 7)
    run "${finetune[@]}" "${ntu120_subject[@]}" "${of_ntu120_subject[@]}" "${seq[@]}"
    run "${supervised[@]}" "${ntu120_subject[@]}" "${seq[@]}"
}

# Five random subsets of a fraction of the labels: semi FRACTION DATASET PROTOCOL CHECKPOINT
semi() {
    local seed
    for seed in 0 1 2 3 4; do
        local common=(--finetune-dataset "$2" --protocol "$3" "${seq[@]}")
        common+=(--label-fraction "$1" --label-seed "$seed" --seed "$seed")
        run "${finetune[@]}" "${common[@]}" --pretrained "$4"
        run "${supervised[@]}" "${common[@]}"
    done
}
semi_ntu60_cross_view() { # 1, 5, 10 and 20% of the labels (Table 2)
    local fraction
    for fraction in 0.01 0.05 0.1 0.2; do semi "$fraction" ntu60 cross_view "${of_ntu60_view[1]}"; done
}
semi_ntu60_cross_subject() { # 1, 5, 10 and 20% of the labels (Table 2)
    local fraction
    for fraction in 0.01 0.05 0.1 0.2; do semi "$fraction" ntu60 cross_subject "${of_ntu60_subject[1]}"; done
}
semi_pku1_cross_subject() { # 1 and 10% of the labels (Table 2)
    local fraction
    for fraction in 0.01 0.1; do semi "$fraction" pku1 cross_subject "${of_pku1[1]}"; done
}

transfer_pku1_to_pku2() { # pretrained on PKU-MMD I, fine-tuned on II (Table 4)
    run "${finetune[@]}" "${pku2[@]}" "${of_pku1[@]}" "${seq[@]}"
}
transfer_ntu60_to_pku2() { # pretrained on NTU-60, fine-tuned on PKU-MMD II (Table 4)
    run "${finetune[@]}" "${pku2[@]}" "${of_ntu60_subject[@]}" "${seq[@]}"
}

# NTU-60 cross-view ablations: probe CHECKPOINT_FOLDER REPRESENTATION
probe() {
    run "${linear[@]}" "${ntu60_view[@]}" --pretrained "$checkpoints/ntu_60_cross_view/$1/checkpoint_0450.pth.tar" \
        --finetune-skeleton-representation "$2"
}
table6_contrasts() { # intra- and inter-skeleton, every representation (Table 6)
    local name
    for name in seq graph image; do
        probe intraskeleton_${name}_based $name-based
        probe interskeleton_seq_based_graph_based_image_based $name-based
    done
    probe $pair graph-based
    probe interskeleton_seq_based_image_based seq-based
    probe interskeleton_seq_based_image_based image-based
    probe interskeleton_graph_based_image_based graph-based
    probe interskeleton_graph_based_image_based image-based
}
table10_combinations() { # two concatenated representations (Table 10)
    local a b names folder="$checkpoints/ntu_60_cross_view"
    for names in "seq graph" "seq image" "graph image"; do
        read -r a b <<<"$names"
        probe interskeleton_${a}_based_${b}_based ${a}-based_and_${b}-based
        run "${linear[@]}" "${ntu60_view[@]}" --finetune-skeleton-representation ${a}-based_and_${b}-based --pretrained \
            "$folder/intraskeleton_${a}_based/checkpoint_0450.pth.tar" \
            "$folder/intraskeleton_${b}_based/checkpoint_0450.pth.tar"
    done
}
table5_augmentations() { # zero to two augmentations (Table 5)
    local kinds name
    for kinds in unaugmented crop pose jitter crop_pose crop_jitter; do
        for name in image graph seq; do probe intraskeleton_${name}_based_$kinds $name-based; done
    done
}
table8_jittered_joints() { # image, jittering only (Table 8)
    local joints
    for joints in 2 5 10 20; do probe intraskeleton_image_based_jitter_$joints image-based; done
}
table9_shortest_crop() { # image, cropping only (Table 9)
    local ratio
    for ratio in 0.3 0.5; do probe intraskeleton_image_based_crop_$ratio image-based; done
}

# Beyond the paper: joint, bone and motion streams and their fusion

streams_ntu60_cross_view() { # linear probe of each stream, then the fusion
    local folder="$checkpoints/ntu_60_cross_view" name
    for name in intraskeleton_seq_based intraskeleton_seq_based_bone intraskeleton_seq_based_motion; do
        run "${linear[@]}" "${ntu60_view[@]}" --pretrained "$folder/$name/checkpoint_0450.pth.tar" \
            --save-scores "$folder/$name/scores.npz"
    done
    run ensemble.py "$folder"/intraskeleton_seq_based{,_bone,_motion}/scores.npz \
        --output-dir "$folder/three_streams"
}

run_experiments "$@"
