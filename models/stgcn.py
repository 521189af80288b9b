"""Plain ST-GCN (Yan et al., AAAI 2018) as an alternative graph encoder, ``--graph-encoder stgcn``.

The same ten blocks as A-GCN, but the adjacency is fixed up to one learned weight an edge: nothing
depends on the clip at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .agcn import GraphEncoder, batch_norm, init_conv


class SpatialGraphConv(nn.Module):
    """Graph convolution with edge importance: ``(N, C, T, V) -> (N, C', T, V)``."""

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("A", adjacency.clone(), persistent=False)
        self.edge_importance = nn.Parameter(torch.ones_like(adjacency))
        self.conv = nn.Conv2d(in_channels, out_channels * adjacency.shape[0], 1)
        self.bn = batch_norm(out_channels)
        init_conv(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        adjacency = self.A * self.edge_importance  # S x V x V
        n, _, t, v = x.shape
        y = self.conv(x).view(n, adjacency.shape[0], -1, v)  # N x S x CT x V
        y = torch.matmul(y, adjacency).sum(dim=1).view(n, -1, t, v)
        return F.relu(self.bn(y))


class STGCNEncoder(GraphEncoder):
    """``GraphEncoder`` with a fixed graph; same input, same sizes."""

    def graph_conv(self, in_channels: int, out_channels: int, adjacency: Tensor) -> nn.Module:
        return SpatialGraphConv(in_channels, out_channels, adjacency)
