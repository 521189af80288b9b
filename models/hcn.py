"""The image encoder: HCN, a CNN that reads a clip as an image of time by joints by coordinates.

Li et al., IJCAI 2018: first features of each joint, then the joints become channels, so that the
later convolutions see all of them at once. One branch reads positions, one the motion between
frames. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .representation import Representation, Size, grid_layout


def conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class HCNEncoder(nn.Module):
    """Image encoder: ``forward_features`` maps ``(N, 3, T, V, M)`` to ``(N, width * T)``.

    With the paper's ``width`` 64 and 64 frames that is 4096. Time and width pass four poolings by
    two, so both are multiples of 16.
    """

    def __init__(
        self, num_classes: int, width: int = 64, num_frames: int = 64, num_joints: int = 25,
        in_channels: int = 3, dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if width % 16 or num_frames % 16:
            raise ValueError(
                f"HCN pools time and width by 16: width {width} and {num_frames} frames must be "
                "multiples of 16"
            )
        for branch in ("", "m"):  # positions, motion
            self.add_module(
                f"conv1{branch}", nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.ReLU())
            )
            self.add_module(
                f"conv2{branch}", nn.Conv2d(width, width, (3, 1), padding=(1, 0))
            )
            self.add_module(
                f"conv3{branch}", nn.Sequential(conv(num_joints, width // 2), nn.MaxPool2d(2))
            )
            self.add_module(
                f"conv4{branch}",
                nn.Sequential(conv(width // 2, width), nn.Dropout2d(dropout), nn.MaxPool2d(2)),
            )
        self.conv5 = nn.Sequential(
            conv(2 * width, 2 * width), nn.ReLU(), nn.Dropout2d(dropout), nn.MaxPool2d(2)
        )
        self.conv6 = nn.Sequential(
            conv(2 * width, 4 * width), nn.ReLU(), nn.Dropout2d(dropout), nn.MaxPool2d(2)
        )
        self.num_features = 4 * width * (width // 16) * (num_frames // 16)
        self.fc = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def branch(self, x: Tensor, suffix: str) -> Tensor:
        """``(N, 3, T, V) -> (N, width, T / 4, width / 4)``; joints turn into channels on the way."""
        x = getattr(self, f"conv1{suffix}")(x)
        x = getattr(self, f"conv2{suffix}")(x)
        x = x.permute(0, 3, 2, 1)  # N x V x T x C
        x = getattr(self, f"conv3{suffix}")(x)
        return getattr(self, f"conv4{suffix}")(x)

    def forward_features(self, x: Tensor) -> Tensor:
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 1, 2, 3).reshape(n * m, c, t, v)  # NM x C x T x V
        motion = x[:, :, 1:] - x[:, :, :-1]
        motion = F.interpolate(motion, size=(t, v), mode="bilinear", align_corners=False)
        x = torch.cat([self.branch(x, ""), self.branch(motion, "m")], dim=1)
        x = self.conv6(self.conv5(x))
        return x.view(n, m, -1).amax(dim=1)  # N x features: the stronger of the two people

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


def build(num_classes: int, num_frames: int, image_width: int) -> HCNEncoder:
    """The encoder of the ``image-based`` representation."""
    return HCNEncoder(num_classes, width=image_width, num_frames=num_frames)


IMAGE = Representation(
    name="image-based",
    layout=grid_layout,
    build=build,
    sizes={"image_width": Size(64, "channels of the image encoder's first layers")},
)
