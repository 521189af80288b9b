"""Render a clip of a store and augmented views of it, the input of contrastive pretraining.

    python -m visual.clips --data-root data --name S001C001P001R001A001 --views 2 --out runs/clips

writes NAME.gif and NAME.png, the clip itself, and NAME_views.gif and NAME_views.png, the clip next to
its views. In a view, the skeleton before the spatial augmentation is gray, and jittered joints are
marked. The views are sampled with the augmentation flags of pretraining.
"""

from __future__ import annotations

import argparse
import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from dataset.augment import WholeClip
from dataset.clips import ClipSet, open_clips
from dataset.store_format import SPLITS
from dataset.views import View, pretraining_view
from engine.log import RunLog
from engine.randomness import PICTURES, VIEWS, choose_seed, generator
from facts.skeletons import KINECT_V2, Skeleton
from options import defaults, flags
from options.parser import COUNT, POSITIVE_INT, Parser, expanded_path
from utils.errors import UserError, run_script
from utils.files import check_output_folder

from . import load_error
from .pictures import (
    FRAMES_PER_SECOND,
    add_caption,
    film_strip,
    join_horizontally,
    join_vertically,
    legend,
    save_gif,
    save_png,
    trim,
)
from .skeleton import place_camera, render_clip

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 200  # pixels of a rendered frame
STRIP_FRAMES = 8
LABEL_MARGIN = 20  # pixels to the left and right of a skeleton, so that the frame label fits below
LOGGED_CLIPS, LOGGED_VIEWS, LOGGED_FRAMES = 2, 2, 6  # images for TensorBoard


@dataclass(frozen=True)
class Panel:
    """A clip or view (T, V, 3, M), what to render with it, and its caption."""

    clip: Tensor
    caption: list[str]
    ghost: Tensor | None = None  # the view before its spatial augmentation
    marked: Tensor | None = None  # jittered joints, bool (V,)

    def at(self, frames: Tensor) -> Panel:
        """Return the panel with these frames only."""
        return replace(self, clip=self.clip[frames], ghost=None if self.ghost is None else self.ghost[frames])


def view_panels(clips: ClipSet, index: int, view: View, count: int, source: Generator) -> list[Panel]:
    """Return the whole clip, resized to the length of a view, and ``count`` random views of it."""
    at = torch.tensor([index])
    whole = View(WholeClip(), num_frames=view.num_frames).of(clips, at)[0].cpu()
    panels = [Panel(whole, [f"the clip, {int(clips.num_frames[index])} frames"])]
    for number in range(1, count + 1):
        parameters = view.sample(clips, at, source)
        first_line, *other_lines = view.describe(parameters, 0)
        ghost = marked = None
        if view.augmentations is not None:
            ghost = replace(view, augmentations=None).apply(clips, at, parameters)[0].cpu()
            changed = view.augmentations.changed_joints(parameters.augmentations, 0, whole.shape[1])
            marked = changed if changed.any() and not changed.all() else None
        augmented = view.apply(clips, at, parameters)[0].cpu()
        panels.append(Panel(augmented, [f"view {number}: {first_line}", *other_lines], ghost, marked))
    return panels


def render_panels(panels: list[Panel], size: int = SIZE, skeleton: Skeleton = KINECT_V2) -> list[list[Image]]:
    """Render the frames of all panels with one camera."""
    shown = [clip for panel in panels for clip in (panel.clip, panel.ghost) if clip is not None]
    camera = place_camera(shown, skeleton)
    return [render_clip(panel.clip, size, camera, panel.ghost, panel.marked, skeleton) for panel in panels]


def log_views(log: RunLog, clips: ClipSet, view: View, seed: int) -> None:
    """Add a few clips, each above two random views of it, to TensorBoard.

    If something cannot be rendered, a note is printed and the run continues.
    """
    if reason := load_error("Pillow"):
        print(f"note: no views in TensorBoard: {reason}")
        return
    source = generator(seed, PICTURES)
    frames = torch.linspace(0, view.num_frames - 1, LOGGED_FRAMES).long()
    for index in torch.randperm(len(clips), generator=source)[:LOGGED_CLIPS].tolist():
        panels = view_panels(clips, index, view, LOGGED_VIEWS, source)
        try:
            rows = render_panels([panel.at(frames) for panel in panels], skeleton=clips.skeleton)
        except UserError as error:
            print(f"note: no views of {clips.names[index]} in TensorBoard: {error}")
            continue
        image = join_vertically([join_horizontally(row, gap=0) for row in rows], gap=0)
        log.image(f"views/{clips.names[index]}", torch.from_numpy(np.array(image)).permute(2, 0, 1))


