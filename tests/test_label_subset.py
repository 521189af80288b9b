"""Label subsets: exact counts, the training split only, the same clips for the same seed."""

import numpy as np
import pytest
import torch
from conftest import write_store

from dataset.clips import open_clips
from dataset.label_subset import classes_without_clip, keep_clips, sample_labeled
from engine.randomness import LABELS, generator

PER_CLASS = [1, 3, 10, 25, 50, 150]  # training clips of each class


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """PER_CLASS training clips in shuffled order, and one validation clip of each of 7 classes."""
    root = tmp_path_factory.mktemp("subset") / "data"
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(PER_CLASS)), PER_CLASS)).tolist()
    labels += range(7)
    cells = ["train"] * sum(PER_CLASS) + ["val"] * 7
    names = [f"clip{i * 7919 % 1000:04d}" for i in range(len(labels))]
    write_store(root / "mine", names, labels, [3] * len(labels), {"split": cells}, "mine", 7)
    return [open_clips(str(root), "mine", "split", split) for split in ("train", "val")]


def sample(clips, fraction, seed=0, sampling="balanced"):
    return sample_labeled(clips, fraction, sampling, generator(seed, LABELS))


@pytest.mark.parametrize(
    "fraction, expected",
    [
        (0.01, [1, 1, 1, 1, 1, 2]),
        (0.05, [1, 1, 1, 1, 3, 8]),
        (0.1, [1, 1, 1, 3, 5, 15]),
        (0.2, [1, 1, 2, 5, 10, 30]),
        (0.29, [1, 1, 3, 7, 15, 44]),
        (1.0, PER_CLASS),
    ],
)
def test_counts_per_class(clips, fraction, expected):
    """Decimals are rounded half up: 0.05 of 50 and of 150 are 2.5 and 7.5, 0.29 of 50 is 14.5."""
    train, val = clips
    subset = keep_clips(train, sample(train, fraction))
    assert torch.bincount(subset.labels).tolist() == expected
    assert len(set(subset.names)) == len(subset) and set(subset.names) <= set(train.names)
    assert not set(subset.names) & set(val.names)


def test_uniform_sampling_ignores_classes(clips):
    train = clips[0]
    assert [len(sample(train, f, sampling="uniform")) for f in (0.01, 0.05, 0.1, 1.0)] == [2, 12, 24, 239]
    counts = torch.stack(
        [
            torch.bincount(train.labels[sample(train, 0.2, seed, "uniform")], minlength=6)
            for seed in range(200)
        ]
    )
    expected = 48 * torch.tensor(PER_CLASS) / sum(PER_CLASS)
    assert torch.allclose(counts.float().mean(0), expected, atol=0.6), "no class is preferred"
    assert (counts[:, 0] == 0).any(), "a class may have no clip"


def test_clips_of_a_class_are_equally_likely(clips):
    train = clips[0]
    times = torch.zeros(len(train))
    for seed in range(400):
        times[sample(train, 0.1, seed)] += 1
    of_25 = times[train.labels == 3]  # 3 of 25 each time: 48 expected, standard deviation 6.5
    assert 25 < of_25.min() and of_25.max() < 75


def test_seed_selects_same_names_in_any_storage_order(clips):
    train = clips[0]
    shuffled = keep_clips(train, torch.randperm(len(train), generator=torch.Generator().manual_seed(3)))
    for sampling in ("balanced", "uniform"):
        names = [[t.names[i] for i in sample(t, 0.1, 4, sampling)] for t in (train, train, shuffled)]
        assert names[0] == names[1] and set(names[0]) == set(names[2])
        assert names[0] != [train.names[i] for i in sample(train, 0.1, 5, sampling)]


def test_smaller_subsets_are_contained_in_larger_ones(clips):
    small, middle, large = (set(sample(clips[0], f).tolist()) for f in (0.01, 0.1, 0.2))
    assert small < middle < large


def test_subset_has_frames_of_its_clips(clips):
    train = clips[0]
    index = sample(train, 0.05)
    subset = keep_clips(train, index)
    rows, frames = torch.arange(len(index)), torch.tensor([[0, 2]]).expand(len(index), 2)
    assert torch.equal(subset.gather(rows, frames), train.gather(index, frames))
    assert subset.names == [train.names[i] for i in index] and torch.equal(subset.labels, train.labels[index])


def test_classes_without_training_clip(clips):
    assert classes_without_clip(*clips) == [6]
    assert classes_without_clip(
        keep_clips(clips[0], (clips[0].labels != 2).nonzero().flatten()), clips[1]
    ) == [2, 6]
