"""Pictures of clips: film strips as figures, and animated GIFs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.patches import Patch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from facts.skeletons import Skeleton
from utils.standard_streams import encodable

from .plots import Style, figure_pixels, new_figure, shortened
from .skeleton import GHOST, INK, LIMB_COLORS, MARK, Camera, lighter, limbs_of, place_camera, seen_joints

FRAMES_PER_SECOND = 30  # of Kinect v2
AT_ONCE = 100  # frames that are rendered in one picture, whose height is limited
TEXT_SIZE, LINE_HEIGHT = 13, 19  # pixels, of captions in GIFs
FONT_SIZE, LINE, MARGIN = 6, 0.115, 0.04  # points; inches per line of text; inches between strips


def rgb(color: Sequence[int]) -> list[float]:
    """Return a color as Matplotlib expects it."""
    return [channel / 255 for channel in color]


@dataclass(frozen=True)
class Panel:
    """A clip or view (T, V, 3, M) of a skeleton, what to draw with it, and its caption."""

    clip: Tensor
    skeleton: Skeleton
    caption: Sequence[str] = ()
    ghost: Tensor | None = None  # the same before its spatial augmentation, drawn in gray behind
    marked: Tensor | None = None  # joints to mark, bool (V,); those that are zero are marked on the ghost
    color: tuple[int, int, int] = INK  # of the first line of the caption

    def at(self, frames: Tensor) -> Panel:
        """Return the panel with these frames only."""
        return replace(self, clip=self.clip[frames], ghost=None if self.ghost is None else self.ghost[frames])

    def draw(self, axes: Axes, camera: Camera, places: Tensor, height: float) -> None:
        """Draw each frame, moved to its place (T, 2); a frame is ``height`` points high."""
        if self.ghost is not None:
            self.draw_people(axes, self.ghost, camera, places, height / 90, GHOST)
        self.draw_people(axes, self.clip, camera, places, height / 50)
        if self.marked is not None:
            shown = self.clip[:, self.marked]
            if self.ghost is not None:
                unseen = (shown == 0).all(dim=2, keepdim=True)
                shown = torch.where(unseen, self.ghost[:, self.marked], shown)
            points = camera.project(shown.transpose(2, 3))[..., :2] + places[:, None, None]
            draw_discs(axes, points[(shown != 0).any(dim=2)], np.array(rgb(MARK)), height / 30)

    def draw_people(
        self, axes: Axes, clip: Tensor, camera: Camera, places: Tensor, width: float, *color: Sequence[int]
    ) -> None:
        """Draw a clip (T, V, 3, M), what is nearer on top, in lines of ``width`` points, or in one color."""
        projected = camera.project(clip.transpose(2, 3))  # T x V x M x 3
        points, depth = projected[..., :2] + places[:, None, None], projected[..., 2]
        seen = seen_joints(clip, self.skeleton)
        limbs = limbs_of(self.skeleton).items()
        bones, colors = zip(*((bone, LIMB_COLORS[name]) for name, limb in limbs for bone in limb))
        start, end = torch.tensor(bones).T
        palette = torch.tensor([[rgb(*color or (c,)), rgb(*color or (lighter(c),))] for c in colors])
        palette = palette[:, : clip.shape[3]].expand(len(clip), -1, -1, -1)  # T x B x M x 3
        visible = seen[:, start] & seen[:, end]  # T x B x M
        for joints in (start, end):  # a joint without a seen neighbor is a disc
            alone = seen[:, joints] & ~visible
            draw_discs(axes, points[:, joints][alone], palette[alone].numpy(), width)
        order = (depth[:, start] + depth[:, end])[visible].argsort(stable=True)
        segments = torch.stack([points[:, start], points[:, end]], dim=-2)[visible][order].numpy()
        colors = palette[visible][order].numpy()
        axes.add_collection(LineCollection(segments, colors=colors, linewidths=width, capstyle="round"))

    def render(self, size: int, camera: Camera | None = None) -> np.ndarray:
        """Return square pictures, uint8 (T, size, size, 3), default: of all; ``UserError`` if not finite."""
        camera, parts = camera or shared_camera([self]), []
        for frames in torch.arange(len(self.clip)).split(AT_ONCE):
            figure = Figure((size / 72, size * len(frames) / 72), dpi=72)  # a point is a pixel
            axes = figure.add_axes((0, 0, 1, 1))
            places = camera.side * torch.stack([torch.zeros(len(frames)), frames - frames[0]], dim=1).double()
            self.at(frames).draw(axes, camera, places, size)
            bottom = camera.top + camera.side * len(frames)
            axes.set(xlim=(camera.left, camera.left + camera.side), ylim=(bottom, camera.top))
            axes.axis("off")
            parts.append(figure_pixels(figure).reshape(len(frames), size, size, 3))
        return np.concatenate(parts)


def shared_camera(panels: Sequence[Panel]) -> Camera:
    """Return a camera that shows all panels, the first one upright."""
    shown = [clip for panel in panels for clip in (panel.clip, panel.ghost) if clip is not None]
    return place_camera(shown, panels[0].skeleton)


def draw_discs(axes: Axes, points: Tensor, colors: np.ndarray, diameter: float) -> None:
    """Draw discs at points (N, 2) in one color (3,) or in colors (N, 3); ``diameter`` is in points."""
    axes.scatter(*points.T.numpy(), s=diameter**2, color=colors, linewidths=0, zorder=2)


def spread(count: int, wanted: int) -> list[int]:
    """Return the centers of ``wanted`` equal parts of ``count`` positions, or all positions if fewer."""
    wanted = min(wanted, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def draw_strip(axes: Axes, panel: Panel, camera: Camera, frames: int, numbered: bool) -> None:
    """Draw ``frames`` frames of a panel, evenly spread over time, on axes of fixed size."""
    chosen, bottom = spread(len(panel.clip), frames), camera.top + camera.side
    places = torch.tensor([[i * camera.width, 0.0] for i in range(len(chosen))], dtype=torch.float64)
    panel.at(torch.tensor(chosen)).draw(axes, camera, places, 72 * axes.bbox.height / axes.figure.dpi)
    left = camera.left + (camera.side - camera.width) / 2
    for i, frame in enumerate(chosen if numbered else []):
        x, text = left + (i + 0.5) * camera.width, f"{'' if i else 'frame '}{frame + 1}"
        axes.text(x, bottom, text, fontsize=FONT_SIZE, ha="center", va="top")
    axes.set(xlim=(left, left + frames * camera.width), ylim=(bottom, camera.top))
    axes.axis("off")


def strip_figure(rows: Sequence[Sequence[Panel]], frames: int, style: Style) -> Figure:
    """Plot film strips in rows of equal length, each above its caption, and a legend of the limbs.

    Strips in one column have the same camera, so that sizes can be compared; the frames of a single strip
    are numbered. Every strip has places for ``frames`` frames, which a shorter clip leaves blank.
    """
    everything = [panel for panels in rows for panel in panels]
    shared = shared_camera(everything) if len(rows[0]) == 1 else None
    aspect = shared.width / shared.side if shared else 0.5  # of a frame
    width, numbered = style.width, len(everything) == 1
    cell = width / len(rows[0])
    strip, height = cell - 2 * MARGIN, (cell - 2 * MARGIN) / (frames * aspect)
    fitting = int(72 * strip / (0.55 * FONT_SIZE))  # characters per line
    caption = LINE * (max(len(panel.caption) for panel in everything) + numbered + 1)
    total = len(rows) * (height + caption) + style.by_columns(4, 2) * LINE
    figure = new_figure(width, total, layout="none")
    for i, panel in enumerate(everything):
        row, column = divmod(i, len(rows[0]))
        left, bottom = cell * column + MARGIN, total - row * (height + caption) - height
        axes = figure.add_axes((left / width, bottom / total, strip / width, height / total))
        camera = shared or shared_camera([panel])
        draw_strip(axes, panel, replace(camera, width=aspect * camera.side), frames, numbered)
        for line, text in enumerate(map(encodable, panel.caption)):
            look = {"size": FONT_SIZE, "va": "top", "color": rgb(INK if line else panel.color)}
            y = (bottom - LINE * (line + numbered)) / total
            figure.text(left / width, y, shortened(text, fitting), parse_math=False, **look)
    colors = {name: LIMB_COLORS[name] for name in limbs_of(everything[0].skeleton)}
    if any(panel.marked is not None for panel in everything):
        colors["jittered"] = MARK
    if any(panel.ghost is not None for panel in everything):
        colors["before"] = GHOST
    patches = [Patch(color=rgb(color), label=name) for name, color in colors.items()]
    look = {"fontsize": FONT_SIZE, "frameon": False, "handlelength": 1, "borderaxespad": 0.2}
    figure.legend(handles=patches, loc="lower left", ncols=style.by_columns(4, len(patches)), **look)
    return figure


def add_caption(images: np.ndarray, text: Sequence[str], lines: int) -> np.ndarray:
    """Return the frames of an animation, uint8 (T, height, width, 3), with lines of text below."""
    font = ImageFont.truetype(findfont(FontProperties()), TEXT_SIZE)
    caption = Image.new("RGB", (images.shape[2], LINE_HEIGHT * lines + 3), "white")
    for i, line in enumerate(text):
        ImageDraw.Draw(caption).text((4, 2 + i * LINE_HEIGHT), encodable(line), fill=INK, font=font)
    return np.concatenate([images, np.broadcast_to(caption, (len(images), *np.shape(caption)))], axis=1)


def gif_bytes(images: np.ndarray, frames_per_second: float) -> bytes:
    """Encode pictures, uint8 (T, height, width, 3), as an animated GIF that repeats."""
    # One palette for all frames keeps it small and free of flicker.
    palette = Image.fromarray(np.concatenate(images)).quantize(128, Image.Quantize.MAXCOVERAGE)
    first, *others = (Image.fromarray(image).quantize(palette=palette, dither=0) for image in images)
    milliseconds = max(round(1000 / frames_per_second), 20)  # browsers slow down shorter frames
    file = io.BytesIO()
    first.save(file, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return file.getvalue()
