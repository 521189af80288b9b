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
# run saves. The same command then resumes, also on a different number of nodes: the batches and their
# views do not depend on the number of processes.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
folder=checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based
first_node="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"

srun python -m torch.distributed.run \
    --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-4}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first_node:29500" \
    main_moco_inter_skeleton.py --mlp --amp bf16 --batch-size 64 --seed 0 \
    --pre-dataset ntu60 --protocol cross_view --skeleton-representation seq-based_and_graph-based \
    --checkpoint-path "$folder" --resume auto
code=$?

# torchrun exits with 1 for a stopped and for a failed run. A stopped run has just saved.
if [ "$code" != 0 ] && [ -n "$(find "$folder" -name checkpoint_last.pth.tar -mmin -5 2>/dev/null)" ]; then
    echo "stopped and saved: requeueing"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
