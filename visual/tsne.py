"""Feature maps: t-SNE of ten random classes, as in Figure 7 of the paper, and TensorBoard's projector.

There are maps of three samples of classes, because the choice of classes determines how well they
separate.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dataset.clips import ClipSet
from engine.log import open_events
from engine.randomness import PICTURES, generator
from facts.class_names import short_class_names
from utils.errors import UserError, first_line
from utils.standard_streams import encodable

from .plots import new_figure, save_figure, without_math

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES, SAMPLES = 10, 3
MARKERS = "os^DvP*X<>"  # one per class, in addition to its color
PERPLEXITY = 30.0
PROJECTOR_CLIPS = 3000  # the projector's files are text, which a browser loads slowly
PICTURE = "tsne.png"


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
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    directions = F.normalize(features.float(), dim=1).cpu().numpy()
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(directions)


def plot_map(
    axes: Axes, points: np.ndarray, labels: np.ndarray, classes: list[int], names: Sequence[str]
) -> None:
    """Plot points (N, 2) with a color and a marker per class; the legend with its name is below."""
    from matplotlib import colormaps

    for i, label in enumerate(classes):
        x, y = points[labels == label].T
        axes.scatter(
            x,
            y,
            s=110 if MARKERS[i] == "*" else 55,  # a star covers less of its square
            color=colormaps["tab10"](i),
            marker=MARKERS[i],
            edgecolors="white",
            linewidths=0.4,
            label=without_math(names[label]),
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=2, fontsize=9, frameon=False)


def write_projector(folder: Path, features: Tensor, clips: ClipSet, seed: int) -> int:
    """Write features, classes and names of clips for TensorBoard's projector; return the number of clips.

    If TensorBoard does not work, a note is printed.
    """
    events = open_events(folder, 0)
    if events is None:
        return 0
    order = torch.randperm(len(clips), generator=generator(seed, PICTURES, SAMPLES))[:PROJECTOR_CLIPS]
    order = order.sort().values
    names = short_class_names(clips.class_names)
    metadata = [[names[int(clips.labels[i])], encodable(clips.names[i])] for i in order]
    try:
        with events, redirect_stdout(io.StringIO()):
            events.add_embedding(
                features[order.to(features.device)].float().cpu(),
                metadata,
                metadata_header=["class", "clip"],
                tag="features",
            )
    except OSError:  # a full disk
        raise
    except Exception as error:  # TensorBoard does not fit the versions of protobuf or NumPy
        print(f"note: no files for TensorBoard's projector ({first_line(error)})")
        return 0
    return len(order)


def write_feature_map(folder: Path, features: Tensor, clips: ClipSet, seed: int) -> str:
    """Write ``tsne.png`` and the projector's files to ``folder``; return a summary for the log.

    Args:
        features: features of ``clips`` in their order, (N, D).
        seed: of the sampled classes and of t-SNE.

    Raises:
        UserError: there are fewer than four clips of the sampled classes, too few for t-SNE.
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
    save_figure(folder / PICTURE, figure)
    count = write_projector(folder, features, clips, seed)
    return (
        f"feature map: {folder / PICTURE}; {count} of {len(clips)} validation clips in the projector: "
        f"tensorboard --logdir {folder}"
    )
