"""How long a linear probe takes on the demo's data, beside a plain training loop.

    python benchmarks/probe.py [--paper-sizes] [--device cuda]

Both train the same linear classifier on the same frozen encoder (untrained: weights take no time),
for as many epochs of as many random crops, and measure it on the validation clips in every epoch.
The plain loop is written as the released program's: clips cropped and resized one by one, encoder and
classifier called batch by batch, loss and accuracies read after every step, validation clips drawn
and encoded anew in every epoch. It is timed a second time with its batches drawn as ours are, which
leaves the loop itself. Each repeat times all of them, one after the other; medians count, of wall
time for the ratio and of CPU time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterable

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import action_classification
from dataset.batches import ordered_batches, shuffled_batches
from dataset.clips import ClipSet, open_clips
from dataset.crop import centre_crop, draw_crop
from models.representations import lay_out
from dataset.views import classifier_view, evaluation_view
from engine.classifier import linear_head
from engine.evaluation import Evaluation, prepare_evaluation
from engine.probe import linear_probe
from engine.optimization import learning_rate, set_learning_rate
from options.defaults import fill_classifier_defaults
from options.flags import POSITIVE_INT

DEMO_RAW = "--seed 0 --in-turn --repetitions 4 --difficulty 0.1 --settle 2"
DEMO_SIZES = "--num-frames 16 --gru-hidden-size 64 --gru-num-layers 2"
VAL_BATCH = 64  # clips that the plain loop validates at a time


class PlainClips(Dataset):
    """Clips one by one: a crop (at least half of it, or the centre), resized, and the label."""

    def __init__(self, clips: ClipSet, num_frames: int, training: bool) -> None:
        self.clips, self.num_frames, self.training = clips, num_frames, training

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, clip: int) -> tuple[Tensor, int]:
        length = self.clips.num_frames[clip : clip + 1]
        crop = draw_crop(length, torch.default_generator, 0.5, 64) if self.training else centre_crop(length)
        first, count = int(self.clips.first_frame[clip] + crop[0]), int(crop[1])
        frames = self.clips.frames[first : first + count]  # T' x V x 3 x M
        line = frames.permute(1, 2, 3, 0).reshape(1, -1, count)  # 1 x V3M x T'
        line = F.interpolate(line, size=self.num_frames, mode="linear", align_corners=False)
        return line.view(*frames.shape[1:], -1).permute(3, 0, 1, 2), int(self.clips.labels[clip])


Batches = Iterable[tuple[Tensor, Tensor]]  # views (N, T, V, 3, M) and labels (N,)


def plain_batches(run: Evaluation, args: argparse.Namespace) -> tuple[Callable, Callable]:
    """One epoch's training and validation batches, drawn clip by clip on the CPU."""
    train, val = (
        PlainClips(open_clips(args.data_root, args.dataset, args.protocol, split),
                   run.encoders.num_frames, split == "train")
        for split in ("train", "val")
    )
    loaders = DataLoader(train, args.batch_size, shuffle=True), DataLoader(val, VAL_BATCH)
    return lambda: loaders[0], lambda: loaders[1]


def whole_batches(run: Evaluation, args: argparse.Namespace) -> tuple[Callable, Callable]:
    """The same, a batch at a time as ours draws them."""
    frames, source = run.encoders.num_frames, torch.default_generator

    def train() -> Batches:
        for index in shuffled_batches(len(run.train), args.batch_size, source, drop_last=False):
            yield classifier_view(run.train, index, source, frames), run.train.labels[index]

    def val() -> Batches:
        for index in ordered_batches(len(run.val), VAL_BATCH):
            yield evaluation_view(run.val, index, frames), run.val.labels[index]

    return train, val


