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
    expanded_path,
)

# Training settings per --mode (paper section 4.2; the linear probe as in the official code).
CLASSIFIER_DEFAULTS: dict[str, dict] = {
    "linear": {"optimizer": "sgd", "lr": 0.1, "epochs": 80, "schedule": [50, 70]},
    "finetune": {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40]},
}
CLASSIFIER_DEFAULTS["supervised"] = CLASSIFIER_DEFAULTS["finetune"]


class Milestones(argparse.Action):
    """``--schedule``: it overrides a ``--cos`` before it, such as that of a preset."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        namespace.cos = False
        setattr(namespace, self.dest, values)


class TrainingLength(argparse.Action):
    """``--epochs`` or ``--steps``: the last one given counts, so that a flag overrides a preset."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        for name in ("epochs", "steps"):
            if hasattr(namespace, name):
                setattr(namespace, name, None)
        setattr(namespace, self.dest, values)


def add_gpu_flag(group: argparse._ArgumentGroup) -> None:
    """Add ``--gpu``, shared by all scripts that run an encoder."""
    group.add_argument(
        "--gpu", type=COUNT, metavar="N", help="use only this GPU (default: all visible GPUs, or the CPU)"
    )


def add_run_flags(parser: Parser, print_freq: int, print_help: str) -> None:
    """Add the flags of every run: seed, progress, and those of ``add_device_flags``."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--seed",
        type=COUNT,
        help="random seed; a run is reproducible on a CPU with the same number of threads (default: a "
        "random seed, which is printed)",
    )
    group.add_argument(
        "-p",
        "--print-freq",
        type=POSITIVE_INT,
        default=print_freq,
        metavar="N",
        help=f"{print_help} (default: {print_freq})",
    )
    add_device_flags(group)


def add_device_flags(group: argparse._ArgumentGroup) -> None:
    """Add workers, device and precision, shared by all scripts that run an encoder on a set of clips."""
    group.add_argument(
        "-j",
        "--workers",
        type=COUNT,
        metavar="N",
        help="threads that prepare batches ahead of the training step; 0: none (default: 2 if the CPU "
        "prepares batches for a GPU, else 0). Results do not depend on it",
    )
    add_gpu_flag(group)
    group.add_argument(
        "--data-device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="cuda: keep the clips in GPU memory; cpu: in a memory map of the store; auto: on the GPU if "
        "they take at most 30%% of its free memory (default: auto). Results do not depend on it",
    )
    group.add_argument(
        "--amp",
        choices=["off", "bf16", "fp16"],
        default="off",
        help="mixed precision of the encoders; bf16 needs an Ampere or newer GPU (default: off)",
    )
    group.add_argument(
        "--tf32",
        choices=["on", "off"],
        default="on",
        help="TF32 matrix products on Ampere and newer GPUs: much faster, 10 bits of mantissa (default: on)",
    )


def add_monitor_flags(parser: Parser) -> None:
    """Add the diagnostics of pretraining."""
    group = parser.add_argument_group("diagnostics")
    group.add_argument(
        "--monitor-freq",
        type=POSITIVE_INT,
        metavar="N",
        help="epochs between measurements of effective rank, alignment and uniformity on a sample of clips "
        "(default: 10; with --steps, a 40th of the run)",
    )
    group.add_argument(
        "--monitor-knn",
        action="store_true",
        help="also measure 1-NN accuracy on training labels, which are never used for training",
    )


def add_process_flags(parser: Parser) -> None:
    """Add the flags for compilation and for several processes."""
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the convolutional encoders with torch.compile; takes about a minute at the start",
    )
    group.add_argument(
        "--sync-bn",
        action="store_true",
        help="synchronize BatchNorm over the processes of torchrun instead of using the local batch. "
        "PyTorch's layer waits for the GPU three times per forward pass: 156 times per step of sequence and "
        "graph encoders at the paper's sizes",
    )


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
    group = parser.add_argument_group("optimization" + note)

    def default(value: object) -> str:
        shown = " ".join(map(str, value)) or "none" if isinstance(value, list) else value
        return f" (default: {f'depends on {source}, as in the paper' if value is None else shown})"

    group.add_argument(
        "--epochs",
        type=POSITIVE_INT,
        action=TrainingLength,
        default=epochs,
        metavar="N",
        help="total number of epochs" + default(epochs),
    )
    group.add_argument(
        "--start-epoch",
        type=COUNT,
        default=0,
        metavar="N",
        help="number of the first epoch, for a manual restart without --resume (default: 0)",
    )
    group.add_argument(
        "-b",
        "--batch-size",
        type=POSITIVE_INT,
        default=64,
        metavar="N",
        help="global batch size, over all GPUs and processes (default: 64)",
    )
    group.add_argument(
        "--lr", "--learning-rate", type=POSITIVE, default=lr, help="initial learning rate" + default(lr)
    )
    group.add_argument(
        "--schedule",
        type=COUNT,
        action=Milestones,
        nargs="*",
        default=schedule,
        metavar="EPOCH",
        help="epochs at which the learning rate is divided by 10" + default(schedule),
    )
    group.add_argument(
        "--cos",
        action="store_true",
        help="cosine learning-rate schedule; of --cos and --schedule, the last one given applies",
    )
    group.add_argument("--momentum", type=FRACTION, default=momentum, help="SGD momentum (default: 0.9)")
    group.add_argument(
        "--wd",
        "--weight-decay",
        dest="weight_decay",
        type=NON_NEGATIVE,
        default=weight_decay,
        help=f"weight decay (default: {weight_decay:g})",
    )
    group.add_argument(
        "--resume",
        type=expanded_path,
        metavar="PATH",
        help="checkpoint to resume from; 'auto': the most advanced one in the folder, if any",
    )


def add_data_flags(parser: Parser, dataset_flag: str) -> None:
    """Add dataset, protocol and the folder of the stores."""
    group = parser.add_argument_group("data")
    group.add_argument(
        dataset_flag,
        dest="dataset",
        default="ntu60",
        metavar="NAME",
        help=f"{', '.join(DATASETS)}, or the folder name of your own store under --data-root "
        "(default: ntu60)",
    )
    group.add_argument(
        "--protocol",
        default="cross_view",
        help="protocol (train/validation split): cross_view, cross_subject, cross_setup or a column of "
        "your own store (default: cross_view)",
    )
    group.add_argument(
        "--data-root",
        type=expanded_path,
        default="data",
        metavar="DIR",
        help="folder with the stores (default: data)",
    )


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
    add_checkpoint_flags(parser)
    add_monitor_flags(parser)
    add_process_flags(parser)
    add_run_flags(parser, print_freq=10, print_help="steps between updates of the displayed loss")
    return parser


def add_contrast_flags(parser: Parser, contrast: str) -> None:
    """Add the flags of momentum contrast (section 3.1); see ``pretraining_parser``."""
    group = parser.add_argument_group("contrast")
    names = ", ".join(REPRESENTATIONS)
    if contrast == "intra":
        default, description = "seq-based", f"one of {names}"
    else:
        default, description = "seq-based_and_graph-based", f"two or more of {names}, joined by _and_"
    group.add_argument(
        "--skeleton-representation",
        default=default,
        metavar="NAMES",
        help=f"{description} (default: {default})",
    )
    add_stream_flag(group, "joint, as in the paper")
    group.add_argument(
        "--moco-dim", type=POSITIVE_INT, default=128, metavar="D", help="embedding dimension (default: 128)"
    )
    group.add_argument(
        "--moco-k",
        type=COUNT,
        metavar="K",
        help="queue size, the number of negatives; 0: no queue, the negatives are the keys of the other "
        "clips of the batch (default: depends on the dataset, as in the paper)",
    )
    group.add_argument(
        "--moco-m", type=FRACTION, default=0.999, metavar="M", help="key-encoder momentum (default: 0.999)"
    )
    group.add_argument(
        "--mlp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="MLP head, as in the paper; --no-mlp: linear head (default: --mlp)",
    )
    if contrast == "intra":
        parser.set_defaults(pairs="intra")
    for objective in OBJECTIVES:
        add_class_flags(group, objective, omit=("pairs",) if contrast == "intra" else ())


def add_augmentation_flags(parser: Parser) -> None:
    """Add ``--augmentations`` (section 3.4; Tables 5, 8, 9) and the flags of the classes in the registry."""
    group = parser.add_argument_group("augmentation")
    group.add_argument(
        "--augmentations",
        nargs="*",
        default=["crop", "pose", "jitter"],
        metavar="A",
        help=f"any of {', '.join(AUGMENTATIONS)}; no value: no augmentation (Table 5; default: crop pose "
        "jitter)",
    )
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
    """Add the flags of the optimizer that only pretraining has."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--steps",
        type=POSITIVE_INT,
        action=TrainingLength,
        metavar="N",
        help="train for N steps, rounded up to whole epochs; of --epochs and --steps, the last one given "
        "applies",
    )
    group.add_argument(
        "--optimizer",
        choices=["sgd", "adamw"],
        default="sgd",
        help="sgd, as in the paper, or adamw, without weight decay of norms and biases (default: sgd)",
    )
    group.add_argument(
        "--warmup-epochs",
        type=COUNT,
        default=0,
        metavar="N",
        help="epochs in which the learning rate rises linearly (default: 0)",
    )
    group.add_argument(
        "--init",
        type=expanded_path,
        metavar="PATH",
        help="start from the encoders of another pretraining, a checkpoint or folder: the same encoders and "
        "skeleton, any dataset; optimizer, queues and position are new",
    )


