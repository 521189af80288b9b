"""Retrieval gallery: queries and their nearest neighbors, animated and marked as right or wrong.

As in the corresponding figure of the paper, a query has four neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dataset.clips import ClipSet
from dataset.views import crop_and_resize
from engine.randomness import PICTURES, generator
from utils.errors import UserError

from .markup import data_uri, write_page
from .pictures import (
    FRAMES_PER_SECOND,
    INK,
    RIGHT,
    WRONG,
    add_caption,
    film_strip,
    gif_bytes,
    join_horizontally,
    join_vertically,
    legend,
    save_png,
    trim,
)
from .skeleton import limbs_of, render_clip

if TYPE_CHECKING:
    from PIL.Image import Image

QUERIES, NEIGHBORS = 8, 4
SIZE = 140  # pixels of an animated skeleton
FRAMES = 32  # of an animation
STRIP_WIDTH = 330  # pixels; a film strip has as many frames as fit
PAGE, STRIP = "index.html", "gallery.png"
COLORS = {"query": INK, "right": RIGHT, "wrong": WRONG}


def choose_queries(val: ClipSet, names: Sequence[str] | None, seed: int) -> list[int]:
    """Return the positions of the named validation clips, by default one clip of each of a few classes.

    Raises ``UserError`` if a name is unknown.
    """
    if names:
        unknown = [name for name in names if name not in val.names]
        if unknown:
            raise UserError(
                f"--gallery-queries {unknown[0]}: no validation clip has this name; "
                f"one of the names is {val.names[0]}"
            )
        return [val.names.index(name) for name in names]
    source = generator(seed, PICTURES)
    classes = val.labels.unique()
    classes = classes[torch.randperm(len(classes), generator=source)][:QUERIES].sort().values
    clips = [(val.labels == label).nonzero()[:, 0] for label in classes]
    return [int(x[torch.randint(len(x), (1,), generator=source)]) for x in clips]


@dataclass(frozen=True)
class Tile:
    """A clip of the gallery, rendered as an animation and as a film strip."""

    kind: str  # "query", "right" or "wrong"
    role: str
    note: str
    class_name: str
    clip_name: str
    gif: str  # data URI
    strip: Image

    def still(self) -> Image:
        """Return the film strip with its caption."""
        title = f"{self.role}, {self.note}" if self.note else self.role
        lines = [title, self.class_name, self.clip_name]
        return add_caption(self.strip, lines, STRIP_WIDTH, COLORS[self.kind])


def make_tile(clips: ClipSet, index: int, kind: str, role: str, note: str = "") -> Tile:
    """Render the clip at position ``index``."""
    length = clips.num_frames[[index]].cpu()
    frames = min(FRAMES, int(length))
    clip = crop_and_resize(clips, torch.tensor([index]), torch.zeros_like(length), length, frames)
    images = render_clip(clip[0].cpu(), SIZE, skeleton=clips.skeleton)
    narrow = trim([images])[0]
    return Tile(
        kind,
        role,
        note,
        class_name=clips.class_names[int(clips.labels[index])],
        clip_name=clips.names[index],
        gif=data_uri(gif_bytes(images, frames * FRAMES_PER_SECOND / int(length)), ".gif"),
        strip=film_strip(narrow, max(STRIP_WIDTH // narrow[0].width, 2)),
    )


def write_gallery(
    folder: Path,
    val: ClipSet,
    train: ClipSet,
    queries: list[int],
    neighbors: Tensor,
    similarities: Tensor,
    method: str,
) -> str:
    """Write ``index.html`` and ``gallery.png`` to ``folder``; return a summary for the log.

    Args:
        queries: positions of the queries in ``val``.
        neighbors, similarities: (queries, k) positions in ``train`` and cosine similarities, in
            descending order of similarity.
        method: what the features come from, for the introduction of the page.
    """
    rows = []
    for query, values, found in zip(queries, similarities.tolist(), neighbors.tolist(), strict=True):
        tiles = [make_tile(val, query, "query", "query")]
        for rank, (value, position) in enumerate(zip(values, found, strict=True), start=1):
            kind = "right" if train.labels[position] == val.labels[query] else "wrong"
            tiles.append(make_tile(train, position, kind, f"{rank}. {kind}", f"cosine {value:.2f}"))
        rows.append(tiles)
    kinds = [tile.kind for tiles in rows for tile in tiles[1:]]
    summary = (
        f"{kinds.count('right')} of the {len(kinds)} neighbors of these {len(queries)} queries have the "
        "class of their query"
    )
    write_page(
        folder / PAGE,
        "gallery.html.j2",
        title="Retrieval gallery",
        method=method,
        summary=summary,
        limbs=limbs_of(val.skeleton),
        rows=rows,
    )
    strips = [join_horizontally([tile.still() for tile in tiles], gap=12) for tiles in rows]
    save_png(folder / STRIP, join_vertically([*strips, legend(strips[0].width, val.skeleton)], gap=14))
    return f"gallery: {summary}; {folder / PAGE}"
