"""Feature maps: t-SNE of ten random classes, as in Figure 7 of the paper, or of classes that you choose.

    python action_retrieval.py ... --save-features features.npz
    python -m visual.tsne features.npz --tsne-classes "hand waving" throw --out runs/tsne

writes ``tsne.png`` for the validation clips of the file; ``action_retrieval.py --tsne`` writes the same at
once. By default there are three samples of classes, because their choice determines how well they separate.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F

from dataset.clips import UNLABELED
from dataset.store_format import NO_LABEL
from engine.randomness import PICTURES, choose_seed, generator
from facts.class_names import short_class_names
from options import flags
from options.parser import COUNT, Parser, add_figure_flags, expanded_path
from utils.errors import UserError, parse_errors, run_script
from utils.files import check_output_folder

from .plots import COLORS, DEFAULT, TSNE, Style, add_legend, new_figure, shortened

CLASSES, SAMPLES = 10, 3
MARKERS = "os^DvP*X<>"  # one per class, in addition to its color
PERPLEXITY = 30.0
MAX_CLIPS = 5000  # of a map: t-SNE takes about a minute for them


def sample_classes(labels: Tensor, seed: int) -> list[list[int]]:
    """Sample ten of the classes in ``labels`` three times, or take all once if there are at most ten."""
    present = labels.unique().cpu()
    if len(present) <= CLASSES:
        return [present.tolist()]
    orders = [torch.randperm(len(present), generator=generator(seed, PICTURES, i)) for i in range(SAMPLES)]
    return [present[order[:CLASSES]].sort().values.tolist() for order in orders]


def named_classes(chosen: Sequence[str], names: Sequence[str], labels: Tensor) -> list[int]:
    """Return the labels of classes given by name, short name or number; ``UserError`` if one is not there."""
    known = {name: label for each in (short_class_names(names), names) for label, name in enumerate(each)}
    present = {str(label): label for label in labels.unique().tolist()}
    present |= {name: label for name, label in known.items() if str(label) in present}
    if unknown := [name for name in chosen if name not in present]:
        some = ", ".join(repr(names[label]) for label in labels.unique().tolist()[:3] if label != NO_LABEL)
        problem = f"no validation clip has this class; there are {some}, ..."
        raise UserError(f"--tsne-classes {unknown[0]}: {problem}")
    return [*dict.fromkeys(present[name] for name in chosen)]


def spread_over_classes(labels: Tensor, classes: Sequence[int], count: int, seed: int) -> Tensor:
    """Return the positions of at most ``count`` clips of ``classes``, chosen evenly over them, in order."""
    order = torch.randperm(len(labels), generator=generator(seed, PICTURES))
    clips = [order[labels[order] == label] for label in classes]
    rank = torch.cat([torch.arange(len(x)) for x in clips])  # the first of each class, then the second, ...
    return torch.cat(clips)[rank.argsort(stable=True)[:count]].sort().values


def embed(features: Tensor, seed: int) -> np.ndarray:
    """Embed features (N, D) in the plane, (N, 2), by t-SNE with cosine distance, as in retrieval."""
    from sklearn.manifold import TSNE  # takes a second to import, which other runs would wait for, too

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    directions = F.normalize(features.float(), dim=1).cpu().numpy()
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(directions)


def plot_map(
    axes: Axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[int], names: Sequence[str]
) -> None:
    """Plot points (N, 2) with a color and a marker per class; the legend with its name is below."""
    handles, small = [], 14 if len(points) < 1000 else 5
    for i, label in enumerate(classes):
        marker, color = MARKERS[(i + i // len(COLORS)) % len(MARKERS)], COLORS[i % len(COLORS)]
        size = small * (2 if marker == "*" else 1)  # a star covers less of its square
        look = {"s": size, "marker": marker, "color": color, "edgecolors": "white", "linewidths": 0.2}
        handles.append(axes.scatter(*points[labels == label].T, **look))
    axes.set(xticks=[], yticks=[])
    style = {"bbox_to_anchor": (0.5, -0.01), "ncols": 2, "columnspacing": 0.8, "handletextpad": 0.1}
    texts = [shortened(names[label], 20) for label in classes]
    add_legend(axes, handles, texts, loc="upper center", fontsize=6, **style)


def write_feature_map(
    folder: Path,
    features: Tensor,
    labels: Tensor,
    names: Sequence[str],
    seed: int,
    chosen: Sequence[str] | None = None,
    style: Style = DEFAULT,
) -> str:
    """Write ``tsne.png`` to ``folder``, a map of features (N, D) of clips; return a line for the log.

    ``labels`` (N,) are those of the clips, ``names`` those of all classes, ``chosen`` the classes of the only
    map (default: samples); ``seed`` is that of the sampled classes and clips, and of t-SNE.
    """
    labels = labels.cpu()
    if (labels == NO_LABEL).any():  # NO_LABEL is the position of the last name
        names = [*names, UNLABELED]
    samples = [named_classes(chosen, names, labels)] if chosen else sample_classes(labels, seed)
    rows = -(-max(map(len, samples)) // 2)  # of the legend
    panel = style.width / min(len(samples), style.by_columns(1, 3))
    height = min(panel, 4.0) + 0.12 * rows + 0.3
    grid = (len(samples), 1) if style.columns == "one" else (1, len(samples))
    figure = new_figure(style.width, height * grid[0])
    captions = []
    for number, classes in enumerate(samples):
        available = int(torch.isin(labels, torch.tensor(classes)).sum())
        if available < 4:
            raise UserError(f"--tsne: {available} validation clips are too few for t-SNE")
        clips = spread_over_classes(labels, classes, MAX_CLIPS, seed)
        points = embed(features[clips.to(features.device)], seed + number)
        axes = figure.add_subplot(*grid, number + 1)
        plot_map(axes, points, labels[clips].numpy(), classes, short_class_names(names))
        total = "" if len(clips) == available else f" of {available:,}"
        captions.append(f"{len(clips):,}{total} clips of {len(classes)} classes")
        axes.set_title(captions[-1])
    return f"feature map: {style.save(folder / TSNE, figure)} ({'; '.join(captions)})"


def main() -> int:
    """Write the feature map of a file; returns the exit code."""
    parser = Parser(__doc__)
    parser.add_argument("features", type=expanded_path, metavar="FILE.npz", help="a file of --save-features")
    folder = "output folder (default: runs/tsne)"
    parser.add_argument("--out", type=expanded_path, default="runs/tsne", metavar="DIR", help=folder)
    parser.add_argument("--seed", type=COUNT, help="random seed (default: a random seed, which is printed)")
    flags.add_tsne_classes_flag(parser)
    add_figure_flags(parser)
    args = parser.parse_args()
    check_output_folder(Path(args.out), "--out")
    with parse_errors(f"{args.features} cannot be read; give a file of action_retrieval.py --save-features"):
        with np.load(args.features) as file:
            features, labels = (torch.from_numpy(file[f"val_{part}"]) for part in ("features", "labels"))
            names = [str(name) for name in file["class_names"]]
    seed, style = choose_seed(args.seed), Style.of(args)
    print(write_feature_map(Path(args.out), features, labels, names, seed, args.tsne_classes, style))
    return 0


if __name__ == "__main__":
    run_script(main)
