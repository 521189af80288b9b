"""The skeleton as a graph: 25 Kinect v2 joints, and the adjacency of its three neighbour subsets."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_JOINTS = 25

# (joint, its neighbour one step nearer to the body's centre, SpineShoulder), counted from zero.
# As in the released graph encoders, a finger tip hangs on the thumb, not on the hand.
INWARD_EDGES = (
    (0, 1), (1, 20), (2, 20), (3, 2),  # spine and head
    (4, 20), (5, 4), (6, 5), (7, 6), (22, 7), (21, 22),  # left arm, thumb, finger tip
    (8, 20), (9, 8), (10, 9), (11, 10), (24, 11), (23, 24),  # right arm, thumb, finger tip
    (12, 0), (13, 12), (14, 13), (15, 14),  # left leg
    (16, 0), (17, 16), (18, 17), (19, 18),  # right leg
)


def directed_adjacency(edges: tuple[tuple[int, int], ...]) -> Tensor:
    """Adjacency (V, V) of directed edges (from, to), each column divided by its in-degree."""
    adjacency = torch.zeros(NUM_JOINTS, NUM_JOINTS)
    for source, target in edges:
        adjacency[target, source] = 1.0
    degree = adjacency.sum(dim=0)
    return adjacency / degree.clamp(min=1.0)


def spatial_adjacency() -> Tensor:
    """The (3, V, V) subsets of the spatial partition: the joint itself, inward, outward.

    Yan et al., AAAI 2018, section 3.3; the same three matrices serve A-GCN and ST-GCN.
    """
    outward = tuple((target, source) for source, target in INWARD_EDGES)
    return torch.stack(
        [torch.eye(NUM_JOINTS), directed_adjacency(INWARD_EDGES), directed_adjacency(outward)]
    )
