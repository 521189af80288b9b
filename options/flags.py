"""Command-line flags in groups that the scripts share; every flag is defined once.

Flags keep the names of the official code. A default of None means that the value comes from the
dataset (queue size, epochs, schedule), from ``--mode``, or from the checkpoint (encoder sizes); see
``options.defaults``.
"""

from __future__ import annotations

import argparse
from typing import Any

from dataset.augment import AUGMENTATIONS, Composition
from facts.datasets import DATASETS
from moco.losses import OBJECTIVES
from models.registry import REPRESENTATIONS, size_flags
from models.streams import STREAMS
from utils.class_flags import add_class_flags

from .parser import (
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    POSITIVE_FRACTION,
    POSITIVE_INT,
    Parser,
    add_overwrite_flag,
    described,
    expanded_path,
)

# Training settings per --mode (paper section 4.2; the linear probe as in the official code).
CLASSIFIER_DEFAULTS: dict[str, dict] = {
    "linear": {"optimizer": "sgd", "lr": 0.1, "epochs": 80, "schedule": [50, 70]},
    "finetune": {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40]},
}
CLASSIFIER_DEFAULTS["supervised"] = CLASSIFIER_DEFAULTS["finetune"]


# Flag -> the other one of a pair of which the last one given counts, and its value if it is overridden.
OVERRIDDEN = {"schedule": ("cos", False), "epochs": ("steps", None), "steps": ("epochs", None)}


