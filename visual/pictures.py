"""Film strips, captions, animated GIFs and PNGs of drawn frames. Needs Pillow where it draws."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import torch
from torch import Tensor

from options.files import atomic_write

from .skeleton import LIMBS, MARK, PALETTE, PAPER, Colour, lighter

if TYPE_CHECKING:
    from PIL.Image import Image

INK, RIGHT, WRONG = (30, 30, 30), (0, 110, 50), (190, 0, 30)  # of text
TEXT_SIZE = 14  # pixels
FRAMES_PER_SECOND = 30  # of Kinect v2


def spread(count: int, wanted: int) -> list[int]:
    """The middles of ``wanted`` equal parts of ``count`` positions, or all where there are fewer."""
    wanted = min(wanted, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def to_image(picture: Tensor) -> Image:
    """uint8 (3, H, W) to a Pillow image."""
    from PIL import Image

    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def font(size: int = TEXT_SIZE):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def fit_text(text: str, width: int, size: int = TEXT_SIZE) -> str:
    """``text``, shortened by an ellipsis where it is wider than ``width`` pixels."""
    measure = font(size).getlength
    if measure(text) <= width:
        return text
    while text and measure(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def caption(
    image: Image, lines: Sequence[str | tuple[str, Colour]], width: int = 0
) -> Image:
    """``image``, at least ``width`` wide, with lines of text below, each a text or text and colour."""
    from PIL import Image, ImageDraw

    height = TEXT_SIZE + 5
    size = max(image.width, width), image.height + height * len(lines) + 3
    out = Image.new("RGB", size, "white")
    out.paste(image)
    draw = ImageDraw.Draw(out)
    for i, line in enumerate(lines):
        text, colour = (line, INK) if isinstance(line, str) else line
        text = fit_text(text, out.width - 8)
        draw.text((4, image.height + 2 + i * height), text, fill=colour, font=font())
    return out


def beside(images: Sequence[Image], gap: int = 2) -> Image:
    """Images of one height, from left to right."""
    from PIL import Image

    width = sum(image.width for image in images) + gap * (len(images) - 1)
    out = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        out.paste(image, (left, 0))
        left += image.width + gap
    return out


def below(images: Sequence[Image], gap: int = 6) -> Image:
    """Images from top to bottom."""
    from PIL import Image

    height = sum(image.height for image in images) + gap * (len(images) - 1)
    out = Image.new("RGB", (max(image.width for image in images), height), "white")
    top = 0
    for image in images:
        out.paste(image, (0, top))
        top += image.height + gap
    return out


def trim(drawings: Sequence[Tensor], margin: int = 8) -> list[Tensor]:
    """Drawings (T, 3, H, W), alike, without the columns on the left and right that all leave white."""
    inked = torch.stack([(drawing < 255).any(dim=0).any(dim=0).any(dim=0) for drawing in drawings])
    columns = inked.any(dim=0).nonzero()[:, 0].tolist() or [0, len(inked[0]) - 1]
    first, last = max(columns[0] - margin, 0), columns[-1] + margin + 1
    return [drawing[..., first:last] for drawing in drawings]


def film_strip(pictures: Tensor, count: int, labels: Sequence[str] | None = None) -> Image:
    """``count`` of the pictures (T, 3, H, W), evenly spread, side by side; a label below each."""
    images = []
    for t in spread(len(pictures), count):
        image = to_image(pictures[t])
        images.append(caption(image, [labels[t]]) if labels else image)
    return beside(images)


def legend(width: int, marks: str | None = None) -> Image:
    """A line that says which colour is which limb; ``marks`` says what the discs are."""
    from PIL import Image, ImageDraw

    entries = [(name, limb.colour) for name, limb in LIMBS.items()]
    entries += [(marks, MARK)] if marks else []
    out = Image.new("RGB", (width, TEXT_SIZE + 10), "white")
    draw, left, top = ImageDraw.Draw(out), 4, 4
    for name, colour in entries:
        step = 14 + font().getlength(name) + 14
        if left + step > width:  # another line
            left, top = 4, top + TEXT_SIZE + 6
            taller = Image.new("RGB", (width, top + TEXT_SIZE + 6), "white")
            taller.paste(out)
            out, draw = taller, ImageDraw.Draw(taller)
        draw.rectangle((left, top + 3, left + 9, top + 12), fill=colour)
        draw.text((left + 14, top), name, fill=INK, font=font())
        left += step
    return out


def save_png(path: Path, image: Image) -> None:
    atomic_write(path, lambda file: image.save(file, format="PNG", optimize=True))


def gif_palette() -> Image:
    """Every colour that is drawn with, and two steps from each towards the paper."""
    from PIL import Image

    inks = [*PALETTE[1:], INK, RIGHT, WRONG]
    colours = [PAPER, *inks, *(lighter(ink, share) for ink in inks for share in (0.33, 0.67))]
    image = Image.new("P", (1, 1))
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def gif_bytes(images: Sequence[Image], frames_per_second: float) -> bytes:
    """An animated GIF that repeats; one palette for all frames keeps it small and steady."""
    palette = gif_palette()
    frames = [image.quantize(palette=palette, dither=0) for image in images]
    milliseconds = max(round(1000 / frames_per_second), 20)  # browsers slow down what is shorter
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:],
                   duration=milliseconds, loop=0)
    return file.getvalue()


def save_gif(path: Path, images: Sequence[Image], frames_per_second: float) -> None:
    content = gif_bytes(images, frames_per_second)
    atomic_write(path, lambda file: file.write(content))
