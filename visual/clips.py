"""Render a clip of a store and augmented views of it, the input of contrastive pretraining.

    python -m visual.clips --data-root data --name S001C001P001R001A001 --views 2 --out runs/clips

writes NAME.gif and NAME.png, the clip itself, and NAME_views.gif and NAME_views.png, the clip next to
its views. In a view, the skeleton before the spatial augmentation is gray, and jittered joints are
marked. The views are sampled with the augmentation flags of pretraining.
"""

import argparse
import difflib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from dataset.augment import WholeClip
from dataset.clips import ClipSet, NoClips, open_clips
from dataset.store_format import SPLITS
from dataset.views import View, pretraining_view
from engine.log import RunLog
from engine.randomness import PICTURES, VIEWS, choose_seed, generator
from options import defaults, flags
from options.parser import COUNT, POSITIVE_INT, Parser, add_figure_flags, expanded_path
from utils.errors import UserError, run_script
from utils.files import atomic_write, check_output_folder, safe_file_name

from .pictures import FRAMES_PER_SECOND, Panel, add_caption, gif_bytes, shared_camera, strip_figure
from .plots import DEFAULT, Style, figure_pixels

SIZE, STRIP_FRAMES = 200, 8  # pixels of a frame of a GIF; frames of a film strip
LOGGED_CLIPS, LOGGED_VIEWS, LOGGED_FRAMES = 2, 2, 6  # images for TensorBoard


def view_panels(clips: ClipSet, index: int, view: View, count: int, source: Generator) -> list[Panel]:
    """Return the whole clip, resized to the length of a view, and ``count`` random views of it."""
    at = torch.tensor([index])
    whole = View(WholeClip(), num_frames=view.num_frames).of(clips, at)[0].cpu()
    panels = [Panel(whole, clips.skeleton, [f"the clip, {int(clips.num_frames[index])} frames"])]
    for number in range(1, count + 1):
        parameters = view.sample(clips, at, source)
        first_line, *other_lines = view.describe(parameters, 0)
        caption = [f"view {number}: {first_line}", *other_lines]
        ghost = marked = None
        if view.augmentations is not None:
            ghost = replace(view, augmentations=None).apply(clips, at, parameters)[0].cpu()
            changed = view.augmentations.changed_joints(parameters.augmentations, 0, whole.shape[1])
            marked = changed if changed.any() and not changed.all() else None
        augmented = view.apply(clips, at, parameters)[0].cpu()
        panels.append(Panel(augmented, clips.skeleton, caption, ghost, marked))
    return panels


def log_views(log: RunLog, clips: ClipSet, view: View, seed: int) -> None:
    """Add a few clips and views of them to TensorBoard; a note is printed if one cannot be rendered."""
    source = generator(seed, PICTURES)
    for index in torch.randperm(len(clips), generator=source)[:LOGGED_CLIPS].tolist():
        panels = view_panels(clips, index, view, LOGGED_VIEWS, source)
        try:
            figure = strip_figure([[panel] for panel in panels], LOGGED_FRAMES, DEFAULT)
        except UserError as error:
            print(f"note: no views of {clips.names[index]} in TensorBoard: {error}")
            continue
        log.image(f"views/{clips.names[index]}", torch.from_numpy(figure_pixels(figure)).permute(2, 0, 1))


def parse_args() -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser(__doc__)
    flags.add_data_flags(parser, "--dataset")
    add = parser.add_argument_group("pictures").add_argument
    add("--name", required=True, help="name of the clip in the store")
    number = "number of augmented views to render next to the clip (default: 2)"
    add("--views", type=COUNT, default=2, metavar="N", help=number)
    folder = "output folder (default: runs/clips)"
    add("--out", type=expanded_path, default="runs/clips", metavar="DIR", help=folder)
    add("--seed", type=COUNT, help="random seed of the views (default: a random seed, which is printed)")
    frames = "number of frames to which a view is resized (default: 64)"
    add("--num-frames", type=POSITIVE_INT, default=64, metavar="N", help=frames)
    flags.add_augmentation_flags(parser)
    add_figure_flags(parser)
    return parser.parse_args()


def find_clip(args: argparse.Namespace) -> tuple[ClipSet, int]:
    """Return the split that contains the clip ``--name`` and its position there, or suggest other names."""
    known: list[str] = []
    for split in SPLITS:
        with suppress(NoClips):
            clips = open_clips(args.data_root, args.dataset, args.protocol, split)
            if args.name in clips.names:
                return clips, clips.names.index(args.name)
            known += clips.names
    similar = ", ".join(difflib.get_close_matches(args.name, known, n=3)) or known[0]
    where = f"the {len(known)} clips of {args.protocol} in {clips.source}"
    raise UserError(f"--name {args.name}: not found among {where}; names there are, for example, {similar}")


def write_pictures(
    stem: Path, panels: Sequence[Panel], seconds: float, title: str, style: Style
) -> list[str]:
    """Write ``stem``.gif, the panels side by side for ``seconds``, and a strip of each; return the names."""
    camera = shared_camera(panels)
    lines = max(len(panel.caption) for panel in panels)
    columns = [add_caption(panel.render(SIZE, camera), panel.caption, lines) for panel in panels]
    animation = gif_bytes(np.concatenate(columns, axis=2), len(columns[0]) / seconds)
    atomic_write(Path(f"{stem}.gif"), lambda file: file.write(animation))
    texts = [", ".join(panel.caption) for panel in panels]
    texts[0] = f"{title}: {texts[0]}"
    rows = [[replace(panel, caption=[text])] for panel, text in zip(panels, texts, strict=True)]
    strips = style.save(Path(f"{stem}.png"), strip_figure(rows, STRIP_FRAMES, style))
    return [f"{stem.name}.gif", strips.name]


def main() -> int:
    """Render the clip and its views; returns the exit code."""
    args = parse_args()
    folder = Path(args.out)
    check_output_folder(folder, "--out")
    clips, index = find_clip(args)
    defaults.fill_augmentation_defaults(args, clips.skeleton)
    view = pretraining_view(vars(args), args.num_frames, clips.skeleton)
    title = f"{args.name}, {clips.class_of(index)}"
    frames = torch.arange(int(clips.num_frames[index]))
    whole = clips.gather(torch.tensor([index]), frames[None])[0]  # T x V x 3 x M
    stem = safe_file_name(args.name)
    panels, look = [Panel(whole, clips.skeleton, [f"the clip, {len(frames)} frames"])], Style.of(args)
    seconds = len(frames) / FRAMES_PER_SECOND  # of views, too: resized, they have no tempo of their own
    written = write_pictures(folder / stem, panels, seconds, title, look)
    if args.views:
        panels = view_panels(clips, index, view, args.views, generator(choose_seed(args.seed), VIEWS))
        written += write_pictures(folder / f"{stem}_views", panels, seconds, title, look)
    print(f"{title}; written to {folder}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    run_script(main)