class LastGiven(argparse.Action):
    """A flag that overrides the other one of its pair before it, such as that of a preset."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        other, value = OVERRIDDEN[self.dest]
        if hasattr(namespace, other):
            setattr(namespace, other, value)
        setattr(namespace, self.dest, values)


def add_gpu_flag(group: argparse._ArgumentGroup) -> None:
    """Add ``--gpu``, shared by all scripts that run an encoder."""
    text = "use only this GPU (default: all visible GPUs, or the CPU)"
    group.add_argument("--gpu", type=COUNT, metavar="N", help=text)


def add_run_flags(parser: Parser, print_freq: int, print_help: str) -> None:
    """Add the flags of every run: seed, progress, and those of ``add_device_flags``."""
    text = f"""
    --seed random seed; a run is reproducible on a CPU with the same number of threads (default: a random
        seed, which is printed)
    --print-freq {print_help} (default: {print_freq})
    """
    group = parser.add_argument_group("run")
    add = described(group, text)
    add("--seed", type=COUNT)
    add("-p", "--print-freq", type=POSITIVE_INT, default=print_freq, metavar="N")
    add_device_flags(group)


def add_device_flags(group: argparse._ArgumentGroup) -> None:
    """Add workers, device and precision, shared by all scripts that run an encoder on a set of clips."""
    text = """
    --workers threads that prepare batches ahead of the training step; 0: none (default: 2 if the CPU prepares
        batches for a GPU, else 0). Results do not depend on it
    --data-device cuda: keep the clips in GPU memory; cpu: in a memory map of the store; auto: on the GPU if
        they take at most 30%% of its free memory (default: auto). Results do not depend on it
    --amp mixed precision of the encoders; bf16 needs an Ampere or newer GPU (default: off)
    --tf32 TF32 matrix products on Ampere and newer GPUs: much faster, 10 bits of mantissa (default: on)
    """
    add = described(group, text)
    add("-j", "--workers", type=COUNT, metavar="N")
    add_gpu_flag(group)
    add("--data-device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--amp", choices=["off", "bf16", "fp16"], default="off")
    add("--tf32", choices=["on", "off"], default="on")


def add_tsne_classes_flag(group: Parser | argparse._ArgumentGroup) -> None:
    """Add ``--tsne-classes``."""
    text = "classes of one t-SNE map, by name or by number from 0 (default: three samples of ten classes)"
    group.add_argument("--tsne-classes", nargs="+", metavar="CLASS", help=text)


def add_optimization_flags(
    parser: Parser,
    epochs: int | None,
    lr: float | None,
    schedule: list[int] | None,
    weight_decay: float,
    note: str = "",
    momentum: float | None = 0.9,
    source: str = "the dataset",
) -> None:
    """Add the flags of the optimizer and the learning-rate schedule.

    Args:
        note: appended to the title of the group.
        source: what determines the flags whose default is None.
    """

    def default(value: object) -> str:
        shown = " ".join(map(str, value)) or "none" if isinstance(value, list) else value
        return f"(default: {f'depends on {source}, as in the paper' if value is None else shown})"

    text = f"""
    --epochs total number of epochs {default(epochs)}
    --start-epoch number of the first epoch, for a manual restart without --resume (default: 0)
    --batch-size global batch size, over all GPUs and processes (default: 64)
    --lr initial learning rate {default(lr)}
    --schedule epochs at which the learning rate is divided by 10 {default(schedule)}
    --cos cosine learning-rate schedule; of --cos and --schedule, the last one given applies
    --momentum SGD momentum (default: 0.9)
    --wd weight decay (default: {weight_decay:g})
    --resume checkpoint to resume from; 'auto': the most advanced one in the folder, if any
    """
    add = described(parser.add_argument_group("optimization" + note), text)
    add("--epochs", type=POSITIVE_INT, action=LastGiven, default=epochs, metavar="N")
    add("--start-epoch", type=COUNT, default=0, metavar="N")
    add("-b", "--batch-size", type=POSITIVE_INT, default=64, metavar="N")
    add("--lr", "--learning-rate", type=POSITIVE, default=lr)
    add("--schedule", type=COUNT, action=LastGiven, nargs="*", default=schedule, metavar="EPOCH")
    add("--cos", action="store_true")
    add("--momentum", type=FRACTION, default=momentum)
    add("--wd", "--weight-decay", dest="weight_decay", type=NON_NEGATIVE, default=weight_decay)
    add("--resume", type=expanded_path, metavar="PATH")


def add_data_flags(parser: Parser, dataset_flag: str) -> None:
    """Add dataset, protocol and the folder of the stores."""
    text = f"""
    {dataset_flag} {", ".join(DATASETS)}, or the folder name of your own store under --data-root
        (default: ntu60)
    --protocol protocol (train/validation split): cross_view, cross_subject, cross_setup or a column of your
        own store (default: cross_view)
    --data-root folder with the stores (default: data)
    """
    add = described(parser.add_argument_group("data"), text)
    add(dataset_flag, dest="dataset", default="ntu60", metavar="NAME")
    add("--protocol", default="cross_view")
    add("--data-root", type=expanded_path, default="data", metavar="DIR")


def add_stream_flag(group: argparse._ArgumentGroup, default: str) -> None:
    """Add ``--stream`` for pretraining and evaluation; None if not given."""
    group.add_argument(
        "--stream",
        choices=[*STREAMS],
        help="coordinates of the joints, bones (joint minus parent) or motion (next frame minus this one), "
        f"for representations without a suffix such as seq-based:bone (default: {default})",
    )


def pretraining_parser(documentation: str, contrast: str) -> Parser:
    """Return the parser of a pretraining script.

    Args:
        documentation: the docstring of the script.
        contrast: ``intra``: one representation; ``inter``: several, with ``--pairs``.
    """
    parser = Parser(documentation, presets=True)
    add_data_flags(parser, "--pre-dataset")
    add_contrast_flags(parser, contrast)
    add_augmentation_flags(parser)
    add_size_flags(parser)
    add_optimization_flags(parser, epochs=None, lr=0.01, schedule=None, weight_decay=1e-4)
    add_training_flags(parser)
    add_run_flags(parser, print_freq=10, print_help="steps between updates of the displayed loss")
    return parser


def add_contrast_flags(parser: Parser, contrast: str) -> None:
    """Add the flags of momentum contrast (section 3.1); see ``pretraining_parser``."""
    names = ", ".join(REPRESENTATIONS)
    if contrast == "intra":
        default, description = "seq-based", f"one of {names}"
    else:
        default, description = "seq-based_and_graph-based", f"two or more of {names}, joined by _and_"
    text = f"""
    --skeleton-representation {description} (default: {default})
    --moco-dim embedding dimension (default: 128)
    --moco-k queue size, the number of negatives; 0: no queue, the negatives are the keys of the other clips
        of the batch (default: depends on the dataset, as in the paper)
    --moco-m key-encoder momentum (default: 0.999)
    --mlp MLP head, as in the paper; --no-mlp: linear head (default: --mlp)
    """
    group = parser.add_argument_group("contrast")
    add = described(group, text)
    add("--skeleton-representation", default=default, metavar="NAMES")
    add_stream_flag(group, "joint, as in the paper")
    add("--moco-dim", type=POSITIVE_INT, default=128, metavar="D")
    add("--moco-k", type=COUNT, metavar="K")
    add("--moco-m", type=FRACTION, default=0.999, metavar="M")
    add("--mlp", action=argparse.BooleanOptionalAction, default=True)
    if contrast == "intra":
        parser.set_defaults(pairs="intra")
    for objective in OBJECTIVES:
        add_class_flags(group, objective, omit=("pairs",) if contrast == "intra" else ())


def add_augmentation_flags(parser: Parser) -> None:
    """Add ``--augmentations`` (section 3.4; Tables 5, 8, 9) and the flags of the classes in the registry."""
    text = f"""
    --augmentations any of {", ".join(AUGMENTATIONS)}; no value: no augmentation (Table 5; default: crop pose
        jitter)
    """
    group = parser.add_argument_group("augmentation")
    default = ["crop", "pose", "jitter"]
    described(group, text)("--augmentations", nargs="*", default=default, metavar="A")
    for kind in (Composition, *AUGMENTATIONS.values()):
        add_class_flags(group, kind)


def add_size_flags(parser: Parser, note: str = "") -> None:
    """Add the encoder sizes; None if not given."""
    group = parser.add_argument_group("encoders" + note)
    for name, size in size_flags().items():
        if size.choices:
            kind: dict[str, Any] = {"choices": size.choices}
        elif isinstance(size.default, float):
            kind = {"type": FRACTION, "metavar": "P"}
        else:
            kind = {"type": POSITIVE_INT, "metavar": "N"}
        group.add_argument("--" + name.replace("_", "-"), help=f"{size.help} (paper: {size.default})", **kind)


def given_sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the size flags of ``args`` by name, None if not given."""
    return {name: getattr(args, name) for name in size_flags()}


