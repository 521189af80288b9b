"""Speed of making views, compared with a reference feeder that processes one clip after another.

    python benchmarks/feeder.py [--device cuda]

Both make the same kind of views (crop, resize to 64 frames, one spatial augmentation) of the same
clips on one CPU thread. With --device cuda this repository is also measured with the frames in GPU
memory. CPU time is measured if the frames are on the CPU, wall time if they are on the GPU. Each
repeat times all feeders in turn; medians are reported.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks import reference
from dataset.clips import ClipSet
from dataset.views import pretraining_view
from engine.randomness import VIEWS, generator
from facts.skeletons import KINECT_V2
from options.parser import POSITIVE_INT, Parser
from utils.errors import run_script

LARGE_BLOCK = 7_000_000  # numbers, 28 MB
VIEW = pretraining_view()

Feeder = Callable[[ClipSet, Tensor], Tensor]  # clips, index (N,) -> views (N, T, V, 3, M)


def synthetic_clips(count: int) -> ClipSet:
    """Return clips of 32 to 150 frames, as in NTU, with random coordinates."""
    source = torch.Generator().manual_seed(0)
    num_frames = torch.randint(32, 151, (count,), generator=source)
    shape = (int(num_frames.sum()), *KINECT_V2.frame_shape)
    return ClipSet(
        dataset="synthetic",
        protocol="none",
        split="train",
        num_classes=60,
        names=[str(i) for i in range(count)],
        labels=torch.zeros(count, dtype=torch.long),
        num_frames=num_frames,
        frames=torch.randn(shape, generator=source),
        first_frame=num_frames.cumsum(0) - num_frames,
        source="memory",
    )


def feed(clips: ClipSet, index: Tensor) -> Tensor:
    """Return views as this repository makes them."""
    return VIEW.of(clips, index, generator(0, VIEWS, int(index[0])))


def reference_feed(clips: ClipSet, index: Tensor) -> Tensor:
    """Return views as the reference makes them."""
    return reference.feed(clips, index, VIEW.num_frames)


def batches_per_second(feeder: Feeder, clips: ClipSet, batch_size: int, batches: int) -> float:
    """Measure a feeder: in CPU time if the frames are on the CPU, in wall time if on the GPU."""
    on_gpu = clips.frames.is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    index = torch.randperm(len(clips), generator=torch.Generator().manual_seed(1))
    start = clock()
    for step in range(batches):
        feeder(clips, index[torch.arange(step * batch_size, (step + 1) * batch_size) % len(clips)])
    if on_gpu:
        torch.cuda.synchronize()
    return batches / (clock() - start)


def check_equal(clips: ClipSet) -> None:
    """Assert that both feeders make the same views from the same parameters."""
    index = torch.arange(16) % len(clips)
    parameters = VIEW.sample(clips, index, generator(0, VIEWS))
    views = VIEW.apply(clips, index, parameters)
    expected = reference.make_views(clips, index, reference.split_parameters(parameters), VIEW.num_frames)
    torch.testing.assert_close(views, expected, rtol=1e-4, atol=1e-5)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--clips", type=POSITIVE_INT, default=4000, metavar="N")
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=64, metavar="N")
    parser.add_argument("--batches", type=POSITIVE_INT, default=20, metavar="N", help="per feeder and repeat")
    parser.add_argument("--repeats", type=POSITIVE_INT, default=9, metavar="N")
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
    speeds: dict[str, list[float]] = {name: [] for name in feeders}
    for _ in range(args.repeats + 1):
        for name, (feeder, source) in feeders.items():
            speeds[name].append(batches_per_second(feeder, source, args.batch_size, args.batches))
    median = {name: statistics.median(values[1:]) for name, values in speeds.items()}  # first: warm-up
    print(f"{args.batch_size} clips per batch, one CPU thread, medians of {args.repeats} repeats\n")
    print("| feeder | views/s | ms per batch | ratio |")
    print("| --- | --- | --- | --- |")
    for name, value in median.items():
        ratio = value / median["reference"]
        print(f"| {name} | {value * args.batch_size:,.0f} | {1000 / value:.2f} | {ratio:.1f} |")


if __name__ == "__main__":
    run_script(main)
