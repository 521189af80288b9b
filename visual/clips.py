"""Draw a clip of a store, and the augmented views of it that the contrast compares.

    python -m visual.clips --data-root data --name S001C001P001R001A001 --views 2 --out runs/clips

writes NAME.gif and NAME.png, the clip as it is, and NAME_views.gif and NAME_views.png, the clip
with its views beside: the skeleton before the augmentation in grey, the joints that jittering moved
or zeroed marked. The crop and the augmentation are drawn by the flags of pretraining.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

import torch
from torch import Tensor

from dataset.clips import ClipSet, open_clips
from dataset.views import AugmentationSettings, pretraining_view
from dataset.store_format import SPLITS
from options.files import ensure_folder
from engine.randomness import VIEWS, choose_seed, generator
from options import flags
from options.class_names import class_name
from options.errors import UserError, run_script

from .packages import SKELETONS, require
from .pictures import (
    FRAMES_PER_SECOND, beside, below, caption, film_strip, legend, save_gif, save_png, to_image, trim,
)
from .skeleton import draw_clip
from .views import SIZE, draw_views

STRIP_FRAMES = 8
LABEL_MARGIN = 20  # pixels left and right of a frame, so that its label fits below


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    flags.add_data_flags(parser, "--dataset")
    group = parser.add_argument_group("pictures")
    group.add_argument("--name", required=True, help="the clip's name in the store")
    group.add_argument("--views", type=flags.COUNT, default=2, metavar="N",
                       help="augmented views to draw beside the clip (default 2)")
    group.add_argument("--out", default="runs/clips", metavar="DIR", help="default runs/clips")
    group.add_argument("--seed", type=flags.COUNT, help="of the views; drawn and printed if left out")
    group.add_argument("--num-frames", type=flags.POSITIVE_INT, default=64, metavar="N",
                       help="frames that a view is resized to (default 64)")
    flags.add_augmentation_flags(parser)
    return parser.parse_args()


def find_clip(data_root: str, dataset: str, protocol: str, name: str) -> tuple[ClipSet, int]:
    """The split that holds the clip ``name``, and its position there."""
    known: list[str] = []
    for split in SPLITS:
        clips = open_clips(data_root, dataset, protocol, split)
        if name in clips.names:
            return clips, clips.names.index(name)
        known += clips.names
    near = ", ".join(difflib.get_close_matches(name, known, n=3)) or known[0]
    raise UserError(f"--name {name}: none of the {len(known)} clips in {clips.source} that {protocol} "
                    f"uses has this name; there is, for instance, {near}")


def whole_clip(clips: ClipSet, index: int) -> Tensor:
    """All frames of one clip: ``(T, V, 3, M)``."""
    frames = torch.arange(int(clips.num_frames[index]))
    return clips.gather(torch.tensor([index]), frames[None])[0]


def save_clip(clip: Tensor, title: str, stem: Path) -> None:
    """``stem``.gif and ``stem``.png of a clip (T, V, 3, M)."""
    pictures = draw_clip(clip, SIZE)
    save_gif(stem.with_suffix(".gif"), [to_image(picture) for picture in pictures], FRAMES_PER_SECOND)
    labels = [f"frame {t + 1}" for t in range(len(clip))]
    strip = film_strip(trim([pictures], LABEL_MARGIN)[0], STRIP_FRAMES, labels)
    save_png(stem.with_suffix(".png"), below([caption(strip, [title]), legend(strip.width)]))


def save_views(
    pictures: list[Tensor], lines: list[list[str]], title: str, stem: Path, seconds: float
) -> None:
    """``stem``.gif, ``seconds`` long, with the drawings side by side, ``stem``.png with a strip of each.

    A view's frames are resized, so that its own speed is lost: all drawings take as long as the clip.
    """
    count = max(map(len, lines))
    lines = [text + [""] * (count - len(text)) for text in lines]
    save_gif(stem.with_suffix(".gif"), [
        beside([caption(to_image(picture), text) for picture, text in zip(frame, lines)])
        for frame in zip(*pictures)
    ], len(pictures[0]) / seconds)
    strips = [caption(film_strip(drawn, STRIP_FRAMES), [", ".join(filter(None, text))])
              for drawn, text in zip(trim(pictures), [[f"{title}: {lines[0][0]}"], *lines[1:]])]
    marks = "jittered" if any("jitter" in line for text in lines for line in text) else None
    save_png(stem.with_suffix(".png"), below([*strips, legend(strips[0].width, marks)]))


def main() -> int:
    args = parse_args()
    require("visual.clips", SKELETONS)
    settings = AugmentationSettings(
        args.augmentations, args.min_crop_ratio, args.min_crop_frames, args.jitter_joints, args.jitter_zero_prob
    )
    view = pretraining_view(settings, args.num_frames)
    clips, index = find_clip(args.data_root, args.dataset, args.protocol, args.name)
    folder = Path(args.out)
    ensure_folder(folder)
    title = f"{args.name}, {class_name(args.dataset, int(clips.labels[index]))}"
    save_clip(whole_clip(clips, index), title, folder / args.name)
    written = [f"{args.name}.gif", f"{args.name}.png"]
    if args.views:
        source = generator(choose_seed(args.seed), VIEWS)
        drawn = draw_views(clips, index, view, args.views, source)
        seconds = int(clips.num_frames[index]) / FRAMES_PER_SECOND
        save_views(*drawn, title, folder / f"{args.name}_views", seconds)
        written += [f"{args.name}_views.gif", f"{args.name}_views.png"]
    print(f"{title}; written below {folder}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    run_script(main)
