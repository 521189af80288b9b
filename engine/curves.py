"""What a pretraining shows in TensorBoard: its curves, and the flags that made them."""

from __future__ import annotations

import argparse

from torch.utils.tensorboard import SummaryWriter


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
