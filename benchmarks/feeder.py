"""How fast views are drawn, beside a plain feeder that treats one clip after another.

    python benchmarks/feeder.py [--device cuda]

Both draw the same views (crop, resize to 64 frames, one spatial augmentation) of the same clips
from the same frames, on one CPU thread; with --device cuda, ours also draws from frames that lie
on the GPU. CPU time counts where the work is the CPU's. Each repeat times both, one after the
other; medians count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.plain import PlainDraw, plain_feeder, plain_view
from dataset.augment import Augmentation, draw_spatial
from dataset.clips import ClipSet
from dataset.crop import draw_crop
from dataset.views import pretraining_view
from engine.randomness import VIEWS, generator
from options.flags import POSITIVE_INT

LARGE_BLOCK = 7_000_000  # numbers, 28 MB


def synthetic_clips(count: int) -> ClipSet:
    """Clips of 32 to 150 frames, as NTU's are; random coordinates, which take as long as real ones."""
    source = torch.Generator().manual_seed(0)
    num_frames = torch.randint(32, 151, (count,), generator=source)
    first = num_frames.cumsum(0) - num_frames
    frames = torch.randn(int(num_frames.sum()), 25, 3, 2, generator=source)
    return ClipSet(
        "synthetic", "none", "train", 60, [str(i) for i in range(count)],
        torch.zeros(count, dtype=torch.long), num_frames, frames, first, "memory",
    )


def our_feeder(clips: ClipSet, index: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    return pretraining_view(clips, index, augmentation, generator(0, VIEWS, int(index[0])))


def batches_per_second(draw: Callable, clips: ClipSet, batch_size: int, batches: int) -> float:
    """Of CPU time where the frames are on the CPU, of wall time where they are on the GPU."""
    on_gpu = clips.frames.is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    augmentation = Augmentation()
    index = torch.randperm(len(clips), generator=torch.Generator().manual_seed(1))
    start = clock()
    for step in range(batches):
        batch = index[torch.arange(step * batch_size, (step + 1) * batch_size) % len(clips)]
        draw(clips, batch, augmentation)
    if on_gpu:
        torch.cuda.synchronize()
    return batches / (clock() - start)


def check_equal(clips: ClipSet) -> None:
    """The two feeders give the same views of the same draws."""
    index, augmentation = torch.arange(16), Augmentation()
    ours = pretraining_view(clips, index, augmentation, generator(0, VIEWS))
    source = generator(0, VIEWS)
    crops = draw_crop(
        clips.num_frames[index], source, augmentation.min_crop_ratio, augmentation.min_crop_frames
    )
    maps = draw_spatial(len(index), 25, augmentation, source)
    draws = [PlainDraw(*parts) for parts in zip(*(x.tolist() for x in crops), maps.matrix, maps.joints)]
    plain = plain_view(clips, index, draws, augmentation.num_frames)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clips", type=POSITIVE_INT, default=4000)
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=64)
    parser.add_argument("--batches", type=POSITIVE_INT, default=20, help="a repeat and feeder")
    parser.add_argument("--repeats", type=POSITIVE_INT, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = synthetic_clips(args.clips)
    check_equal(clips)
    # A training step frees large blocks, after which glibc keeps freed memory for the next batch
    # instead of handing every page back. Free one here too.
    torch.ones(LARGE_BLOCK)
    feeders = {"plain": (plain_feeder, clips), "ours": (our_feeder, clips)}
    if args.device == "cuda":
        feeders["ours, frames on the GPU"] = our_feeder, clips.on(torch.device("cuda"))
    speeds: dict[str, list[float]] = {name: [] for name in feeders}
    for _ in range(args.repeats + 1):
        for name, (draw, source) in feeders.items():
            speeds[name].append(batches_per_second(draw, source, args.batch_size, args.batches))
    median = {name: statistics.median(values[1:]) for name, values in speeds.items()}  # first: warm-up
    print(f"{args.batch_size} clips a batch, one CPU thread, medians of {args.repeats} repeats\n")
    print("| feeder | views/s | ms a batch | ratio |")
    print("| --- | --- | --- | --- |")
    for name, value in median.items():
        print(
            f"| {name} | {value * args.batch_size:,.0f} | {1000 / value:.2f} | {value / median['plain']:.1f} |"
        )


if __name__ == "__main__":
    main()
