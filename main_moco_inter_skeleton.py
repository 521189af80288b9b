"""Inter-skeleton contrastive pretraining.

Sequence and graph on NTU-60 cross-view, as in the paper (section 3.3):

    python main_moco_inter_skeleton.py --lr 0.01 --batch-size 64 --mlp --moco-t 0.07 \\
        --moco-k 16384 --schedule 351 --epochs 451 --pre-dataset ntu60 --protocol cross_view \\
        --skeleton-representation seq-based_and_graph-based \\
        --checkpoint-path ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based

The queries of each representation are contrasted with the keys of every other one. All visible GPUs
are used. On SIGTERM, SIGINT (Ctrl-C), SIGHUP or SIGUSR1 the run finishes the current step, saves and
exits with code 75; the same command with --resume auto continues it.
"""

from engine.setup import Contrast, parse_pretraining_flags, run_pretraining
from moco.losses import all_pairs, inter_pairs
from models.registry import REPRESENTATIONS, parse_representations
from utils.errors import UserError, run_script
from visual.clips import log_views


def main() -> int:
    """Parse the flags and pretrain; returns the exit code."""
    args = parse_pretraining_flags(
        __doc__,
        representation_help=f"two or more of {', '.join(REPRESENTATIONS)}, joined by _and_",
        representation="seq-based_and_graph-based",
        pairs=["inter", "all"],
    )
    representations = parse_representations(args.skeleton_representation, args.stream)
    if len(representations) < 2:
        raise UserError(
            f"--skeleton-representation {args.skeleton_representation}: inter-skeleton contrast needs "
            "at least two representations; for one, use main_moco_intra_skeleton.py"
        )
    pairs = {"inter": inter_pairs, "all": all_pairs}[args.pairs](representations)
    return run_pretraining(args, Contrast("inter", representations, pairs), log_views)


if __name__ == "__main__":
    run_script(main, memory_flags="--batch-size, --amp, --data-device")
