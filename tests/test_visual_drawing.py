"""Rendered pictures: their content, and the commands that write them."""

import argparse
import re
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS
from test_visual import Outline, standing_person

from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.log import RunLog
from engine.randomness import VIEWS, generator
from utils.errors import UserError
from visual.clips import log_views, render_panels, view_panels
from visual.plots import line_chart
from visual.skeleton import GHOST, LIMB_COLORS, MARK, lighter, place_camera, render_clip

SIZE = 160


def color_at(image, camera, point):
    """The color of a rendered frame at a point (3,) of space."""
    return image.getpixel(tuple(camera.to_pixels(camera.project(point), image.width).long().tolist()))


def has_color(image, color):
    return bool((np.asarray(image) == color).all(axis=2).any())


def is_blank(image):
    return bool((np.asarray(image) == 255).all())


def tensorboard_images(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload().Images(tag)


def test_non_finite_clip_does_not_stop_pretraining(tmp_path, capsys, small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    clips.frames[:] = float("nan")  # in memory only: the map of the file is copied on write
    with pytest.raises(UserError, match="non-finite coordinates cannot be rendered"):
        render_clip(clips.frames[:4], SIZE)
    with RunLog(tmp_path, argparse.Namespace(), 0) as log:
        log_views(log, clips, pretraining_view(), seed=0)
    assert capsys.readouterr().out.count("note: no views of S001C002") == 2


def test_pretraining_without_pillow_prints_a_note(tmp_path, capsys, small_store, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    with RunLog(tmp_path, argparse.Namespace(), 0) as log:
        log_views(log, clips, pretraining_view(), seed=0)
    assert capsys.readouterr().out.startswith("note: no views in TensorBoard: Pillow cannot be loaded")


def test_views_are_logged_to_tensorboard(tmp_path, small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    names = [clips.names[i] for i in range(len(clips))]
    with RunLog(tmp_path, argparse.Namespace(), 0) as log:
        log_views(log, clips, pretraining_view(num_frames=16), seed=0)
    shown = []
    for name in names:
        try:
            (image,) = tensorboard_images(tmp_path, f"views/{name}")
        except KeyError:
            continue
        shown.append(name)
        assert (image.width, image.height) == (6 * 200, 3 * 200)
    assert len(shown) == 2


def test_limbs_have_their_colors():
    clip = standing_person(r_abd=60.0, l_abd=60.0, r_hip_abd=15.0, l_hip_abd=15.0)
    camera = place_camera([clip])
    (image,) = render_clip(clip, SIZE, camera)
    body = clip[0, :, :, 0]
    middles = {
        "left arm": (5, 6),
        "right arm": (9, 10),
        "left leg": (13, 14),
        "right leg": (17, 18),
        "spine and head": (0, 1),
    }
    for limb, (a, b) in middles.items():
        assert color_at(image, camera, (body[a] + body[b]) / 2) == LIMB_COLORS[limb], limb
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_nearer_limb_covers_the_farther_one():
    clip = standing_person()
    clip[:, 4:8], clip[:, 21:23] = 0, 0  # no left arm
    behind = clip.clone()
    camera = place_camera([clip])
    toward_viewer = camera.axes[2].float()
    for frame, sign in ((clip, 1), (behind, -1)):
        spine = frame[0, 0, :, 0]
        frame[0, [8, 9, 10, 11, 23, 24], :, 0] = spine + sign * 0.3 * toward_viewer
    colors = []
    for frame in (clip, behind):
        (image,) = render_clip(frame, SIZE, camera)
        colors.append(color_at(image, camera, frame[0, 0, :, 0]))
    assert colors[0] == LIMB_COLORS["right arm"] and colors[1] != LIMB_COLORS["right arm"]


def test_unseen_joints_are_not_rendered():
    clip = standing_person()
    clip[:, 12:20] = 0
    (image,) = render_clip(clip, SIZE)
    assert has_color(image, LIMB_COLORS["left arm"]) and not has_color(image, LIMB_COLORS["left leg"])
    assert all(map(is_blank, render_clip(torch.zeros(2, 25, 3, 2), SIZE)))


def test_second_person_is_lighter():
    clip = standing_person()
    assert not has_color(render_clip(clip, SIZE)[0], lighter(LIMB_COLORS["left arm"]))
    clip[..., 1] = clip[..., 0] + torch.tensor([0.8, 0.0, 0.0])
    assert has_color(render_clip(clip, SIZE)[0], lighter(LIMB_COLORS["left arm"]))


def test_frames_are_rendered_independently():
    clip = torch.cat([standing_person(r_flex=angle) for angle in (0.0, 45.0, 90.0, 135.0, 170.0)])
    camera = place_camera([clip])
    together = render_clip(clip, SIZE, camera)
    alone = [render_clip(frame[None], SIZE, camera)[0] for frame in clip]
    assert together == alone
    assert all(a != b for a, b in zip(alone, alone[1:], strict=False))


def test_jittered_joints_are_marked():
    before = standing_person()
    marked = torch.zeros(25, dtype=torch.bool)
    marked[[10, 18]] = True
    after = before.clone()
    after[:, 10] += torch.tensor([0.3, 0.0, 0.2])[:, None] * (before[:, 10] != 0)
    after[:, 18] = 0
    camera = place_camera([before, after])
    (image,) = render_clip(after, SIZE, camera, ghost=before, marked=marked)
    assert color_at(image, camera, after[0, 10, :, 0]) == MARK
    assert color_at(image, camera, before[0, 18, :, 0]) == MARK, "a zeroed joint is marked on the ghost"
    assert has_color(image, GHOST)
    assert not has_color(render_clip(before, SIZE)[0], MARK)


def test_rendered_panels_mark_jitter_only(small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    for seed in range(6):
        panels = view_panels(clips, 3, pretraining_view(num_frames=8), 2, generator(seed, VIEWS))
        rendered = render_panels(panels, size=40)
        assert [(len(images), images[0].size) for images in rendered] == [(8, (40, 40))] * 3
        for images, panel in zip(rendered[1:], panels[1:], strict=True):
            assert any(has_color(image, MARK) for image in images) == ("jitter" in panel.caption[1])


def test_clips_command(run, tmp_path):
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
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run("visual.clips", *flags)[0] == 0
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}, "deterministic"
    code, _, err = run("visual.clips", *flags, "--name", "S001C002P004R001A040")
    assert code == 2 and "names there are, for example, S001C00" in err
    code, _, err = run("visual.clips", *flags, "--jitter-joints", 26)
    assert code == 2 and "--jitter-joints 26" in err


RETRIEVAL = ["action_retrieval.py", "--pretrained", "random", *TINY_FLAGS, "--seed", 1, "--num-frames", 16]


def test_gallery(run, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("visual.gallery.SIZE", 60)
    monkeypatch.setattr("visual.gallery.FRAMES", 4)
    queries = ["S001C001P021R001A001", "S001C001P024R001A004"]
    code, out, err = run(
        *RETRIEVAL,
        *("--output-dir", tmp_path / "o", "--gallery", tmp_path / "g", "--gallery-queries", *queries),
    )
    assert code == 0 and "gallery: " in out, err
    text = (tmp_path / "g/index.html").read_text()
    outline = Outline(text)
    assert outline.seen.count("figure") == outline.seen.count("img") == 10
    right, wrong = (text.count(f'class="{kind}"') for kind in ("right", "wrong"))
    assert right + wrong == 8 and f"{right} of the 8 neighbors" in out
    assert all(name in text for name in queries) and "brushing hair" in text
    assert all(source.startswith("data:") for source in outline.sources)
    # the end of a clip's name is its class
    for row, name in zip(text.split("<h3>")[1:], queries, strict=True):
        marks = re.findall(r'class="(right|wrong)".*?<small>(\w+)</small>', row, re.DOTALL)
        assert len(marks) == 4
        for kind, clip in marks:
            assert (kind == "right") == (clip[-4:] == name[-4:])
    assert Image.open(tmp_path / "g/gallery.png").width > 5 * 300
    code, out, _ = run(*RETRIEVAL, "--output-dir", tmp_path / "o", "--gallery", tmp_path / "sampled")
    assert code == 0 and "these 4 queries" in out, "one per class"
    code, _, err = run(*RETRIEVAL, "--gallery", tmp_path / "g", "--gallery-queries", "nobody")
    assert code == 2 and "--gallery-queries nobody" in err


def test_feature_map(run, tmp_path):
    code, out, err = run(*RETRIEVAL, "--output-dir", tmp_path / "o", "--tsne", tmp_path / "t")
    assert code == 0 and "10 of 10 validation clips in the projector" in out, err
    assert (tmp_path / "t/tsne.png").read_bytes().startswith(b"\x89PNG")
    metadata = next((tmp_path / "t").rglob("metadata.tsv")).read_text().splitlines()
    assert metadata[:2] == ["class\tclip", "drink water\tS001C001P021R001A001"] and len(metadata) == 11
    assert len(next((tmp_path / "t").rglob("tensors.tsv")).read_text().splitlines()) == 10
    code, _, err = run(*RETRIEVAL, "--gallery-queries", "x")
    assert code == 2 and "needs --gallery" in err


def test_feature_map_without_tensorboard(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, out, err = run(*RETRIEVAL, "--output-dir", tmp_path / "o", "--tsne", tmp_path / "t")
    assert code == 0 and "note: no TensorBoard files" in out, err
    assert (tmp_path / "t/tsne.png").is_file()


def test_classes_of_a_feature_map_can_be_told_apart():
    from visual.plots import new_figure
    from visual.tsne import CLASSES, MARKERS, plot_map

    axes = new_figure(4, 4).add_subplot()
    points, labels = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 10
    plot_map(axes, points, labels, list(range(10)), [f"class {label}, $" for label in range(10)])
    assert len(set(MARKERS)) == CLASSES == len(axes.collections)
    assert len({tuple(points.get_facecolor()[0]) for points in axes.collections}) == CLASSES


def test_line_charts():
    """Values increase upward; a single point and equal values are plotted; charts are deterministic."""
    flat = line_chart({"one": [(0, 4.0)]}, "loss")
    assert b"nan" not in flat and b"inf" not in flat
    chart = line_chart({"one": [(0, 0.0), (10, 1.0)], "a<b": [(0, 1.0)]}, "y")
    points = re.search(rb'id="curve-0">\s*<path d="M (\S+) (\S+)\s*L (\S+) (\S+)', chart).groups()
    x0, y0, x1, y1 = map(float, points)
    assert x0 < x1 and y0 > y1
    assert b"a&lt;b" in chart and b"a<b" not in chart
    assert chart == line_chart({"one": [(0, 0.0), (10, 1.0)], "a<b": [(0, 1.0)]}, "y")


def test_many_curves_can_be_told_apart():
    """Colors repeat with another line style; long names are wrapped; ``$`` is not a formula."""
    names = [f"run{number}" for number in range(12)] + ["x" * 80, "$a$ and $b$"]
    chart = line_chart({name: [(0, 0.0), (1, number)] for number, name in enumerate(names)}, "y").decode()
    groups = re.findall(r'<g id="curve-\d+">\s*<path [^>]*style="([^"]+)"', chart)
    assert len(groups) == len(names)
    assert len({(re.search("stroke: ([^;]+)", x)[1], "dasharray" in x) for x in groups}) == len(names)
    assert "x" * 52 + "<" in chart and "x" * 28 + "<" in chart and "$a$ and $b$" in chart


def test_confusion_figure(tmp_path):
    from visual.confusion import report_confusion

    labels = torch.arange(40)
    with RunLog(tmp_path, argparse.Namespace(), 0) as log:
        lines = report_confusion(
            labels, labels.flip(0), "class ${}".format, tmp_path, log, "probe/confusion", 3
        )
    assert lines[-1] == f"written: {tmp_path / 'confusion.png'}"
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert [image.step for image in tensorboard_images(tmp_path, "probe/confusion")] == [3]


def test_missing_libraries_are_reported_before_any_work(run, tmp_path, monkeypatch):
    for module in ("PIL.Image", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    before = sorted(tmp_path.rglob("*"))
    for flag, library in (("--gallery", "Pillow"), ("--tsne", "Matplotlib")):
        code, _, err = run(*RETRIEVAL, flag, tmp_path / "x")
        assert (
            code == 2 and f"{flag}: {library} cannot be loaded" in err and len(err.strip().splitlines()) == 1
        )
    code, _, err = run("visual.clips", "--name", "S001C002P004R001A004", "--out", tmp_path / "x")
    assert code == 2 and "Pillow cannot be loaded" in err
    assert sorted(tmp_path.rglob("*")) == before
    code, _, err = run(*RETRIEVAL, "--output-dir", tmp_path / "o")
    assert code == 0, err
