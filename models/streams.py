"""Streams of a view: joint, bone and motion.

A stream is derived from the augmented view, before the layout. The paper uses the joint stream only;
later methods also report bone and motion, and the fusion of the three.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from facts.skeletons import Skeleton


@lru_cache
def parent_index(skeleton: Skeleton, device: torch.device) -> Tensor:
    """Return the parent of each joint ``(V,)`` on ``device``; cached, so that a step copies nothing."""
    return torch.tensor(skeleton.parents, device=device)


def joint_stream(batch: Tensor, skeleton: Skeleton) -> Tensor:
    """Return the coordinates ``(N, T, V, 3, M)`` themselves."""
    return batch


def bone_stream(batch: Tensor, skeleton: Skeleton) -> Tensor:
    """Return each joint minus its parent, ``(N, T, V, 3, M)``; zero at the root and for absent people."""
    return batch - batch.index_select(2, parent_index(skeleton, batch.device))


def motion_stream(batch: Tensor, skeleton: Skeleton) -> Tensor:
    """Return the next frame minus this one, ``(N, T, V, 3, M)``; zero in the last frame."""
    motion = torch.zeros_like(batch)
    torch.sub(batch[:, 1:], batch[:, :-1], out=motion[:, :-1])
    return motion


JOINT = "joint"
STREAMS: dict[str, Callable[[Tensor, Skeleton], Tensor]] = {
    JOINT: joint_stream,
    "bone": bone_stream,
    "motion": motion_stream,
}
