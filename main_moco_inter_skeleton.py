"""Pretrain by contrasting different representations of skeleton clips with each other.

Seq + graph on NTU-60 cross-view, as in the paper (section 3.3):

    python main_moco_inter_skeleton.py --lr 0.01 --batch-size 64 --mlp --moco-t 0.07 \\
        --moco-k 16384 --schedule 351 --epochs 451 --pre-dataset ntu60 --protocol cross_view \\
        --skeleton-representation seq-based_and_graph-based \\
        --checkpoint-path ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based

Queries of each representation meet the keys of every other. All visible GPUs are used. SIGTERM,
SIGINT (Ctrl-C) and SIGUSR1 let a run finish its step, save and end with exit code 75; the same
command with --resume auto goes on from there.
"""

from engine.setup import parse_pretraining_flags, run_pretraining
from moco.model import inter_pairs
from options.errors import UserError, run_script
from models.representations import parse_representations
from visual.sample import show_views


def main() -> int:
    args = parse_pretraining_flags(
        __doc__,
        representation_help="two or three of seq-based, graph-based, image-based, joined by _and_",
        representation="seq-based_and_graph-based",
    )
    representations = parse_representations(args.skeleton_representation)
    if len(representations) < 2:
        raise UserError(
            f"--skeleton-representation {args.skeleton_representation}: inter-skeleton contrast needs "
            "two or three; main_moco_intra_skeleton.py contrasts one with itself"
        )
    return run_pretraining(args, "inter", representations, inter_pairs(representations), show_views)


if __name__ == "__main__":
    run_script(main, saves_memory="--batch-size, --amp, --data-device")
