"""Draw the figure of the method, images/method.svg, with a clip of the demo's data:

    python docs/draw_method.py --data-root runs/demo/data --name S002C001P001R001A024

The views and the layouts are those that pretraining computes.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
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
NAMES = ("seq-based", "graph-based", "image-based")
COLORS = {"seq-based": "#1f66ad", "graph-based": "#d1603d", "image-based": "#8c8c8c"}
TITLES = {"seq-based": "sequence", "graph-based": "graph", "image-based": "image"}
ENCODERS = {"seq-based": "GRU", "graph-based": "A-GCN", "image-based": "CNN"}
CONTRASTED = NAMES[:2]  # the pair whose contrast is drawn
ROWS = {"query": (5.72, 4.78, 3.84), "key": (2.56, 1.62, 0.68)}  # heights of the three representations
PANELS = {"query": "#eef3f9", "key": "#f6f1ee"}
TILE, ENCODER, KEYS, LOSS = 4.35, 6.15, 7.75, 9.85  # left edges of the columns
SHOWN = (6, 26, 50)  # frames of the 64 that are drawn
AZIMUTH, ELEVATION = math.radians(25.0), math.radians(8.0)

Box = tuple[float, float, float, float]  # left, bottom, width, height


@dataclass
class DrawnView:
    """An augmented view ``(T, V, 3, M)``; ``changed`` (V,) marks the joints that were jittered."""

    frames: Tensor
    augmentation: str
    changed: Tensor | None


def project(joints: Tensor) -> Tensor:
    """Return picture coordinates ``(..., 2)`` of joints ``(..., 3)``: x to the right, z up."""
    x, y, z = joints.unbind(-1)
    right = x * math.cos(AZIMUTH) - y * math.sin(AZIMUTH)
    depth = x * math.sin(AZIMUTH) + y * math.cos(AZIMUTH)
    return torch.stack([right, z * math.cos(ELEVATION) - depth * math.sin(ELEVATION)], dim=-1)


def place(frames: Tensor, box: Box, overlap: float = 1.25) -> np.ndarray:
    """Return picture coordinates ``(T, V, 2)`` of skeletons ``(T, V, 3)`` next to each other in a box."""
    left, bottom, width, height = box
    points, step = project(frames), width / len(frames)
    low, high = points.flatten(0, 1).amin(dim=0), points.flatten(0, 1).amax(dim=0)
    scale = min(height / (high[1] - low[1]), overlap * step / (high[0] - low[0]))
    x = left + step * (torch.arange(len(frames)) + 0.5)
    centers = torch.stack([x, torch.full_like(x, bottom + height / 2)], dim=1)
    return ((points - (low + high) / 2) * scale + centers[:, None]).numpy()


def draw_skeletons(axes: Axes, frames: Tensor, box: Box, changed: Tensor | None = None) -> None:
    """Draw skeletons ``(T, V, 3)`` next to each other, the ``changed`` joints (V,) in another color."""
    for points in place(frames, box):
        for a, b in KINECT_V2.bones:
            axes.plot(*points[[a, b]].T, color=INK, linewidth=1.4, solid_capstyle="round")
        axes.plot(*points.T, "o", color=INK, markersize=2.2)
        if changed is not None:
            axes.plot(*points[changed].T, "o", color=CHANGED, markersize=3.4, zorder=3)


def draw_sequence(axes: Axes, layout: Tensor, box: Box, color: str) -> None:
    """Draw the layout ``(T, 150)`` as curves over time: the coordinates that move most."""
    left, bottom, width, height = box
    moving = layout.std(dim=0).topk(24).indices[::2]
    curves = layout[:, moving] - layout[:, moving].mean(dim=0)
    x = np.linspace(left, left + width, len(layout))
    y = bottom + height / 2 + curves * (0.47 * height / curves.abs().max())
    for i, curve in enumerate(y.T.numpy()):
        axes.plot(x, curve, color=color, linewidth=0.9, alpha=1.0 - 0.06 * i)


def draw_graph(axes: Axes, frames: Tensor, box: Box, color: str) -> None:
    """Draw frames ``(T, V, 3)`` as one graph; edges through time for head, hands and feet only."""
    left, bottom, width, height = box
    points = place(frames, (left + 0.05, bottom + 0.05, width - 0.1, height - 0.1), overlap=1.0)
    for joint in (3, 7, 11, 15, 19):
        axes.plot(*points[:, joint].T, color=PALE, linewidth=0.8, linestyle=(0, (2, 1.5)))
    for frame in points:
        for a, b in KINECT_V2.bones:
            axes.plot(*frame[[a, b]].T, color=color, linewidth=0.9)
        axes.plot(*frame.T, "o", color="white", markeredgecolor=color, markeredgewidth=0.7, markersize=2.3)


def draw_image(axes: Axes, layout: Tensor, box: Box) -> None:
    """Draw the layout ``(3, T, V, M)`` as an image: joints over time, coordinates as colors."""
    left, bottom, width, height = box
    pixels = layout[..., 0].permute(2, 1, 0).numpy()  # V x T x 3
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    extent = (left, left + width, bottom, bottom + height)
    axes.imshow((pixels - low) / (high - low), extent=extent, aspect="auto", alpha=0.8, zorder=2)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """Draw an arrow between two points."""
    style = {"color": INK, "linewidth": 1.4, "arrowstyle": "-|>", "mutation_scale": 11, **style}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))


def label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a text, by default centered."""
    style = {"color": INK, "fontsize": 10, "ha": "center", "va": "center", **style}
    axes.text(x, y, text, **style)


