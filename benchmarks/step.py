"""Speed of a pretraining step, compared with a reference step, and its share of the device's peak.

    python benchmarks/step.py [--device cuda --batch-size 64]

A step of inter-skeleton contrast of sequence and graph, by default at the paper's sizes: views, query and
key encoders, contrast, backward pass, optimizer. The reference feeds the GRU frame by frame, loops over
the neighbor subsets of the graph, computes absent people, makes its views clip by clip and reads the loss
in every step, as the official code does. A check at the start compares the losses of both. Clips are
random; 11 of 60 have a second person, as in NTU.

FLOPs are counted from shapes: by PyTorch's FLOP counter for convolutions and matrix products, from the
number of weights for the GRU. A query encoder counts as three forward passes (one forward, two for the
gradients), a key encoder as one. The peak is measured with a large square matrix product in the same
number format.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.feeder import VIEW, reference_feed, synthetic_clips
from benchmarks.reference import use_reference_layers
from benchmarks.timing import seconds_of
from dataset.clips import ClipSet
from engine.device import AMP_DTYPES, in_precision, use_tf32
from engine.optimization import GuardedOptimizer, make_sgd
from engine.pretrain import compile_encoders
from engine.randomness import VIEWS, generator
from engine.report import format_table
from facts.datasets import DATASETS
from moco.losses import InfoNCE, inter_pairs
from moco.model import MoCo
from models.gru import GRUEncoder
from models.registry import build_encoder, complete_sizes, lay_out
from options.flags import add_size_flags, given_sizes
from options.parser import POSITIVE_INT, Parser
from utils.errors import run_script

REPRESENTATIONS = ("seq-based", "graph-based")  # the paper's main configuration

Views = dict[str, Tensor]  # representation -> a batch in its layout


@dataclass(frozen=True)
class Mode:
    """One way to run the step."""

    name: str
    amp: str = "off"
    tf32: bool = False
    compile: bool = False
    reference: bool = False


CPU_MODES = (Mode("reference, float32", reference=True), Mode("this repo, float32"))
GPU_MODES = (
    *CPU_MODES,
    Mode("this repo, float32, compile", compile=True),
    Mode("this repo, TF32", tf32=True),
    Mode("this repo, TF32, compile", tf32=True, compile=True),
    Mode("this repo, bf16", amp="bf16", tf32=True),
    Mode("this repo, bf16, compile", amp="bf16", tf32=True, compile=True),
)


def peak_flops_per_second(mode: Mode, device: torch.device) -> float:
    """Measure the FLOP/s of a large square matrix product in the number format of ``mode``."""
    use_tf32(mode.tf32)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=AMP_DTYPES.get(mode.amp, torch.float32))
    return 2 * size**3 / seconds_of(lambda: a @ a, repeats=10)


class Step:
    """Callable pretraining step in one mode, of a copy of ``model``, so that all modes start equal."""

    def __init__(
        self, model: MoCo, mode: Mode, clips: ClipSet, batch_size: int, device: torch.device
    ) -> None:
        self.model, self.mode, self.clips, self.device = copy.deepcopy(model), mode, clips, device
        self.batch_size, self.number = batch_size, 0
        if mode.reference:
            use_reference_layers(self.model)
        if mode.compile:
            compile_encoders(self.model)
        self.model.train()
        sgd = make_sgd(self.model.encoders.query.parameters(), 0.01, 0.9, 1e-4)
        self.optimizer = GuardedOptimizer(sgd, mode.amp, device)

    def views(self, index: Tensor) -> tuple[Views, Views]:
        """Compute query and key views of the clips ``index``."""
        if self.mode.reference:
            batches = [reference_feed(self.clips, index) for _ in range(2)]
        else:
            source = generator(0, VIEWS, self.number)
            batches = [VIEW.of(self.clips, index, source) for _ in range(2)]
        query, key = (lay_out(x.to(self.device, non_blocking=True), REPRESENTATIONS) for x in batches)
        return query, key

    def loss(self, query: Views, key: Views) -> Tensor:
        """Compute the loss of a batch of views."""
        encode = in_precision(self.model.encoders, self.mode.amp, self.device)
        return self.model(query, key, encode=encode)[0]

    def __call__(self) -> None:
        """Run one training step on the next batch."""
        use_tf32(self.mode.tf32)
        source = torch.Generator().manual_seed(self.number)
        index = torch.randint(len(self.clips), (self.batch_size,), generator=source)
        loss = self.loss(*self.views(index))
        self.optimizer.step(loss, self.number)
        if self.mode.reference:
            loss.item()
        self.number += 1


def count_flops(model: MoCo, query: Views) -> float:
    """Count the FLOPs of one step; a multiply-add counts as two."""
    total = 0.0
    for name, x in query.items():
        encoder = model.encoders.query[name]
        if isinstance(encoder, GRUEncoder):  # no FLOP formula in PyTorch; the head is negligible
            weights = sum(p.numel() for label, p in encoder.encoder.named_parameters() if "weight" in label)
            forward = 2.0 * x.shape[0] * x.shape[1] * weights
        else:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                encoder(x)
            forward = counter.get_total_flops()
        total += 4 * forward
    batch, queue = len(next(iter(query.values()))), next(iter(model.queues.values())).keys
    contrast = 2.0 * batch * queue.numel()
    # Forward pass and the gradient of the queries.
    return total + 2 * len(inter_pairs(REPRESENTATIONS)) * contrast


def print_table(steps: list[Step], flops: float, repeats: int, device: torch.device) -> None:
    """Time every step and print one row for each."""
    batch_size, info = steps[0].batch_size, DATASETS["ntu60"]
    clips_of_paper = info.epochs * info.official_counts["cross_view"][0]
    rows = [["step", "ms", "clips/s", "ratio", "share of peak", "peak memory, GB"]]
    rows[0].append(f"NTU-60 cross-view, {info.epochs} epochs, h")
    reference_seconds = None
    for step in steps:
        memory = ""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(step, repeats)
        if device.type == "cuda":
            memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"
        reference_seconds = reference_seconds or seconds
        speed, share = batch_size / seconds, flops / seconds / peak_flops_per_second(step.mode, device)
        numbers = [f"{1000 * seconds:,.1f}", f"{speed:,.1f}", f"{reference_seconds / seconds:.2f}"]
        numbers += [f"{100 * share:.0f}%", memory, f"{clips_of_paper / speed / 3600:,.1f}"]
        rows.append([step.mode.name, *numbers])
    print(f"batch size {batch_size}, {flops / 1e9:,.0f} GFLOPs per step, medians of {repeats}\n")
    print(format_table(rows))


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    add("--batch-size", type=POSITIVE_INT, default=8, metavar="N", help="clips per step (default: 8)")
    add("--repeats", type=POSITIVE_INT, default=5, metavar="N", help="timed steps per mode (default: 5)")
    add("--threads", type=POSITIVE_INT, metavar="N", help="CPU threads (default: PyTorch's default)")
    add_size_flags(parser)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    clips = synthetic_clips(2000).to(device)
    torch.manual_seed(0)
    objectives = [InfoNCE(tuple(REPRESENTATIONS))]
    build = partial(build_encoder, **complete_sizes(given_sizes(args)))
    model = MoCo(REPRESENTATIONS, build, objectives, queue_size=16384).to(device)
    use_tf32(False)
    modes = GPU_MODES if device.type == "cuda" else CPU_MODES
    steps = {mode.name: Step(model, mode, clips, args.batch_size, device) for mode in modes}
    reference, step = steps["reference, float32"], steps["this repo, float32"]
    query, key = step.views(torch.arange(args.batch_size))
    torch.testing.assert_close(reference.loss(query, key), step.loss(query, key), rtol=1e-3, atol=1e-3)
    print_table([*steps.values()], count_flops(model, query), args.repeats, device)


if __name__ == "__main__":
    run_script(main)
