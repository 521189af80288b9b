"""Train a classifier of actions: on frozen features, on all of an encoder, or without pretraining.

The linear probe of an inter-skeleton pretraining's sequence encoder, on NTU-60 cross-view:

    python action_classification.py --lr 0.1 --batch-size 64 \\
        --pretrained ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar \\
        --finetune-dataset ntu60 --protocol cross_view \\
        --pretrain-skeleton-representation seq-based_and_graph-based \\
        --finetune-skeleton-representation seq-based

    --mode finetune --label-fraction 0.1 --label-seed 0    encoder and classifier, a tenth of the labels
    --mode supervised                                      the same from random weights
    --pretrained A B --finetune-skeleton-representation seq-based_and_graph-based
                                                           features of two checkpoints side by side
    --pretrained A --finetune-dataset pku2                 transfer to another data set and its classes

Checkpoints of this program say themselves what they hold; the authors' need the representation flags.
"""

import argparse
from functools import partial

from torch.utils.tensorboard import SummaryWriter

from dataset.label_subset import sample_labelled, keep_clips
from engine.classifier import load_training
from engine.evaluation import Evaluation, prepare_evaluation, results_folder
from engine.finetune import FINETUNE_FILE, finetune
from options.files import exclusive_folder
from engine.probe import PROBE_FILE, linear_probe
from engine.randomness import LABELS, generator
from options.files import write_csv
from engine.signals import EXIT_RESUMABLE
from models.representations import size_flags
from options import defaults, flags
from options.class_names import short_class_name
from options.errors import run_script
from visual.confusion import report_confusion

LABEL_SUBSET = "label_subset.csv"


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_classifier_flags(parser)
    flags.add_pretrained_flags(parser, required=False)
    flags.add_probe_flags(parser)
    flags.add_size_flags(parser, size_flags(), note=" (of an untrained encoder or the authors' checkpoints)")
    flags.add_optimization_flags(
        parser, epochs=None, lr=None, schedule=None, weight_decay=0.0, momentum=None, source="--mode"
    )
    flags.add_run_flags(parser, print_freq=1, print_help="epochs between printed lines")
    return parser.parse_args()


def keep_labelled(run: Evaluation, args: argparse.Namespace) -> None:
    """Leave in ``run.train`` the clips that keep their label, and say what is missing then."""
    if args.label_fraction is not None:
        whole = run.train
        source = generator(args.label_seed, LABELS)
        run.train = keep_clips(whole, sample_labelled(whole, args.label_fraction, args.label_sampling, source))
        print(
            f"labels of {len(run.train)} of {len(whole)} train clips ({args.label_fraction:g}, "
            f"{args.label_sampling}, --label-seed {args.label_seed})"
        )
    run.note_missing_classes()


def main() -> int:
    args = parse_args()
    defaults.check_mode(args)
    default_lines = defaults.fill_classifier_defaults(args)
    defaults.check_epochs(args)
    folder = results_folder(args, args.mode)
    file, kind, train = (
        (PROBE_FILE, "probe", linear_probe) if args.mode == "linear" else
        (FINETUNE_FILE, "fine-tuning", finetune)
    )
    resume_from = None
    if args.resume:
        resume_from = load_training(kind, args.resume, folder / file, args.seed, args.epochs)
    seed = resume_from and resume_from[0]["seed"]
    run = prepare_evaluation(args, args.mode, seed, frozen=args.mode == "linear")
    for line in default_lines:
        print(line)
    keep_labelled(run, args)
    with exclusive_folder(run.folder, "--output-dir"):
        if args.label_fraction is not None:
            rows = zip(run.train.names, run.train.labels.tolist())
            write_csv(run.folder / LABEL_SUBSET, ["name", "label"], rows)
        numbers = train(run, args, resume_from)
        if numbers is None:
            return EXIT_RESUMABLE
        for when in ("best", "last"):
            result = numbers[when]
            print(f"{when} (epoch {result['epoch']}): top-1 {result['top1']:.2f}%, top-5 {result['top5']:.2f}%")
        run.write(args.mode, args, numbers)
        name_of = partial(short_class_name, args.dataset)
        with SummaryWriter(str(run.folder)) as writer:
            place = writer, f"{kind}/confusion", args.epochs - 1
            lines = report_confusion(run.val.labels, run.predicted, name_of, run.folder, *place)
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    run_script(main, memory_flags="--batch-size, --amp, --data-device")
