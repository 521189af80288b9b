"""Scores of a classifier on the validation clips: saving, loading and fusing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import ARRAY_ERRORS, UserError
from utils.files import atomic_write


@dataclass(frozen=True)
class Scores:
    """The logits of one classifier and what they belong to."""

    logits: np.ndarray  # (N, C) float32
    labels: np.ndarray  # (N,) int64, 0-based
    names: np.ndarray  # (N,) clip names
    class_names: np.ndarray  # (C,)
    encoder: str
    representation: str
    dataset: str
    protocol: str
    seed: int


def save_scores(path: Path, scores: Scores) -> None:
    """Write ``scores`` as an .npz file with one array per field."""
    atomic_write(path, lambda file: np.savez(file, **asdict(scores)))


def load_scores(path: Path) -> Scores:
    """Read a file of ``save_scores``.

    Raises:
        UserError: the file cannot be read or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {entry.name: file[entry.name] for entry in fields(Scores)}
    except ARRAY_ERRORS as error:
        raise UserError(
            f"{path} is not a file of action_classification.py --save-scores ({error}); give another one"
        ) from error
    logits, labels, names = arrays["logits"], arrays["labels"], arrays["names"]
    if logits.ndim != 2 or not len(logits) == len(labels) == len(names) > 0 or logits.dtype != np.float32:
        raise UserError(f"{path}: logits {logits.shape}, labels {labels.shape} and names do not match")
    if arrays["class_names"].shape != logits.shape[1:] or arrays["class_names"].dtype.kind != "U":
        raise UserError(f"{path}: the class names do not match the logits {logits.shape}")
    if not np.isfinite(logits).all():
        raise UserError(f"{path} contains non-finite logits; evaluate the classifier again")
    texts = {name: str(arrays[name]) for name in ("encoder", "representation", "dataset", "protocol")}
    return Scores(**{**arrays, **texts, "seed": int(arrays["seed"])})


def check_agreement(scores: Sequence[Scores]) -> None:
    """Raise ``UserError`` unless all scores are of the same validation clips, in the same order."""
    first = scores[0]
    for number, other in enumerate(scores[1:], start=2):
        where = f"file {number} differs from file 1"
        if (other.dataset, other.protocol) != (first.dataset, first.protocol):
            raise UserError(
                f"{where}: {other.dataset} {other.protocol} instead of {first.dataset} {first.protocol}"
            )
        if other.logits.shape != first.logits.shape:
            raise UserError(f"{where}: logits {other.logits.shape} instead of {first.logits.shape}")
        if (different := np.flatnonzero(other.names != first.names)).size:
            row = int(different[0])
            raise UserError(f"{where}: clip {row + 1} is {other.names[row]} instead of {first.names[row]}")
        if (other.labels != first.labels).any():
            raise UserError(f"{where}: the labels of the same clips differ")


def fuse(logits: Sequence[np.ndarray], weights: Sequence[float], on: str) -> Tensor:
    """Return the weighted sum ``(N, C)`` of several classifiers' probabilities or logits.

    Args:
        logits: ``(N, C)`` each.
        weights: one per classifier.
        on: ``softmax`` or ``logits``.
    """
    scores = [torch.from_numpy(x).double() for x in logits]
    if on == "softmax":
        scores = [x.softmax(dim=1) for x in scores]
    return torch.stack([weight * x for weight, x in zip(weights, scores)]).sum(dim=0)
