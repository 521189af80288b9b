"""Crops, resize, augmentations and layouts match the official code to 1e-6."""

import numpy as np
import pytest
import torch
from conftest import golden

from dataset.augment import CenterCrop, JointJitter, JointMaps, PoseAugmentation
from dataset.clips import ClipSet
from dataset.views import crop_and_resize, evaluation_view
from models.gru import sequence_layout
from models.representation import grid_layout

ARRAYS = golden("augmentations")
ONE = torch.zeros(1, dtype=torch.long)


def one_clip(num_frames=300, official=False):
    """The golden clip in the layout of a store or in the official one."""
    clip = torch.tensor(ARRAYS["input"])  # 3 x 300 x 25 x 2
    return ClipSet(
        "ntu60",
        "cross_view",
        "train",
        60,
        names=["clip"],
        labels=ONE,
        num_frames=torch.tensor([num_frames]),
        frames=clip[None] if official else clip.permute(1, 2, 0, 3).contiguous(),
        first_frame=None if official else ONE,
        source="golden",
    )


def assert_close(view, expected):
    np.testing.assert_allclose(grid_layout(view)[0].numpy(), expected, rtol=0, atol=1e-6)


def golden_view():
    """The view that the official augmentations were applied to."""
    return torch.tensor(ARRAYS["resize/start7_length64"]).permute(1, 2, 0, 3)[None]


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("name", [k for k in ARRAYS if k.startswith("resize/")])
def test_crop_and_resize(name, official):
    start, length = (int("".join(filter(str.isdigit, part))) for part in name.split("/")[1].split("_"))
    clip = one_clip(official=official)
    view = crop_and_resize(clip, ONE, torch.tensor([start]), torch.tensor([length]))
    assert_close(view, ARRAYS[name])


@pytest.mark.parametrize("name", [k for k in ARRAYS if k.startswith("center_crop")])
def test_center_crop(name):
    num_frames = int(name.split("frames")[1])
    assert_close(evaluation_view().of(one_clip(num_frames), ONE), ARRAYS[name])
    crop = CenterCrop().sample(torch.tensor([num_frames]))
    start, length = crop.start, crop.length
    assert (start, start + length) == (int((1 - 0.95) * num_frames / 2), num_frames - start)


def test_pose():
    matrix = torch.tensor(ARRAYS["shear/matrix"]).float()[None]
    maps = JointMaps(matrix, torch.ones(1, 25, dtype=torch.bool))
    assert_close(PoseAugmentation().apply(golden_view(), maps), ARRAYS["shear/output"])


@pytest.mark.parametrize("kind", ["jitter", "zero"])
def test_jitter(kind):
    joints = torch.zeros(1, 25, dtype=torch.bool)
    joints[0, torch.tensor(ARRAYS["jitter/joints"])] = True
    # The official code multiplies row vectors by the matrix: x M.
    matrix = torch.tensor(ARRAYS["jitter/matrix"]).float()[None].transpose(1, 2) * (kind == "jitter")
    view = JointJitter().apply(golden_view(), JointMaps(matrix, joints))
    assert_close(view, ARRAYS[f"{kind}/output"])


def test_sequence_layout():
    np.testing.assert_array_equal(sequence_layout(golden_view())[0].numpy(), ARRAYS["layout/seq"])
