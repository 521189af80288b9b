"""Rendered pictures: their content, and the commands that write them."""

import argparse
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import RETRIEVAL, TINY_FLAGS
from PIL import Image
from test_visual import Outline, standing_person, tensorboard_events

from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.log import RunLog
from facts.skeletons import KINECT_V2
from utils.errors import UserError
from visual.clips import log_views
from visual.curves import line_chart
from visual.pictures import Panel
from visual.plots import figure_svg, new_figure
from visual.skeleton import GHOST, LIMB_COLORS, MARK, lighter, place_camera
from visual.tsne import CLASSES, MARKERS, plot_map, sample_classes

SIZE = 160


def render(clip, camera=None, **extras):
    """The frames of a clip of Kinect v2, uint8 (T, SIZE, SIZE, 3)."""
    return Panel(clip, KINECT_V2, **extras).render(SIZE, camera)


def color_at(image, camera, point):
    """The color of a rendered frame at a point (3,) of space."""
    x, y = camera.project(point)[:2] - torch.tensor([camera.left, camera.top])
    return tuple(image[int(y / camera.side * SIZE), int(x / camera.side * SIZE)].tolist())


def has_color(image, color):
    return (image == color).all(axis=-1).any()


def test_views_are_logged_to_tensorboard(tmp_path, small_store, capsys):
    """Two clips; clips with non-finite coordinates do not stop a pretraining."""
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    with RunLog(tmp_path / "a", argparse.Namespace(), 0) as log:
        log_views(log, clips, pretraining_view(num_frames=16), seed=0)
    assert len(tensorboard_events(tmp_path / "a").Tags()["images"]) == 2
    clips = replace(clips, frames=torch.full_like(clips.frames, float("nan")))
    with pytest.raises(UserError, match="non-finite coordinates cannot be rendered"):
        render(clips.frames[:4])
    with RunLog(tmp_path / "b", argparse.Namespace(), 0) as log:
        log_views(log, clips, pretraining_view(), seed=0)
    assert capsys.readouterr().out.count("note: no views of S001C002") == 2


def test_limbs_have_their_colors():
    clip = standing_person(r_abd=60.0, l_abd=60.0, r_hip_abd=15.0, l_hip_abd=15.0)
    camera = place_camera([clip])
    (image,), body = render(clip, camera), clip[0, :, :, 0]
    arms, legs = {"left arm": (5, 6), "right arm": (9, 10)}, {"left leg": (13, 14), "right leg": (17, 18)}
    for limb, (a, b) in {**arms, **legs, "spine and head": (0, 1)}.items():
        assert color_at(image, camera, (body[a] + body[b]) / 2) == LIMB_COLORS[limb], limb
    assert image[0, 0].tolist() == [255, 255, 255]
    assert not has_color(image, lighter(LIMB_COLORS["left arm"]))
    clip[..., 1] = clip[..., 0] + torch.tensor([0.8, 0.0, 0.0])
    assert has_color(render(clip), lighter(LIMB_COLORS["left arm"])), "those of the second person are lighter"


def test_nearer_limb_covers_the_farther_one():
    clip = standing_person()
    clip[:, 4:8], clip[:, 21:23] = 0, 0  # no left arm
    behind, camera = clip.clone(), place_camera([clip])
    for frame, sign in ((clip, 1), (behind, -1)):
        spine = frame[0, 0, :, 0]
        frame[0, [8, 9, 10, 11, 23, 24], :, 0] = spine + sign * 0.3 * camera.axes[2].float()
    colors = [color_at(render(frame, camera)[0], camera, frame[0, 0, :, 0]) for frame in (clip, behind)]
    assert colors[0] == LIMB_COLORS["right arm"] and colors[1] != LIMB_COLORS["right arm"]


def test_unseen_joints_are_not_rendered_and_lone_ones_are_discs():
    clip = standing_person()
    clip[:, 12:20] = 0
    (image,) = render(clip)
    assert has_color(image, LIMB_COLORS["left arm"]) and not has_color(image, LIMB_COLORS["left leg"])
    clip[:, 14] = standing_person()[:, 14]
    assert has_color(render(clip)[0], LIMB_COLORS["left leg"])
    assert (render(torch.zeros(2, 25, 3, 2)) == 255).all()


def test_frames_are_rendered_independently(monkeypatch):
    clip = torch.cat([standing_person(r_flex=angle) for angle in (0.0, 45.0, 90.0, 135.0, 170.0)])
    camera = place_camera([clip])
    together = render(clip, camera)
    monkeypatch.setattr("visual.pictures.AT_ONCE", 2)
    assert np.array_equal(together, render(clip, camera)), "long clips are rendered in parts"
    assert all((a != b).any() for a, b in zip(together, together[1:], strict=False))


def test_jittered_joints_are_marked():
    before = standing_person()
    marked = torch.zeros(25, dtype=torch.bool)
    marked[[10, 18]] = True
    after = before.clone()
    after[:, 10] += torch.tensor([0.3, 0.0, 0.2])[:, None] * (before[:, 10] != 0)
    after[:, 18] = 0
    camera = place_camera([before, after])
    (image,) = render(after, camera, ghost=before, marked=marked)
    assert color_at(image, camera, after[0, 10, :, 0]) == MARK
    assert color_at(image, camera, before[0, 18, :, 0]) == MARK, "a zeroed joint is marked on the ghost"
    assert has_color(image, GHOST) and not has_color(render(before), MARK)


