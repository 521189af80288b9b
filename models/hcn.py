"""The image encoder of the paper: HCN, a CNN that treats a clip as an image of time x joints x coordinates.

Li et al., IJCAI 2018. The first layers compute features of each joint; then the joints become
channels, so that the later convolutions combine all of them. One branch sees positions, the other
one the motion between frames. Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facts.skeletons import KINECT_V2, Skeleton

from .representation import Representation, Size, grid_layout
from .resnet import ResNetEncoder

POOLING = 16  # time and width are halved four times


def conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class HCNEncoder(nn.Module):
    """HCN: ``forward_features`` maps ``(N, 3, T, V, M)`` to ``(N, width^2 T / 64)``, 4096 in the paper.

    Args:
        num_classes: outputs of the last layer, ``fc``.
        width: channels of the first layers, a multiple of 16.
        num_frames: T, a multiple of 16.
        num_joints: V.
        in_channels: coordinates per joint.
        dropout: probability of dropping a channel.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        num_frames: int = 64,
        num_joints: int = KINECT_V2.num_joints,
        in_channels: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if width % POOLING or num_frames % POOLING:
            raise ValueError(
                f"HCN pools time and width by {POOLING}: width {width} and {num_frames} frames must be "
                f"multiples of {POOLING}"
            )
        for branch in ("", "m"):  # positions, motion
            layers = {
                "conv1": nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.ReLU()),
                "conv2": nn.Conv2d(width, width, (3, 1), padding=(1, 0)),
                "conv3": nn.Sequential(conv(num_joints, width // 2), nn.MaxPool2d(2)),
                "conv4": nn.Sequential(conv(width // 2, width), nn.Dropout2d(dropout), nn.MaxPool2d(2)),
            }
            for name, layer in layers.items():
                self.add_module(name + branch, layer)
        self.conv5 = nn.Sequential(
            conv(2 * width, 2 * width), nn.ReLU(), nn.Dropout2d(dropout), nn.MaxPool2d(2)
        )
        self.conv6 = nn.Sequential(
            conv(2 * width, 4 * width), nn.ReLU(), nn.Dropout2d(dropout), nn.MaxPool2d(2)
        )
        self.num_features = 4 * width * (width // POOLING) * (num_frames // POOLING)
        self.fc = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def branch(self, x: Tensor, suffix: str) -> Tensor:
        """Map ``(N, 3, T, V) -> (N, width, T / 4, width / 4)``; the joints become channels on the way."""
        x = getattr(self, f"conv1{suffix}")(x)
        x = getattr(self, f"conv2{suffix}")(x)
        x = x.permute(0, 3, 2, 1)  # N x V x T x C
        x = getattr(self, f"conv3{suffix}")(x)
        return getattr(self, f"conv4{suffix}")(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the features that precede ``fc``."""
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 1, 2, 3).reshape(n * m, c, t, v)  # NM x C x T x V
        motion = x[:, :, 1:] - x[:, :, :-1]
        motion = F.interpolate(motion, size=(t, v), mode="bilinear", align_corners=False)
        x = torch.cat([self.branch(x, ""), self.branch(motion, "m")], dim=1)
        x = self.conv6(self.conv5(x))
        return x.view(n, m, -1).amax(dim=1)  # N x features: maximum over the people

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


def build(
    num_classes: int,
    num_frames: int,
    skeleton: Skeleton,
    image_encoder: str,
    image_width: int,
    image_dropout: float,
) -> nn.Module:
    """Build the encoder of the ``image-based`` representation; width and dropout are those of HCN."""
    if image_encoder == "resnet18":
        return ResNetEncoder(num_classes)
    return HCNEncoder(num_classes, image_width, num_frames, skeleton.num_joints, dropout=image_dropout)


IMAGE = Representation(
    name="image-based",
    layout=grid_layout,
    build=build,
    sizes={
        "image_width": Size(64, "channels of HCN's first layers", multiple_of=POOLING),
        "image_dropout": Size(0.5, "probability that HCN drops a channel in training"),
        "image_encoder": Size("hcn", "image encoder", choices=("hcn", "resnet18")),
    },
)
