"""ResNet-18 as an image encoder (``--image-encoder resnet18``), with weights from scratch.

The image of a clip has the frames as rows and the joints of all people, next to each other, as columns.
"""

from __future__ import annotations

from torch import Tensor, nn


class ResNetEncoder(nn.Module):
    """torchvision's ResNet-18: ``forward_features`` maps ``(N, 3, T, V, M)`` to ``(N, 512)``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from torchvision.models import resnet18  # slow to import, and rarely used

        self.network = resnet18(weights=None, num_classes=num_classes)
        self.fc, self.network.fc = self.network.fc, nn.Identity()
        self.num_features = self.fc.in_features

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the features that precede ``fc``."""
        return self.network(x.transpose(3, 4).flatten(3))  # N x 3 x T x MV

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))