def add_training_flags(parser: Parser) -> None:
    """Add the flags that only pretraining has: optimizer, checkpoints, diagnostics, speed."""
    text = """
    --steps train for N steps, rounded up to whole epochs; of --epochs and --steps, the last one given applies
    --optimizer sgd, as in the paper, or adamw, without weight decay of norms and biases (default: sgd)
    --warmup-epochs epochs in which the learning rate rises linearly (default: 0)
    --init start from the encoders of another pretraining, a checkpoint or folder: the same encoders and
        skeleton, any dataset; optimizer, queues and position are new
    --checkpoint-path folder for checkpoints and logs (default:
        checkpoints/DATASET_PROTOCOL/CONTRAST_REPRESENTATIONS)
    --save-freq epochs between numbered checkpoints (default: 10, as in the official code; with --steps, a
        20th of the run)
    --save-minutes minutes between saves of checkpoint_last.pth.tar, from which a killed run resumes
        (default: 10)
    --monitor-freq epochs between measurements of effective rank, alignment and uniformity on a sample of
        clips (default: 10; with --steps, a 40th of the run)
    --monitor-knn also measure 1-NN accuracy on training labels, which are never used for training
    --compile compile the convolutional encoders with torch.compile; takes about a minute at the start
    --sync-bn synchronize BatchNorm over the processes of torchrun instead of using the local batch. PyTorch's
        layer waits for the GPU three times per forward pass: 156 times per step of sequence and graph
        encoders at the paper's sizes
    """
    add = described(parser.add_argument_group("training"), text)
    add("--steps", type=POSITIVE_INT, action=LastGiven, metavar="N")
    add("--optimizer", choices=["sgd", "adamw"], default="sgd")
    add("--warmup-epochs", type=COUNT, default=0, metavar="N")
    add("--init", type=expanded_path, metavar="PATH")
    add = described(parser.add_argument_group("checkpoints"), text)
    add("--checkpoint-path", type=expanded_path, metavar="DIR")
    add("--save-freq", type=POSITIVE_INT, metavar="N")
    add("--save-minutes", type=POSITIVE, default=10.0, metavar="M")
    add = described(parser.add_argument_group("diagnostics"), text)
    add("--monitor-freq", type=POSITIVE_INT, metavar="N")
    add("--monitor-knn", action="store_true")
    add = described(parser.add_argument_group("speed"), text)
    add("--compile", action="store_true")
    add("--sync-bn", action="store_true")


