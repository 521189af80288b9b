"""Retrieval gallery: queries and their nearest neighbors, animated and marked as right or wrong.

As in the corresponding figure of the paper, a query has four neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dataset.clips import ClipSet
from dataset.views import crop_and_resize
from engine.randomness import PICTURES, generator
from utils.errors import UserError

from .page import PAGE, data_uri, write_page
from .pictures import FRAMES_PER_SECOND, Panel, gif_bytes, strip_figure
from .plots import DEFAULT, GALLERY, Style
from .skeleton import INK, LIMB_COLORS, limbs_of

QUERIES, NEIGHBORS = 8, 4
SIZE = 140  # pixels of an animated skeleton
FRAMES, STRIP_FRAMES = 32, 4  # of an animation and of a film strip
COLORS = {"query": INK, "neighbor": INK, "right": (0, 90, 181), "wrong": (190, 60, 0)}


def choose_queries(val: ClipSet, names: Sequence[str] | None, seed: int) -> list[int]:
    """Return the positions of the named validation clips, by default one clip of each of a few classes.

    Without labels they are any clips.
    """
    if names:
        for name in names:
            if name not in val.names:
                problem = f"no validation clip has this name; one of the names is {val.names[0]}"
                raise UserError(f"--gallery-queries {name}: {problem}")
        return [val.names.index(name) for name in names]
    source = generator(seed, PICTURES)
    if not val.has_labels:
        return torch.randperm(len(val), generator=source)[:QUERIES].sort().values.tolist()
    classes = val.labels.unique()
    classes = classes[torch.randperm(len(classes), generator=source)][:QUERIES].sort().values
    clips = [(val.labels == label).nonzero()[:, 0] for label in classes]
    return [int(x[torch.randint(len(x), (1,), generator=source)]) for x in clips]


Tile = tuple[
    str, Panel, str
]  # "query", "right", "wrong" or "neighbor"; a clip and its caption; an animation (data URI)


def make_tile(clips: ClipSet, index: int, kind: str, role: str) -> Tile:
    """Render the clip at position ``index``."""
    length, at = clips.num_frames[[index]].cpu(), torch.tensor([index])
    frames = min(FRAMES, int(length))
    clip = crop_and_resize(clips, at, torch.zeros_like(length), length, frames)[0].cpu()
    caption = [role, clips.class_of(index), clips.names[index]]
    panel = Panel(clip, clips.skeleton, caption, color=COLORS[kind])
    gif = gif_bytes(panel.render(SIZE), frames * FRAMES_PER_SECOND / int(length))
    return kind, panel, data_uri(gif, ".gif")


def write_gallery(
    folder: Path,
    val: ClipSet,
    train: ClipSet,
    queries: list[int],
    neighbors: Tensor,
    similarities: Tensor,
    method: str,
    style: Style = DEFAULT,
) -> str:
    """Write ``index.html`` and ``gallery.png`` to ``folder``; return a summary for the log.

    ``queries`` are positions in ``val``, ``neighbors`` (queries, k) those in ``train`` with cosine
    ``similarities``; ``method`` says what the features come from.
    """
    rows = []
    for query, values, found in zip(queries, similarities.tolist(), neighbors.tolist(), strict=True):
        tiles = [make_tile(val, query, "query", "query")]
        for rank, (value, position) in enumerate(zip(values, found, strict=True), start=1):
            is_right = bool(train.labels[position] == val.labels[query])
            kind = ("right" if is_right else "wrong") if val.has_labels else "neighbor"
            tiles.append(make_tile(train, position, kind, f"{rank}. {kind}, cosine {value:.2f}"))
        rows.append(tiles)
    kinds = [kind for tiles in rows for kind, *_ in tiles[1:]]
    right = f"{kinds.count('right')} of the {len(kinds)} neighbors of these {len(queries)} queries"
    texts = {
        "title": "Retrieval gallery",
        "method": method,
        "summary": f"{right} have the class of their query",
    }
    if not val.has_labels:
        texts["summary"] = f"the nearest clips of {len(queries)} queries, without labels"
    write_page(
        folder / PAGE, tiles=rows, limbs={name: LIMB_COLORS[name] for name in limbs_of(val.skeleton)}, **texts
    )
    panels = [[panel for _, panel, _ in tiles[: style.by_columns(3, None)]] for tiles in rows]
    figure = style.save(folder / GALLERY, strip_figure(panels, STRIP_FRAMES, style))
    return f"gallery: {texts['summary']}; {folder / PAGE}, {figure.name}"
