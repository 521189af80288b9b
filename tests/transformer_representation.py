"""A fourth representation, written as a user would add one: an encoder, its layout and an entry.

A transformer whose tokens are the frames of the sequence layout.
"""

import math

import torch
from torch import Tensor, nn

from facts.skeletons import Skeleton
from models.gru import sequence_layout
from models.representation import Representation, Size

HEADS = 4


class TransformerEncoder(nn.Module):
    """``forward_features`` maps ``(N, T, numbers)`` to ``(N, width)``, the mean over the tokens."""

    def __init__(self, num_classes: int, numbers: int, num_frames: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.num_features = width
        self.embed = nn.Linear(numbers, width)
        self.positions = nn.Parameter(0.02 * torch.randn(num_frames, width))
        block = nn.TransformerEncoderLayer(width, HEADS, 4 * width, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(
            block, num_blocks, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.fc = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(x) + self.positions).mean(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


def build(
    num_classes: int, num_frames: int, skeleton: Skeleton, transformer_width: int, transformer_num_blocks: int
) -> TransformerEncoder:
    numbers = math.prod(skeleton.frame_shape)
    return TransformerEncoder(num_classes, numbers, num_frames, transformer_width, transformer_num_blocks)


TRANSFORMER = Representation(
    "transformer-based",
    sequence_layout,
    build,
    {
        "transformer_width": Size(16, "width of the transformer", multiple_of=HEADS),
        "transformer_num_blocks": Size(2, "blocks of the transformer"),
    },
)