def rounded_box(axes: Axes, box: Box, **style: Any) -> None:
    """Draw a box with rounded corners."""
    left, bottom, width, height = box
    shape = FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.1", **style)
    axes.add_patch(shape)


def draw_side(axes: Axes, side: str, view: DrawnView) -> None:
    """Draw the query or the key view, its three representations and their encoders."""
    middle, frames = ROWS[side][1], view.frames[list(SHOWN), :, :, 0]
    rounded_box(axes, (2.0, middle - 1.46, KEYS - 2.2, 2.92), facecolor=PANELS[side], edgecolor="none")
    draw_skeletons(axes, frames, (2.15, middle - 0.7, 1.6, 1.4), view.changed)
    label(axes, 2.95, middle + 1.05, f"{side} view", fontsize=11, fontweight="bold")
    label(axes, 2.95, middle - 1.12, f"crop + {view.augmentation}")
    layouts = lay_out(view.frames[None], NAMES)
    for name, y in zip(NAMES, ROWS[side], strict=True):
        color, box = COLORS[name], (TILE, y - 0.36, 1.25, 0.72)
        axes.add_patch(Rectangle(box[:2], *box[2:], facecolor="white", edgecolor=color, linewidth=1.2))
        if name == "seq-based":
            draw_sequence(axes, layouts[name][0], box, color)
        elif name == "graph-based":
            draw_graph(axes, frames, box, color)
        else:
            draw_image(axes, layouts[name][0], box)
        label(axes, TILE - 0.06, y, TITLES[name], rotation=90, ha="right", color=color)
        draw_encoder(axes, name, y, solid=side == "query")
        arrow(axes, (TILE + 1.28, y), (ENCODER - 0.02, y), color=color)


def draw_encoder(axes: Axes, name: str, y: float, solid: bool) -> None:
    """Draw an encoder at height ``y``: filled if it is trained by gradients."""
    color = COLORS[name]
    corners = [(0.0, -0.36), (0.0, 0.36), (1.15, 0.21), (1.15, -0.21)]
    shape = Polygon([(ENCODER + dx, y + dy) for dx, dy in corners])
    shape.set(facecolor=color if solid else "white", edgecolor=color, linewidth=1.5)
    axes.add_patch(shape)
    label(axes, ENCODER + 0.55, y, ENCODERS[name], fontsize=11, color="white" if solid else color)


def draw_cells(axes: Axes, y: float, color: str, count: int) -> None:
    """Draw an embedding and ``count`` older ones, which fade with age."""
    for i in range(1 + count):
        cell = Rectangle((KEYS + 0.17 * i, y - 0.2), 0.13, 0.4)
        cell.set(facecolor=color, linewidth=0, alpha=0.55 - 0.055 * i if i else 1.0)
        axes.add_patch(cell)


