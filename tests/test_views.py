"""Views are a function of the seed and the position, and are laid out as the encoders want them."""

import pytest
import torch

from dataset.augment import AUGMENTATIONS, WholeClip
from dataset.batches import prefetch, ordered_batches, shuffled_batches
from dataset.clips import open_clips
from models.representations import lay_out
from dataset.views import AugmentationSettings, View, classifier_view, evaluation_view, pretraining_view
from engine.randomness import ORDER, VIEWS, generator
from options.errors import UserError
from models.representations import REPRESENTATIONS


@pytest.fixture
def clips(small_store):
    return open_clips(small_store, "ntu60", "cross_view", "train")


def augmented(clips, index, **settings):
    return pretraining_view(AugmentationSettings(**settings)).of(clips, index, generator(0, VIEWS))


def views(clips, workers, seed=3, epoch=1):
    batches = shuffled_batches(len(clips), 4, generator(seed, ORDER, epoch), drop_last=True)
    draw = lambda i: pretraining_view().of(clips, batches[i], generator(seed, VIEWS, epoch, i))
    return batches, list(prefetch(draw, range(len(batches)), workers))


def test_views_depend_on_seed_and_position_only(clips):
    batches, inline = views(clips, workers=0)
    for workers in (1, 3, 9):
        others, threaded = views(clips, workers)
        assert all(map(torch.equal, batches, others)) and all(map(torch.equal, inline, threaded))
    assert not torch.equal(inline[0], views(clips, 0, seed=4)[1][0])
    assert not torch.equal(inline[0], views(clips, 0, epoch=2)[1][0])
    assert not torch.equal(inline[0], inline[1])


def test_a_view_of_a_batch_is_the_view_of_its_clips_alone_where_nothing_is_drawn(clips):
    index = torch.tensor([3, 0, 7])
    together = evaluation_view().of(clips, index)
    alone = torch.cat([evaluation_view().of(clips, index[i : i + 1]) for i in range(3)])
    assert together.shape == (3, 64, 25, 3, 2) and torch.equal(together, alone)


def test_no_augmentation_is_the_whole_clip(clips):
    index = torch.arange(5)
    view = augmented(clips, index, names=())
    assert torch.equal(view, View(WholeClip()).of(clips, index))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_each_augmentation_changes_the_view(clips, kind):
    index = torch.arange(20)
    plain = augmented(clips, index, names=())
    changed = augmented(clips, index, names=(kind,))
    different = (plain != changed).flatten(2).any(dim=2).any(dim=1)
    expected = clips.num_frames > 64 if kind == "crop" else torch.ones(20, dtype=torch.bool)
    assert different[~expected].sum() == 0 and different[expected].float().mean() > 0.8


def test_jitter_touches_as_many_joints_as_asked_for(clips):
    plain = augmented(clips, torch.arange(20), names=())
    for count in (2, 20):
        view = augmented(clips, torch.arange(20), names=("jitter",), jitter_joints=count)
        touched = (view != plain).any(dim=1).flatten(2).any(dim=2)  # N x V
        assert (touched.sum(dim=1) == count).all()


def test_zeroing_never_or_always(clips):
    for probability, zeros in ((0.0, 0), (1.0, 15)):
        view = augmented(clips, torch.arange(20), names=("jitter",), jitter_zero_prob=probability)
        assert ((view == 0).all(dim=1).flatten(2).all(dim=2).sum(dim=1) == zeros).all()


def test_classifier_view_keeps_at_least_half(clips):
    """At least half of the clip, seen through clips whose frames count upwards."""
    counting = torch.arange(len(clips.frames), dtype=torch.float32)[:, None, None, None].expand_as(clips.frames)
    clips = type(clips)(**{**vars(clips), "frames": counting.contiguous()})
    for seed in range(50):
        view = classifier_view().of(clips, torch.arange(20), generator(seed, VIEWS))[:, :, 0, 0, 0]
        span = view[:, -1] - view[:, 0] + 1
        assert (span >= 0.5 * clips.num_frames - 2).all() and (span <= clips.num_frames).all()


def test_layouts(clips):
    view = evaluation_view().of(clips, torch.arange(3))
    laid = lay_out(view, REPRESENTATIONS)
    n, t, joint, axis, person = 1, 5, 7, 2, 1
    value = view[n, t, joint, axis, person]
    assert laid["seq-based"].shape == (3, 64, 150)
    assert laid["seq-based"][n, t, joint * 6 + axis * 2 + person] == value
    for name in ("graph-based", "image-based"):
        assert laid[name].shape == (3, 3, 64, 25, 2) and laid[name].is_contiguous()
        assert laid[name][n, axis, t, joint, person] == value


def test_every_clip_is_drawn_once_an_epoch():
    for drop_last, count in ((False, 23), (True, 20)):
        batches = shuffled_batches(23, 5, generator(0, ORDER), drop_last)
        drawn = torch.cat(batches).tolist()
        assert len(drawn) == count == len(set(drawn))
    assert torch.cat(ordered_batches(23, 5)).tolist() == list(range(23))


def test_drawing_ahead_reports_what_goes_wrong():
    def draw(i):
        if i == 3:
            raise UserError("clip 3")
        return i

    for workers in (0, 2):
        drawn = prefetch(draw, range(6), workers)
        assert [next(drawn) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match="clip 3"):
            next(drawn)


@pytest.mark.parametrize("settings, flag", [
    ({"names": ("mirror",)}, "--augmentations mirror"), ({"min_crop_ratio": 0.0}, "--min-crop-ratio"),
    ({"jitter_zero_prob": 1.5}, "--jitter-zero-prob"), ({"jitter_joints": 26}, "--jitter-joints"),
    ({"min_crop_frames": 0}, "--min-crop-frames"),
])
def test_impossible_settings_name_their_flag(settings, flag):
    with pytest.raises(UserError, match=flag):
        pretraining_view(AugmentationSettings(**settings))