def add_checkpoint_flags(parser: Parser) -> None:
    """Add where and how often pretraining saves checkpoints."""
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--checkpoint-path",
        type=expanded_path,
        metavar="DIR",
        help="folder for checkpoints and logs (default: "
        "checkpoints/DATASET_PROTOCOL/CONTRAST_REPRESENTATIONS)",
    )
    group.add_argument(
        "--save-freq",
        type=POSITIVE_INT,
        metavar="N",
        help="epochs between numbered checkpoints (default: 10, as in the official code; with --steps, a "
        "20th of the run)",
    )
    group.add_argument(
        "--save-minutes",
        type=POSITIVE,
        default=10.0,
        metavar="M",
        help="minutes between saves of checkpoint_last.pth.tar, from which a killed run resumes "
        "(default: 10)",
    )


def add_pretrained_flags(parser: Parser, required: bool = True, results: bool = True) -> None:
    """Add the encoder of a downstream script; ``results`` adds the output folder of an evaluation."""
    group = parser.add_argument_group("encoder")
    group.add_argument(
        "--pretrained",
        type=expanded_path,
        nargs="+",
        required=required,
        metavar="PATH",
        help="a checkpoint of this repository or of the official code, or a pretraining's folder, for its "
        "most advanced checkpoint; 'random': an untrained encoder; 'coordinates': normalized coordinates. "
        "Features of several checkpoints are concatenated",
    )
    group.add_argument(
        "--pretrain-skeleton-representation",
        nargs="+",
        metavar="NAMES",
        help="representations in each checkpoint; only needed for official checkpoints",
    )
    group.add_argument(
        "--finetune-skeleton-representation",
        metavar="NAMES",
        help="encoder to evaluate; features of several, joined by _and_, are concatenated",
    )
    add_stream_flag(group, "that of the checkpoint; joint without a checkpoint")
    if results:
        group.add_argument(
            "--classes",
            nargs="+",
            metavar="CLASS",
            help="evaluate on clips of these classes: names, or numbers counted from 0 (default: all)",
        )
        group.add_argument(
            "--output-dir",
            type=expanded_path,
            metavar="DIR",
            help="folder for results.json and logs (default: a folder next to the checkpoint, or under runs/ "
            "without one)",
        )
        add_overwrite_flag(group)


