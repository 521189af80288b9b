"""Retrieval gallery: queries and their nearest neighbors, four as in the paper, marked as right or wrong."""

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
    """Return the positions of named clips, by default one of each of a few classes; any without labels."""
    if names:
        if unknown := [name for name in names if name not in val.names]:
            problem = f"no validation clip has this name; one of the names is {val.names[0]}"
            raise UserError(f"--gallery-queries {unknown[0]}: {problem}")
        return [val.names.index(name) for name in names]
    source = generator(seed, PICTURES)
    if not val.has_labels:
        return torch.randperm(len(val), generator=source)[:QUERIES].sort().values.tolist()
    classes = val.labels.unique()
    classes = classes[torch.randperm(len(classes), generator=source)][:QUERIES].sort().values
    clips = [(val.labels == label).nonzero()[:, 0] for label in classes]
    return [int(x[torch.randint(len(x), (1,), generator=source)]) for x in clips]


def make_tile(clips: ClipSet, index: int, kind: str, role: str) -> tuple[str, Panel, str]:
    """Render the clip at position ``index``: its kind (see ``COLORS``), its panel and a data URI of a GIF."""
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
    summary = f"the nearest clips of {len(queries)} queries, without labels"
    if val.has_labels:
        summary = f"{kinds.count('right')} of the {len(kinds)} neighbors of these {len(queries)} queries"
        summary += " have the class of their query"
    limbs = {name: LIMB_COLORS[name] for name in limbs_of(val.skeleton)}
    texts = {"title": "Retrieval gallery", "method": method, "summary": summary}
    write_page(folder / PAGE, tiles=rows, limbs=limbs, **texts)
    panels = [[panel for _, panel, _ in tiles[: style.by_columns(3, None)]] for tiles in rows]
    figure = style.save(folder / GALLERY, strip_figure(panels, STRIP_FRAMES, style))
    return f"gallery: {summary}; {folder / PAGE}, {figure.name}"
