"""Speed of the linear probe on synthetic data, compared with a reference training loop.

    python benchmarks/probe.py [--paper-sizes] [--device cuda]

Both train the same linear classifier on the same frozen, untrained encoder with the same number of
random crops, and evaluate it on the validation clips in every epoch. The reference loop is written like
the official code: clips are cropped and resized one by one, encoder and classifier are called batch by
batch, loss and accuracies are read after every step, and validation clips are encoded in every epoch. Each
repeat times all programs in turn. Medians are reported: wall time, from which the ratio is computed, and
CPU time, which is less sensitive to other jobs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import action_classification
from benchmarks.reference import crop_and_resize
from benchmarks.timing import time_in_turn
from dataset.clips import ClipSet, open_clips
from dataset.views import View, classifier_view, evaluation_view
from engine.classifier import LinearProbe, linear_head
from engine.evaluation import Evaluation, prepare_evaluation
from engine.log import RunLog
from engine.optimization import learning_rate, set_learning_rate
from engine.report import format_table
from options.parser import POSITIVE_INT, Parser
from utils.errors import run_script

RAW_FLAGS = "--seed 0 --in-turn --repetitions 4 --difficulty 0.1 --settle 2"
SMALL_SIZES = "--num-frames 16 --gru-hidden-size 64 --gru-num-layers 2"
VAL_BATCH = 64  # validation clips per batch of the reference

Batches = DataLoader  # of views (N, T, V, 3, M) and labels (N,)


class ReferenceClips(Dataset):
    """Views of single clips, ``(T, V, 3, M)``, and their labels."""

    def __init__(self, clips: ClipSet, view: View) -> None:
        self.clips, self.view = clips, view

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, clip: int) -> tuple[Tensor, int]:
        crop = self.view.crop.sample(self.clips.num_frames[clip : clip + 1], torch.default_generator)
        frames = crop_and_resize(self.clips, clip, int(crop.start), int(crop.length), self.view.num_frames)
        return frames, int(self.clips.labels[clip])


def single_views(run: Evaluation, args: argparse.Namespace) -> tuple[Batches, Batches]:
    """Return training and validation batches whose views are made clip by clip on the CPU."""
    num_frames = run.extractor.encoders.num_frames
    train, val = (
        ReferenceClips(open_clips(args.data_root, args.dataset, args.protocol, split), make_view(num_frames))
        for split, make_view in (("train", classifier_view), ("val", evaluation_view))
    )
    return DataLoader(train, args.batch_size, shuffle=True), DataLoader(val, VAL_BATCH)


def count_correct(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the number of clips whose class is first, and among the first five."""
    correct = logits.topk(5, dim=1).indices == labels[:, None]
    return correct[:, 0].sum().item(), correct.any(dim=1).sum().item()


def reference_probe(run: Evaluation, args: argparse.Namespace, train: Batches, val: Batches) -> float:
    """Train the probe in a straightforward loop; return the best top-1 accuracy in percent."""
    device = run.extractor.device
    head = linear_head(run.extractor.encoders.num_features, run.train.num_classes, run.seed).to(device)
    optimizer = torch.optim.SGD(head.parameters(), args.lr, momentum=args.momentum)
    history = []
    for epoch in range(args.epochs):
        set_learning_rate(optimizer, learning_rate(args.lr, epoch, args.epochs, args.schedule, args.cos))
        for views, labels in train:
            with torch.no_grad():
                features = run.extractor.features(views)
            logits, labels = head(features), labels.to(device)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item(), count_correct(logits, labels)  # for running means
        with torch.no_grad():
            correct = (count_correct(head(run.extractor.features(x)), y.to(device))[0] for x, y in val)
            history.append(sum(correct))
    return 100.0 * max(history) / len(run.val)


def probe_of_this_repo(run: Evaluation, args: argparse.Namespace, cached_crops: int | None) -> float:
    """Train the probe of this repository; return the best top-1 accuracy in percent."""
    args = argparse.Namespace(**{**vars(args), "cached_crops": cached_crops})
    probe = LinearProbe(dataclasses.replace(run, args=args))
    with RunLog(run.folder, args, first_epoch=0) as log:
        probe.train(log)
    return probe.results()["best"]["top1"]


def make_data(folder: Path) -> Path:
    """Make a store of synthetic clips; return the folder for --data-root."""
    for script, flags in (
        ("synthetic/make_ntu.py", [*RAW_FLAGS.split(), "--out_folder", folder / "raw"]),
        ("ntu_gendata.py", ["--data_path", folder / "raw", "--out_folder", folder / "data" / "ntu60"]),
    ):
        command = [sys.executable, REPOSITORY / "data_gen" / script, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "data"


def probe_flags(data: Path, folder: Path, epochs: int, sizes: str) -> argparse.Namespace:
    """Return the flags of the probe, parsed by action_classification.py."""
    sys.argv = ["action_classification.py", "--data-root", str(data), "--output-dir", str(folder)]
    sys.argv += ["--protocol", "cross_subject", "--seed", "0", "--pretrained", "random", *sizes.split()]
    sys.argv += ["--epochs", str(epochs), "--schedule", str(epochs * 5 // 8), str(epochs * 7 // 8)]
    return action_classification.parse_args()


def check_equal(run: Evaluation, val: Batches) -> None:
    """Assert that the views of the first validation batch are those of this repository."""
    views, labels = next(iter(val))
    index = torch.arange(len(labels))
    view = evaluation_view(run.extractor.encoders.num_frames)
    expected = view.of(run.val, index, torch.default_generator)
    torch.testing.assert_close(views, expected.cpu(), rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, run.val.labels[index].cpu())


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--epochs", type=POSITIVE_INT, default=40, metavar="N")
    parser.add_argument("--cached-crops", type=POSITIVE_INT, default=5, metavar="K")
    parser.add_argument("--paper-sizes", action="store_true", help="the paper's encoder and 64 frames")
    parser.add_argument(
        "--threads", type=POSITIVE_INT, default=1, metavar="N", help="CPU threads (default: 1)"
    )
    parser.add_argument("--repeats", type=POSITIVE_INT, default=5, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        data = make_data(Path(folder))
        sizes = "" if options.paper_sizes else SMALL_SIZES
        args = probe_flags(data, Path(folder, "probe"), options.epochs, sizes)
        run = prepare_evaluation(args, "linear")
        train, val = single_views(run, args)
        check_equal(run, val)
        crops = options.cached_crops
        programs = {
            "reference": partial(reference_probe, run, args, train, val),
            "this repo": partial(probe_of_this_repo, run, args, None),
            f"this repo, --cached-crops {crops}": partial(probe_of_this_repo, run, args, crops),
        }
        medians = time_in_turn(programs, options.repeats)
    print(
        f"{options.epochs} epochs, {len(run.train)} training and {len(run.val)} validation clips, "
        f"{run.extractor.encoders.num_features} features, {options.device}, {options.threads} CPU threads, "
        f"medians of {options.repeats}\n"
    )
    rows = [["probe", "seconds", "CPU seconds", "best top-1", "ratio to the reference"]]
    for name, (seconds, cpu, accuracy) in medians.items():
        ratio = medians["reference"][0] / seconds
        rows.append([name, f"{seconds:.2f}", f"{cpu:.2f}", f"{accuracy:.1f}%", f"{ratio:.2f}"])
    print(format_table(rows))


if __name__ == "__main__":
    run_script(main)