def hits(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """How many of a batch are right, first and among the first five."""
    best = logits.topk(5, dim=1).indices == labels[:, None]
    return best[:, 0].sum().item(), best.any(dim=1).sum().item()


def plain_probe(run: Evaluation, args: argparse.Namespace, make_batches: Callable) -> float:
    """The probe as a plain loop: the best top-1 accuracy in percent."""
    train, val = make_batches(run, args)
    head = linear_head(run.encoders.num_features, run.train.num_classes, run.seed).to(run.device)
    optimizer = torch.optim.SGD(head.parameters(), args.lr, momentum=args.momentum)
    history = []

    def forward(views: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        features = run.encode(lay_out(views.to(run.device), run.encoders.representations))
        return head(features), labels.to(run.device)

    for epoch in range(args.epochs):
        set_learning_rate(optimizer, learning_rate(args.lr, epoch, args.epochs, args.schedule, args.cos))
        for views, labels in train():
            logits, labels = forward(views, labels)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item(), hits(logits, labels)  # as the running means need them
        with torch.no_grad():
            history.append(sum(hits(*forward(*batch))[0] for batch in val()))
    return 100.0 * max(history) / len(run.val)


def our_probe(run: Evaluation, args: argparse.Namespace, cached_crops: int | None) -> float:
    args = argparse.Namespace(**{**vars(args), "cached_crops": cached_crops})
    return linear_probe(run, args)["best"]["top1"]


def make_demo_data(folder: Path) -> Path:
    """The demo's store, as script_demo.sh makes it; returns the folder for --data-root."""
    for script, flags in (
        ("synthetic_gendata.py", [*DEMO_RAW.split(), "--out_folder", folder / "raw"]),
        ("ntu_gendata.py", ["--data_path", folder / "raw", "--out_folder", folder / "data" / "ntu60"]),
    ):
        command = [sys.executable, REPOSITORY / "data_gen" / script, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "data"


def probe_flags(data: Path, folder: Path, epochs: int, sizes: str) -> argparse.Namespace:
    """The flags of the demo's probe, as action_classification.py understands them."""
    sys.argv = [
        "action_classification.py", "--data-root", str(data), "--protocol", "cross_subject", "--seed", "0",
        "--pretrained", "random", "--output-dir", str(folder), "--epochs", str(epochs),
        "--schedule", str(epochs * 5 // 8), str(epochs * 7 // 8), *sizes.split(),
    ]
    args = action_classification.parse_args()
    fill_classifier_defaults(args)
    args.print_freq = 10**6
    return args


def check_equal(run: Evaluation, args: argparse.Namespace) -> None:
    """Clip by clip and batch by batch, validation clips are the same."""
    plain, ours = (next(iter(make(run, args)[1]())) for make in (plain_batches, whole_batches))
    torch.testing.assert_close(plain[0], ours[0].cpu(), rtol=1e-4, atol=1e-5)
    assert torch.equal(plain[1], ours[1].cpu())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--epochs", type=POSITIVE_INT, default=40)
    parser.add_argument("--cached-crops", type=POSITIVE_INT, default=5, metavar="K")
    parser.add_argument("--paper-sizes", action="store_true", help="encoder and clips of the paper's size")
    parser.add_argument("--threads", type=POSITIVE_INT, default=1, help="of PyTorch; the demo takes 1")
    parser.add_argument("--repeats", type=POSITIVE_INT, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        data = make_demo_data(Path(folder))
        sizes = "" if chosen.paper_sizes else DEMO_SIZES
        args = probe_flags(data, Path(folder, "probe"), chosen.epochs, sizes)
        run = prepare_evaluation(args, "linear")
        check_equal(run, args)
        programs = {
            "plain loop": lambda: plain_probe(run, args, plain_batches),
            "plain loop, batches drawn as ours": lambda: plain_probe(run, args, whole_batches),
            "ours": lambda: our_probe(run, args, None),
            f"ours, --cached-crops {chosen.cached_crops}": lambda: our_probe(run, args, chosen.cached_crops),
        }
        runs = time_in_turn(programs, chosen.repeats)
    print_table(run, chosen, runs)


def time_in_turn(programs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list]:
    """``(seconds, CPU seconds, accuracy)`` of each repeat of each program."""
    runs: dict[str, list] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            accuracy = program()
            runs[name].append((time.perf_counter() - start, time.process_time() - cpu_start, accuracy))
    return runs


def print_table(run: Evaluation, chosen: argparse.Namespace, runs: dict[str, list]) -> None:
    print(
        f"{chosen.epochs} epochs, {len(run.train)} training and {len(run.val)} validation clips, "
        f"{run.encoders.num_features} features, {chosen.device}, {chosen.threads} CPU threads, medians of "
        f"{chosen.repeats}\n"
    )
    print("| probe | seconds | CPU seconds | best top-1 | ratio to the plain loop |")
    print("| --- | --- | --- | --- | --- |")
    medians = {name: [statistics.median(column) for column in zip(*values)] for name, values in runs.items()}
    for name, (seconds, cpu_seconds, accuracy) in medians.items():
        ratio = medians["plain loop"][0] / seconds
        print(f"| {name} | {seconds:.2f} | {cpu_seconds:.2f} | {accuracy:.1f}% | {ratio:.2f} |")


if __name__ == "__main__":
    main()
