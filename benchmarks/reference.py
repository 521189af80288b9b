"""Reference implementations for the benchmarks: straightforward, with the same results.

A feeder that processes one clip after another, a recurrent network that is fed one frame at a time, a
graph convolution that loops over its neighbor subsets, PyTorch's BatchNorm, and a graph encoder that
computes absent people. Every benchmark checks that results agree before it measures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.augment import JointJitter, RandomCrop
from dataset.clips import ClipSet
from dataset.views import ViewParameters
from facts.skeletons import KINECT_V2
from models.agcn import AdaptiveGraphConv, GraphEncoder, TemporalConv
from models.gru import CausalBiGRU


@dataclass(frozen=True)
class ClipParameters:
    """The parameters of one view: a crop, a 3x3 matrix and the joints that it is applied to."""

    start: int
    length: int
    matrix: Tensor  # (3, 3), for column vectors
    joints: Tensor  # (V,) bool


def sample_parameters(num_frames: int) -> ClipParameters:
    """Sample the view of one clip from the same distributions as ``dataset.views.pretraining_view``."""
    crop, jitter = RandomCrop(), JointJitter()
    ratio = random.uniform(crop.min_crop_ratio, 1.0)
    length = min(max(int(num_frames * ratio), crop.min_crop_frames), num_frames)
    start = random.randint(0, num_frames - length)
    count = KINECT_V2.num_joints
    matrix, joints = torch.rand(3, 3) * 2.0 - 1.0, torch.ones(count, dtype=torch.bool)
    if random.random() < 0.5:
        matrix.fill_diagonal_(1.0)
        return ClipParameters(start, length, matrix, joints)
    if random.random() < jitter.jitter_zero_prob:
        matrix = torch.zeros(3, 3)
    joints[torch.randperm(count)[15:]] = False
    return ClipParameters(start, length, matrix, joints)


def split_parameters(parameters: ViewParameters) -> list[ClipParameters]:
    """Return the parameters of a batch of views, clip by clip."""
    crop, sampled = parameters.crop, parameters.augmentations
    pose, jitter = sampled.parts
    is_pose = sampled.applied[:, 0]
    matrix = torch.where(is_pose[:, None, None], pose.matrix, jitter.matrix)
    joints = torch.where(is_pose[:, None], pose.joints, jitter.joints)
    values = zip(crop.start.tolist(), crop.length.tolist(), matrix, joints, strict=True)
    return [ClipParameters(*clip) for clip in values]


def crop_and_resize(clips: ClipSet, clip: int, start: int, length: int, num_frames: int) -> Tensor:
    """Return a crop of one clip, resized to ``num_frames``: ``(T, V, 3, M)``."""
    first = int(clips.first_frame[clip]) + start
    crop = clips.frames[first : first + length]  # T' x V x 3 x M
    series = crop.permute(1, 2, 3, 0).reshape(1, -1, length)  # 1 x V3M x T'
    series = F.interpolate(series, size=num_frames, mode="linear", align_corners=False)
    return series.view(*crop.shape[1:], -1).permute(3, 0, 1, 2)


def make_views(
    clips: ClipSet, index: Tensor, parameters: Sequence[ClipParameters], num_frames: int
) -> Tensor:
    """Crop, resize and augment clip by clip, then stack: ``(N, T, V, 3, M)``."""
    views = []
    for clip, sampled in zip(index.tolist(), parameters, strict=True):
        view = crop_and_resize(clips, clip, sampled.start, sampled.length, num_frames)
        mapped = torch.einsum("ij,tvjm->tvim", sampled.matrix, view)
        views.append(torch.where(sampled.joints[None, :, None, None], mapped, view))
    return torch.stack(views)


def feed(clips: ClipSet, index: Tensor, num_frames: int) -> Tensor:
    """Return random views of the clips ``index``, made clip by clip: ``(N, T, V, 3, M)``."""
    parameters = [sample_parameters(int(clips.num_frames[clip])) for clip in index.tolist()]
    return make_views(clips, index, parameters, num_frames)


def gru_forward(encoder: CausalBiGRU, x: Tensor) -> Tensor:
    """Call the bidirectional GRU once per frame, as in the official code: ``(N, 2 H)``."""
    state = None
    for frame in x.split(1, dim=1):
        _, state = encoder.gru(frame, state)
    return torch.cat([state[-2], state[-1]], dim=1)


def graph_conv_forward(block: AdaptiveGraphConv, x: Tensor, repeats: int = 1) -> Tensor:
    """Apply the adaptive graph convolution, subset by subset: ``(N, C, T, V) -> (N, C', T, V)``."""
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


def temporal_conv_forward(conv: TemporalConv, x: Tensor, repeats: int = 1) -> Tensor:
    """Apply the convolution and PyTorch's BatchNorm."""
    return conv.bn(conv.conv(x))


def all_people(encoder: GraphEncoder, x: Tensor) -> tuple[tuple[Tensor, Tensor], int]:
    """Have absent people computed like the others."""
    return (torch.empty(0), torch.empty(0)), 1


def use_reference_layers(model: nn.Module) -> nn.Module:
    """Replace the forward pass of the encoders' layers in ``model`` with their references."""
    references = {
        CausalBiGRU: ("forward", gru_forward),
        AdaptiveGraphConv: ("forward", graph_conv_forward),
        TemporalConv: ("forward", temporal_conv_forward),
        GraphEncoder: ("distinct_people", all_people),
    }
    for module in model.modules():
        if type(module) in references:
            name, function = references[type(module)]
            setattr(module, name, function.__get__(module))
    return model
