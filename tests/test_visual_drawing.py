"""Pictures themselves: what is drawn where, and the commands that write them. Skipped without the packages."""

import argparse
import re
import sys

import pytest
import torch

from conftest import TINY_FLAGS
from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.log import RunLog
from engine.randomness import VIEWS, generator
from options.errors import UserError
from test_visual import Outline, standing_person
from visual.camera import place_camera
from visual.packages import PLOTS, SKELETONS, why_not
from visual.sample import show_views
from visual.skeleton import GHOST, LIMBS, MARK, draw_clip, lighter

needs_skeletons = pytest.mark.skipif(why_not(SKELETONS) is not None, reason=str(why_not(SKELETONS)))
needs_plots = pytest.mark.skipif(why_not(PLOTS) is not None, reason=str(why_not(PLOTS)))

SIZE = 160


def colour_at(picture, camera, point):
    """The colour of a drawn frame (3, S, S) where a point (3,) of space lies."""
    x, y = camera.to_pixels(camera.project(point), picture.shape[-1]).long().tolist()
    return tuple(picture[:, y, x].tolist())


def has_colour(picture, colour):
    return bool((picture == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(dim=0).any())


@needs_skeletons
def test_a_clip_that_cannot_be_drawn_ends_no_pretraining(tmp_path, capsys, small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    clips.frames[:] = float("nan")  # in memory only: the map of the file is copied on write
    with pytest.raises(UserError, match="not finite cannot be drawn"):
        draw_clip(clips.frames[:4], SIZE)
    with RunLog(tmp_path, argparse.Namespace(), 0) as log:
        show_views(log, clips, pretraining_view(), seed=0)
    assert capsys.readouterr().out.count("note: no views of S001C002") == 2


@needs_skeletons
def test_limbs_are_where_limbs_are():
    clip = standing_person(r_abd=60.0, l_abd=60.0, r_hip_abd=15.0, l_hip_abd=15.0)
    camera = place_camera([clip])
    picture = draw_clip(clip, SIZE, camera)[0]
    body = clip[0, :, :, 0]
    for limb, (a, b) in {"left arm": (5, 6), "right arm": (9, 10), "left leg": (13, 14), "right leg": (17, 18),
                         "spine and head": (0, 1)}.items():
        assert colour_at(picture, camera, (body[a] + body[b]) / 2) == LIMBS[limb].colour, limb
    assert tuple(picture[:, 0, 0].tolist()) == (255, 255, 255)


@needs_skeletons
def test_what_is_not_seen_is_not_drawn_and_a_second_person_is_lighter():
    clip = standing_person()
    legless = clip.clone()
    legless[:, 12:20] = 0
    picture = draw_clip(legless, SIZE)[0]
    assert has_colour(picture, LIMBS["left arm"].colour) and not has_colour(picture, LIMBS["left leg"].colour)
    assert not has_colour(picture, lighter(LIMBS["left arm"].colour))
    clip[..., 1] = clip[..., 0] + torch.tensor([0.8, 0.0, 0.0])
    assert has_colour(draw_clip(clip, SIZE)[0], lighter(LIMBS["left arm"].colour))
    assert (draw_clip(torch.zeros(2, 25, 3, 2), SIZE) == 255).all()


@needs_skeletons
def test_every_frame_has_its_own_picture(monkeypatch):
    """Frames are drawn many at a time: none may spill into the next."""
    clip = torch.cat([standing_person(r_flex=angle) for angle in (0.0, 45.0, 90.0, 135.0, 170.0)])
    camera = place_camera([clip])
    together = draw_clip(clip, SIZE, camera)
    alone = torch.cat([draw_clip(frame[None], SIZE, camera) for frame in clip])
    assert (together != alone).float().mean() < 0.002, "but for rounding"
    monkeypatch.setattr("visual.skeleton.FRAMES_AT_ONCE", 2)
    assert (draw_clip(clip, SIZE, camera) != together).float().mean() < 0.002


@needs_skeletons
def test_jittered_joints_are_marked():
    before = standing_person()
    marked = torch.zeros(25, dtype=torch.bool)
    marked[[10, 18]] = True
    after = before.clone()
    after[:, 10] += torch.tensor([0.3, 0.0, 0.2])[:, None] * (before[:, 10] != 0)
    after[:, 18] = 0
    camera = place_camera([before, after])
    picture = draw_clip(after, SIZE, camera, ghost=before, marked=marked)[0]
    assert colour_at(picture, camera, after[0, 10, :, 0]) == MARK
    assert colour_at(picture, camera, before[0, 18, :, 0]) == MARK, "a zeroed joint, where it was"
    assert has_colour(picture, GHOST)
    assert not has_colour(draw_clip(before, SIZE)[0], MARK)


@needs_skeletons
def test_views_are_those_of_pretraining(small_store):
    from visual.views import draw_views

    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    pretraining = pretraining_view(num_frames=8)
    for seed in range(6):
        pictures, lines = draw_views(clips, 3, pretraining, 2, generator(seed, VIEWS), size=40)
        assert [tuple(drawn.shape) for drawn in pictures] == [(8, 3, 40, 40)] * 3
        source = generator(seed, VIEWS)
        for drawn, text in zip(pictures[1:], lines[1:]):
            view = pretraining.of(clips, torch.tensor([3]), source)[0]
            zeroed = ((view == 0).all(dim=0).all(dim=1).all(dim=1)).sum()
            assert ("set to zero" in text[1]) == (zeroed >= 15)
            assert has_colour(drawn.flatten(0, 1)[:3], MARK) == ("jitter" in text[1]), text
            first, last = map(int, re.search(r"frames (\d+)-(\d+)", text[0]).groups())
            assert 1 <= first <= last <= clips.num_frames[3]


@needs_skeletons
def test_the_command_that_draws_a_clip(run, tmp_path):
    from PIL import Image

    name = "S001C002P004R001A004"
    flags = ["--data-root", "data", "--name", name, "--num-frames", 8, "--seed", 1, "--out", tmp_path / "out"]
    code, out, err = run("visual.clips", *flags)
    assert code == 0 and "brushing hair" in out, err
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [f"{name}.gif", f"{name}.png", f"{name}_views.gif", f"{name}_views.png"]
    clips = open_clips("data", "ntu60", "cross_view", "train")
    whole, views = (Image.open(tmp_path / "out" / file) for file in (files[0], files[2]))
    assert whole.n_frames == clips.num_frames[3] and views.n_frames == 8
    assert views.width == 3 * 200 + 4 and views.info["loop"] == 0
    code, _, err = run("visual.clips", *flags, "--name", "S001C002P004R001A040")
    assert code == 2 and "there is, for instance, S001C00" in err
    code, _, err = run("visual.clips", *flags, "--jitter-joints", 26)
    assert code == 2 and "--jitter-joints 26" in err


RETRIEVAL = ["action_retrieval.py", "--pretrained", "random", *TINY_FLAGS, "--seed", 1, "--num-frames", 16]


@needs_skeletons
def test_the_gallery(run, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("visual.gallery.SIZE", 60)
    monkeypatch.setattr("visual.gallery.FRAMES", 4)
    queries = ["S001C001P021R001A001", "S001C001P024R001A004"]
    code, out, err = run(*RETRIEVAL, "--output-dir", tmp_path / "o", "--gallery", tmp_path / "g",
                         "--gallery-queries", *queries)
    assert code == 0 and "gallery: " in out, err
    text = (tmp_path / "g/index.html").read_text()
    outline = Outline(text)
    assert outline.seen.count("figure") == outline.seen.count("img") == 10
    assert text.count('class="right"') + text.count('class="wrong"') == 8
    assert f"{text.count(chr(34) + 'right' + chr(34))} of the 8 neighbours" in out
    assert all(name in text for name in queries) and "brushing hair" in text
    assert all(source.startswith("data:") for source in outline.sources)
    # right is what has the query's class, which the name tells
    for row, name in zip(text.split("<h3>")[1:], queries):
        for kind, clip in re.findall(r'class="(right|wrong)".*?<small>(\w+)</small>', row):
            assert (kind == "right") == (clip[-4:] == name[-4:])
    assert Image.open(tmp_path / "g/gallery.png").width > 5 * 300
    code, out, _ = run(*RETRIEVAL, "--output-dir", tmp_path / "o", "--gallery", tmp_path / "sampled")
    assert code == 0 and "these 4 queries" in out, "one of each class"
    code, _, err = run(*RETRIEVAL, "--gallery", tmp_path / "g", "--gallery-queries", "nobody")
    assert code == 2 and "--gallery-queries nobody" in err


@needs_plots
def test_the_feature_map(run, tmp_path):
    code, out, err = run(*RETRIEVAL, "--output-dir", tmp_path / "o", "--tsne", tmp_path / "t")
    assert code == 0 and "10 of 10 val clips for the projector" in out, err
    assert (tmp_path / "t/tsne.png").read_bytes().startswith(b"\x89PNG")
    metadata = next((tmp_path / "t").rglob("metadata.tsv")).read_text().splitlines()
    assert metadata[:2] == ["class\tclip", "drink water\tS001C001P021R001A001"] and len(metadata) == 11
    assert len(next((tmp_path / "t").rglob("tensors.tsv")).read_text().splitlines()) == 10
    code, _, err = run(*RETRIEVAL, "--gallery-queries", "x")
    assert code == 2 and "needs --gallery" in err


@needs_plots
def test_the_picture_of_a_confusion(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from visual.confusion import report_confusion

    labels = torch.arange(40)
    with SummaryWriter(str(tmp_path)) as writer:
        lines = report_confusion(labels, labels.flip(0), "class {}".format, tmp_path, writer, "probe/confusion", 3)
    assert lines[-1] == f"written: {tmp_path / 'confusion.png'}"
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [image.step for image in events.Images("probe/confusion")] == [3]


def test_pictures_that_cannot_be_drawn_are_refused_before_any_work(run, tmp_path, monkeypatch):
    for module in ("torchvision.utils", "matplotlib"):
        monkeypatch.setitem(sys.modules, module, None)
    before = sorted(tmp_path.rglob("*"))
    for flag, word in (("--gallery", "torchvision"), ("--tsne", "matplotlib")):
        code, _, err = run(*RETRIEVAL, flag, tmp_path / "x")
        assert code == 2 and f"{flag}: drawing" in err and word in err and len(err.strip().splitlines()) == 1
    code, _, err = run("visual.clips", "--name", "S001C002P004R001A004", "--out", tmp_path / "x")
    assert code == 2 and "needs torchvision" in err
    assert sorted(tmp_path.rglob("*")) == before
    code, _, err = run(*RETRIEVAL, "--output-dir", tmp_path / "o")
    assert code == 0, err
