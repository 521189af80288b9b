"""10,000 draws of each augmentation's parameters against the laws that the design states."""

import pytest
import torch
from scipy import stats

from dataset.augment import Augmentation, draw_jitter, draw_pose, draw_spatial
from dataset.crop import draw_crop

DRAWS = 10_000
P_VALUE = 0.001


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(sample, low, high):
    """Kolmogorov-Smirnov against U[low, high]."""
    return stats.kstest(sample.double().numpy(), "uniform", args=(low, high - low)).pvalue > P_VALUE


def frequencies(counts, expected):
    """Chi-square of counts against expected shares."""
    counts = torch.as_tensor(counts).double()
    expected = torch.as_tensor(expected).double()
    expected = expected * (counts.sum() / expected.sum())
    return stats.chisquare(counts.numpy(), expected.numpy()).pvalue > P_VALUE


@pytest.mark.parametrize("ratio, min_frames", [(0.1, 64), (0.5, 64), (0.1, 1)])
def test_crop_length(ratio, min_frames):
    n = 250
    start, length = draw_crop(torch.full((DRAWS,), n), source(), ratio, min_frames)
    assert length.min() >= min_frames and (start >= 0).all() and (start + length <= n).all()
    # P(length >= x) = P(floor(n u) >= x), where the minimum does not bind
    u = torch.linspace(ratio, 1, 2_000_001, dtype=torch.float64)
    possible = (n * u).floor().clamp(min=min_frames).long()
    share = torch.bincount(possible, minlength=n + 1).double() / len(u)
    counts = torch.bincount(length, minlength=n + 1).double()
    often = share > 20 / DRAWS  # chi-square wants no nearly empty cells: the rare ones are one cell
    pooled = [torch.cat([x[often], x[~often].sum()[None]]) for x in (counts, share)]
    assert frequencies(*(x[pooled[1] > 0] for x in pooled))


def test_crop_start_is_uniform_over_what_fits():
    n = torch.full((DRAWS,), 80)
    start, length = draw_crop(n, source(1), 0.1, 64)
    shortest = length == 64
    counts = torch.bincount(start[shortest], minlength=17)
    assert len(counts) == 17 and frequencies(counts, torch.full((17,), 1 / 17))


def test_short_clips_are_kept_whole():
    n = torch.randint(1, 65, (DRAWS,), generator=source(2))
    start, length = draw_crop(n, source(3), 0.1, 64)
    assert torch.equal(length, n) and not start.any()


def test_pose():
    shear = draw_pose(DRAWS, source(4))
    assert torch.equal(shear.diagonal(dim1=1, dim2=2), torch.ones(DRAWS, 3))
    for i in range(3):
        for j in range(3):
            assert i == j or uniform(shear[:, i, j], -1, 1)


def test_jitter_matrices_and_zeros():
    matrix, joints = draw_jitter(DRAWS, 25, 15, 0.5, source(5))
    is_zero = (matrix == 0).flatten(1).all(dim=1)
    assert frequencies([is_zero.sum(), (~is_zero).sum()], [0.5, 0.5])
    for entry in matrix[~is_zero].flatten(1).t():
        assert uniform(entry, -1, 1)
    assert (joints.sum(dim=1) == 15).all()
    # each joint equally often, and the sets are not always the same
    assert frequencies(joints.sum(dim=0), torch.full((25,), 1 / 25)) and len(joints.unique(dim=0)) > 9_900
    never, _ = draw_jitter(DRAWS, 25, 15, 0.0, source(6))
    assert not (never == 0).flatten(1).all(dim=1).any()


def test_pose_or_jitter_with_equal_chance():
    maps = draw_spatial(DRAWS, 25, Augmentation(), source(7))
    is_pose = maps.joints.all(dim=1)
    assert frequencies([is_pose.sum(), (~is_pose).sum()], [0.5, 0.5])
    diagonal = maps.matrix.diagonal(dim1=1, dim2=2)
    assert (diagonal[is_pose] == 1).all() and not (diagonal[~is_pose] == 1).all(dim=1).any()


@pytest.mark.parametrize("kinds, share", [(("pose",), 1), (("crop", "pose"), 1), (("jitter",), 0), (("crop", "jitter"), 0)])
def test_one_of_them_alone_is_always_applied(kinds, share):
    maps = draw_spatial(500, 25, Augmentation(kinds), source(8))
    assert maps.joints.all(dim=1).float().mean() == share


@pytest.mark.parametrize("kinds", [(), ("crop",)])
def test_no_spatial_augmentation(kinds):
    assert draw_spatial(5, 25, Augmentation(kinds), source(9)) is None
