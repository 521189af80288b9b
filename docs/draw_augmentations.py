"""Draw every augmentation, images/augmentations.png, with a clip of the demo's data:

    python docs/draw_augmentations.py --data-root runs/demo/data --name S002C001P001R001A024

Each row shows one augmentation of the same clip at its default strength, in front of the clip itself.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from dataset.augment import AUGMENTATIONS, RandomCrop
from dataset.clips import open_clips
from dataset.views import View, pretraining_view
from utils.errors import run_script
from visual.clips import view_panels
from visual.pictures import strip_figure
from visual.plots import DEFAULT

FRAMES = 8  # per row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", default="runs/demo/data", help="the folder of the store ntu60")
    parser.add_argument("--name", default="S002C001P001R001A024", help="the training clip to draw")
    parser.add_argument("--seed", type=int, default=35, help="seed of the augmentations")
    parser.add_argument("--output", default=REPOSITORY / "images/augmentations.png", type=Path)
    args = parser.parse_args()
    clips = open_clips(args.data_root, "ntu60", "cross_subject", "train")
    index = clips.names.index(args.name)
    panels = []
    for name in AUGMENTATIONS:
        view: View = pretraining_view({"augmentations": (name,), "min_crop_frames": 20})
        source = torch.Generator().manual_seed(args.seed)
        whole, augmented = view_panels(clips, index, view, 1, source)
        panels += [augmented] if panels else [whole, augmented]
    rows = []
    for panel in panels:
        title = panel.caption[-1].removeprefix("view 1: ")
        is_crop = RandomCrop.name if title.startswith("frames") else ""
        rows.append([replace(panel, caption=[f"{is_crop}: {title}".removeprefix(": ")])])
    DEFAULT.save(args.output, strip_figure(rows, FRAMES, DEFAULT))
    return 0


if __name__ == "__main__":
    run_script(main)
