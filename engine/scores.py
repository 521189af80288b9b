"""Scores of a classifier on the validation clips: saving, loading and fusing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError, parse_errors
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
    """Read a file of ``save_scores``; ``UserError`` if it cannot be read or is not such a file."""
    with parse_errors(f"{path} is not a file of action_classification.py --save-scores"):
        with np.load(path, allow_pickle=False) as file:
            arrays = {entry.name: file[entry.name] for entry in fields(Scores)}
        logits, count = arrays["logits"], len(arrays["names"])
        if logits.shape != (count, len(arrays["class_names"])) or len(arrays["labels"]) != count:
            raise ValueError(f"logits {logits.shape} do not match the clips or the class names")
        if not np.isfinite(logits).all():
            raise ValueError("non-finite logits")
        texts = {name: str(arrays[name]) for name in ("encoder", "representation", "dataset", "protocol")}
        return Scores(**{**arrays, **texts, "seed": int(arrays["seed"])})


def check_agreement(scores: Sequence[Scores]) -> None:
    """Raise ``UserError`` unless all scores are of the same validation clips, in the same order."""
    first = scores[0]
    for number, other in enumerate(scores[1:], start=2):
        for name in ("dataset", "protocol", "class_names", "names", "labels"):
            expected, found = np.atleast_1d(getattr(first, name)), np.atleast_1d(getattr(other, name))
            differ = [f"{b} instead of {a}" for a, b in zip(expected, found) if a != b]
            if differ or len(expected) != len(found):
                what = differ[0] if differ else f"{len(found)} instead of {len(expected)}"
                raise UserError(f"file {number} differs from file 1 in its {name}: {what}")


def fuse(logits: Sequence[np.ndarray], weights: Sequence[float], on: str) -> Tensor:
    """Return the weighted sum ``(N, C)`` of classifiers' ``logits`` or, ``on`` softmax, probabilities."""
    scores = [torch.from_numpy(x).double() for x in logits]
    if on == "softmax":
        scores = [x.softmax(dim=1) for x in scores]
    return torch.stack([weight * x for weight, x in zip(weights, scores)]).sum(dim=0)
