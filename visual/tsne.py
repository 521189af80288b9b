"""Feature maps: t-SNE of ten random classes, as in Figure 7 of the paper.

There are three samples of classes, because their choice determines how well they separate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F

from dataset.clips import ClipSet
from engine.randomness import PICTURES, generator
from facts.class_names import short_class_names
from utils.errors import UserError

from .plots import TSNE, new_figure, save_figure, without_math

CLASSES, SAMPLES = 10, 3
MARKERS = "os^DvP*X<>"  # one per class, in addition to its color
PERPLEXITY = 30.0


def sample_classes(labels: Tensor, seed: int) -> list[list[int]]:
    """Sample ten of the classes in ``labels`` three times, or take all once if there are at most ten."""
    present = labels.unique().cpu()
    if len(present) <= CLASSES:
        return [present.tolist()]
    samples = []
    for number in range(SAMPLES):
        order = torch.randperm(len(present), generator=generator(seed, PICTURES, number))
        samples.append(present[order[:CLASSES]].sort().values.tolist())
    return samples


def embed(features: Tensor, seed: int) -> np.ndarray:
    """Embed features (N, D) in the plane, (N, 2), by t-SNE with cosine distance, as in retrieval."""
    from sklearn.manifold import TSNE  # takes a second to import, which other runs would wait for, too

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    directions = F.normalize(features.float(), dim=1).cpu().numpy()
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(directions)


def plot_map(
    axes: Axes, points: np.ndarray, labels: np.ndarray, classes: list[int], names: Sequence[str]
) -> None:
    """Plot points (N, 2) with a color and a marker per class; the legend with its name is below."""
    for i, label in enumerate(classes):
        size = 110 if MARKERS[i] == "*" else 55  # a star covers less of its square
        style = {"marker": MARKERS[i], "s": size, "edgecolors": "white", "linewidths": 0.4}
        color, name = colormaps["tab10"](i), without_math(names[label])
        axes.scatter(*points[labels == label].T, color=color, label=name, **style)
    axes.set(xticks=[], yticks=[])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=2, fontsize=9, frameon=False)


def write_feature_map(folder: Path, features: Tensor, clips: ClipSet, seed: int) -> str:
    """Write ``tsne.png`` to ``folder``, a map of the features (N, D) of ``clips``; return a line for the log.

    ``seed`` is that of the sampled classes and of t-SNE.
    """
    labels = clips.labels.cpu()
    samples = sample_classes(labels, seed)
    figure = new_figure(4.6 * len(samples), 5.8)
    for number, classes in enumerate(samples):
        chosen = torch.isin(labels, torch.tensor(classes))
        if chosen.sum() < 4:
            raise UserError(f"--tsne: {int(chosen.sum())} validation clips are too few for t-SNE")
        points = embed(features[chosen.to(features.device)], seed + number)
        axes = figure.add_subplot(1, len(samples), number + 1)
        plot_map(axes, points, labels[chosen].numpy(), classes, short_class_names(clips.class_names))
        axes.set_title(f"sample {number + 1}: {len(points)} clips of {len(classes)} classes", fontsize=11)
    save_figure(folder / TSNE, figure)
    return f"feature map: {folder / TSNE}"
