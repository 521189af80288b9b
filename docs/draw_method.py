"""Draw the figure of the method, images/method.svg, with a clip of the demo's data:

    python docs/draw_method.py --data-root runs/demo/data --name S002C001P001R001A024

The views and the layouts are those that pretraining computes.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from dataset.clips import open_clips
from dataset.views import pretraining_view
from facts.skeletons import KINECT_V2
from models.registry import lay_out
from utils.errors import UserError, run_script

WIDTH, HEIGHT = 12.0, 6.9  # inches, and the units of all positions
INK, PALE, CHANGED = "#262626", "#9a9a9a", "#8e24aa"
BLUE, ORANGE, GRAY = "#1f66ad", "#d1603d", "#8c8c8c"
NAMES = ("seq-based", "graph-based", "image-based")
TITLES = {"sequence": ("GRU", BLUE), "graph": ("A-GCN", ORANGE), "image": ("CNN", GRAY)}  # in this order
ROWS = {"query": (5.72, 4.78, 3.84), "key": (2.56, 1.62, 0.68)}  # heights of the three representations
TILE, ENCODER, KEYS, LOSS = 4.35, 6.15, 7.75, 9.85  # left edges of the columns
SHOWN = [6, 26, 50]  # frames of the 64 that are drawn
AZIMUTH, ELEVATION = math.radians(25.0), math.radians(8.0)


def draw_skeletons(axes: Axes, frames: Tensor, left: float, bottom: float, color: str, marked: Any) -> None:
    """Draw skeletons ``(T, V, 3)`` side by side, 1.6 x 1.4 large, ``marked`` joints in another color."""
    x, y, z = frames.unbind(-1)
    right, depth = (
        x * math.cos(AZIMUTH) - y * math.sin(AZIMUTH),
        x * math.sin(AZIMUTH) + y * math.cos(AZIMUTH),
    )
    points = torch.stack([right, z * math.cos(ELEVATION) - depth * math.sin(ELEVATION)], dim=-1)  # T x V x 2
    low, high = points.flatten(0, 1).amin(dim=0), points.flatten(0, 1).amax(dim=0)
    # As a graph, a skeleton is smaller and has edges through time.
    width, height = (1.15, 0.62) if color != INK else (1.6, 1.4)
    scale = min(height / (high[1] - low[1]), 1.25 * width / len(frames) / (high[0] - low[0]))
    middles = torch.tensor([[left + width * (t + 0.5) / len(frames), bottom + height / 2] for t in range(3)])
    placed = ((points - (low + high) / 2) * scale + middles[:, None]).numpy()
    for joint in (3, 7, 11, 15, 19) if color != INK else ():  # head, hands and feet
        axes.plot(*placed[:, joint].T, color=PALE, linewidth=0.8, linestyle=(0, (2, 1.5)))
    for frame in placed:
        for bone in KINECT_V2.bones:
            axes.plot(*frame[list(bone)].T, color=color, linewidth=1.4 if color == INK else 0.9)
        axes.plot(*frame.T, "o", color=color, markersize=2.2)
        axes.plot(*frame[marked].T, "o", color=CHANGED, markersize=3.4, zorder=3)


def draw_layout(axes: Axes, title: str, layout: Tensor, y: float) -> None:
    """Draw the layout of one view: curves of a sequence ``(T, 150)``, or an image ``(3, T, V, M)``."""
    if title == "sequence":
        moving = layout[:, layout.std(dim=0).topk(24).indices[::2]]
        curves = moving - moving.mean(dim=0)
        times = np.linspace(TILE, TILE + 1.25, len(layout))
        axes.plot(
            times, y + curves.numpy() * float(0.34 / curves.abs().max()), color=BLUE, linewidth=0.9, alpha=0.6
        )
    elif title == "image":
        pixels = layout[..., 0].permute(2, 1, 0).numpy()  # V x T x 3
        low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
        extent = (TILE, TILE + 1.25, y - 0.36, y + 0.36)
        axes.imshow((pixels - low) / (high - low), extent=extent, aspect="auto", alpha=0.8, zorder=2)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """Draw an arrow between two points."""
    style = {"color": INK, "linewidth": 1.4, "arrowstyle": "-|>", "mutation_scale": 11, **style}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))


def label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a text, by default centered."""
    axes.text(x, y, text, **{"color": INK, "fontsize": 10, "ha": "center", "va": "center", **style})


def rounded_box(axes: Axes, left: float, bottom: float, width: float, height: float, **style: Any) -> None:
    """Draw a box with rounded corners."""
    axes.add_patch(
        FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.1", **style)
    )


