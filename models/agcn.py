"""The graph encoder: A-GCN, ten blocks of adaptive graph convolution and temporal convolution.

A-GCN (Shi et al., CVPR 2019) adds two matrices to the fixed adjacency of the skeleton: a learned one,
and one computed from the similarity of the joints in the current clip. The three neighbor subsets are
computed together, as one convolution and one batched product. Parameter names are those of the
official checkpoints. ST-GCN is the same stack with a fixed graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facts.skeletons import KINECT_V2, Skeleton

from .batch_norm import is_supported, normalize
from .graph import spatial_adjacency
from .representation import Representation, Size, grid_layout

# Channels of the ten blocks in units of the width. A block that doubles them halves the frames.
CHANNEL_FACTORS = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)


def channel_factors(num_blocks: int) -> list[int]:
    """Return the factors of a shorter stack, picked evenly from the ten, including the first and the last."""
    last = len(CHANNEL_FACTORS) - 1
    return [CHANNEL_FACTORS[round(i * last / max(num_blocks - 1, 1))] for i in range(num_blocks)]


def init_conv(conv: nn.Conv2d) -> None:
    """Initialize a convolution: He initialization by fan-out, zero bias."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def batch_norm(channels: int, scale: float = 1.0) -> nn.BatchNorm2d:
    """Return a BatchNorm layer whose weights start at ``scale``."""
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, scale)
    return norm


def subset_convs(in_channels: int, out_channels: int, subsets: int) -> nn.ModuleList:
    """Return one 1 x 1 convolution per neighbor subset."""
    convs = [nn.Conv2d(in_channels, out_channels, 1) for _ in range(subsets)]
    for conv in convs:
        init_conv(conv)
    return nn.ModuleList(convs)


