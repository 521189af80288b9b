"""The features as a map: t-SNE of ten random classes, and TensorBoard's projector.

The paper's Figure 7 shows such maps; three draws of classes are shown here, because which ten
classes it is decides how well they part.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from dataset.clips import ClipSet
from engine.randomness import PICTURES, generator
from options.class_names import short_class_name
from options.errors import UserError

from .plots import figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES, DRAWS = 10, 3
PERPLEXITY = 30.0
PROJECTOR_CLIPS = 3000  # as text in the browser: more is slow
PICTURE = "tsne.png"


def draw_classes(labels: Tensor, seed: int) -> list[list[int]]:
    """Three draws of ten of the classes present; one draw of all where there are at most ten."""
    present = labels.unique().cpu()
    if len(present) <= CLASSES:
        return [present.tolist()]
    return [
        present[torch.randperm(len(present), generator=generator(seed, PICTURES, draw))[:CLASSES]].sort()
        .values.tolist() for draw in range(DRAWS)
    ]


def embed(features: Tensor, seed: int) -> np.ndarray:
    """t-SNE of ``(N, D)`` by the cosine, as retrieval compares them: ``(N, 2)``."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    directions = F.normalize(features.float(), dim=1).cpu().numpy()
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(directions)


def plot_map(axes: Axes, points: np.ndarray, labels: np.ndarray, classes: list[int], dataset: str) -> None:
    """Points (N, 2), a colour and a marker for each class, named below."""
    from matplotlib import colormaps

    for i, label in enumerate(classes):
        chosen = points[labels == label]
        axes.scatter(*chosen.T, s=14, color=colormaps["tab10"](i), marker="os^Dv"[i % 5],
                     linewidths=0, label=short_class_name(dataset, label))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=2, fontsize=9, frameon=False)


def write_projector(folder: Path, features: Tensor, clips: ClipSet, seed: int) -> int:
    """Features, class and name of clips for TensorBoard's projector; returns how many clips."""
    order = torch.randperm(len(clips), generator=generator(seed, PICTURES, DRAWS))[:PROJECTOR_CLIPS]
    order = order.sort().values
    metadata = [[short_class_name(clips.dataset, int(clips.labels[i])), clips.names[i]] for i in order]
    with SummaryWriter(str(folder)) as writer, redirect_stdout(io.StringIO()):
        writer.add_embedding(features[order.to(features.device)].float().cpu(), metadata,
                             metadata_header=["class", "clip"], tag="features")
    return len(order)


def write_feature_map(folder: Path, features: Tensor, clips: ClipSet, seed: int) -> str:
    """``tsne.png`` and the projector's files in ``folder``; returns a line on what they show.

    Args:
        features: (N, D), of all of ``clips`` in their order.
        seed: of the classes drawn and of t-SNE.

    Raises:
        UserError: fewer than four clips of the classes drawn, of which t-SNE can make no map.
    """
    labels = clips.labels.cpu()
    draws = draw_classes(labels, seed)
    drawn = figure(5.2 * len(draws), 6.4)
    for number, classes in enumerate(draws):
        chosen = torch.isin(labels, torch.tensor(classes))
        if chosen.sum() < 4:
            raise UserError(f"--tsne: {int(chosen.sum())} val clips are too few for a map of features")
        points = embed(features[chosen.to(features.device)], seed + number)
        axes = drawn.add_subplot(1, len(draws), number + 1)
        plot_map(axes, points, labels[chosen].numpy(), classes, clips.dataset)
        axes.set_title(f"draw {number + 1}: {len(points)} clips of {len(classes)} classes", fontsize=11)
    save_figure(folder / PICTURE, drawn)
    count = write_projector(folder, features, clips, seed)
    return (f"feature map: {folder / PICTURE}; {count} of {len(clips)} val clips for the projector: "
            f"tensorboard --logdir {folder}")
