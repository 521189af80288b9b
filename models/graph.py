"""The skeleton as a graph: the adjacency of the three neighbor subsets of its joints."""

from __future__ import annotations

import torch
from torch import Tensor

from facts.skeletons import KINECT_V2, Pair, Skeleton


def directed_adjacency(edges: tuple[Pair, ...], num_joints: int) -> Tensor:
    """Return the adjacency ``(V, V)`` of directed edges (from, to); each column sums to 1 or is zero."""
    adjacency = torch.zeros(num_joints, num_joints)
    for source, target in edges:
        adjacency[target, source] = 1.0
    degree = adjacency.sum(dim=0)
    return adjacency / degree.clamp(min=1.0)


def spatial_adjacency(skeleton: Skeleton = KINECT_V2) -> Tensor:
    """Return the subsets of the spatial partition, ``(3, V, V)``: the joint itself, inward, outward.

    Inward is one step nearer to the root. Yan et al., AAAI 2018, section 3.3; A-GCN and ST-GCN use the
    same three matrices.
    """
    joints = skeleton.num_joints
    outward = tuple((parent, joint) for joint, parent in skeleton.bones)
    inward = directed_adjacency(skeleton.bones, joints)
    return torch.stack([torch.eye(joints), inward, directed_adjacency(outward, joints)])
