"""Every flag of the scripts, in groups that the scripts share. One meaning, one place.

Flags keep the released program's names. A default of None means that something else decides:
the dataset (queue, epochs, schedule), the mode, or the checkpoint (sizes); see ``options.defaults``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Callable, NoReturn

from .datasets import DATASETS
from .defaults import CLASSIFIER_DEFAULTS


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence, and which guesses no abbreviation."""

    def __init__(self, documentation: str) -> None:
        super().__init__(
            description=documentation, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


def number(kind: type, low: float, high: float = float("inf"), above: bool = False) -> Callable:
    """An argparse type: an int or float from ``low`` (or above it) to ``high``."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number of type {kind.__name__}")
        if not (low < value if above else low <= value) or not value <= high:
            bound = "above" if above else "at least"
            limit = f" and at most {high}" if high != float("inf") else ""
            raise argparse.ArgumentTypeError(f"{text} must be {bound} {low}{limit}")
        return value

    return parse


POSITIVE_INT = number(int, 1)
COUNT = number(int, 0)
POSITIVE = number(float, 0.0, above=True)
NON_NEGATIVE = number(float, 0.0)
FRACTION = number(float, 0.0, 1.0)
SHARE = number(float, 0.0, 1.0, above=True)


def add_run_flags(parser: Parser, print_freq: int, print_help: str) -> None:
    """Flags of any run: threads, randomness, device."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "-j", "--workers", type=COUNT, metavar="N",
        help="threads that draw batches ahead of the step; 0 draws them in line. "
        "Default: 2 where the CPU draws for a GPU, else 0. Results do not depend on it",
    )
    group.add_argument(
        "--seed", type=COUNT, help="makes a run repeat exactly (on a CPU, with as many threads); drawn and printed if "
        "left out"
    )
    group.add_argument(
        "--gpu", type=COUNT, metavar="N", help="use this GPU only; default: all visible GPUs, or the CPU"
    )
    group.add_argument("-p", "--print-freq", type=POSITIVE_INT, default=print_freq, metavar="N",
                       help=f"{print_help} (default {print_freq})")
    group.add_argument("--data-device", choices=["auto", "cpu", "cuda"], default="auto",
                       help="where the clips lie: on the GPU if there is room, or in a memory map of the "
                       "store (default auto). Results do not depend on it")
    group.add_argument("--amp", choices=["off", "bf16", "fp16"], default="off",
                       help="mixed precision of the encoders; bf16 for GPUs from Ampere on (default off)")
    group.add_argument("--tf32", choices=["on", "off"], default="on",
                       help="float32 products of GPUs from Ampere on in TF32, 10 bits of mantissa: much "
                       "faster (default on)")


def add_process_flags(parser: Parser) -> None:
    """Flags of pretraining on fast or many devices."""
    group = parser.add_argument_group("speed")
    group.add_argument("--compile", action="store_true",
                       help="compile the graph and image encoders; worth its minute on a GPU")
    group.add_argument("--sync-bn", action="store_true",
                       help="BatchNorm over the whole batch of torchrun's processes, not over each share")


def add_optimisation_flags(
    parser: Parser, epochs: int | None, lr: float | None, schedule: list[int] | None,
    weight_decay: float, note: str = "", momentum: float | None = 0.9, by: str = "the dataset",
) -> None:
    """Flags of the optimizer and its schedule; ``by`` decides those whose default is None.

    ``note`` is added to the group's title.
    """
    group = parser.add_argument_group("optimisation" + note)

    def default(value: object) -> str:
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        return f"; default: by {by}, as in the paper" if value is None else f" (default {shown})"

    group.add_argument("--epochs", type=POSITIVE_INT, default=epochs, help="epochs in all" + default(epochs))
    group.add_argument("--start-epoch", type=COUNT, default=0, metavar="N",
                       help="count from this epoch, for a restart without --resume")
    group.add_argument("-b", "--batch-size", type=POSITIVE_INT, default=64, metavar="N",
                       help="clips a step, over all GPUs (default 64)")
    group.add_argument("--lr", "--learning-rate", type=POSITIVE, default=lr,
                       help="learning rate at the start" + default(lr))
    group.add_argument("--schedule", type=COUNT, nargs="*", default=schedule, metavar="EPOCH",
                       help="epochs at which the learning rate drops by ten" + default(schedule))
    group.add_argument("--cos", action="store_true", help="half a cosine; --schedule has no effect then")
    group.add_argument("--momentum", type=FRACTION, default=momentum, help="of SGD (default 0.9)")
    group.add_argument("--wd", "--weight-decay", dest="weight_decay", type=NON_NEGATIVE,
                       default=weight_decay, help=f"default {weight_decay:g}")
    group.add_argument("--resume", metavar="PATH",
                       help="go on from this checkpoint; 'auto': from the newest in the folder")


