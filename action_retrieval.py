"""Measure a frozen encoder by nearest-neighbour retrieval: val clips among the training clips.

The sequence encoder of an inter-skeleton pretraining, on NTU-60 cross-view:

    python action_retrieval.py --lr 0.1 --batch-size 64 --knn-neighbours 1 \\
        --pretrained ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar \\
        --finetune-dataset ntu60 --protocol cross_view \\
        --pretrain-skeleton-representation seq-based_and_graph-based \\
        --finetune-skeleton-representation seq-based

Nothing is trained: features of the clips' centres, cosine similarity, the vote of the neighbours.
"""

import argparse

from engine.evaluation import prepare_evaluation
from engine.features import validation_features
from engine.retrieve import knn_accuracy
from options import flags
from options.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_pretrained_flags(parser)
    parser.add_argument("--knn-neighbours", type=flags.POSITIVE_INT, default=1, metavar="K",
                        help="training clips that vote on a val clip (default 1)")
    flags.add_size_flags(parser, note=" (of an untrained encoder or the authors' checkpoints)")
    flags.add_optimisation_flags(
        parser, epochs=80, lr=0.1, schedule=[], weight_decay=0.0,
        note=" (so that the released commands run; but for --batch-size, retrieval has no use for it)",
    )
    flags.add_run_flags(parser, print_freq=1, print_help="as above")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    run = prepare_evaluation(args, "retrieval")
    if args.knn_neighbours > len(run.train):
        raise UserError(f"--knn-neighbours {args.knn_neighbours}: there are {len(run.train)} training clips")
    features = [
        validation_features(
            run.encode, run.encoders, clips, run.device, args.workers, f"{clips.split} features"
        )
        for clips in (run.train, run.val)
    ]
    accuracy = knn_accuracy(
        features[1], run.val.labels.to(run.device), features[0], run.train.labels.to(run.device),
        args.knn_neighbours, run.train.num_classes,
    )
    print(f"{args.knn_neighbours}-nearest-neighbour retrieval: {accuracy:.2f}%")
    run.write("retrieval", args, {"knn": accuracy, "neighbours": args.knn_neighbours})
    return 0


if __name__ == "__main__":
    run_script(main)