def add_pretrained_flags(parser: Parser, required: bool = True, results: bool = True) -> None:
    """Add the encoder of a downstream script; ``results`` adds the output folder of an evaluation."""
    text = """
    --pretrained a checkpoint of this repository or of the official code, or a pretraining's folder, for its
        most advanced checkpoint; 'random': an untrained encoder; 'coordinates': normalized coordinates.
        Features of several checkpoints are concatenated
    --pretrain-skeleton-representation representations in each checkpoint; only needed for official
        checkpoints
    --finetune-skeleton-representation encoder to evaluate; features of several, joined by _and_, are
        concatenated
    --classes evaluate on clips of these classes: names, or numbers counted from 0 (default: all)
    --output-dir folder for results.json and logs (default: a folder next to the checkpoint, or under runs/
        without one)
    """
    group = parser.add_argument_group("encoder")
    add = described(group, text)
    add("--pretrained", type=expanded_path, nargs="+", required=required, metavar="PATH")
    add("--pretrain-skeleton-representation", nargs="+", metavar="NAMES")
    add("--finetune-skeleton-representation", metavar="NAMES")
    add_stream_flag(group, "that of the checkpoint; joint without a checkpoint")
    if results:
        add("--classes", nargs="+", metavar="CLASS")
        add("--output-dir", type=expanded_path, metavar="DIR")
        add_overwrite_flag(group)


def add_classifier_flags(parser: Parser) -> None:
    """Add what a classifier trains, and on which labels (section 4.3; Tables 2, 4 and 7)."""
    text = """
    --mode linear: linear probe on frozen features; finetune: train encoder and classifier; supervised: the
        same from random weights, without --pretrained (default: linear)
    --optimizer optimizer (default: sgd for linear, adam for finetune and supervised, as in the paper)
    --class-weights weight the loss of each class by the inverse of its number of training clips
    --label-fraction train on this fraction of the labels, 0.01 for 1%%; the clips are listed in
        label_subset.csv (default: all)
    --label-sampling balanced: the fraction of each class, rounded half up, at least one clip; uniform:
        sampled from all clips (default: balanced)
    --label-seed seed of the label subset (default: 0)
    """
    add = described(parser.add_argument_group("evaluation"), text)
    add("--mode", choices=[*CLASSIFIER_DEFAULTS], default="linear")
    add("--optimizer", choices=["sgd", "adam"])
    add("--class-weights", action="store_true")
    add("--label-fraction", type=POSITIVE_FRACTION, metavar="F")
    add("--label-sampling", choices=["balanced", "uniform"])
    add("--label-seed", type=COUNT, metavar="S")


def add_probe_flags(parser: Parser) -> None:
    """Add the flags of the linear probe."""
    text = """
    --cached-crops train on the features of K random crops per clip, computed once and cycled through
        (default: new crops in every epoch, as in the paper)
    """
    add = described(parser.add_argument_group("linear probe"), text)
    add("--cached-crops", type=POSITIVE_INT, metavar="K")
