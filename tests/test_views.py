"""Views depend only on the seed and the position, and have the layouts that the encoders read."""

from typing import ClassVar

import pytest
import torch
from conftest import log_lines

from dataset import augment
from dataset.augment import JointMaps, WholeClip, augmentation_names
from dataset.batches import ordered_batches, prefetch, shuffled_batches
from dataset.clips import open_clips
from dataset.views import AugmentationSettings, View, classifier_view, evaluation_view, pretraining_view
from engine.randomness import ORDER, VIEWS, generator
from models.registry import REPRESENTATIONS, lay_out
from utils.errors import UserError


@pytest.fixture
def clips(small_store):
    return open_clips(small_store, "ntu60", "cross_view", "train")


def augmented(clips, index, **settings):
    """Pretraining views of the clips ``index``, always of the same seed."""
    return pretraining_view(AugmentationSettings(**settings)).of(clips, index, generator(0, VIEWS))


def epoch_of_views(clips, workers, seed=3, epoch=1):
    """The batches of an epoch and their views."""
    batches = shuffled_batches(len(clips), 4, generator(seed, ORDER, epoch), drop_last=True)

    def make(i):
        return pretraining_view().of(clips, batches[i], generator(seed, VIEWS, epoch, i))

    return batches, list(prefetch(make, range(len(batches)), workers))


def test_views_depend_only_on_seed_and_position(clips):
    batches, inline = epoch_of_views(clips, workers=0)
    for workers in (1, 3, 9):
        others, threaded = epoch_of_views(clips, workers)
        assert all(map(torch.equal, batches, others)) and all(map(torch.equal, inline, threaded))
    assert not torch.equal(inline[0], epoch_of_views(clips, 0, seed=4)[1][0])
    assert not torch.equal(inline[0], epoch_of_views(clips, 0, epoch=2)[1][0])
    assert not torch.equal(inline[0], inline[1])


def test_evaluation_views_do_not_depend_on_the_batch(clips):
    index = torch.tensor([3, 0, 7])
    together = evaluation_view().of(clips, index)
    alone = torch.cat([evaluation_view().of(clips, index[i : i + 1]) for i in range(3)])
    assert together.shape == (3, 64, 25, 3, 2) and torch.equal(together, alone)


def test_shard_of_a_batch_has_the_views_of_the_whole_batch(clips):
    index = torch.arange(12)
    whole = pretraining_view().of(clips, index, generator(1, VIEWS))
    for shard in (slice(0, 4), slice(4, 12)):
        part = pretraining_view().of(clips, index, generator(1, VIEWS), shard)
        assert torch.equal(part, whole[shard])


def test_view_without_augmentation_is_the_whole_clip(clips):
    index = torch.arange(5)
    view = augmented(clips, index, names=())
    assert torch.equal(view, View(WholeClip()).of(clips, index))


@pytest.mark.parametrize("name", augmentation_names())
def test_each_augmentation_changes_the_view(clips, name):
    index = torch.arange(20)
    plain = augmented(clips, index, names=())
    changed = augmented(clips, index, names=(name,))
    different = (plain != changed).flatten(2).any(dim=2).any(dim=1)
    expected = clips.num_frames > 64 if name == "crop" else torch.ones(20, dtype=torch.bool)
    assert different[~expected].sum() == 0 and different[expected].float().mean() > 0.8


def test_jitter_changes_the_given_number_of_joints(clips):
    plain = augmented(clips, torch.arange(20), names=())
    for count in (2, 20):
        view = augmented(clips, torch.arange(20), names=("jitter",), jitter_joints=count)
        changed = (view != plain).any(dim=1).flatten(2).any(dim=2)  # N x V
        assert (changed.sum(dim=1) == count).all()


def test_jitter_zero_probability_of_0_and_1(clips):
    for probability, zeros in ((0.0, 0), (1.0, 15)):
        view = augmented(clips, torch.arange(20), names=("jitter",), jitter_zero_prob=probability)
        assert ((view == 0).all(dim=1).flatten(2).all(dim=2).sum(dim=1) == zeros).all()


class Mirror:
    """An augmentation as a user would add it: x is negated in half of the views."""

    name: ClassVar[str] = "mirror"

    def sample(self, count, num_joints, generator):
        sign = torch.rand(count, generator=generator).round() * 2 - 1
        matrix = torch.eye(3).repeat(count, 1, 1)
        matrix[:, 0, 0] = sign
        return JointMaps(matrix, torch.ones(count, num_joints, dtype=torch.bool))

    def describe(self, maps, clip):
        return "mirror: x negated" if maps.matrix[clip, 0, 0] < 0 else "mirror: unchanged"


def two_samples(clips, names):
    """The parameters of two views in a row from one generator, as in a training step."""
    view, source = pretraining_view(AugmentationSettings(names)), generator(0, VIEWS)
    return [view.sample(clips, torch.arange(len(clips)), source).spatial for _ in range(2)]


