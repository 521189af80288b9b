"""The plain forms that the benchmarks measure against: same results, written as a first version would be.

A feeder that treats one clip after another, a recurrent network fed one frame at a time, a graph
convolution that goes through its neighbour subsets one by one. Each benchmark checks that ours
gives the same numbers before it takes a time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.augment import Augmentation
from dataset.clips import ClipSet
from models.agcn import AdaptiveGraphConv
from models.gru import CausalBiGRU


@dataclass(frozen=True)
class PlainDraw:
    """What happens to one clip: a crop, a 3x3 map and the joints that undergo it."""

    start: int
    count: int
    matrix: Tensor  # (3, 3), for column vectors
    joints: Tensor  # (V,) bool


def plain_draw(num_frames: int, augmentation: Augmentation) -> PlainDraw:
    """Draw the parameters of one clip's view from the same laws as ``dataset.views``."""
    ratio = random.uniform(augmentation.min_crop_ratio, 1.0)
    count = min(max(int(num_frames * ratio), augmentation.min_crop_frames), num_frames)
    start = random.randint(0, num_frames - count)
    matrix, joints = torch.rand(3, 3) * 2.0 - 1.0, torch.ones(25, dtype=torch.bool)
    if random.random() < 0.5:
        matrix.fill_diagonal_(1.0)
        return PlainDraw(start, count, matrix, joints)
    if random.random() < augmentation.jitter_zero_prob:
        matrix = torch.zeros(3, 3)
    joints[torch.randperm(25)[augmentation.jitter_joints :]] = False
    return PlainDraw(start, count, matrix, joints)


def plain_view(clips: ClipSet, index: Tensor, draws: list[PlainDraw], num_frames: int) -> Tensor:
    """Crop, resize, map and stack, a clip at a time: ``(N, T, V, 3, M)``."""
    views = []
    for clip, draw in zip(index.tolist(), draws):
        first = int(clips.first_frame[clip]) + draw.start
        crop = clips.frames[first : first + draw.count]  # T' x V x 3 x M
        line = crop.permute(1, 2, 3, 0).reshape(1, -1, len(crop))  # 1 x V3M x T'
        line = F.interpolate(line, size=num_frames, mode="linear", align_corners=False)
        view = line.view(*crop.shape[1:], -1).permute(3, 0, 1, 2)  # T x V x 3 x M
        moved = torch.einsum("ij,tvjm->tvim", draw.matrix, view)
        views.append(torch.where(draw.joints[None, :, None, None], moved, view))
    return torch.stack(views)


def plain_feeder(clips: ClipSet, index: Tensor, augmentation: Augmentation) -> Tensor:
    """``dataset.views.pretraining_view``, a clip at a time: ``(N, T, V, 3, M)``."""
    draws = [plain_draw(int(clips.num_frames[clip]), augmentation) for clip in index.tolist()]
    return plain_view(clips, index, draws, augmentation.num_frames)


def plain_gru(encoder: CausalBiGRU, x: Tensor) -> Tensor:
    """The bidirectional GRU called once a frame, as the released program does: ``(N, 2 H)``."""
    state = None
    for frame in x.split(1, dim=1):
        _, state = encoder.gru(frame, state)
    return torch.cat([state[-2], state[-1]], dim=1)


def plain_graph_conv(block: AdaptiveGraphConv, x: Tensor) -> Tensor:
    """Adaptive graph convolution, subset by subset: ``(N, C, T, V) -> (N, C', T, V)``."""
    n, c, t, v = x.shape
    total = None
    for k in range(len(block.A)):
        theta = block.conv_a[k](x).permute(0, 3, 1, 2).reshape(n, v, -1)
        phi = block.conv_b[k](x).reshape(n, -1, v)
        adjacency = (theta @ phi / phi.shape[1]).softmax(dim=-2) + block.A[k] + block.PA[k]
        gathered = (x.reshape(n, c * t, v) @ adjacency).view(n, c, t, v)
        branch = block.conv_d[k](gathered)
        total = branch if total is None else total + branch
    return F.relu(block.bn(total) + block.down(x))


def make_plain(model: nn.Module) -> nn.Module:
    """Turn every GRU and graph convolution inside ``model`` into its plain form, in place."""
    for module in model.modules():
        if isinstance(module, CausalBiGRU):
            module.forward = plain_gru.__get__(module)
        elif isinstance(module, AdaptiveGraphConv):
            module.forward = plain_graph_conv.__get__(module)
    return model