def parse_args() -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser(__doc__)
    flags.add_data_flags(parser, "--dataset")
    group = parser.add_argument_group("pictures")
    group.add_argument("--name", required=True, help="name of the clip in the store")
    group.add_argument(
        "--views",
        type=COUNT,
        default=2,
        metavar="N",
        help="number of augmented views to render next to the clip (default: 2)",
    )
    group.add_argument(
        "--out",
        type=expanded_path,
        default="runs/clips",
        metavar="DIR",
        help="output folder (default: runs/clips)",
    )
    group.add_argument(
        "--seed", type=COUNT, help="random seed of the views (default: a random seed, which is printed)"
    )
    group.add_argument(
        "--num-frames",
        type=POSITIVE_INT,
        default=64,
        metavar="N",
        help="number of frames to which a view is resized (default: 64)",
    )
    flags.add_augmentation_flags(parser)
    return parser.parse_args()


def find_clip(args: argparse.Namespace) -> tuple[ClipSet, int]:
    """Return the split that contains the clip ``--name`` and its position there.

    Raises ``UserError``, with similar names, if neither split contains it.
    """
    known: list[str] = []
    for split in SPLITS:
        clips = open_clips(args.data_root, args.dataset, args.protocol, split)
        if args.name in clips.names:
            return clips, clips.names.index(args.name)
        known += clips.names
    similar = ", ".join(difflib.get_close_matches(args.name, known, n=3)) or known[0]
    raise UserError(
        f"--name {args.name}: not found among the {len(known)} clips of {args.protocol} in "
        f"{clips.source}; names there are, for example, {similar}"
    )


def whole_clip(clips: ClipSet, index: int) -> Tensor:
    """Return all frames of a clip, (T, V, 3, M)."""
    frames = torch.arange(int(clips.num_frames[index]))
    return clips.gather(torch.tensor([index]), frames[None])[0]


def save_clip(clip: Tensor, skeleton: Skeleton, title: str, stem: Path) -> None:
    """Write ``stem``.gif and ``stem``.png, an animation and a film strip of a clip (T, V, 3, M)."""
    images = render_clip(clip, SIZE, skeleton=skeleton)
    save_gif(Path(f"{stem}.gif"), images, FRAMES_PER_SECOND)
    labels = [f"frame {t + 1}" for t in range(len(clip))]
    strip = film_strip(trim([images], LABEL_MARGIN)[0], STRIP_FRAMES, labels)
    save_png(
        Path(f"{stem}.png"), join_vertically([add_caption(strip, [title]), legend(strip.width, skeleton)])
    )


def save_views(panels: list[Panel], skeleton: Skeleton, title: str, stem: Path, seconds: float) -> None:
    """Write ``stem``.gif, the panels next to each other, and ``stem``.png, a film strip of each.

    The GIF takes ``seconds``, the duration of the clip: a view has no tempo once its frames are resized.
    """
    rendered = render_panels(panels, skeleton=skeleton)
    height = max(len(panel.caption) for panel in panels)
    captions = [panel.caption + [""] * (height - len(panel.caption)) for panel in panels]
    animation = [
        join_horizontally(list(map(add_caption, images, captions))) for images in zip(*rendered, strict=True)
    ]
    save_gif(Path(f"{stem}.gif"), animation, len(animation) / seconds)
    strips: list[Image] = []
    for images, panel in zip(trim(rendered), panels, strict=True):
        text = ", ".join(panel.caption)
        strips.append(add_caption(film_strip(images, STRIP_FRAMES), [text if strips else f"{title}: {text}"]))
    marks = "jittered" if any(panel.marked is not None for panel in panels) else None
    save_png(Path(f"{stem}.png"), join_vertically([*strips, legend(strips[0].width, skeleton, marks)]))


def main() -> int:
    """Render the clip and its views; returns the exit code."""
    args = parse_args()
    if reason := load_error("Pillow"):
        raise UserError(reason)
    folder = Path(args.out)
    check_output_folder(folder, "--out")
    clips, index = find_clip(args)
    defaults.fill_augmentation_defaults(args, clips.skeleton)
    view = pretraining_view(vars(args), args.num_frames, clips.skeleton)
    title = f"{args.name}, {clips.class_names[int(clips.labels[index])]}"
    save_clip(whole_clip(clips, index), clips.skeleton, title, folder / args.name)
    written = [f"{args.name}.gif", f"{args.name}.png"]
    if args.views:
        source = generator(choose_seed(args.seed), VIEWS)
        panels = view_panels(clips, index, view, args.views, source)
        seconds = int(clips.num_frames[index]) / FRAMES_PER_SECOND
        save_views(panels, clips.skeleton, title, folder / f"{args.name}_views", seconds)
        written += [f"{args.name}_views.gif", f"{args.name}_views.png"]
    print(f"{title}; written to {folder}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    run_script(main)
