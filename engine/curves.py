"""What a pretraining shows in TensorBoard: a sample of views, curves, and the flags that made them."""

from __future__ import annotations

import argparse

import torch
from torch.utils.tensorboard import SummaryWriter

from dataset.augment import Augmentation
from dataset.clips import ClipSet

from .randomness import PICTURES, generator

SAMPLE_CLIPS, SAMPLE_FRAMES = 3, 8


def show_views(writer: SummaryWriter, clips: ClipSet, augmentation: Augmentation, seed: int) -> None:
    """A few clips, each above two views of it; a line says so where nothing can be drawn."""
    from visual.packages import SKELETONS, why_not

    if reason := why_not(SKELETONS):
        print(f"note: no sample of views in TensorBoard: {reason}")
        return
    from visual.views import draw_views

    source = generator(seed, PICTURES)
    for index in torch.randperm(len(clips), generator=source)[:SAMPLE_CLIPS].tolist():
        pictures, _ = draw_views(clips, index, augmentation, 2, source)
        frames = torch.linspace(0, augmentation.num_frames - 1, SAMPLE_FRAMES).long()
        rows = [torch.cat(list(picture[frames]), dim=2) for picture in pictures]  # 3 x height x width
        writer.add_image(f"views/{clips.names[index]}", torch.cat(rows, dim=1))


def write_epoch(
    writer: SummaryWriter, epoch: int, loss: float, pairs: dict[str, list[float]], rate: float,
    clips_per_second: float,
) -> None:
    """The scalars of an epoch; ``pairs``: accuracy, positive and negative logit of each."""
    writer.add_scalar("pretrain/loss", loss, epoch)
    writer.add_scalar("pretrain/learning_rate", rate, epoch)
    writer.add_scalar("pretrain/clips_per_second", clips_per_second, epoch)
    for name, (accuracy, positive, negative) in pairs.items():
        writer.add_scalar(f"pretrain/contrastive_accuracy/{name}", 100 * accuracy, epoch)
        writer.add_scalar(f"pretrain/positive_logit/{name}", positive, epoch)
        writer.add_scalar(f"pretrain/negative_logit/{name}", negative, epoch)


def write_hyperparameters(
    writer: SummaryWriter, args: argparse.Namespace, loss: float, pairs: dict[str, list[float]]
) -> None:
    """Flags beside the last epoch's figures, for TensorBoard's table that compares runs."""
    flags = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in vars(args).items()
    }
    metrics = {"last/loss": loss}
    metrics |= {f"last/contrastive_accuracy/{name}": 100 * values[0] for name, values in pairs.items()}
    writer.add_hparams(flags, metrics, run_name=".")  # in the run's own folder