def parameters_of(convs: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights and the biases of convolutions."""
    pairs = [(conv.weight, conv.bias) for conv in convs if isinstance(conv, nn.Conv2d)]
    return [weight for weight, _ in pairs], [bias for _, bias in pairs if bias is not None]


class TemporalConv(nn.Module):
    """Convolution over time and BatchNorm: ``(N, C, T, V) -> (N, C', T / stride, V)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 9, stride: int = 1) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, (kernel_size, 1), (stride, 1), (padding, 0))
        self.bn = batch_norm(out_channels)
        init_conv(self.conv)

    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        return normalize(self.bn, self.conv(x), repeats)


class AdaptiveGraphConv(nn.Module):
    """Adaptive graph convolution (eq. 3 of the A-GCN paper): ``(N, C, T, V) -> (N, C', T, V)``.

    Args:
        in_channels: C.
        out_channels: C'.
        adjacency: ``(S, V, V)``, one matrix per neighbor subset.
    """

    A: Tensor

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        subsets = adjacency.shape[0]
        self.inter_channels = out_channels // 4
        self.register_buffer("A", adjacency.clone(), persistent=False)
        self.PA = nn.Parameter(torch.full_like(adjacency, 1e-6))
        self.conv_a = subset_convs(in_channels, self.inter_channels, subsets)
        self.conv_b = subset_convs(in_channels, self.inter_channels, subsets)
        self.conv_d = subset_convs(in_channels, out_channels, subsets)
        for weight in parameters_of(self.conv_d)[0]:  # the branches are summed: scale by their number
            nn.init.normal_(weight, 0.0, math.sqrt(2.0 / (weight.numel() * subsets)))
        # Nearly zero at the start, so that a block begins as its residual.
        self.bn = batch_norm(out_channels, scale=1e-6)
        self.down: nn.Module = nn.Identity()
        if in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1)
            init_conv(conv)
            self.down = nn.Sequential(conv, batch_norm(out_channels))

    def similarity(self, x: Tensor) -> Tensor:
        """Compute the similarity of each pair of joints in each clip: ``(N, C, T, V) -> (N, S, V, V)``."""
        n, _, t, v = x.shape
        # Both factors are scaled before the product: the sum over channels and frames can exceed float16.
        scale = (self.inter_channels * t) ** -0.5
        # Theta and phi of a subset follow each other, so that neither is copied for the batched product.
        pairs = zip(self.conv_a, self.conv_b, strict=True)
        weights, biases = parameters_of(conv for pair in pairs for conv in pair)
        embedded = F.conv2d(x, scale * torch.cat(weights), scale * torch.cat(biases))
        theta, phi = embedded.view(-1, 2, self.inter_channels * t, v).unbind(dim=1)  # NS x CT x V
        return torch.bmm(theta.transpose(1, 2), phi).softmax(dim=-2).view(n, -1, v, v)

    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        n, c, t, v = x.shape
        adjacency = self.similarity(x) + (self.A + self.PA)  # N x S x V x V
        # Sum over the neighbors of all subsets first. Then one convolution, which takes the S values of a
        # joint V apart, sums over the channels and subsets.
        neighbors = adjacency.transpose(1, 2).reshape(n, v, -1)  # N x V x SV
        gathered = torch.bmm(x.reshape(n, c * t, v), neighbors).view(n, c, t, -1)  # N x C x T x SV
        weights, biases = parameters_of(self.conv_d)
        weight, bias = torch.cat(weights, dim=3), torch.stack(biases).sum(dim=0)
        y = F.conv2d(gathered, weight, bias, dilation=(1, v))  # N x C' x T x V
        residual = x
        if isinstance(self.down, nn.Sequential):
            residual = normalize(self.down[1], self.down[0](x), repeats)
        return F.relu(normalize(self.bn, y, repeats) + residual)


class SpatialGraphConv(nn.Module):
    """ST-GCN's graph convolution with a learned weight per edge: ``(N, C, T, V) -> (N, C', T, V)``.

    The arguments are those of ``AdaptiveGraphConv``.
    """

    A: Tensor

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("A", adjacency.clone(), persistent=False)
        self.edge_importance = nn.Parameter(torch.ones_like(adjacency))
        self.conv = nn.Conv2d(in_channels, out_channels * adjacency.shape[0], 1)
        self.bn = batch_norm(out_channels)
        init_conv(self.conv)

    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        adjacency = self.A * self.edge_importance  # S x V x V
        n, _, t, v = x.shape
        y = self.conv(x).view(n, adjacency.shape[0], -1, v)  # N x S x CT x V
        y = torch.matmul(y, adjacency).sum(dim=1).view(n, -1, t, v)
        return F.relu(normalize(self.bn, y, repeats))


class GraphBlock(nn.Module):
    """Graph convolution, temporal convolution and residual: ``(N, C, T, V) -> (N, C', T / stride, V)``.

    The last sample stands for ``repeats`` equal ones.
    """

    def __init__(
        self, in_channels: int, out_channels: int, graph_conv: nn.Module, stride: int, residual: bool
    ) -> None:
        super().__init__()
        self.gcn1 = graph_conv
        self.tcn1 = TemporalConv(out_channels, out_channels, stride=stride)
        self.has_residual = residual
        self.residual: nn.Module = nn.Identity()
        if residual and (in_channels != out_channels or stride != 1):
            self.residual = TemporalConv(in_channels, out_channels, kernel_size=1, stride=stride)

    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        y = self.tcn1(self.gcn1(x, repeats), repeats)
        if self.has_residual:
            y = y + (x if isinstance(self.residual, nn.Identity) else self.residual(x, repeats))
        return F.relu(y)


class GraphEncoder(nn.Module):
    """A-GCN: ``forward_features`` maps ``(N, 3, T, V, M)`` to ``(N, 4 * width)``.

    Args:
        num_classes: outputs of the last layer, ``fc``.
        skeleton: the joints V and their edges.
        width: channels of the first blocks.
        num_blocks: 1 to 10; fewer than ten are picked evenly from the ten, with the same growth of channels.
        num_people: M.
        in_channels: coordinates per joint.
    """

    graph_conv: type[nn.Module] = AdaptiveGraphConv

    def __init__(
        self,
        num_classes: int,
        skeleton: Skeleton = KINECT_V2,
        width: int = 64,
        num_blocks: int = 10,
        num_people: int = 2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        adjacency = spatial_adjacency(skeleton)
        self.data_bn = nn.BatchNorm1d(num_people * in_channels * skeleton.num_joints)
        self.block_names = [f"l{i + 1}" for i in range(num_blocks)]
        channels, previous = in_channels, 1
        for i, (name, factor) in enumerate(zip(self.block_names, channel_factors(num_blocks), strict=True)):
            stride = 1 if factor == previous else 2
            graph_conv = self.graph_conv(channels, factor * width, adjacency)
            block = GraphBlock(channels, factor * width, graph_conv, stride, residual=i > 0)
            self.add_module(name, block)
            channels, previous = factor * width, factor
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, 0.0, math.sqrt(2.0 / num_classes))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the features that precede ``fc``."""
        n, c, t, v, m = x.shape
        distinct, repeats = self.distinct_people(x)
        x = x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t)
        x = normalize(self.data_bn, x).view(n, m, v, c, t)
        x = x.permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)  # NM x C x T x V
        if repeats > 1:
            people, inverse = distinct
            x = x[people]
        for name in self.block_names:
            x = getattr(self, name)(x, repeats)
        x = x.flatten(2).mean(dim=2)
        if repeats > 1:
            x = x[inverse]
        return x.view(n, m, self.num_features).mean(dim=1)  # N x C

    def distinct_people(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], int]:
        """Return how to compute all absent last people of ``(N, 3, T, V, M)``, who are equal, only once.

        Returns the people to compute of the NM people, an absent one last; the index of each of the NM among
        these; and the number of absent people, or 1 if all people are computed.
        """
        n, m = x.shape[0], x.shape[-1]
        nothing = torch.empty(0)
        if not is_supported(self.data_bn, x) or m == 1 or torch.is_autocast_enabled("cpu"):
            return (nothing, nothing), 1
        absent = torch.zeros(n, m, dtype=torch.bool)
        absent[:, -1] = ~x[..., -1].flatten(1).any(dim=1)
        absent = absent.flatten()
        repeats = int(absent.sum())
        if repeats < 2:
            return (nothing, nothing), 1
        present = (~absent).nonzero().flatten()
        inverse = torch.where(absent, len(present), (~absent).cumsum(0) - 1)
        return (torch.cat([present, absent.nonzero()[0]]), inverse), repeats

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


class STGCNEncoder(GraphEncoder):
    """ST-GCN (Yan et al., AAAI 2018), ``--graph-encoder stgcn``: the same blocks with a fixed graph."""

    graph_conv = SpatialGraphConv


GRAPH_ENCODERS: dict[str, type[GraphEncoder]] = {"agcn": GraphEncoder, "stgcn": STGCNEncoder}


def build(
    num_classes: int,
    num_frames: int,
    skeleton: Skeleton,
    graph_encoder: str,
    graph_width: int,
    graph_num_blocks: int,
) -> GraphEncoder:
    """Build the encoder of the ``graph-based`` representation, which accepts any number of frames."""
    return GRAPH_ENCODERS[graph_encoder](num_classes, skeleton, graph_width, graph_num_blocks)


GRAPH = Representation(
    name="graph-based",
    layout=grid_layout,
    build=build,
    sizes={
        "graph_width": Size(64, "channels of the graph encoder's first blocks", multiple_of=4),
        "graph_num_blocks": Size(10, "blocks of the graph encoder", maximum=len(CHANNEL_FACTORS)),
        "graph_encoder": Size("agcn", "graph encoder", choices=tuple(GRAPH_ENCODERS)),
    },
)
