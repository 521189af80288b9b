"""10,000 samples of the parameters of each augmentation follow the distributions of the paper."""

import pytest
import torch
from scipy import stats

from dataset.augment import JointJitter, PoseAugmentation, RandomCrop
from dataset.views import AugmentationSettings, pretraining_view

SAMPLES = 10_000
P_VALUE = 0.001


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def crop(num_frames, generator, ratio, min_frames):
    """First frames and lengths of random crops."""
    parameters = RandomCrop(ratio, min_frames).sample(num_frames, generator)
    return parameters.start, parameters.length


def spatial(names, count, generator):
    """Parameters of the spatial augmentations ``names`` for ``count`` clips."""
    return pretraining_view(AugmentationSettings(names)).spatial.sample(count, 25, generator)


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
    shear = PoseAugmentation().sample(SAMPLES, 25, source(4)).matrix
    assert torch.equal(shear.diagonal(dim1=1, dim2=2), torch.ones(SAMPLES, 3))
    for i in range(3):
        for j in range(3):
            assert i == j or is_uniform(shear[:, i, j], -1, 1)


def test_jitter_matrices_zeros_and_joints():
    maps = JointJitter(15, 0.5).sample(SAMPLES, 25, source(5))
    matrix, joints = maps.matrix, maps.joints
    is_zero = (matrix == 0).flatten(1).all(dim=1)
    assert has_frequencies([is_zero.sum(), (~is_zero).sum()], [0.5, 0.5])
    for entry in matrix[~is_zero].flatten(1).t():
        assert is_uniform(entry, -1, 1)
    assert (joints.sum(dim=1) == 15).all()
    # Every joint is equally frequent, and the subsets vary.
    assert has_frequencies(joints.sum(dim=0), torch.full((25,), 1 / 25)) and len(joints.unique(dim=0)) > 9_900
    never = JointJitter(15, 0.0).sample(SAMPLES, 25, source(6)).matrix
    assert not (never == 0).flatten(1).all(dim=1).any()


def test_pose_and_jitter_are_equally_probable():
    parameters = spatial(("crop", "pose", "jitter"), SAMPLES, source(7))
    maps, is_pose = parameters.maps, parameters.choice == 0
    assert torch.equal(is_pose, maps.joints.all(dim=1))
    assert has_frequencies([is_pose.sum(), (~is_pose).sum()], [0.5, 0.5])
    diagonal = maps.matrix.diagonal(dim1=1, dim2=2)
    assert (diagonal[is_pose] == 1).all() and not (diagonal[~is_pose] == 1).all(dim=1).any()


@pytest.mark.parametrize(
    "names, share",
    [(("pose",), 1), (("crop", "pose"), 1), (("jitter",), 0), (("crop", "jitter"), 0)],
)
def test_single_augmentation_is_always_applied(names, share):
    maps = spatial(names, 500, source(8)).maps
    assert maps.joints.all(dim=1).float().mean() == share


@pytest.mark.parametrize("names", [(), ("crop",)])
def test_no_spatial_augmentation(names):
    assert pretraining_view(AugmentationSettings(names)).spatial is None