def draw_side(axes: Axes, side: str, view: Tensor, augmentation: str, changed: Any) -> None:
    """Draw the query or the key view ``(T, V, 3, M)``, its three representations and their encoders."""
    middle, frames = ROWS[side][1], view[SHOWN, :, :, 0]
    panel = "#eef3f9" if side == "query" else "#f6f1ee"
    rounded_box(axes, 2.0, middle - 1.46, KEYS - 2.2, 2.92, facecolor=panel, edgecolor="none")
    draw_skeletons(axes, frames, 2.15, middle - 0.7, INK, changed)
    label(axes, 2.95, middle + 1.05, f"{side} view", fontsize=11, fontweight="bold")
    label(axes, 2.95, middle - 1.12, f"crop + {augmentation}")
    layouts = lay_out(view[None], NAMES)
    for name, (title, (encoder, color)), y in zip(NAMES, TITLES.items(), ROWS[side], strict=True):
        tile = {"facecolor": "white", "edgecolor": color, "linewidth": 1.2}
        axes.add_patch(Rectangle((TILE, y - 0.36), 1.25, 0.72, **tile))
        draw_layout(axes, title, layouts[name][0], y)
        if title == "graph":
            draw_skeletons(axes, frames, TILE + 0.05, y - 0.31, color, [])
        label(axes, TILE - 0.06, y, title, rotation=90, ha="right", color=color)
        corners = [(ENCODER + dx, y + dy) for dx, dy in ((0, -0.36), (0, 0.36), (1.15, 0.21), (1.15, -0.21))]
        fill, text = (color, "white") if side == "query" else ("white", color)  # filled: trained by gradients
        axes.add_patch(Polygon(corners, facecolor=fill, edgecolor=color, linewidth=1.5))
        label(axes, ENCODER + 0.55, y, encoder, fontsize=11, color=text)
        arrow(axes, (TILE + 1.28, y), (ENCODER - 0.02, y), color=color)


def draw_contrast(axes: Axes) -> None:
    """Draw queries, keys and queues, and both terms of the inter-skeleton loss."""
    queue_end, center = KEYS + 0.17 * 8, LOSS + 0.975
    for i, color in enumerate((BLUE, ORANGE)):
        for side, count in (("query", 1), ("key", 8)):  # an embedding and older ones, which fade with age
            y = ROWS[side][i]
            for age in range(count):
                shade = {"facecolor": color, "linewidth": 0, "alpha": 0.55 - 0.055 * age if age else 1.0}
                axes.add_patch(Rectangle((KEYS + 0.17 * age, y - 0.2), 0.13, 0.4, **shade))
            arrow(axes, (ENCODER + 1.18, y), (KEYS - 0.04, y), color=color)
    for i, (y, query, key) in enumerate(((4.3, "sequence", "graph"), (3.05, "graph", "sequence"))):
        (_, own), (_, other) = TITLES[query], TITLES[key]
        rounded_box(axes, LOSS, y - 0.36, 1.95, 0.72, facecolor="white", edgecolor=INK, linewidth=1.2)
        label(axes, center, y + 0.15, f"{query} query", color=own, fontsize=11)
        label(axes, center, y - 0.15, f"vs. {key} keys", color=other, fontsize=11)
        arrow(axes, (KEYS + 0.2, ROWS["query"][i]), (LOSS - 0.03, y + 0.14), color=own)
        arrow(axes, (queue_end + 0.03, ROWS["key"][1 - i]), (LOSS - 0.03, y - 0.14), color=other)
    label(axes, center, 3.675, "+", fontsize=16)
    label(axes, center, 2.45, "InfoNCE losses, summed")


def draw_labels(axes: Axes) -> None:
    """Write the headings of the columns and the remarks."""
    columns = (0.95, 2.95, TILE + 0.6, ENCODER + 0.55, KEYS + 0.75, LOSS + 0.975)
    headings = ("clip", "augmented views", "representations", "encoders", "embeddings", "contrast")
    for x, text in zip(columns, headings, strict=True):
        label(axes, x, HEIGHT - 0.3, text, fontsize=12, fontweight="bold")
    label(axes, KEYS + 0.22, ROWS["query"][0] + 0.33, "queries", ha="left")
    label(axes, KEYS, ROWS["key"][0] + 0.33, "key   queue", ha="left")
    label(axes, KEYS, ROWS["key"][2], "Any two representations can be paired, or all three.", ha="left")
    arrow(axes, (ENCODER + 0.575, 3.42), (ENCODER + 0.575, 2.98), linestyle="--")
    label(axes, ENCODER + 0.45, 3.2, "momentum update", ha="right")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", default="runs/demo/data", help="the folder of the store ntu60")
    parser.add_argument("--name", default="S002C001P001R001A024", help="the training clip to draw")
    parser.add_argument("--seeds", type=int, nargs=2, default=(9, 11), help="seeds of the two views")
    parser.add_argument("--output", default=REPOSITORY / "images/method.svg", type=Path)
    args = parser.parse_args()
    clips = open_clips(args.data_root, "ntu60", "cross_subject", "train")
    if args.name not in clips.names:
        raise UserError(f"--name {args.name} is not a training clip of {clips.source}")
    index = torch.tensor([clips.names.index(args.name)])
    figure = Figure((WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    for side, augmentation, seed in zip(ROWS, ("jitter", "pose"), args.seeds, strict=True):
        view = pretraining_view({"augmentations": ("crop", augmentation), "min_crop_frames": 40})
        parameters = view.sample(clips, index, torch.Generator().manual_seed(seed))
        changed = view.augmentations.changed_joints(parameters.augmentations, 0, clips.skeleton.num_joints)
        changed = [] if changed.all() else changed
        draw_side(axes, side, view.apply(clips, index, parameters)[0], augmentation, changed)
        arrow(axes, (0.95, 4.0 if side == "query" else 2.4), (1.95, ROWS[side][1]))
    clip = pretraining_view({"augmentations": ()}).of(clips, index)[0]
    draw_skeletons(axes, clip[SHOWN, :, :, 0], 0.1, 2.5, INK, [])
    draw_contrast(axes)
    draw_labels(axes)
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axes.axis("off")
    matplotlib.rcParams["svg.hashsalt"] = "method"  # the same file in every run
    figure.savefig(args.output, metadata={"Date": None} if args.output.suffix == ".svg" else None)
    return 0


if __name__ == "__main__":
    run_script(main)
