#!/usr/bin/env bash
# Inter-skeleton pretraining on NTU-60 cross-view with Slurm: one process per GPU, two nodes with four GPUs each.
# Edit the values below, then: sbatch script_slurm.sh
#SBATCH --job-name=skeleton-contrast
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x_%j.log
#SBATCH --open-mode=append
# Slurm sends SIGTERM two minutes before the time limit and on preemption. torchrun forwards it and the
# run saves and exits with 75. The same command then resumes, also on a different number of nodes: the
# batches and their views do not depend on the number of processes.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
folder="${CHECKPOINTS:-checkpoints}/ntu_60_cross_view/interskeleton_seq_based_graph_based"
first_node="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"

# torchrun exits with 1, whatever the exit code of its processes: the first one leaves its own in a file.
export EXIT_CODE="$folder/.exit_code_$SLURM_JOB_ID"
process() {
    trap : TERM # the run gets the signal, too; wait for it
    python "$@"
    local code=$?
    [ "$RANK" = 0 ] && echo "$code" >"$EXIT_CODE"
    exit "$code"
}
export -f process

mkdir -p "$folder"
rm -f "$EXIT_CODE"
srun python -m torch.distributed.run \
    --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-4}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first_node:29500" \
    --no-python bash -c 'process "$@"' process \
    main_moco_inter_skeleton.py --mlp --amp bf16 --batch-size 64 --seed 0 --data-root "${DATA_ROOT:-data}" \
    --pre-dataset ntu60 --protocol cross_view --skeleton-representation seq-based_and_graph-based \
    --checkpoint-path "$folder" --resume auto
code=$?

if [ "$(cat "$EXIT_CODE" 2>/dev/null)" = 75 ]; then
    echo "stopped and saved: requeueing"
    scontrol requeue "$SLURM_JOB_ID"
fi
rm -f "$EXIT_CODE"
exit "$code"
