"""How fast a pretraining step is, beside its plain form, and how much of the device it uses.

    python benchmarks/step.py [--device cuda --batch-size 64]

A step of inter-skeleton contrast of sequence and graph at the paper's sizes: views drawn, query and
key encoders, contrast, backward, optimizer. The plain form feeds the GRU frame by frame, goes
through the graph's neighbour subsets one by one, draws its views clip by clip and asks for the loss
in every step. Both give the same loss, which is checked first.

Operations are counted from shapes: torch's flop counter for convolutions and products, the gates of
the GRU by hand; a query encoder costs three forward passes (forward, both gradients), a key encoder
one. The peak is that of a large square product in the same format, measured here.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.feeder import synthetic_clips
from benchmarks.plain import make_plain, plain_feeder
from dataset.augment import Augmentation
from models.representations import lay_out
from dataset.views import pretraining_view
from engine.optimization import GuardedOptimizer
from engine.device import AMP_DTYPES, in_precision, use_tf32
from engine.randomness import VIEWS, generator
from engine.setup import compile_encoders
from models.representations import build_encoder
from moco.model import MoCo, inter_pairs
from options.datasets import DATASETS
from options.flags import POSITIVE_INT

NAMES = ("seq-based", "graph-based")


@dataclass
class Mode:
    """One way to run the step."""

    name: str
    amp: str = "off"
    tf32: bool = False
    compile: bool = False
    plain: bool = False

    def peak(self, device: torch.device) -> float:
        """Operations a second of a large square product in this mode's format."""
        use_tf32(self.tf32)
        size = 8192 if device.type == "cuda" else 1024
        dtype = AMP_DTYPES.get(self.amp, torch.float32)
        a = torch.randn(size, size, device=device, dtype=dtype)
        seconds = median_seconds(lambda: a @ a, device, repeats=10)
        return 2 * size**3 / seconds


def median_seconds(run: Callable, device: torch.device, repeats: int) -> float:
    """Of single calls, after two that do not count."""
    seconds = []
    for _ in range(repeats + 2):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Step:
    """A pretraining that is ready to take steps in one mode."""

    def __init__(self, model: MoCo, mode: Mode, clips, batch_size: int, device: torch.device) -> None:
        self.model, self.mode, self.clips, self.device = copy.deepcopy(model), mode, clips, device
        self.batch_size, self.number = batch_size, 0
        if mode.plain:
            make_plain(self.model)
        if mode.compile:
            compile_encoders(self.model)
        self.model.train()
        optimizer = torch.optim.SGD(
            self.model.encoders.query.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=True
        )
        self.stepper = GuardedOptimizer(optimizer, mode.amp, device)

    def views(self, index: torch.Tensor) -> list[dict]:
        source, made = generator(0, VIEWS, self.number), []
        for _ in range(2):
            if self.mode.plain:
                view = plain_feeder(self.clips, index, Augmentation())
            else:
                view = pretraining_view(self.clips, index, Augmentation(), source)
            made.append(lay_out(view.to(self.device, non_blocking=True), NAMES))
        return made

    def loss(self, views: list[dict]) -> torch.Tensor:
        encode = in_precision(self.model.encoders, self.mode.amp, self.device)
        return self.model(*views, encode=encode)[0]

    def __call__(self) -> None:
        use_tf32(self.mode.tf32)
        first = self.number * self.batch_size
        index = torch.arange(first, first + self.batch_size) % len(self.clips)
        loss = self.loss(self.views(index))
        self.stepper.step(loss, self.number)
        if self.mode.plain:
            loss.item()
        self.number += 1


def count_operations(model: MoCo, views: list[dict]) -> float:
    """Operations of one step, twice the multiply-adds."""
    total = 0.0
    query, queue = views[0], model.queues["seq-based"].keys
    for name, x in query.items():
        encoder = model.encoders.query[name]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(x)
        forward = counter.get_total_flops()
        if name == "seq-based":
            gru = encoder.encoder.gru
            weights = sum(p.numel() for label, p in gru.named_parameters() if "weight" in label)
            forward = 2.0 * x.shape[0] * x.shape[1] * weights  # clips, frames; the head is next to nothing
        total += 4 * forward
    contrast = 2.0 * len(query["seq-based"]) * queue.numel()
    return total + 2 * len(model.pairs) * contrast  # forward, and the queries' gradient


def modes_for(device: torch.device) -> list[Mode]:
    if device.type == "cpu":
        return [Mode("plain float32", plain=True), Mode("float32")]
    return [
        Mode("plain float32", plain=True), Mode("float32"), Mode("float32, compile", compile=True),
        Mode("TF32", tf32=True), Mode("TF32, compile", tf32=True, compile=True),
        Mode("bf16", amp="bf16", tf32=True), Mode("bf16, compile", amp="bf16", tf32=True, compile=True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=8)
    parser.add_argument("--repeats", type=POSITIVE_INT, default=5)
    parser.add_argument("--threads", type=POSITIVE_INT, help="CPU threads (default torch's)")
    parser.add_argument("--profile", metavar="MODE", help="print where the time of one mode goes, by kernel")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    clips = synthetic_clips(2000).on(device)
    torch.manual_seed(0)
    model = MoCo(NAMES, build_encoder, inter_pairs(NAMES), queue_size=16384, mlp=True).to(device)
    index = torch.arange(args.batch_size)
    use_tf32(False)
    steps = [Step(model, mode, clips, args.batch_size, device) for mode in modes_for(device)]
    views = steps[1].views(index)
    torch.testing.assert_close(steps[0].loss(views), steps[1].loss(views), rtol=1e-3, atol=1e-3)
    operations = count_operations(model, views)
    if args.profile:
        profile(next(step for step in steps if step.mode.name == args.profile), device)
        return

    print(f"batch {args.batch_size}, {operations / 1e9:,.0f} G operations a step, medians of {args.repeats}\n")
    print("| step | ms | clips/s | ratio | share of peak | peak memory, GB | NTU-60 cross-view, 451 epochs, h |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    plain_seconds = None
    info = DATASETS["ntu60"]
    epochs_clips = info.epochs * info.official_counts["cross_view"][0]
    for step in steps:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = median_seconds(step, device, args.repeats)
        plain_seconds = plain_seconds or seconds
        memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device.type == "cuda" else ""
        speed = args.batch_size / seconds
        share = operations / seconds / step.mode.peak(device)
        print(
            f"| {step.mode.name} | {1000 * seconds:,.1f} | {speed:,.1f} | {plain_seconds / seconds:.2f} | "
            f"{100 * share:.0f}% | {memory} | {epochs_clips / speed / 3600:,.1f} |", flush=True,
        )


def profile(step: Step, device: torch.device) -> None:
    """The kernels that take most of three steps."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for _ in range(2):
        step()
    with torch.profiler.profile(activities=activities) as recorded:
        for _ in range(3):
            step()
        synchronise(device)
    print(recorded.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=25))


if __name__ == "__main__":
    main()
