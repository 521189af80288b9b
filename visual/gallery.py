"""Retrieval to look at: queries and their nearest neighbours, animated, right or wrong marked.

The paper's figure of this kind shows the four nearest neighbours of a query.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import torch
from torch import Tensor

from dataset.clips import ClipSet
from dataset.views import crop_and_resize
from engine.randomness import PICTURES, generator
from options.class_names import class_name
from options.errors import UserError

from .markup import image, page, save_page
from .pictures import (
    FRAMES_PER_SECOND, INK, RIGHT, WRONG, below, beside, caption, film_strip, gif_bytes, legend, save_png,
    to_image, trim,
)
from .skeleton import LIMBS, Colour, draw_clip

if TYPE_CHECKING:
    from PIL.Image import Image

QUERIES, NEIGHBOURS = 8, 4
SIZE = 140  # pixels of an animated skeleton
FRAMES = 32  # of an animation
STRIP_WIDTH = 330  # pixels: as many frames as fit
PAGE, STRIP = "index.html", "gallery.png"


def choose_queries(val: ClipSet, names: Sequence[str] | None, seed: int) -> list[int]:
    """Positions of the named val clips; without names, of one clip from each of a few classes."""
    if names:
        unknown = [name for name in names if name not in val.names]
        if unknown:
            raise UserError(f"--gallery-queries {unknown[0]}: the val split has no clip of this name; "
                            f"it has, for instance, {val.names[0]}")
        return [val.names.index(name) for name in names]
    source = generator(seed, PICTURES)
    classes = val.labels.unique()
    classes = classes[torch.randperm(len(classes), generator=source)][:QUERIES].sort().values
    clips = [(val.labels == label).nonzero()[:, 0] for label in classes]
    return [int(x[torch.randint(len(x), (1,), generator=source)]) for x in clips]


class Drawing:
    """One clip, drawn: its animation, its film strip and what is known of it."""

    def __init__(self, clips: ClipSet, index: int) -> None:
        self.name, self.label = clips.names[index], int(clips.labels[index])
        self.class_name = class_name(clips.dataset, self.label)
        length = clips.num_frames[[index]].cpu()
        frames = min(FRAMES, int(length))
        clip = crop_and_resize(clips, torch.tensor([index]), torch.zeros_like(length), length, frames)
        pictures = draw_clip(clip[0].cpu(), SIZE)
        narrow = trim([pictures])[0]
        self.strip = film_strip(narrow, max(STRIP_WIDTH // narrow.shape[-1], 2))
        speed = frames * FRAMES_PER_SECOND / int(length)
        self.gif = gif_bytes([to_image(picture) for picture in pictures], speed)

    def figure(self, kind: str, role: str, note: str = "") -> str:
        """HTML: the animation, ``role``, the class, the clip's name; ``kind`` colours the frame."""
        picture = image(self.gif, ".gif", f"{self.class_name}, clip {self.name}")
        return (
            f'<figure class="{kind}">{picture}<figcaption><b>{role}</b> {note}<br>'
            f"{escape(self.class_name)}<br><small>{escape(self.name)}</small></figcaption></figure>"
        )

    def cell(self, text: str, colour: Colour = INK) -> Image:
        """The same as a still picture."""
        return caption(self.strip, [(text, colour), self.class_name, self.name], STRIP_WIDTH)


def limb_legend() -> str:
    """HTML: which colour is which limb."""
    entries = [f'<span class="key" style="background: rgb{limb.colour}"></span>{name}'
               for name, limb in LIMBS.items()]
    return f'<p>{" ".join(entries)}; a second person is lighter</p>'


def write_gallery(
    folder: Path, val: ClipSet, train: ClipSet, queries: list[int], neighbours: Tensor,
    similarities: Tensor, title: str,
) -> str:
    """``index.html`` and ``gallery.png`` in ``folder``; returns a line on what they show.

    Args:
        queries: positions of the queries in ``val``.
        neighbours, similarities: (queries, k) positions in ``train`` and cosines, nearest first.
        title: what was retrieved with, for the head of the page.
    """
    parts, strips, hits, shown = [], [], 0, 0
    for index, values, found in zip(queries, similarities.tolist(), neighbours.tolist()):
        query = Drawing(val, index)
        figures, cells = [query.figure("query", "query")], [query.cell("query")]
        for rank, (value, position) in enumerate(zip(values, found), start=1):
            neighbour = Drawing(train, position)
            kind = "right" if neighbour.label == query.label else "wrong"
            hits, shown = hits + (kind == "right"), shown + 1
            figures.append(neighbour.figure(kind, f"{rank}. {kind}", f"cosine {value:.2f}"))
            colour = RIGHT if kind == "right" else WRONG
            cells.append(neighbour.cell(f"{rank}. {kind}, cosine {value:.2f}", colour))
        parts.append(f'<h3>{escape(query.class_name)}</h3>\n<div class="row">\n'
                     + "\n".join(figures) + "\n</div>")
        strips.append(beside(cells, gap=12))
    summary = f"{hits} of the {shown} neighbours of these {len(queries)} queries are of the query's class"
    explanation = (
        f"<p>{escape(title)}. Each row is a clip of the val split and the training clips nearest to it "
        f"by the cosine of their features. {summary}.</p>\n{limb_legend()}"
    )
    save_page(folder / PAGE, page("Retrieval gallery", explanation, *parts))
    save_png(folder / STRIP, below([*strips, legend(strips[0].width)], gap=14))
    return f"gallery: {summary}; {folder / PAGE}"
