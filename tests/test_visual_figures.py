"""Figures for a paper: formats, widths, legends, chosen classes, curves; results that cannot be read."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import RETRIEVAL, TINY_FLAGS, one_line
from PIL import Image
from test_visual import charts, write_log

from engine.report import read_results
from facts.skeletons import COCO, Skeleton
from utils.errors import UserError
from visual.confusion import Confusion, plot_confusion
from visual.curves import Training, figure_of_runs
from visual.page import best_row
from visual.pictures import Panel, strip_figure
from visual.plots import COLORS, DEFAULT, Style, figure_pixels, new_figure
from visual.skeleton import TRUNK, camera_axes, limbs_of
from visual.tsne import named_classes, plot_map, spread_over_classes, write_feature_map

ONE, PDF = Style(columns="one"), Style("pdf", 50, "one")


def texts(figure):
    return [text.get_text() for legend in figure.axes[0].get_children() if hasattr(legend, "get_texts")
            for text in legend.get_texts()]  # fmt: skip


@pytest.mark.parametrize("names", [["_walk", "wave"], ["_a", "_b"], ["$x$", "__"]])
def test_legends_contain_names_that_begin_with_an_underscore(tmp_path, names):
    figure = new_figure(3, 3)
    labels = np.arange(2).repeat(4)
    plot_map(figure.add_subplot(), np.random.default_rng(0).normal(size=(8, 2)), labels, [0, 1], names)
    assert texts(figure) == [name.replace("$", r"\$") for name in names]
    for name in names:
        write_log(tmp_path / name, 3)
    trainings = {name: Training.read(tmp_path / name / "log.jsonl") for name in names}
    figure = figure_of_runs(trainings, ["loss"], DEFAULT)
    assert texts(figure) == [name.replace("$", r"\$") for name in names]


def test_large_maps_are_sampled_evenly_over_classes(tmp_path, monkeypatch):
    labels = torch.tensor([0] * 500 + [1] * 8 + [2] * 300)
    clips = spread_over_classes(labels, [0, 1, 2], 48, seed=0)
    assert torch.bincount(labels[clips]).tolist() == [20, 8, 20] and len(clips.unique()) == 48
    assert len(spread_over_classes(labels, [1, 2], 5000, seed=0)) == 308
    monkeypatch.setattr("visual.tsne.MAX_CLIPS", 30)
    monkeypatch.setattr("visual.tsne.embed", lambda features, seed: features[:, :2].numpy())
    line = write_feature_map(tmp_path, torch.randn(808, 4), labels, ["a", "b", "c"], 0)
    assert "30 of 808 clips of 3 classes" in line


def test_map_of_chosen_classes(run, tmp_path):
    names = ("drink water", "standing up (from sitting position)", "_x")
    labels = torch.tensor([0, 1, 2])
    assert named_classes(["standing up", "2", "drink water", "0"], names, labels) == [1, 2, 0]
    with pytest.raises(UserError, match="--tsne-classes _x: no validation clip .* 'drink water'"):
        named_classes(["_x"], names, labels[:2])
    flags = [
        "--pretrained",
        "random",
        *TINY_FLAGS,
        "--seed",
        1,
        "--num-frames",
        16,
        "--output-dir",
        tmp_path / "o",
    ]
    chosen = ["--tsne-classes", "drink water", "brushing hair", "--width", "one", "--dpi", 100]
    code, out, err = run(RETRIEVAL, *flags, "--tsne", "t", "--save-features", "f.npz", *chosen)
    assert code == 0 and "(5 clips of 2 classes)" in out, err
    assert Image.open("t/tsne.png").width == 330
    code, out, err = run("visual.tsne", "f.npz", "--out", "u", "--seed", 1, *chosen)
    assert code == 0 and "(5 clips of 2 classes)" in out, err
    for wrong in (["--tsne", "t", "--tsne-classes", "sleep"], ["--tsne-classes", "throw"]):
        code, out, err = run(RETRIEVAL, *flags, *wrong)
        assert code == 2 and one_line(err) and "--tsne-classes" in err and "%" not in out
    (tmp_path / "f.npz").write_bytes(b"PK")
    code, _, err = run("visual.tsne", "f.npz", "--out", "u")
    assert code == 2 and one_line(err) and "f.npz cannot be read" in err


@pytest.mark.parametrize("kind, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_formats_are_reproducible(tmp_path, kind, start):
    contents = []
    for name in "ab":
        figure = plot_confusion(Confusion(torch.arange(9), torch.arange(9).flip(0), "_{}$".format), ONE)
        path = Style(kind, 60, "one").save(tmp_path / name / "confusion.png", figure)
        assert path.suffix == f".{kind}" and path.with_suffix(".png").is_file(), "the page shows the PNG"
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] and contents[0].startswith(start)
    assert Image.open(tmp_path / "a/confusion.png").width == round(3.3 * 60)


@pytest.mark.parametrize("style", [ONE, DEFAULT], ids=["one", "two"])
def test_figures_have_the_width_of_columns_and_nothing_is_cut_off(style):
    """Whatever the number of classes or of strips: no ink on the edges."""
    clip = torch.zeros(30, 17, 3, 1)
    clip[:, :, :2] = torch.randn(30, 17, 2, 1, generator=torch.Generator().manual_seed(0))
    panels = [[Panel(clip, COCO, ["x" * 300, "y"]), Panel(clip[:3], COCO, ["z"])] for _ in range(3)]
    labels = [torch.arange(count) for count in (2, 60, 120)]
    matrices = [
        plot_confusion(Confusion(x, x.flip(0), lambda label: f"a long class name {label}"), style)
        for x in labels
    ]
    for figure in (*matrices, strip_figure(panels, 4, style), strip_figure([[panels[0][0]]], 8, style)):
        pixels = figure_pixels(figure)
        assert pixels.shape[1] == round(style.width * 110)
        edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edges > 250).all()


def test_curves_command(run, tmp_path):
    for name in ("_a", "b"):
        write_log(tmp_path / "runs" / name, 6)
    write_log(tmp_path / "short", 1)
    runs = ["runs/_a", "runs/b"]
    code, out, err = run("visual.curves", *runs, "--out", "c.pdf", "--width", "one", "--metrics", "loss")
    assert code == 0 and "written: c.pdf" in out and (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF"), (
        err
    )
    assert run("visual.curves", *runs, "--out", "c", "--format", "svg")[0] == 0
    svg = (tmp_path / "c.svg").read_text()
    assert ">_a<" in svg and ">b seq<" in svg and "Contrastive loss" in svg
    problems = {"short": "no curves of more than one epoch", "runs": "has no log.jsonl"}
    for folder, problem in problems.items():
        code, _, err = run("visual.curves", folder, "--out", "c.svg")
        assert code == 2 and one_line(err) and problem in err


def test_damaged_results_and_logs_are_left_out_and_named(run, probe, tmp_path):
    runs = tmp_path / "runs"
    assert probe(runs / "good", "--epochs", 1, "--seed", 1)[0] == 0
    damaged = {
        "cut": '{"task": "lin',
        "list": "[]",
        "short": '{"task": "linear", "numbers": {}}',
        "nan": "\udcff",
    }
    for name, text in damaged.items():
        (runs / name).mkdir()
        (runs / name / "results.json").write_bytes(text.encode(errors="surrogateescape"))
    write_log(runs / "log", 3)
    (runs / "log/config.json").write_text("{")
    for script in ("engine.report", "visual.page"):
        code, out, err = run(script, runs)
        lines = [line for line in err.splitlines() if "results.json" in line]
        assert code == 0 and lines[-1] == "note: 4 results.json left out", err
        assert all(sum(f"{name}/results.json" in line for line in lines) == 1 for name in damaged), err
    assert (
        "log.jsonl cannot be read" in err and "log.jsonl cannot be read" in (runs / "index.html").read_text()
    )
    assert len(read_results(runs)) == 1
    shutil.rmtree(runs / "good")
    assert run("engine.report", runs)[0] == 2, "nothing is left"


def test_page_marks_the_best_row_and_shows_no_chart_of_one_point(run, tmp_path):
    header = ["encoder", "seed", "linear last", "1-NN retrieval"]
    rows = [header, ["a", "9", "50.0", ""], ["b", "1", "61.5", "40.1"], ["c", "1", "8.0", "99.0"]]
    assert best_row(rows) == 1 and best_row(rows[:2]) is None and best_row([header]) is None
    write_log(tmp_path / "runs/one", 1)
    assert run("visual.page", "runs")[0] == 0
    text = (tmp_path / "runs/index.html").read_text()
    assert not charts(text) and "After one epoch: one: 3." in text and "scroll sideways" in text
    write_log(tmp_path / "runs/two", 2)
    assert run("visual.page", "runs")[0] == 0
    assert "Contrastive loss" in charts((tmp_path / "runs/index.html").read_text())


def test_clip_names_stay_in_the_output_folder(run, small_store, tmp_path):
    path = small_store / "ntu60/clips.csv"
    text = path.read_text()
    first = re.findall(r"^(S\w+),", text, re.MULTILINE)[0]
    for count, name in enumerate(("../../x", "wave/00", "..", "/tmp/y"), start=1):
        path.write_text(text.replace(first, name))
        code, _, err = run("visual.clips", "--name", name, "--views", 0, "--out", "out/a/b")
        assert code == 0 and len(list((tmp_path / "out/a/b").glob("*.png"))) == count, err
    assert sorted(x.name for x in tmp_path.iterdir()) == ["data", "out"]
    assert not list((tmp_path / "out").glob("*.gif")) and len(list((tmp_path / "out/a/b").iterdir())) == 8


def test_colors_are_safe_for_color_blind_readers():
    """The colors of a figure differ for people without red, green or blue cones (Vienot, Brettel 1999)."""
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in COLORS]) ** 2.2
    deuteranopia = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    protanopia = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    for seen in (rgb, rgb @ deuteranopia.T, rgb @ protanopia.T):
        distance = np.linalg.norm(
            (seen.clip(0) ** (1 / 2.2))[:, None] - (seen.clip(0) ** (1 / 2.2))[None], axis=2
        )
        assert (distance + np.eye(len(COLORS))).min() > 0.08


def test_2d_skeletons_and_skeletons_without_pairs():
    assert camera_axes(torch.zeros(1, 17, 3, 2), COCO)[:2].equal(torch.eye(3, dtype=torch.float64)[:2]), (
        "y down"
    )
    skeleton = Skeleton("chain", ("a", "b", "c"), (0, 0, 1), center=(0,))
    assert limbs_of(skeleton) == {TRUNK: [(1, 0), (2, 1)]}
    assert Panel(torch.randn(1, 3, 3, 2), skeleton).render(40).shape == (1, 40, 40, 3)
    assert json.dumps(list(limbs_of(COCO))).count("arm") == 2