def test_registered_augmentation_is_available(clips, monkeypatch, pretrain, tmp_path):
    index = torch.arange(20)
    plain = augmented(clips, index, names=())
    monkeypatch.setitem(augment.SPATIAL, Mirror.name, Mirror)
    view = pretraining_view(AugmentationSettings(("mirror",)))
    parameters = view.sample(clips, index, generator(0, VIEWS))
    mirrored = view.apply(clips, index, parameters)
    captions = [view.describe(parameters, i)[1] for i in range(20)]
    assert set(captions) == {"mirror: x negated", "mirror: unchanged"}
    for i, caption in enumerate(captions):
        expected = plain[i].clone()
        expected[..., 0, :] *= -1 if caption.endswith("negated") else 1
        torch.testing.assert_close(mirrored[i], expected)
    code, _, err = pretrain(tmp_path / "c", "--epochs", 1, "--augmentations", "crop", "pose", "mirror")
    assert code == 0 and len(log_lines(tmp_path / "c")) == 1, err
    code, _, err = pretrain(tmp_path / "d", "--epochs", 1, "--augmentations", "rotate")
    assert code == 2 and "choose from crop, pose, jitter, mirror" in err


@pytest.mark.parametrize("names", [("pose", "jitter"), ("pose",), ("jitter",)])
def test_registering_an_augmentation_keeps_the_views_of_others(clips, monkeypatch, names):
    before, default = two_samples(clips, names), pretraining_view()
    monkeypatch.setitem(augment.SPATIAL, Mirror.name, Mirror)
    for old, new in zip(before, two_samples(clips, names)):
        assert torch.equal(old.choice, new.choice)
        assert torch.equal(old.maps.matrix, new.maps.matrix)
        assert torch.equal(old.maps.joints, new.maps.joints)
    assert pretraining_view() == default, "it is not enabled by default"


def test_enabling_an_augmentation_keeps_the_parameters_of_others(clips, monkeypatch):
    """The clips that undergo pose or jitter, with and without a third augmentation, have the same maps."""
    monkeypatch.setitem(augment.SPATIAL, Mirror.name, Mirror)
    for name in ("pose", "jitter"):
        alone = two_samples(clips, (name,))[0].maps
        mixed = two_samples(clips, (name, "mirror"))[0]
        chosen = mixed.choice == 0
        assert 0 < chosen.sum() < len(clips)
        assert torch.equal(alone.matrix[chosen], mixed.maps.matrix[chosen])
        assert torch.equal(alone.joints[chosen], mixed.maps.joints[chosen])


def test_classifier_view_keeps_at_least_half(clips):
    """Measured with clips whose coordinates are the number of their frame."""
    numbers = torch.arange(len(clips.frames), dtype=torch.float32)
    frames = numbers[:, None, None, None].expand_as(clips.frames).contiguous()
    clips = type(clips)(**{**vars(clips), "frames": frames})
    for seed in range(50):
        view = classifier_view().of(clips, torch.arange(20), generator(seed, VIEWS))[:, :, 0, 0, 0]
        span = view[:, -1] - view[:, 0] + 1
        assert (span >= 0.5 * clips.num_frames - 2).all() and (span <= clips.num_frames).all()


def test_layouts(clips):
    view = evaluation_view().of(clips, torch.arange(3))
    layouts = lay_out(view, REPRESENTATIONS)
    n, t, joint, axis, person = 1, 5, 7, 2, 1
    value = view[n, t, joint, axis, person]
    assert layouts["seq-based"].shape == (3, 64, 150)
    assert layouts["seq-based"][n, t, joint * 6 + axis * 2 + person] == value
    for name in ("graph-based", "image-based"):
        assert layouts[name].shape == (3, 3, 64, 25, 2) and layouts[name].is_contiguous()
        assert layouts[name][n, axis, t, joint, person] == value


def test_batches_contain_every_clip_once():
    for drop_last, count in ((False, 23), (True, 20)):
        batches = shuffled_batches(23, 5, generator(0, ORDER), drop_last)
        clips = torch.cat(batches).tolist()
        assert len(clips) == count == len(set(clips))
    assert torch.cat(ordered_batches(23, 5)).tolist() == list(range(23))


def test_prefetch_raises_the_error_of_a_batch_in_its_turn():
    def make(i):
        if i == 3:
            raise UserError("clip 3")
        return i

    for workers in (0, 2):
        batches = prefetch(make, range(6), workers)
        assert [next(batches) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match="clip 3"):
            next(batches)


@pytest.mark.parametrize(
    "settings, flag",
    [
        ({"names": ("mirror",)}, "--augmentations mirror"),
        ({"min_crop_ratio": 0.0}, "--min-crop-ratio"),
        ({"jitter_zero_prob": 1.5}, "--jitter-zero-prob"),
        ({"jitter_joints": 26}, "--jitter-joints"),
        ({"min_crop_frames": 0}, "--min-crop-frames"),
    ],
)
def test_invalid_settings_are_rejected_with_their_flag(settings, flag):
    with pytest.raises(UserError, match=flag):
        pretraining_view(AugmentationSettings(**settings))
