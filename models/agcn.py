"""The graph encoder: ten blocks of adaptive graph convolution over joints and convolution over time.

A-GCN (Shi et al., CVPR 2019): every block adds to the fixed adjacency a learned one and one made
from the similarity of the joints of the clip at hand. The three neighbour subsets are computed
together: their convolutions are one convolution, their attention one batched product. Parameter
names are those of the published checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .graph import spatial_adjacency
from .representation import Representation, Size, grid_layout

# Channels of the ten blocks in units of the width. Where they double, time is halved.
CHANNEL_FACTORS = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)


def channel_factors(num_blocks: int) -> list[int]:
    """The factors of a shorter stack: blocks picked evenly from the ten, first and last included."""
    last = len(CHANNEL_FACTORS) - 1
    return [CHANNEL_FACTORS[round(i * last / max(num_blocks - 1, 1))] for i in range(num_blocks)]


def init_conv(conv: nn.Conv2d) -> None:
    """He initialisation by fan-out, zero bias."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    nn.init.zeros_(conv.bias)


def batch_norm(channels: int, scale: float = 1.0) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, scale)
    return norm


class TemporalConv(nn.Module):
    """Convolution along time, then batch norm: ``(N, C, T, V) -> (N, C', T / stride, V)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 9, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, (kernel_size, 1),
            stride=(stride, 1), padding=((kernel_size - 1) // 2, 0),
        )
        self.bn = batch_norm(out_channels)
        init_conv(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class AdaptiveGraphConv(nn.Module):
    """Adaptive graph convolution (eq. 3 of the A-GCN paper): ``(N, C, T, V) -> (N, C', T, V)``."""

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        subsets = adjacency.shape[0]
        self.inter_channels = out_channels // 4
        self.register_buffer("A", adjacency.clone(), persistent=False)
        self.PA = nn.Parameter(torch.full_like(adjacency, 1e-6))
        self.conv_a = self.subset_convs(in_channels, self.inter_channels, subsets)
        self.conv_b = self.subset_convs(in_channels, self.inter_channels, subsets)
        self.conv_d = self.subset_convs(in_channels, out_channels, subsets)
        for conv in self.conv_d:  # all branches are summed: smaller, by their number
            nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (conv.weight.numel() * subsets)))
        # Nearly zero at the start, so a block begins as its residual.
        self.bn = batch_norm(out_channels, scale=1e-6)
        self.down = nn.Identity()
        if in_channels != out_channels:
            self.down = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1), batch_norm(out_channels)
            )
            init_conv(self.down[0])

    @staticmethod
    def subset_convs(in_channels: int, out_channels: int, subsets: int) -> nn.ModuleList:
        convs = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in range(subsets))
        for conv in convs:
            init_conv(conv)
        return convs

    def similarity(self, x: Tensor) -> Tensor:
        """How much each joint resembles each other in this clip: ``(N, C, T, V) -> (N, S, V, V)``."""
        n, _, t, v = x.shape
        subsets = len(self.conv_a)
        convs = [*self.conv_a, *self.conv_b]
        weight = torch.cat([conv.weight for conv in convs])
        bias = torch.cat([conv.bias for conv in convs])
        embedded = F.conv2d(x, weight, bias).view(n, 2, subsets, self.inter_channels * t, v)
        theta, phi = embedded.unbind(dim=1)  # N x S x CT x V
        scores = torch.matmul(theta.transpose(2, 3), phi) / (self.inter_channels * t)
        return scores.softmax(dim=-2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        adjacency = self.similarity(x) + (self.A + self.PA)  # N x S x V x V
        # Sum over neighbours first, then one convolution over all subsets' channels.
        gathered = torch.matmul(x.reshape(n, 1, c * t, v), adjacency)  # N x S x CT x V
        weight = torch.cat([conv.weight for conv in self.conv_d], dim=1)
        bias = torch.stack([conv.bias for conv in self.conv_d]).sum(dim=0)
        y = F.conv2d(gathered.view(n, -1, t, v), weight, bias)
        return F.relu(self.bn(y) + self.down(x))


class GraphBlock(nn.Module):
    """Graph convolution over joints, temporal convolution, residual."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, graph_conv: nn.Module, residual: bool
    ) -> None:
        super().__init__()
        self.gcn1 = graph_conv
        self.tcn1 = TemporalConv(out_channels, out_channels, stride=stride)
        self.has_residual = residual
        self.residual = nn.Identity()
        if residual and (in_channels != out_channels or stride != 1):
            self.residual = TemporalConv(in_channels, out_channels, kernel_size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn1(self.gcn1(x))
        if self.has_residual:
            y = y + self.residual(x)
        return F.relu(y)


class GraphEncoder(nn.Module):
    """Ten graph blocks: ``forward_features`` maps ``(N, 3, T, V, M)`` to ``(N, 4 * width)``.

    ``width`` is the channels of the first blocks; fewer ``num_blocks`` than ten are spread evenly
    over the same growth. A subclass chooses the graph convolution.
    """

    def __init__(
        self, num_classes: int, width: int = 64, num_blocks: int = 10, num_people: int = 2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        adjacency = spatial_adjacency()
        joints = adjacency.shape[-1]
        self.data_bn = nn.BatchNorm1d(num_people * in_channels * joints)
        self.block_names = [f"l{i + 1}" for i in range(num_blocks)]
        channels, before = in_channels, 1
        for i, (name, factor) in enumerate(zip(self.block_names, channel_factors(num_blocks))):
            stride = 1 if factor == before else 2
            graph_conv = self.graph_conv(channels, factor * width, adjacency)
            block = GraphBlock(channels, factor * width, stride, graph_conv, residual=i > 0)
            self.add_module(name, block)
            channels, before = factor * width, factor
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, 0.0, math.sqrt(2.0 / num_classes))

    def graph_conv(self, in_channels: int, out_channels: int, adjacency: Tensor) -> nn.Module:
        return AdaptiveGraphConv(in_channels, out_channels, adjacency)

    def forward_features(self, x: Tensor) -> Tensor:
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t)
        x = self.data_bn(x).view(n, m, v, c, t)
        x = x.permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)  # NM x C x T x V
        for name in self.block_names:
            x = getattr(self, name)(x)
        return x.view(n, m, self.num_features, -1).mean(dim=3).mean(dim=1)  # N x C

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


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
    """ST-GCN, ``--graph-encoder stgcn``: the same blocks and sizes with a fixed graph."""

    def graph_conv(self, in_channels: int, out_channels: int, adjacency: Tensor) -> nn.Module:
        return SpatialGraphConv(in_channels, out_channels, adjacency)


def build(
    num_classes: int, num_frames: int, graph_encoder: str, graph_width: int, graph_num_blocks: int
) -> GraphEncoder:
    """The encoder of the ``graph-based`` representation; a graph encoder reads any number of frames."""
    return GRAPH_ENCODERS[graph_encoder](num_classes, width=graph_width, num_blocks=graph_num_blocks)


GRAPH_ENCODERS = {"agcn": GraphEncoder, "stgcn": STGCNEncoder}
GRAPH = Representation(
    name="graph-based",
    layout=grid_layout,
    build=build,
    sizes={
        "graph_width": Size(64, "channels of the graph encoder's first blocks", multiple_of=4),
        "graph_num_blocks": Size(10, "blocks of the graph encoder", maximum=len(CHANNEL_FACTORS)),
        "graph_encoder": Size("agcn", "graph encoder", choices=("agcn", "stgcn")),
    },
)
