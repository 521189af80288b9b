"""Pretrain by contrasting two views of skeleton clips in one representation.

The sequence encoder on NTU-60 cross-view, as in the paper (section 3.1):

    python main_moco_intra_skeleton.py --lr 0.01 --batch-size 64 --mlp --moco-t 0.07 \\
        --moco-k 16384 --schedule 351 --epochs 451 --pre-dataset ntu60 --protocol cross_view \\
        --skeleton-representation seq-based \\
        --checkpoint-path ./checkpoints/ntu_60_cross_view/intraskeleton_seq_based

All visible GPUs are used. SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 let a run finish its step, save and
end with exit code 75; the same command with --resume auto goes on from there.
"""

from engine.setup import parse_pretraining_flags, run_pretraining
from moco.model import intra_pairs
from options.errors import UserError, run_script
from models.representations import parse_representations
from visual.sample import show_views


def main() -> int:
    args = parse_pretraining_flags(
        __doc__,
        representation_help="seq-based, graph-based or image-based",
        representation="seq-based",
    )
    representations = parse_representations(args.skeleton_representation)
    if len(representations) > 1:
        raise UserError(
            f"--skeleton-representation {args.skeleton_representation}: intra-skeleton contrast takes "
            "one; main_moco_inter_skeleton.py contrasts several with each other"
        )
    return run_pretraining(args, "intra", representations, intra_pairs(representations), show_views)


if __name__ == "__main__":
    run_script(main, saves_memory="--batch-size, --amp, --data-device")
