"""Measure a frozen encoder by a linear classifier on its features (the linear probe).

The sequence encoder of an inter-skeleton pretraining, on NTU-60 cross-view:

    python action_classification.py --lr 0.1 --batch-size 64 \\
        --pretrained ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar \\
        --finetune-dataset ntu60 --protocol cross_view \\
        --pretrain-skeleton-representation seq-based_and_graph-based \\
        --finetune-skeleton-representation seq-based

Checkpoints of this program say themselves what they hold; the authors' need the representation
flags. Two representations joined by _and_ put their features side by side under one classifier.
"""

import argparse

from engine.checkpoint import make_folder
from engine.evaluation import prepare_evaluation, results_folder
from engine.probe import linear_probe, load_probe
from engine.stop import STOPPED
from options import flags
from options.errors import run_script


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_pretrained_flags(parser)
    flags.add_probe_flags(parser)
    flags.add_size_flags(parser, note=" (of an untrained encoder or the authors' checkpoints)")
    flags.add_optimisation_flags(parser, epochs=80, lr=0.1, schedule=[50, 70], weight_decay=0.0)
    flags.add_run_flags(parser, print_freq=1, print_help="epochs between printed lines")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    flags.check_epochs(args)
    resume_from = None
    if args.resume:
        resume_from = load_probe(args.resume, results_folder(args, "linear"), args.seed, args.epochs)
    run = prepare_evaluation(args, "linear", seed=resume_from and resume_from[0]["seed"])
    make_folder(run.folder)
    numbers = linear_probe(
        run.encoders, run.encode, run.train, run.val, args, run.seed, run.device, run.folder,
        resume_from,
    )
    if numbers is None:
        return STOPPED
    for when in ("best", "last"):
        result = numbers[when]
        print(f"{when} (epoch {result['epoch']}): top-1 {result['top1']:.2f}%, top-5 {result['top5']:.2f}%")
    run.write("linear", args, numbers)
    return 0


if __name__ == "__main__":
    run_script(main)