def test_clips_command(run, tmp_path):
    name = "S001C002P004R001A004"
    flags = ["--data-root", "data", "--name", name, "--num-frames", 8, "--seed", 1, "--out", tmp_path / "out"]
    code, out, err = run("visual.clips", *flags)
    assert code == 0 and "brushing hair" in out, err
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [f"{name}.gif", f"{name}.png", f"{name}_views.gif", f"{name}_views.png"]
    clips = open_clips("data", "ntu60", "cross_view", "train")
    whole, views = (Image.open(tmp_path / "out" / file) for file in (files[0], files[2]))
    assert whole.n_frames == clips.num_frames[3] and views.n_frames == 8
    assert views.width == 3 * 200 and views.info["loop"] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run("visual.clips", *flags)[0] == 0
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}, "deterministic"
    for flag, value, problem in (
        ("--name", "S001C002", "for example, S001C00"),
        ("--jitter-joints", 26, "26"),
    ):
        code, _, err = run("visual.clips", *flags, flag, value)
        assert code == 2 and problem in err


RANDOM = [RETRIEVAL, "--pretrained", "random", *TINY_FLAGS, "--seed", 1, "--num-frames", 16]


def test_gallery_and_feature_map(run, tmp_path, monkeypatch):
    """Figures of retrieval, and the gallery on the report page."""
    monkeypatch.setattr("visual.gallery.SIZE", 60)
    monkeypatch.setattr("visual.gallery.FRAMES", 4)
    queries, runs = ["S001C001P021R001A001", "S001C001P024R001A004"], tmp_path / "r"
    figures = ["--gallery", runs / "g", "--tsne", runs / "t", "--gallery-queries", *queries]
    code, out, err = run(*RANDOM, "--output-dir", runs / "o", *figures)
    assert code == 0 and "gallery: " in out and "feature map: " in out, err
    text = (runs / "g/index.html").read_text()
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
    assert Image.open(runs / "g/gallery.png").width == 7 * 200
    assert (runs / "t/tsne.png").read_bytes().startswith(b"\x89PNG")
    assert run("visual.page", runs)[0] == 0
    page = (runs / "index.html").read_text()
    assert Outline(page).seen.count("figure") == 10 and "There is no feature map" not in page
    code, out, _ = run(*RANDOM, "--output-dir", tmp_path / "o", "--gallery", tmp_path / "sampled")
    assert code == 0 and "these 4 queries" in out, "one per class"
    for gallery, problem in (
        (["--gallery", tmp_path / "g"], "x: no validation clip"),
        ([], "needs --gallery"),
    ):
        code, _, err = run(*RANDOM, *gallery, "--gallery-queries", "x")
        assert code == 2 and problem in err


def test_classes_of_a_feature_map():
    """Samples are reproducible; the classes of a map have different colors and markers."""
    labels = torch.arange(30).repeat(4)
    samples = sample_classes(labels, seed=1)
    assert [len(set(classes)) for classes in samples] == [10, 10, 10]
    assert samples[0] != samples[1] != samples[2]
    assert samples == sample_classes(labels, seed=1) != sample_classes(labels, seed=2)
    assert sample_classes(torch.tensor([4, 9, 4]), seed=1) == [[4, 9]]
    axes = new_figure(4, 4).add_subplot()
    points, labels = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 10
    plot_map(axes, points, labels, list(range(10)), [f"class {label}, $" for label in range(10)])
    assert len(set(MARKERS)) == CLASSES == len(axes.collections)
    assert len({tuple(points.get_facecolor()[0]) for points in axes.collections}) == CLASSES


def test_line_charts():
    """Of points and equal values too; the same file each time; colors repeat with another line style."""
    flat = figure_svg(line_chart({"one": [(0, 4.0)]}, "loss"))
    assert b"nan" not in flat and b"inf" not in flat
    names = [f"run{number}" for number in range(12)] + ["x" * 80, "$a$ < $b$"]
    curves = {name: [(0, 0.0), (1, 1.0 + number)] for number, name in enumerate(names)}
    chart = figure_svg(line_chart(curves, "y")).decode()
    assert chart == figure_svg(line_chart(curves, "y")).decode()
    pattern = r'<g id="curve-\d+">\s*<path d="M (\S+) (\S+)\s*L (\S+) (\S+)[^>]*style="([^"]+)"'
    found = re.findall(pattern, chart)
    assert len(found) == len(names)
    assert all(float(x0) < float(x1) and float(y0) > float(y1) for x0, y0, x1, y1, _ in found)
    assert len({(re.search("stroke: ([^;]+)", x)[1], "dasharray" in x) for *_, x in found}) == len(names)
    assert "x" * 44 + "<" in chart and "x" * 36 + "<" in chart and "$a$ &lt; $b$" in chart
