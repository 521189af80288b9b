"""Train an action classifier: linear probe, fine-tuning, or supervised from scratch.

Linear probe of the sequence encoder from inter-skeleton pretraining, on NTU-60 cross-view:

    python action_classification.py --lr 0.1 --batch-size 64 \\
        --pretrained \\
        ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar \\
        --finetune-dataset ntu60 --protocol cross_view \\
        --pretrain-skeleton-representation seq-based_and_graph-based \\
        --finetune-skeleton-representation seq-based

    --mode finetune --label-fraction 0.1 --label-seed 0    encoder and classifier, 10% of the labels
    --mode supervised                                      the same from random weights
    --pretrained A B --finetune-skeleton-representation seq-based_and_graph-based
                                                           concatenated features of two checkpoints
    --pretrained A --finetune-dataset pku2                 transfer to another dataset and its classes

Checkpoints of this repository store what they contain; the representation flags are only needed for
official checkpoints. After SIGTERM, SIGINT (Ctrl-C), SIGHUP or SIGUSR1 the run saves and exits with code
75; the same command with --resume auto continues it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset.label_subset import keep_clips, sample_labeled
from engine.classifier import ClassifierTraining, FineTuning, LinearProbe, training_to_resume
from engine.encoders import last_checkpoints
from engine.evaluation import Evaluation, prepare_evaluation
from engine.log import RunLog
from engine.randomness import LABELS, generator
from engine.scores import Scores, save_scores
from engine.signals import EXIT_RESUMABLE
from facts.class_names import short_class_names
from models.registry import join_representations
from options import defaults, flags
from options.parser import Flags, Parser, add_figure_flags, expanded_path
from utils.errors import run_script
from utils.files import check_output_file, write_csv
from visual.confusion import report_confusion
from visual.plots import Style

LABEL_SUBSET = "label_subset.csv"
NAMES = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class accuracy"}
METHODS = {"linear": LinearProbe, "finetune": FineTuning, "supervised": FineTuning}  # by --mode


def parse_args() -> Flags:
    """Parse, complete and check the flags."""
    parser = Parser(__doc__)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_classifier_flags(parser)
    add_figure_flags(parser)
    flags.add_pretrained_flags(parser, required=False)
    flags.add_probe_flags(parser)
    flags.add_size_flags(parser, note=" (untrained or official)")
    flags.add_optimization_flags(
        parser, epochs=None, lr=None, schedule=None, weight_decay=0.0, momentum=None, source="--mode"
    )
    flags.add_run_flags(parser, print_freq=1, print_help="print every N epochs")
    text = "save the logits of the validation clips after the last epoch, for ensemble.py"
    parser.add_argument("--save-scores", type=expanded_path, metavar="FILE.npz", help=text)
    args = parser.parse_args()
    defaults.check_mode(args)
    args.pretrained = last_checkpoints(args.pretrained)
    for line in defaults.fill_classifier_defaults(args):
        print(line)
    defaults.check_epochs(args)
    if args.save_scores:
        check_output_file(Path(args.save_scores), "--save-scores")
    return Flags(args)


def restrict_labels(run: Evaluation) -> Evaluation:
    """Return ``run`` with the training clips of ``--label-fraction``."""
    args, clips = run.args, run.train
    kept = sample_labeled(clips, args.label_fraction, args.label_sampling, generator(args.label_seed, LABELS))
    print(
        f"labels of {len(kept)} of {len(clips)} training clips ({args.label_fraction:g}, "
        f"{args.label_sampling}, --label-seed {args.label_seed})"
    )
    return replace(run, train=keep_clips(clips, kept))


def main() -> int:
    """Train and evaluate a classifier; returns the exit code."""
    args = parse_args()
    method = METHODS[args.mode]
    resumed = training_to_resume(method, args)
    seed = resumed[1]["seed"] if resumed else None
    run = prepare_evaluation(args, args.mode, seed, frozen=method is LinearProbe)
    if args.label_fraction is not None:
        run = restrict_labels(run)
    run.note_missing_classes()
    training = method(run)
    if resumed:
        training.restore(*resumed)
    with run.locked_folder(resumed[0] if resumed else None):
        if args.label_fraction is not None:
            rows = zip(run.train.names, run.train.labels.tolist())
            write_csv(run.folder / LABEL_SUBSET, ["name", "label"], rows)
        with RunLog(run.folder, run.config, training.epoch) as log:
            if not training.train(log):
                return EXIT_RESUMABLE
            report(training, log)
    return 0


def report(training: ClassifierTraining, log: RunLog) -> None:
    """Write and print the results, the scores and the confusion matrix."""
    run, numbers = training.run, training.results()
    path = run.write(numbers)
    if after := numbers.get("encoder_sha256"):
        print(f"frozen weights and buffers: sha256 {training.encoder_sha256} before, {after} after")
    for which in ("best", "last"):
        result = numbers[which]
        text = ", ".join(f"{NAMES[name]} {result[name]:.2f}%" for name in NAMES if name in result)
        print(f"{which} (epoch {result['epoch'] + 1}): {text}")
    print(f"written: {path}", flush=True)
    logits, class_names = training.val_logits(), short_class_names(run.val.class_names)
    if run.args.save_scores:
        scores = Scores(
            logits=logits.cpu().numpy(),
            labels=run.val.labels.numpy(),
            names=np.array(run.val.names),
            class_names=np.array(class_names),
            encoder=run.extractor.encoders.title,
            representation=join_representations(run.extractor.encoders.representations),
            dataset=run.args.dataset,
            protocol=run.args.protocol,
            seed=run.seed,
        )
        save_scores(Path(run.args.save_scores), scores)
        print(f"written: {run.args.save_scores}", flush=True)
    predictions, tag = logits.argmax(dim=1), f"{training.kind}/confusion"
    name_of, step = class_names.__getitem__, run.args.epochs - 1
    style = Style.of(run.args)
    lines = report_confusion(run.val.labels, predictions, name_of, run.folder, log, tag, step, style)
    print(*lines, sep="\n")


if __name__ == "__main__":
    run_script(main, memory_flags="--batch-size, --amp, --data-device")