def add_data_flags(parser: Parser, dataset_flag: str) -> None:
    """Which clips: dataset, protocol and where the stores are."""
    group = parser.add_argument_group("data")
    group.add_argument(
        dataset_flag, dest="dataset", default="ntu60", metavar="NAME",
        help=f"{', '.join(DATASETS)}, or the folder of your own store below --data-root (default ntu60)",
    )
    group.add_argument("--protocol", default="cross_view",
                       help="cross_view, cross_subject or cross_setup, as the dataset has them "
                       "(default cross_view)")
    group.add_argument("--data-root", default="data", metavar="DIR",
                       help="folder that holds the stores (default data)")


def add_contrast_flags(parser: Parser, representation_help: str, representation: str) -> None:
    """Flags of momentum contrast (section 3.1)."""
    group = parser.add_argument_group("contrast")
    group.add_argument("--skeleton-representation", default=representation, metavar="NAMES",
                       help=f"{representation_help} (default {representation})")
    group.add_argument("--moco-dim", type=POSITIVE_INT, default=128, metavar="D",
                       help="dimensions of the space of contrast (default 128)")
    group.add_argument("--moco-k", type=POSITIVE_INT, metavar="K",
                       help="keys in each queue; default: the dataset's, as in the paper")
    group.add_argument("--moco-m", type=FRACTION, default=0.999, metavar="M",
                       help="momentum of the key encoders (default 0.999)")
    group.add_argument("--moco-t", type=POSITIVE, default=0.07, metavar="T",
                       help="temperature of the softmax (default 0.07)")
    group.add_argument("--mlp", action="store_true", help="two-layer head, as the paper's models have")


def add_augmentation_flags(parser: Parser) -> None:
    """Flags of the views (section 3.4; Tables 5, 8 and 9)."""
    group = parser.add_argument_group("views")
    group.add_argument("--augmentations", nargs="*", default=["crop", "pose", "jitter"], metavar="A",
                       help="any of crop, pose, jitter; none: the resized whole clip twice (Table 5)")
    group.add_argument("--jitter-joints", type=int, default=15, metavar="N",
                       help="joints that jittering moves (Table 8; default 15)")
    group.add_argument("--min-crop-ratio", type=float, default=0.1, metavar="R",
                       help="shortest crop as a share of the clip (Table 9; default 0.1)")
    group.add_argument("--min-crop-frames", type=int, default=64, metavar="N",
                       help="shortest crop in frames, where the clip has as many (default 64)")
    group.add_argument("--jitter-zero-prob", type=float, default=0.5, metavar="P",
                       help="how often jittering zeroes the joints instead (released program: 0.5, "
                       "paper's text: 0)")


SIZE_FLAGS = {  # field of EncoderSizes -> what it is; the paper's value stands in models/build.py
    "gru_hidden_size": "units of each GRU of the sequence encoder (paper: 1024)",
    "gru_num_layers": "layers of the sequence encoder (paper: 3)",
    "graph_width": "channels of the graph encoder's first blocks (paper: 64)",
    "graph_num_blocks": "blocks of the graph encoder (paper: 10)",
    "image_width": "channels of the image encoder's first layers (paper: 64)",
    "num_frames": "frames that a view is resized to (paper: 64)",
}


