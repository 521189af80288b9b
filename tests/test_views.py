"""Views depend only on the seed and the position, and have the layouts that the encoders read."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from conftest import identical, log_lines

from dataset.augment import (
    AUGMENTATIONS,
    Blur,
    Flip,
    JointMaps,
    LinearAugmentation,
    ViewShape,
)
from dataset.batches import ordered_batches, prefetch, shuffled_batches
from dataset.clips import open_clips
from dataset.views import classifier_view, evaluation_view, pretraining_view
from engine.randomness import ORDER, VIEWS, generator
from facts.skeletons import COCO, KINECT_V1, KINECT_V2, SKELETONS
from models.registry import REPRESENTATIONS, lay_out
from utils.errors import UserError


@pytest.fixture
def clips(small_store):
    return open_clips(small_store, "ntu60", "cross_view", "train")


ALL = tuple(AUGMENTATIONS)


def augmented(clips, index, names, **flags):
    """Pretraining views of the clips ``index``, always of the same seed."""
    return pretraining_view({"augmentations": names, **flags}).of(clips, index, generator(0, VIEWS))


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


def test_shard_of_a_batch_has_the_views_of_the_whole_batch(clips):
    view, index = pretraining_view({"augmentations": ALL, "compose": "all"}), torch.arange(12)
    whole = view.of(clips, index, generator(1, VIEWS))
    for shard in (slice(0, 4), slice(4, 12)):
        part = view.of(clips, index, generator(1, VIEWS), shard)
        torch.testing.assert_close(part, whole[shard], rtol=1e-5, atol=1e-6)


def test_evaluation_views_do_not_depend_on_the_batch(clips):
    index = torch.tensor([3, 0, 7])
    together = evaluation_view().of(clips, index)
    alone = torch.cat([evaluation_view().of(clips, index[i : i + 1]) for i in range(3)])
    assert together.shape == (3, 64, 25, 3, 2) and torch.equal(together, alone)


@pytest.mark.parametrize("name", ALL)
def test_each_augmentation_changes_the_view(clips, name):
    index = torch.arange(20)
    plain = augmented(clips, index, ())
    changed = augmented(clips, index, (name,))
    different = (plain != changed).flatten(2).any(dim=2).any(dim=1)
    expected = clips.num_frames > 64 if name == "crop" else torch.ones(20, dtype=torch.bool)
    assert different[~expected].sum() == 0 and different[expected].float().mean() > 0.8


def test_jitter_has_the_given_number_of_joints_and_probability_of_zero(clips):
    plain = augmented(clips, torch.arange(20), ())
    for probability, joints in ((0.0, 2), (1.0, 20)):
        settings = {"jitter_joints": joints, "jitter_zero_prob": probability}
        view = augmented(clips, torch.arange(20), ("jitter",), **settings)
        changed = (view != plain).any(dim=1).flatten(2).any(dim=2)  # N x V
        zero = (view == 0).all(dim=1).flatten(2).all(dim=2)
        assert (changed.sum(dim=1) == joints).all() and (zero.sum(dim=1) == probability * joints).all()


@pytest.fixture(params=[KINECT_V2, KINECT_V1, COCO], ids=lambda skeleton: skeleton.name)
def people(request):
    """A skeleton and five views of it: two people, one person, with a missing joint, with missing frames."""
    skeleton = request.param
    torch.manual_seed(0)
    batch = torch.randn(5, 16, *skeleton.frame_shape)
    batch[1:, ..., 1] = 0
    batch[2, :, 7] = 0
    batch[3, 4:9] = 0
    batch[..., skeleton.dimensions :, :] = 0
    return skeleton, batch


def mirror_images(skeleton):
    return dict(skeleton.left_right) | {right: left for left, right in skeleton.left_right}


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("crop", "pose")])
def test_absent_people_joints_and_frames_stay_zero(people, name):
    """On every skeleton; a 2D one stays in its plane."""
    skeleton, batch = people
    augmentation = AUGMENTATIONS[name]()
    parameters = augmentation.sample(ViewShape(5, 16, skeleton), generator(0, VIEWS))
    result = augmentation.apply(batch, parameters)
    assert result.shape == batch.shape and not torch.equal(result, batch)
    missing = mirror_images(skeleton).get(7, 7) if name == "flip" else 7
    frames = slice(7, 12) if name == "reverse" else slice(4, 9)
    assert not result[1:, ..., 1].any() and result[..., 0].any()
    if name != "jitter":
        assert not result[..., skeleton.dimensions :, :].any()
    assert not result[2, :, missing].any() and not result[3, frames].any()
    assert augmentation.describe(parameters, 0).startswith(name)
    if name == "reverse":
        assert torch.equal(result, batch.flip(1))


def sample_and_apply(augmentation, skeleton, batch):
    shape = ViewShape(len(batch), batch.shape[1], skeleton)
    return augmentation.apply(batch, augmentation.sample(shape, generator(0, VIEWS)))


def test_flip_exchanges_left_and_right_and_negates_x(people):
    skeleton, batch = people
    result = sample_and_apply(Flip(), skeleton, batch)
    for joint in range(skeleton.num_joints):
        other = mirror_images(skeleton).get(joint, joint)
        assert torch.equal(result[:, :, joint, 0], -batch[:, :, other, 0])
        assert torch.equal(result[:, :, joint, 1:], batch[:, :, other, 1:])
    assert torch.equal(sample_and_apply(Flip(), skeleton, result), batch)


def test_left_and_right_joints_are_those_named_so():
    for skeleton in SKELETONS.values():
        for left, right in skeleton.left_right:
            names = [skeleton.joints[joint].lower() for joint in (left, right)]
            assert "left" in names[0] and names[0].replace("left", "right") == names[1]
        assert len(skeleton.left_right) == sum("left" in joint.lower() for joint in skeleton.joints)


def test_blur_is_a_mean_over_the_frames_that_are_present(people):
    skeleton, batch = people
    present = (batch != 0).float()
    torch.testing.assert_close(sample_and_apply(Blur(2.0), skeleton, present), present)
    (sigma,) = Blur(2.0).sample(ViewShape(1, 16, skeleton), generator(0, VIEWS))
    weights = torch.exp(-0.5 * ((torch.arange(16) - 6) / sigma) ** 2)
    expected = (weights[:, None, None] * batch[0, :, 2]).sum(dim=0) / weights.sum()
    torch.testing.assert_close(sample_and_apply(Blur(2.0), skeleton, batch[:1])[0, 6, 2], expected)


@pytest.mark.parametrize("compose", ["one", "all"])
def test_composition_applies_the_sampled_augmentations_in_their_order(clips, compose):
    """Clip by clip, one augmentation after the other; linear ones are not multiplied."""
    flags = {"augmentations": ALL, "compose": compose, "augmentation_prob": 0.6}
    view, index = pretraining_view(flags), torch.arange(20)
    parameters = view.sample(clips, index, generator(0, VIEWS))
    found = view.apply(clips, index, parameters)
    plain = replace(view, augmentations=None).apply(clips, index, parameters)
    counts = set()
    for i in range(20):
        expected, part = plain[i : i + 1], parameters.augmentations[i : i + 1]
        applied = view.augmentations.applied_to(part, 0)
        for augmentation, own in applied:
            expected = augmentation.apply(expected, own)
        torch.testing.assert_close(found[i], expected[0], rtol=1e-4, atol=1e-4)
        counts.add(len(applied))
        captions = view.describe(parameters, i)[1:]
        assert [caption.partition(":")[0] for caption in captions] == [x.name for x, _ in applied]
    assert counts == {1} if compose == "one" else len(counts) > 3


@dataclass(frozen=True)
class Mirror(LinearAugmentation):
    """An augmentation as a user would add it: x is negated with a probability that is a flag."""

    name: ClassVar[str] = "mirror"
    mirror_prob: float = field(
        default=0.5, metadata={"minimum": 0.0, "maximum": 1.0, "help": "probability of a mirror image"}
    )

    def sample(self, shape, generator):
        matrix = torch.eye(3).repeat(shape.count, 1, 1)
        matrix[torch.rand(shape.count, generator=generator) < self.mirror_prob, 0, 0] = -1
        return JointMaps.of_all_joints(matrix, shape)

    def describe(self, maps, clip):
        return "mirror: x negated" if maps.matrix[clip, 0, 0] < 0 else "mirror: unchanged"


def test_registered_augmentation_is_available(clips, monkeypatch, pretrain, tmp_path):
    index, default = torch.arange(20), pretraining_view()
    plain, others = augmented(clips, index, ()), augmented(clips, index, ALL)
    monkeypatch.setitem(AUGMENTATIONS, Mirror.name, Mirror)
    assert torch.equal(others, augmented(clips, index, ALL)), "the random numbers of others are unchanged"
    assert pretraining_view() == default, "it is not enabled by default"
    view = pretraining_view({"augmentations": ("mirror",)})
    parameters = view.sample(clips, index, generator(0, VIEWS))
    mirrored = view.apply(clips, index, parameters)
    captions = [view.describe(parameters, i)[1] for i in range(20)]
    assert set(captions) == {"mirror: x negated", "mirror: unchanged"}
    for i, caption in enumerate(captions):
        expected = plain[i].clone()
        expected[..., 0, :] *= -1 if caption.endswith("negated") else 1
        torch.testing.assert_close(mirrored[i], expected)
    flags = ["--epochs", 1, "--mirror-prob", 0.3, "--augmentations", "crop", "pose", "mirror"]
    pretrain.succeed(tmp_path / "c", *flags)
    assert len(log_lines(tmp_path / "c")) == 1
    err = pretrain.fail(tmp_path / "d", "--epochs", 1, "--augmentations", "turn")
    assert "choose from crop, pose, jitter" in err and "mirror" in err


def two_samples(clips, names, **flags):
    """The parameters of two views in a row from one generator, as in a training step, by name."""
    view, source = pretraining_view({"augmentations": names, **flags}), generator(0, VIEWS)
    for _ in range(2):
        sampled = view.sample(clips, torch.arange(len(clips)), source)
        parts = zip(view.augmentations.enabled, sampled.augmentations.parts)
        by_name = {"crop": sampled.crop, **{augmentation.name: part for augmentation, part in parts}}
        yield {name: x if isinstance(x, torch.Tensor) else vars(x) for name, x in by_name.items()}


@pytest.mark.parametrize("compose", ["one", "all"])
@pytest.mark.parametrize("name", [name for name in ALL if name != "crop"])
def test_parameters_of_an_augmentation_do_not_depend_on_others(clips, name, compose):
    """Nor do the crops, in both views of a step, with a registry that is longer."""
    alone, mixed = two_samples(clips, ("crop", name)), two_samples(clips, ALL, compose=compose)
    for own, others in zip(alone, mixed):
        assert len(own) == 2 and len(others) == len(ALL)
        assert all(identical(own[key], others[key]) for key in ("crop", name))


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


def test_invalid_settings_are_rejected_with_their_flag():
    no_sides = replace(KINECT_V2, arms=(), legs=())
    for settings, skeleton, message in (
        ({"augmentations": ("mirror",)}, KINECT_V2, "--augmentations mirror: choose from crop, pose"),
        ({"min_crop_ratio": 0.0}, KINECT_V2, "--min-crop-ratio 0.0 must be above 0.0 and at most 1.0"),
        ({"jitter_joints": 26}, KINECT_V2, "--jitter-joints 26 must be at most 25"),
        ({"min_crop_frames": 0}, KINECT_V2, "--min-crop-frames 0 must be at least 1"),
        ({"compose": "two"}, KINECT_V2, "--compose two choose from one, all"),
        ({"augmentations": ("axis-mask",), "axis_mask_axes": 2}, COCO, "leaves no axis of coco"),
        ({"augmentations": ("flip",)}, no_sides, "flip: kinect_v2 has no left and right joints"),
    ):
        with pytest.raises(UserError, match=message):
            pretraining_view(settings, skeleton=skeleton)
