"""The skeleton as a graph: the 25 joints of Kinect v2 and the adjacency of its three neighbor subsets."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_JOINTS = 25

# (joint, neighbor that is one step nearer to SpineShoulder, the center of the body), 0-based.
# As in the official graph encoders, the finger tip is attached to the thumb, not to the hand.
# fmt: off
INWARD_EDGES = (
    (0, 1), (1, 20), (2, 20), (3, 2),  # spine and head
    (4, 20), (5, 4), (6, 5), (7, 6), (22, 7), (21, 22),  # left arm, thumb, finger tip
    (8, 20), (9, 8), (10, 9), (11, 10), (24, 11), (23, 24),  # right arm, thumb, finger tip
    (12, 0), (13, 12), (14, 13), (15, 14),  # left leg
    (16, 0), (17, 16), (18, 17), (19, 18),  # right leg
)
# fmt: on


def directed_adjacency(edges: tuple[tuple[int, int], ...]) -> Tensor:
    """Return the adjacency ``(V, V)`` of directed edges (from, to); each column sums to 1 or is zero."""
    adjacency = torch.zeros(NUM_JOINTS, NUM_JOINTS)
    for source, target in edges:
        adjacency[target, source] = 1.0
    degree = adjacency.sum(dim=0)
    return adjacency / degree.clamp(min=1.0)


def spatial_adjacency() -> Tensor:
    """Return the subsets of the spatial partition, ``(3, V, V)``: the joint itself, inward, outward.

    Yan et al., AAAI 2018, section 3.3. A-GCN and ST-GCN use the same three matrices.
    """
    outward = tuple((target, source) for source, target in INWARD_EDGES)
    return torch.stack([torch.eye(NUM_JOINTS), directed_adjacency(INWARD_EDGES), directed_adjacency(outward)])
