"""Intra-skeleton contrastive pretraining.

The sequence encoder on NTU-60 cross-view, as in the paper (section 3.1):

    python main_moco_intra_skeleton.py --lr 0.01 --batch-size 64 --mlp --moco-t 0.07 \\
        --moco-k 16384 --schedule 351 --epochs 451 --pre-dataset ntu60 --protocol cross_view \\
        --skeleton-representation seq-based \\
        --checkpoint-path ./checkpoints/ntu_60_cross_view/intraskeleton_seq_based

Two views of each clip are contrasted in one representation. All visible GPUs are used. On SIGTERM,
SIGINT (Ctrl-C), SIGHUP or SIGUSR1 the run finishes the current step, saves and exits with code 75;
the same command with --resume auto continues it. The run itself is in main_moco_inter_skeleton.py: the
two scripts differ in the pairs of queries and keys that are contrasted.
"""

from main_moco_inter_skeleton import pretrain
from models.registry import parse_representations
from options.flags import pretraining_parser
from utils.errors import UserError, run_script


def main() -> int:
    """Parse the flags and pretrain; returns the exit code."""
    args = pretraining_parser(__doc__, "intra").parse_args()
    if len(parse_representations(args.skeleton_representation, args.stream)) > 1:
        raise UserError(
            f"--skeleton-representation {args.skeleton_representation}: intra-skeleton contrast takes one "
            "representation; to contrast several, use main_moco_inter_skeleton.py"
        )
    return pretrain(args)


if __name__ == "__main__":
    run_script(main, memory_flags="--batch-size, --amp, --data-device")
