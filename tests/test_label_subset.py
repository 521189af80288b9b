"""Semi-supervised subsets: exact counts, the training split only, the same clips for the same seed."""

import numpy as np
import pytest
import torch

from conftest import write_store
from dataset.clips import open_clips
from dataset.label_subset import classes_without_clip, sample_labelled, keep_clips, fraction_of
from engine.randomness import LABELS, generator

PER_CLASS = [1, 3, 10, 25, 50, 150]  # training clips of each class


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Training clips as PER_CLASS says in shuffled order, and one validation clip of each of 7 classes."""
    root = tmp_path_factory.mktemp("subset") / "data"
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(PER_CLASS)), PER_CLASS)).tolist()
    labels += range(7)
    cells = ["train"] * sum(PER_CLASS) + ["val"] * 7
    names = [f"clip{i * 7919 % 1000:04d}" for i in range(len(labels))]
    write_store(root / "mine", names, labels, [3] * len(labels), {"split": cells}, "mine", 7)
    return [open_clips(str(root), "mine", "split", split) for split in ("train", "val")]


def draw(clips, fraction, seed=0, sampling="balanced"):
    return sample_labelled(clips, fraction, sampling, generator(seed, LABELS))


@pytest.mark.parametrize("fraction, expected", [
    (0.01, [1, 1, 1, 1, 1, 2]), (0.05, [1, 1, 1, 1, 3, 8]), (0.1, [1, 1, 1, 3, 5, 15]),
    (0.2, [1, 1, 2, 5, 10, 30]), (0.29, [1, 1, 3, 7, 15, 44]), (1.0, PER_CLASS)])
def test_counts_of_every_class(clips, fraction, expected):
    """Halves are rounded up as they are written: 0.05 of 50 and of 150 are 2.5 and 7.5, 0.29 of 50 is 14.5."""
    train, val = clips
    subset = keep_clips(train, draw(train, fraction))
    assert torch.bincount(subset.labels).tolist() == expected
    assert len(set(subset.names)) == len(subset) and set(subset.names) <= set(train.names)
    assert not set(subset.names) & set(val.names)


def test_uniform_takes_a_share_of_all(clips):
    train = clips[0]
    assert [len(draw(train, f, sampling="uniform")) for f in (0.01, 0.05, 0.1, 1.0)] == [2, 12, 24, 239]
    drawn = torch.stack([torch.bincount(train.labels[draw(train, 0.2, seed, "uniform")], minlength=6) for seed in range(200)])
    expected = 48 * torch.tensor(PER_CLASS) / sum(PER_CLASS)
    assert torch.allclose(drawn.float().mean(0), expected, atol=0.6), "no class is preferred"
    assert (drawn[:, 0] == 0).any(), "a class may go without"


def test_every_clip_of_a_class_is_as_likely(clips):
    train = clips[0]
    times = torch.zeros(len(train))
    for seed in range(400):
        times[draw(train, 0.1, seed)] += 1
    of_25 = times[train.labels == 3]  # 3 of 25 each time: 48 expected, standard deviation 6.5
    assert 25 < of_25.min() and of_25.max() < 75


def test_a_seed_means_the_same_names_in_any_order(clips):
    train = clips[0]
    shuffled = keep_clips(train, torch.randperm(len(train), generator=torch.Generator().manual_seed(3)))
    for sampling in ("balanced", "uniform"):
        names = [[t.names[i] for i in draw(t, 0.1, 4, sampling)] for t in (train, train, shuffled)]
        assert names[0] == names[1] and set(names[0]) == set(names[2])
        assert names[0] != [train.names[i] for i in draw(train, 0.1, 5, sampling)]


def test_smaller_fractions_are_within_larger_ones(clips):
    small, middle, large = (set(draw(clips[0], f).tolist()) for f in (0.01, 0.1, 0.2))
    assert small < middle < large


def test_the_subset_has_the_clips_own_frames(clips):
    train = clips[0]
    index = draw(train, 0.05)
    subset = keep_clips(train, index)
    rows, frames = torch.arange(len(index)), torch.tensor([[0, 2]]).expand(len(index), 2)
    assert torch.equal(subset.gather(rows, frames), train.gather(index, frames))
    assert subset.names == [train.names[i] for i in index] and torch.equal(subset.labels, train.labels[index])


def test_classes_without_a_clip(clips):
    assert classes_without_clip(*clips) == [6]
    assert classes_without_clip(keep_clips(clips[0], (clips[0].labels != 2).nonzero().flatten()), clips[1]) == [2, 6]


@pytest.mark.parametrize("count, fraction, expected", [(0, 0.5, 0), (1, 0.01, 1), (50, 0.29, 15), (5, 0.1, 1), (15, 0.1, 2)])
def test_rounding(count, fraction, expected):
    assert fraction_of(count, fraction) == expected
