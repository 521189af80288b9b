"""Curves of trainings: the metrics of ``log.jsonl`` over epochs, and how to read them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.diagnostics import Warnings, named
from engine.log import CONFIG_FILE, read_log
from utils.errors import UserError, first_line

from .plots import Curve

PRETRAINING = "pretraining"  # next to the names of --mode


@dataclass(frozen=True)
class Chart:
    """A metric of ``log.jsonl``, plotted over epochs, and how to read it."""

    metric: str
    heading: str
    label: str  # of the y axis
    meaning: str = ""


PRETRAINING_CHARTS = [
    Chart(
        "loss",
        "Contrastive loss",
        "loss",
        "The loss that is minimized (InfoNCE), summed over the pairs. It should fall. Its scale depends on "
        "the number of pairs and keys, so only runs with the same settings can be compared.",
    ),
    Chart(
        "relative_loss",
        "Loss relative to chance",
        "loss / ln(1 + K)",
        "The loss of each pair, divided by that of a model that guesses among the positive key and the K "
        "negative keys. At 1 or above, nothing has been learned; a run that learns falls clearly below. "
        "Close to 0, the task is solved, and little more can be learned from it.",
    ),
    Chart(
        "contrastive_accuracy",
        "Contrastive accuracy",
        "accuracy (%)",
        "How often the positive key is more similar to the query than all negative keys. It should rise as "
        "the loss falls. If it is high while the loss stays close to chance, the encoder recognizes the age "
        "of a key instead of its clip.",
    ),
    Chart(
        "feature_rank",
        "Effective rank of the features",
        "effective rank",
        "How many dimensions the features of the sample effectively use (RankMe). Close to 1, all clips have "
        "nearly the same features: the encoder has collapsed. Higher is better, but only runs of the same "
        "encoder can be compared.",
    ),
    Chart(
        "embedding_rank",
        "Effective rank of the embeddings",
        "effective rank",
        "The same for the embeddings, which are computed from the features and compared in the loss.",
    ),
    Chart(
        "alignment",
        "Alignment",
        "squared distance",
        "Mean squared distance of the embeddings of two views of the same clip: 0 if they are identical, 2 "
        "if they are unrelated. Low is good, but only together with a low uniformity, because a collapsed "
        "encoder has an alignment of 0 as well.",
    ),
    Chart(
        "uniformity",
        "Uniformity",
        "uniformity",
        "How evenly the embeddings of different clips are spread over all directions: 0 if they are all the "
        "same (collapse), close to -4 if they are spread evenly. Lower is better.",
    ),
    Chart(
        "knn",
        "1-NN accuracy on training labels",
        "accuracy (%)",
        "How often the most similar other clip of the sample belongs to the same class. It should rise. "
        "Labels are used for this measurement only, not for pretraining.",
    ),
]
CHARTS = {  # by mode
    PRETRAINING: PRETRAINING_CHARTS,
    "linear": [Chart("top1", "Linear probe", "top-1 accuracy (%)")],
    "finetune": [Chart("top1", "Fine-tuning", "top-1 accuracy (%)")],
    "supervised": [Chart("top1", "Supervised training", "top-1 accuracy (%)")],
}


@dataclass(frozen=True)
class Training:
    """The log of a pretraining or of the training of a classifier."""

    folder: Path
    mode: str  # PRETRAINING or a --mode
    epochs: int  # in total
    has_queue: bool  # of a pretraining
    log: list[dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> Training:
        """Read a ``log.jsonl`` and the ``config.json`` next to it.

        Raises:
            UserError: one of them is damaged or missing.
        """
        try:
            config = json.loads(path.with_name(CONFIG_FILE).read_text(encoding="utf-8"))
            mode, epochs = config.get("mode", PRETRAINING), int(config.get("epochs", 0))
            metric = CHARTS[mode][0].metric
            log = [{name: float(value) for name, value in entry.items()} for entry in read_log(path)]
            if not all(metric in entry for entry in log):
                raise ValueError(f"an epoch has no {metric}")
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); remove it or run again") from error
        return cls(path.parent, mode, epochs, config.get("moco_k") != 0, log)

    def curves(self, metric: str) -> dict[str, Curve]:
        """Return the points (epoch, value) of a metric by pair or representation; the key may be empty."""
        curves = defaultdict(list)
        for entry in self.log:
            values = {"": entry[metric]} if metric in entry else named(entry, metric)
            for name, value in values.items():
                curves[name].append((entry["epoch"], value))
        return dict(curves)

    def warnings(self) -> list[str]:
        """Return the warnings that the pretraining printed."""
        warnings = Warnings(self.epochs, self.has_queue)
        return [text for entry in self.log for text in warnings.check(int(entry["epoch"]), entry)]


def labeled_curves(trainings: Mapping[str, Training], metric: str) -> dict[str, Curve]:
    """Return the curves of a metric of all runs by label: run, pair or representation, and last value."""
    labeled = {}
    for run, training in trainings.items():
        for name, points in training.curves(metric).items():
            title = f"{run} {name}".strip() if len(trainings) > 1 else name or run
            labeled[f"{title}: {points[-1][1]:.3g}"] = points
    return labeled
