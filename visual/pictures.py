"""Compose rendered frames: film strips, captions, legends, PNG files and animated GIFs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facts.skeletons import Skeleton
from utils.files import atomic_write
from utils.standard_streams import encodable

from .skeleton import GHOST, LIMB_COLORS, MARK, PAPER, Color, lighter, limbs_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

INK, RIGHT, WRONG = (30, 30, 30), (0, 110, 50), (190, 0, 30)  # text colors
TEXT_SIZE, LINE_HEIGHT = 14, 19  # pixels
FRAMES_PER_SECOND = 30  # of Kinect v2


def new_image(width: int, height: int) -> Image:
    """Return a blank image."""
    from PIL import Image

    return Image.new("RGB", (width, height), PAPER)


def font() -> FreeTypeFont | ImageFont:
    """Return the font of captions and legends, which is part of Pillow."""
    from PIL import ImageFont

    return ImageFont.load_default(TEXT_SIZE)


def shorten(text: str, width: int) -> str:
    """Return ``text``, cut and ended by an ellipsis if it is wider than ``width`` pixels."""
    text, measure = encodable(text), font().getlength
    if measure(text) <= width:
        return text
    while text and measure(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def add_caption(image: Image, lines: Sequence[str], width: int = 0, color: Color = INK) -> Image:
    """Return ``image``, at least ``width`` wide, with lines of text below, the first of them in ``color``."""
    from PIL import ImageDraw

    out = new_image(max(image.width, width), image.height + LINE_HEIGHT * len(lines) + 3)
    out.paste(image)
    canvas = ImageDraw.Draw(out)
    for i, line in enumerate(lines):
        place = (4, image.height + 2 + i * LINE_HEIGHT)
        canvas.text(place, shorten(line, out.width - 8), fill=INK if i else color, font=font())
    return out


def join_horizontally(images: Sequence[Image], gap: int = 2) -> Image:
    """Return one image with ``images`` from left to right, aligned at the top."""
    width = sum(image.width + gap for image in images) - gap
    out = new_image(width, max(image.height for image in images))
    left = 0
    for image in images:
        out.paste(image, (left, 0))
        left += image.width + gap
    return out


def join_vertically(images: Sequence[Image], gap: int = 6) -> Image:
    """Return one image with ``images`` from top to bottom, aligned on the left."""
    height = sum(image.height + gap for image in images) - gap
    out = new_image(max(image.width for image in images), height)
    top = 0
    for image in images:
        out.paste(image, (0, top))
        top += image.height + gap
    return out


def trim(clips: Sequence[Sequence[Image]], margin: int = 8) -> list[list[Image]]:
    """Crop equally large pictures of several clips to the columns in which any of them is not blank."""
    from PIL import ImageOps

    boxes = [box for images in clips for image in images if (box := ImageOps.invert(image).getbbox())]
    width, height = clips[0][0].size
    left = max(min((box[0] for box in boxes), default=0) - margin, 0)
    right = min(max((box[2] for box in boxes), default=width) + margin, width)
    return [[image.crop((left, 0, right, height)) for image in images] for images in clips]


def spread(count: int, wanted: int) -> list[int]:
    """Return the centers of ``wanted`` equal parts of ``count`` positions, or all positions if fewer."""
    wanted = min(wanted, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def film_strip(images: Sequence[Image], count: int, labels: Sequence[str] | None = None) -> Image:
    """Join ``count`` of the images, evenly spread over time; ``labels`` has a caption for every image."""
    chosen = spread(len(images), count)
    return join_horizontally([add_caption(images[t], [labels[t]]) if labels else images[t] for t in chosen])


def legend(width: int, skeleton: Skeleton, marks: str | None = None) -> Image:
    """Return the legend of the limb colors, in as many lines as needed; ``marks`` explains the discs."""
    from PIL import ImageDraw

    entries = [(name, limb.color) for name, limb in limbs_of(skeleton).items()]
    if marks:
        entries.append((marks, MARK))
    places, left, top = [], 4, 4
    for name, _ in entries:
        step = round(font().getlength(name)) + 28
        if left > 4 and left + step > width:
            left, top = 4, top + LINE_HEIGHT
        places.append((left, top))
        left += step
    out = new_image(width, top + LINE_HEIGHT + 1)
    canvas = ImageDraw.Draw(out)
    for (name, color), (x, y) in zip(entries, places, strict=True):
        canvas.rectangle((x, y + 3, x + 9, y + 12), fill=color)
        canvas.text((x + 14, y), name, fill=INK, font=font())
    return out


def save_png(path: Path, image: Image) -> None:
    """Write a PNG file, atomically."""
    atomic_write(path, lambda file: image.save(file, format="PNG", optimize=True))


def gif_palette() -> Image:
    """Return an image with the palette of GIFs: every color in use and its blends with white."""
    from PIL import Image

    limbs = LIMB_COLORS.values()
    inks = [GHOST, MARK, INK, RIGHT, WRONG, *limbs, *map(lighter, limbs)]
    colors = [PAPER, *inks, *(lighter(ink, share) for ink in inks for share in (0.33, 0.67))]
    image = Image.new("P", (1, 1))
    image.putpalette([channel for color in colors for channel in color])
    return image


def gif_bytes(images: Sequence[Image], frames_per_second: float) -> bytes:
    """Encode an animated GIF that repeats. One palette for all frames keeps it small and free of flicker."""
    from PIL import Image

    palette = gif_palette()
    first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
    milliseconds = max(round(1000 / frames_per_second), 20)  # browsers slow down shorter frames
    file = io.BytesIO()
    first.save(file, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return file.getvalue()


def save_gif(path: Path, images: Sequence[Image], frames_per_second: float) -> None:
    """Write an animated GIF file, atomically."""
    content = gif_bytes(images, frames_per_second)
    atomic_write(path, lambda file: file.write(content))
