"""Speed of making views, compared with a reference feeder that processes one clip after another.

    python benchmarks/feeder.py [--device cuda]

Both make the same kind of views (crop, resize to 64 frames, one spatial augmentation) of the same
clips on one CPU thread. With --device cuda this repository is also measured with the frames in GPU
memory. CPU time is measured if the frames are on the CPU, wall time if they are on the GPU. Medians are
reported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.timing import time_in_turn
from dataset.clips import ClipSet
from dataset.views import pretraining_view
from engine.randomness import VIEWS, generator
from engine.report import format_table
from facts.skeletons import KINECT_V2
from options.parser import POSITIVE_INT, Parser
from utils.errors import run_script

LARGE_BLOCK = 7_000_000  # numbers, 28 MB
VIEW = pretraining_view()

Feeder = Callable[[ClipSet, Tensor], Tensor]  # clips, index (N,) -> views (N, T, V, 3, M)


def synthetic_clips(count: int) -> ClipSet:
    """Return clips of 32 to 150 frames with random coordinates. As in NTU, 11 of 60 clips have two people."""
    source = torch.Generator().manual_seed(0)
    num_frames = torch.randint(32, 151, (count,), generator=source)
    frames = torch.randn((int(num_frames.sum()), *KINECT_V2.frame_shape), generator=source)
    has_two_people = torch.arange(count) % 60 < 11
    frames[~has_two_people.repeat_interleave(num_frames), ..., 1] = 0.0  # T x V x 3 x M
    return ClipSet(
        dataset="synthetic",
        protocol="none",
        split="train",
        num_classes=60,
        names=[str(i) for i in range(count)],
        labels=torch.zeros(count, dtype=torch.long),
        num_frames=num_frames,
        frames=frames,
        first_frame=num_frames.cumsum(0) - num_frames,
        source="memory",
    )


def feed(clips: ClipSet, index: Tensor) -> Tensor:
    """Return views as this repository makes them."""
    return VIEW.of(clips, index, generator(0, VIEWS, int(index[0])))


def reference_feed(clips: ClipSet, index: Tensor) -> Tensor:
    """Return views as the reference makes them."""
    return reference.feed(clips, index, VIEW.num_frames)


def run_feeder(feeder: Feeder, clips: ClipSet, batch_size: int, batches: int) -> None:
    """Make the views of ``batches`` batches of random clips."""
    index = torch.randperm(len(clips), generator=torch.Generator().manual_seed(1))
    for step in range(batches):
        feeder(clips, index[torch.arange(step * batch_size, (step + 1) * batch_size) % len(clips)])


def check_equal(clips: ClipSet) -> None:
    """Assert that both feeders make the same views from the same parameters."""
    index = torch.arange(16) % len(clips)
    parameters = VIEW.sample(clips, index, generator(0, VIEWS))
    expected = reference.make_views(clips, index, reference.split_parameters(parameters), VIEW.num_frames)
    torch.testing.assert_close(VIEW.apply(clips, index, parameters), expected, rtol=1e-4, atol=1e-5)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    for flag, default in {"--clips": 4000, "--batch-size": 64, "--batches": 20, "--repeats": 9}.items():
        parser.add_argument(flag, type=POSITIVE_INT, default=default, metavar="N")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = synthetic_clips(args.clips)
    check_equal(clips)
    # A training step frees large blocks, after which glibc keeps freed memory for the next batch
    # instead of returning every page to the system. Free one here too.
    torch.ones(LARGE_BLOCK)
    feeders = {"reference": (reference_feed, clips), "this repo": (feed, clips)}
    if args.device == "cuda":
        feeders["this repo, frames on the GPU"] = feed, clips.to(torch.device("cuda"))
    programs = {
        name: partial(run_feeder, feeder, source, args.batch_size, args.batches)
        for name, (feeder, source) in feeders.items()
    }
    medians = time_in_turn(programs, args.repeats, warm_up=1)
    print(f"{args.batch_size} clips per batch, one CPU thread, medians of {args.repeats} repeats\n")
    rows = [["feeder", "views/s", "ms per batch", "ratio"]]
    for name, (wall, cpu, _) in medians.items():
        # CPU time is less sensitive to other jobs, but does not contain the work of the GPU.
        seconds = (wall if feeders[name][1].frames.is_cuda else cpu) / args.batches
        ratio = medians["reference"][1] / args.batches / seconds
        rows.append([name, f"{args.batch_size / seconds:,.0f}", f"{1000 * seconds:.2f}", f"{ratio:.1f}"])
    print(format_table(rows))


if __name__ == "__main__":
    run_script(main)
