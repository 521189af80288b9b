"""10,000 samples of the parameters of each augmentation follow their distributions."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from dataset.augment import (
    AxisMask,
    Blur,
    Flip,
    JointJitter,
    Noise,
    PoseAugmentation,
    RandomCrop,
    Reverse,
    Rotation,
    ViewShape,
)
from dataset.views import pretraining_view
from facts.skeletons import KINECT_V2

SAMPLES = 10_000
SHAPE = ViewShape(SAMPLES, 16, KINECT_V2)
P_VALUE = 0.001


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def crop(num_frames, generator, ratio, min_frames):
    """First frames and lengths of random crops."""
    parameters = RandomCrop(ratio, min_frames).sample(num_frames, generator)
    return parameters.start, parameters.length


def augmentations(names, generator, **flags):
    """Parameters of the augmentations ``names`` after the crop."""
    view = pretraining_view({"augmentations": names, **flags})
    return view.augmentations.sample(SHAPE, generator)


def is_uniform(sample, low, high):
    """Kolmogorov-Smirnov test against U[low, high]."""
    test = stats.kstest(sample.double().numpy(), "uniform", args=(low, high - low))
    return test.pvalue > P_VALUE


def has_frequencies(counts, expected):
    """Chi-square test of counts against expected proportions."""
    counts = torch.as_tensor(counts).double()
    expected = torch.as_tensor(expected).double()
    expected = expected * (counts.sum() / expected.sum())
    return stats.chisquare(counts.numpy(), expected.numpy()).pvalue > P_VALUE


@pytest.mark.parametrize("ratio, min_frames", [(0.1, 64), (0.5, 64), (0.1, 1)])
def test_crop_length(ratio, min_frames):
    n = 250
    start, length = crop(torch.full((SAMPLES,), n), source(), ratio, min_frames)
    assert length.min() >= min_frames and (start >= 0).all() and (start + length <= n).all()
    # P(length >= x) = P(floor(n u) >= x) above the minimum
    u = torch.linspace(ratio, 1, 2_000_001, dtype=torch.float64)
    possible = (n * u).floor().clamp(min=min_frames).long()
    share = torch.bincount(possible, minlength=n + 1).double() / len(u)
    counts = torch.bincount(length, minlength=n + 1).double()
    often = share > 20 / SAMPLES  # the chi-square test needs filled cells: rare lengths form one cell
    pooled = [torch.cat([x[often], x[~often].sum()[None]]) for x in (counts, share)]
    assert has_frequencies(*(x[pooled[1] > 0] for x in pooled))


def test_crop_start_is_uniform_over_valid_positions():
    n = torch.full((SAMPLES,), 80)
    start, length = crop(n, source(1), 0.1, 64)
    shortest = length == 64
    counts = torch.bincount(start[shortest], minlength=17)
    assert len(counts) == 17 and has_frequencies(counts, torch.full((17,), 1 / 17))


def test_short_clips_are_not_cropped():
    n = torch.randint(1, 65, (SAMPLES,), generator=source(2))
    start, length = crop(n, source(3), 0.1, 64)
    assert torch.equal(length, n) and not start.any()


def test_pose():
    shear = PoseAugmentation().sample(SHAPE, source(4)).matrix
    assert torch.equal(shear.diagonal(dim1=1, dim2=2), torch.ones(SAMPLES, 3))
    for i in range(3):
        for j in range(3):
            assert i == j or is_uniform(shear[:, i, j], -1, 1)


def test_jitter_matrices_zeros_and_joints():
    maps = JointJitter(15, 0.5).sample(SHAPE, source(5))
    matrix, joints = maps.matrix, maps.joints
    is_zero = (matrix == 0).flatten(1).all(dim=1)
    assert has_frequencies([is_zero.sum(), (~is_zero).sum()], [0.5, 0.5])
    for entry in matrix[~is_zero].flatten(1).t():
        assert is_uniform(entry, -1, 1)
    assert (joints.sum(dim=1) == 15).all()
    # Every joint is equally frequent, and the subsets vary.
    assert has_frequencies(joints.sum(dim=0), torch.full((25,), 1 / 25)) and len(joints.unique(dim=0)) > 9_900
    never = JointJitter(15, 0.0).sample(SHAPE, source(6)).matrix
    assert not (never == 0).flatten(1).all(dim=1).any()


def test_rotations_have_uniform_angles_and_axes():
    matrix = Rotation(40.0).sample(SHAPE, source(9)).matrix
    identity = torch.eye(3).expand_as(matrix)
    torch.testing.assert_close(matrix @ matrix.transpose(1, 2), identity, rtol=0, atol=1e-5)
    assert (torch.linalg.det(matrix) > 0).all()
    cosine = (matrix.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    assert is_uniform(angle, 0, 40)
    twisted = torch.stack([matrix[:, i, j] - matrix[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], dim=1)
    for coordinate in F.normalize(twisted[angle > 1], dim=1).t():  # Archimedes: uniform on the sphere
        assert is_uniform(coordinate, -1, 1)


def test_each_axis_is_masked_equally_often():
    for count in (1, 2):
        kept = AxisMask(count).sample(SHAPE, source(10)).matrix.diagonal(dim1=1, dim2=2)
        assert (kept.sum(dim=1) == 3 - count).all()
        assert has_frequencies((kept == 0).sum(dim=0), torch.ones(3))


def test_noise_blur_flip_and_reverse():
    noise = Noise(0.3).sample(replace(SHAPE, count=20), source(11)).flatten().double().numpy()
    assert stats.kstest(noise[:SAMPLES], "norm", args=(0, 0.3)).pvalue > P_VALUE
    assert is_uniform(Blur(3.0).sample(SHAPE, source(12)), 0.1, 3)
    for chosen in (Flip(0.3).sample(SHAPE, source(13)).sign < 0, Reverse(0.3).sample(SHAPE, source(14))):
        assert has_frequencies([chosen.sum(), (~chosen).sum()], [0.3, 0.7])


def test_one_of_the_augmentations_is_chosen_with_equal_probability():
    applied = augmentations(("crop", "pose", "jitter", "flip"), source(7)).applied
    assert (applied.sum(dim=1) == 1).all() and has_frequencies(applied.sum(dim=0), torch.ones(3))


def test_all_augmentations_are_applied_independently():
    flags = {"compose": "all", "augmentation_prob": 0.3}
    applied = augmentations(("pose", "jitter", "rotate"), source(8), **flags).applied
    kinds = (applied * torch.tensor([1, 2, 4])).sum(dim=1).bincount(minlength=8)
    expected = [0.3**i * 0.7 ** (3 - i) for i in (0, 1, 1, 2, 1, 2, 2, 3)]
    assert has_frequencies(kinds, expected)


@pytest.mark.parametrize("names", [(), ("crop",)])
def test_no_augmentation_after_the_crop(names):
    assert pretraining_view({"augmentations": names}).augmentations is None