def add_classifier_flags(parser: Parser) -> None:
    """Add what a classifier trains, and on which labels (section 4.3; Tables 2, 4 and 7)."""
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--mode",
        choices=[*CLASSIFIER_DEFAULTS],
        default="linear",
        help="linear: linear probe on frozen features; finetune: train encoder and classifier; supervised: "
        "the same from random weights, without --pretrained (default: linear)",
    )
    group.add_argument(
        "--optimizer",
        choices=["sgd", "adam"],
        help="optimizer (default: sgd for linear, adam for finetune and supervised, as in the paper)",
    )
    group.add_argument(
        "--class-weights",
        action="store_true",
        help="weight the loss of each class by the inverse of its number of training clips",
    )
    group.add_argument(
        "--label-fraction",
        type=POSITIVE_FRACTION,
        metavar="F",
        help="train on this fraction of the labels, 0.01 for 1%%; the clips are listed in label_subset.csv "
        "(default: all)",
    )
    group.add_argument(
        "--label-sampling",
        choices=["balanced", "uniform"],
        help="balanced: the fraction of each class, rounded half up, at least one clip; uniform: sampled "
        "from all clips (default: balanced)",
    )
    group.add_argument("--label-seed", type=COUNT, metavar="S", help="seed of the label subset (default: 0)")


def add_probe_flags(parser: Parser) -> None:
    """Add the flags of the linear probe."""
    group = parser.add_argument_group("linear probe")
    group.add_argument(
        "--cached-crops",
        type=POSITIVE_INT,
        metavar="K",
        help="train on the features of K random crops per clip, computed once and cycled through "
        "(default: new crops in every epoch, as in the paper)",
    )