def add_size_flags(parser: Parser, note: str = "") -> None:
    """Sizes of the encoders; None where not given."""
    group = parser.add_argument_group("encoders" + note)
    for name, meaning in SIZE_FLAGS.items():
        group.add_argument("--" + name.replace("_", "-"), type=POSITIVE_INT, metavar="N", help=meaning)
    group.add_argument("--graph-encoder", choices=["agcn", "stgcn"], help="paper: agcn")


def sizes_given(args: argparse.Namespace) -> dict:
    """The size flags as fields of ``EncoderSizes``, None where not given."""
    return {name: getattr(args, name) for name in [*SIZE_FLAGS, "graph_encoder"]}


def add_checkpoint_flags(parser: Parser) -> None:
    """Where a pretraining keeps its checkpoints, and how many."""
    group = parser.add_argument_group("checkpoints")
    group.add_argument("--checkpoint-path", metavar="DIR",
                       help="folder for checkpoints and TensorBoard events; "
                       "default: checkpoints/DATASET_PROTOCOL/CONTRAST_REPRESENTATIONS")
    group.add_argument("--save-freq", type=POSITIVE_INT, default=10, metavar="N",
                       help="epochs between checkpoints (default 10, as the released program)")
    group.add_argument("--save-minutes", type=POSITIVE, default=10.0, metavar="M",
                       help="minutes between rewrites of checkpoint_last.pth.tar, from which a killed run "
                       "is resumed; a finished run removes it (default 10)")


def add_pretrained_flags(parser: Parser, required: bool = True, results: bool = True) -> None:
    """Which encoder a downstream script takes, and where the ``results`` of its evaluation go."""
    group = parser.add_argument_group("encoder")
    group.add_argument("--pretrained", nargs="+", required=required, metavar="PATH",
                       help="a checkpoint, ours or the authors'; 'random' for an untrained encoder; "
                       "'coordinates' for the normalised coordinates themselves. Several "
                       "checkpoints: their features side by side")
    group.add_argument("--pretrain-skeleton-representation", nargs="+", metavar="NAMES",
                       help="what each checkpoint holds; ours say it themselves")
    group.add_argument("--finetune-skeleton-representation", metavar="NAMES",
                       help="which of their encoders to evaluate; two or three joined by _and_: "
                       "their features side by side")
    if results:
        group.add_argument("--output-dir", metavar="DIR",
                           help="folder for results.json and curves; default: beside the "
                           "checkpoint, or below runs/ where there is none")


def add_classifier_flags(parser: Parser) -> None:
    """What a classifier trains, and on which labels (section 4.3; Tables 2, 4 and 7)."""
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--mode", choices=[*CLASSIFIER_DEFAULTS], default="linear",
        help="linear: a classifier on frozen features; finetune: encoder and classifier together; "
        "supervised: the same from random weights, without --pretrained (default linear)",
    )
    group.add_argument("--optimizer", choices=["sgd", "adam"],
                       help="default: sgd for linear, adam for finetune and supervised, as in the paper")
    group.add_argument("--label-fraction", type=SHARE, metavar="F",
                       help="train on this share of the training clips, 0.01 for one percent; their "
                       "names are written to label_subset.csv; default: all")
    group.add_argument("--label-sampling", choices=["balanced", "uniform"],
                       help="balanced: the share of each class, halves rounded up, at least one clip; "
                       "uniform: of all clips, whatever their class (default balanced)")
    group.add_argument("--label-seed", type=COUNT, metavar="S",
                       help="which clips these are (default 0)")


def add_probe_flags(parser: Parser) -> None:
    """What the linear probe's head is trained on."""
    group = parser.add_argument_group("linear probe")
    group.add_argument(
        "--cached-crops", type=POSITIVE_INT, metavar="K",
        help="train the head on the features of K random crops a clip, computed once and reused in "
        "turn; default: fresh crops every epoch, as in the paper",
    )
