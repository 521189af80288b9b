"""A fourth representation, written as a user would add one: an encoder, its layout and an entry.

Frame differences of the sequence layout are read by a small convolutional encoder.
"""

import math

import torch
from torch import Tensor, nn

from facts.skeletons import Skeleton
from models.gru import sequence_layout
from models.representation import Representation, Size


class DifferenceEncoder(nn.Module):
    """``forward_features`` maps ``(N, T - 1, input_size)`` to ``(N, width)``."""

    def __init__(self, num_classes: int, input_size: int, width: int) -> None:
        super().__init__()
        self.num_features = width
        self.conv = nn.Sequential(nn.Conv1d(input_size, width, 5), nn.BatchNorm1d(width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).mean(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


def difference_layout(batch: Tensor) -> Tensor:
    """``(N, T, V, 3, M) -> (N, T - 1, 3 V M)``: differences between neighboring frames."""
    return torch.diff(sequence_layout(batch), dim=1)


def build(num_classes: int, num_frames: int, skeleton: Skeleton, difference_width: int) -> DifferenceEncoder:
    return DifferenceEncoder(num_classes, math.prod(skeleton.frame_shape), difference_width)


DIFFERENCE = Representation(
    "difference-based",
    difference_layout,
    build,
    {"difference_width": Size(16, "channels of the difference encoder")},
)