def draw_contrast(axes: Axes) -> None:
    """Draw queries, keys and queues, and both terms of the inter-skeleton loss."""
    queue_end, center = KEYS + 0.17 * 8, LOSS + 0.975
    for i, name in enumerate(CONTRASTED):
        for side, older in (("query", 0), ("key", 7)):
            y = ROWS[side][i]
            draw_cells(axes, y, COLORS[name], older)
            arrow(axes, (ENCODER + 1.18, y), (KEYS - 0.04, y), color=COLORS[name])
    for i, y in enumerate((4.3, 3.05)):
        query, key = CONTRASTED[i], CONTRASTED[1 - i]
        rounded_box(axes, (LOSS, y - 0.36, 1.95, 0.72), facecolor="white", edgecolor=INK, linewidth=1.2)
        label(axes, center, y + 0.15, f"{TITLES[query]} query", color=COLORS[query], fontsize=11)
        label(axes, center, y - 0.15, f"vs. {TITLES[key]} keys", color=COLORS[key], fontsize=11)
        arrow(axes, (KEYS + 0.2, ROWS["query"][i]), (LOSS - 0.03, y + 0.14), color=COLORS[query])
        arrow(axes, (queue_end + 0.03, ROWS["key"][1 - i]), (LOSS - 0.03, y - 0.14), color=COLORS[key])
    label(axes, center, 3.675, "+", fontsize=16)
    label(axes, center, 2.45, "InfoNCE losses, summed")


def draw_labels(axes: Axes) -> None:
    """Write the headings of the columns and the remarks."""
    headings = {
        0.95: "clip",
        2.95: "augmented views",
        TILE + 0.6: "representations",
        ENCODER + 0.55: "encoders",
        KEYS + 0.75: "embeddings",
        LOSS + 0.975: "contrast",
    }
    for x, text in headings.items():
        label(axes, x, HEIGHT - 0.3, text, fontsize=12, fontweight="bold")
    label(axes, KEYS + 0.22, ROWS["query"][0] + 0.33, "queries", ha="left")
    label(axes, KEYS, ROWS["key"][0] + 0.33, "key", ha="left")
    label(axes, KEYS + 0.45, ROWS["key"][0] + 0.33, "queue", ha="left")
    label(axes, KEYS, ROWS["key"][2], "Any two representations can be paired, or all three.", ha="left")
    arrow(axes, (ENCODER + 0.575, 3.42), (ENCODER + 0.575, 2.98), linestyle="--")
    label(axes, ENCODER + 0.45, 3.2, "momentum update", ha="right")


def draw_method(clip: Tensor, views: list[DrawnView]) -> Figure:
    """Draw the figure of a clip ``(T, V, 3, M)`` and its query and key views."""
    figure = plt.figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    draw_skeletons(axes, clip[list(SHOWN), :, :, 0], (0.1, 2.5, 1.6, 1.4))
    for side, view in zip(ROWS, views, strict=True):
        draw_side(axes, side, view)
    arrow(axes, (0.95, 4.0), (1.95, ROWS["query"][1]))
    arrow(axes, (0.95, 2.4), (1.95, ROWS["key"][1]))
    draw_contrast(axes)
    draw_labels(axes)
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axes.axis("off")
    return figure


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
    views = []
    for augmentation, seed in zip(("jitter", "pose"), args.seeds, strict=True):
        view = pretraining_view({"augmentations": ("crop", augmentation), "min_crop_frames": 40})
        parameters = view.sample(clips, index, torch.Generator().manual_seed(seed))
        changed = view.augmentations.changed_joints(parameters.augmentations, 0, clips.skeleton.num_joints)
        marked = None if changed.all() else changed
        views.append(DrawnView(view.apply(clips, index, parameters)[0], augmentation, marked))
    clip = pretraining_view({"augmentations": ()}).of(clips, index)[0]
    matplotlib.rcParams["svg.hashsalt"] = "method"  # the same file in every run
    metadata = {"Date": None} if args.output.suffix == ".svg" else None
    draw_method(clip, views).savefig(args.output, metadata=metadata)
    return 0


if __name__ == "__main__":
    run_script(main)
