"""Camera, limbs, panels, confusion tables and HTML pages, as far as nothing is rendered."""

import base64
import csv
import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS

from data_gen.normalize import normalize_clip
from data_gen.synthetic.body import CHANNELS, JOINT, bone_offsets, forward_kinematics
from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.randomness import VIEWS, generator
from facts.class_names import CLASS_NAMES, default_class_names, short_class_names
from facts.datasets import DATASETS
from facts.skeletons import KINECT_V2
from utils.errors import UserError
from visual import load_error, require_library
from visual.clips import view_panels
from visual.confusion import (
    count_confusion,
    log_lines,
    most_confused,
    read_accuracy,
    report_confusion,
    write_table,
)
from visual.markup import data_uri, main_part, write_page
from visual.page import Exhibit, Section, split_common
from visual.pictures import spread
from visual.skeleton import (
    GHOST,
    LIMB_COLORS,
    MARK,
    PAPER,
    lighter,
    limbs_of,
    place_camera,
    seen_joints,
    upright,
    viewing_axes,
)
from visual.tsne import sample_classes


def standing_person(**angles):
    """One synthetic person, normalized: (1, 25, 3, 2). Angles in degrees, named as in the data generator."""
    values = np.zeros((1, len(CHANNELS)))
    for name, value in angles.items():
        values[0, CHANNELS.index(name)] = value
    joints = forward_kinematics(values, bone_offsets(), np.array([0.0, 0.0, 3.0]))
    return torch.from_numpy(normalize_clip(joints[None]))


def test_class_names():
    for dataset, info in DATASETS.items():
        names = default_class_names(dataset, info.num_classes)
        assert len(names) == len(set(names)) == len(set(short_class_names(names))) == info.num_classes
    assert (
        CLASS_NAMES["ntu60"][0] == "drink water" and CLASS_NAMES["ntu60"][58] == "walking towards each other"
    )
    assert CLASS_NAMES["ntu120"][119].startswith("finger-guessing game")
    assert short_class_names(CLASS_NAMES["ntu120"])[8] == "standing up"
    assert CLASS_NAMES["pku1"][41] == "touch back (backache)"
    assert default_class_names("mine", 2) == ("class 0", "class 1")
    assert short_class_names(["walk (slow)", "walk (fast)"]) == ("walk (slow)", "walk (fast)")


def test_limbs_cover_the_skeleton():
    """Every joint and every edge of the graph, except that the finger tips are connected to the hand."""
    bones = {frozenset(bone) for limb in limbs_of(KINECT_V2).values() for bone in limb.bones}
    graph = {frozenset(edge) for edge in KINECT_V2.bones}
    assert len(bones) == 24 and {joint for bone in bones for joint in bone} == set(range(25))
    assert graph - bones == {frozenset({21, 22}), frozenset({23, 24})}
    assert bones - graph == {frozenset({7, 21}), frozenset({11, 23})}


def test_colors_are_distinct():
    limbs = LIMB_COLORS.values()
    colors = [PAPER, GHOST, MARK, *limbs, *map(lighter, limbs)]
    assert len(set(colors)) == len(colors)


def test_front_view():
    """The right hand is on the left of the picture, the head on top, and what is in front is nearer."""
    clip = standing_person(r_flex=90.0)  # the right arm is held forward
    camera = place_camera([clip])
    right, down, near = camera.project(clip[0, :, :, 0]).T
    hand, left_hand = JOINT["HandRight"], JOINT["HandLeft"]
    assert right[JOINT["ShoulderRight"]] < right[JOINT["ShoulderLeft"]]
    assert down[JOINT["Head"]] < down[JOINT["SpineBase"]] < down[JOINT["FootLeft"]]
    assert near[hand] > near[left_hand] + 0.3
    assert (right[hand] - right[JOINT["ShoulderRight"]]).abs() > 0.2, "an arm held forward is visible"
    front = clip[0, :, :, 0].double() @ viewing_axes(azimuth=0.0, elevation=0.0).T
    assert (front[hand, 0] - front[JOINT["ShoulderRight"], 0]).abs() < 0.05, "unlike straight from the front"


def test_viewing_axes_are_orthonormal_and_left_handed():
    for azimuth, elevation in ((0, 0), (30, 10), (-120, 40)):
        axes = viewing_axes(azimuth, elevation)
        torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=torch.float64))
        assert torch.det(axes) == pytest.approx(-1), "right, down, toward the viewer"


def test_camera_is_upright_if_the_first_frame_is_not():
    """Clips are rotated by their first frame, in which the person stoops here; the camera compensates."""
    stooped, straight = standing_person(bend=60.0), standing_person()
    tilt = torch.tensor([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]])
    clip = torch.cat([stooped, torch.einsum("ij,tvjm->tvim", tilt, straight.repeat(9, 1, 1, 1))])
    legs = (clip[5, JOINT["SpineBase"], :, 0] - clip[5, JOINT["AnkleLeft"], :, 0]).double()
    assert legs[2] / legs.norm() < 0.7
    legs = upright(clip) @ legs
    assert legs[2] / legs.norm() > 0.98
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(upright(straight.repeat(3, 1, 1, 1)), identity, atol=0.05, rtol=0)


@pytest.mark.parametrize("case", ["empty", "one point", "shoulders along the legs", "upside down"])
def test_upright_is_a_rotation_for_any_clip(case):
    clip = torch.zeros(3, 25, 3, 2)
    if case == "one point":
        clip[:] = 1e-12
    if case == "shoulders along the legs":
        clip[:, [12, 16], 2, 0], clip[:, 8, 2, 0] = 1.0, 1.0
        clip[:, [14, 18], 0, 0] = 1e-9  # seen
    if case == "upside down":
        clip = -standing_person()
    rotation = upright(clip)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert torch.det(rotation) == pytest.approx(1)


def test_zero_joints_are_unseen():
    clip = standing_person().repeat(2, 1, 1, 1)
    clip[1, 7] = 0
    clip[1, :, :, 0] = 0
    seen = seen_joints(clip)
    assert seen[0, :, 0].all(), "including the origin"
    assert not seen[:, :, 1].any() and not seen[1].any()


def test_two_people_are_seen_from_the_side():
    alone = standing_person()
    facing = alone.clone()
    facing[..., 1] = alone[..., 0] * torch.tensor([-1.0, -1.0, 1.0]) + torch.tensor([0.0, 1.0, 0.0])
    right = place_camera([facing]).project(facing[0, 1, :, 1])[0]
    assert right > 0.9, "one meter apart, also in the picture"


def test_camera_shows_every_joint():
    clip = torch.randn(6, 25, 3, 2, generator=torch.Generator().manual_seed(0))
    camera = place_camera([clip, 3 * clip])
    pixels = camera.to_pixels(camera.project((3 * clip).transpose(2, 3)), 100)
    assert pixels.min() > 0 and pixels.max() < 100
    empty = place_camera([torch.zeros(3, 25, 3, 2)])
    assert empty.side > 0


def test_frames_of_a_strip_are_evenly_spread():
    assert spread(8, 8) == list(range(8)) and spread(3, 8) == [0, 1, 2]
    assert spread(100, 4) == [12, 37, 62, 87] and spread(1, 1) == [0]


def test_panels_show_the_views_of_pretraining(small_store):
    """The same seed gives the views that pretraining would see, and captions that match them."""
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    view = pretraining_view(num_frames=8)
    for seed in range(6):
        whole, *panels = view_panels(clips, 3, view, 2, generator(seed, VIEWS))
        assert whole.clip.shape == (8, 25, 3, 2) and whole.ghost is None and whole.marked is None
        assert whole.caption == [f"the clip, {clips.num_frames[3]} frames"]
        source = generator(seed, VIEWS)
        for number, panel in enumerate(panels, start=1):
            expected = view.of(clips, torch.tensor([3]), source)[0]
            torch.testing.assert_close(panel.clip, expected, rtol=0, atol=0)
            crop, spatial = panel.caption
            zeroed = ((expected == 0).all(dim=0).all(dim=1).all(dim=1)).sum()
            assert ("set to zero" in spatial) == (zeroed >= 15)
            first, last = map(int, re.fullmatch(rf"view {number}: frames (\d+)-(\d+)", crop).groups())
            assert 1 <= first <= last <= clips.num_frames[3]
            changed = (panel.clip != panel.ghost).any(dim=0).any(dim=1).any(dim=1)
            if "jitter" in spatial:
                assert panel.marked.sum() == 15 and not (changed & ~panel.marked).any()
            else:
                assert panel.marked is None and changed.any()


def test_panels_without_augmentation(small_store):

    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    view = pretraining_view({"augmentations": ()}, num_frames=8)
    whole, panel = view_panels(clips, 0, view, 1, generator(0, VIEWS))
    torch.testing.assert_close(panel.clip, whole.clip, rtol=0, atol=0)
    assert panel.ghost is None and panel.marked is None and len(panel.caption) == 1


def test_missing_library_is_a_one_line_error(monkeypatch):
    assert load_error("Pillow") is None and load_error("Matplotlib") is None
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "Pillow cannot be loaded" in load_error("Pillow")
    with pytest.raises(
        UserError, match="^--tsne: Matplotlib cannot be loaded .*requirements.txt, or omit --tsne$"
    ):
        require_library("--tsne", "Matplotlib")


def test_scripts_start_without_rendering_libraries():
    """A broken library raises whatever it likes, and only when something is rendered."""
    code = """
import importlib.abc, sys
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("PIL", "matplotlib", "jinja2", "markupsafe", "tensorboard"):
            raise RuntimeError(f"{name} is broken")
sys.meta_path.insert(0, Broken())
import action_classification, action_retrieval, main_moco_inter_skeleton, main_moco_intra_skeleton
import visual.clips, visual.page
print(visual.load_error("Pillow"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Pillow cannot be loaded (PIL is broken)")


def test_confusion_counts():
    labels = torch.tensor([7, 7, 7, 7, 2, 2, 5])
    predictions = torch.tensor([7, 2, 2, 5, 2, 7, 9])
    confusion = count_confusion(labels, predictions, "class {}".format)
    assert confusion.labels == [2, 5, 7, 9] and confusion.names[0] == "class 2"
    assert confusion.counts.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [2, 1, 1, 0], [0, 0, 0, 0]]
    assert confusion.accuracy[:3].tolist() == [50, 0, 25] and np.isnan(confusion.accuracy[3])
    # two of four; then one of one before one of two before one of four
    assert most_confused(confusion, 5) == [(2, 0), (1, 3), (0, 2), (2, 1)]
    lines = log_lines(confusion)
    assert lines[1] == "  class 7 -> class 2: 2 of 4 clips" and "class 9" not in lines[-1]
    perfect = count_confusion(labels, labels, str)
    assert log_lines(perfect)[0] == "no misclassified clips"


def test_confusion_table_needs_no_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    labels, predictions = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    (tmp_path / "confusion.png").write_bytes(b"of an earlier run")
    lines = report_confusion(labels, predictions, CLASS_NAMES["ntu60"].__getitem__, tmp_path)
    assert "confusion.png skipped: Matplotlib cannot" in lines[-1]
    assert not (tmp_path / "confusion.png").exists()
    rows = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert rows == [
        ["label", "class", "clips", "accuracy", "drink water", "eat meal/snack"],
        ["0", "drink water", "2", "50.00", "1", "1"],
        ["1", "eat meal/snack", "1", "100.00", "0", "1"],
    ]
    assert read_accuracy(tmp_path / "confusion.csv")[0] == ["drink water", "2", "50.00"]
    write_table(tmp_path / "numbers.csv", count_confusion(labels, predictions, str))
    assert (tmp_path / "numbers.csv").read_text().startswith("label,class")


def test_classes_of_the_feature_maps():
    labels = torch.arange(30).repeat(4)
    samples = sample_classes(labels, seed=1)
    assert [len(set(classes)) for classes in samples] == [10, 10, 10]
    assert samples[0] != samples[1] != samples[2]
    assert samples == sample_classes(labels, seed=1) != sample_classes(labels, seed=2)
    assert sample_classes(torch.tensor([4, 9, 4]), seed=1) == [[4, 9]]


class Outline(html.parser.HTMLParser):
    """The elements of a page; every element must be closed in order."""

    VOID = {"meta", "link", "img", "br", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.sources = [], [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def charts(text):
    """The SVG charts of a page by heading."""
    found = re.findall(r'"data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)" class="small"', text)
    return {heading: base64.b64decode(data).decode() for data, heading in found}


def write_report_page(path, **values):
    names = ("streams", "views", "pretraining", "classifiers", "gallery", "feature_map", "confusion")
    sections = {name: Section([], "nothing") for name in names}
    defaults = {"title": "", "method": "", "common": {}, "results": [], "commands": [], **sections}
    write_page(path, "report.html.j2", **{**defaults, **values})


def test_pages_are_self_contained_and_escape_text(tmp_path):
    exhibit = Exhibit(
        ["python <b>"],
        heading="a<b",
        image=data_uri(b"\x89PNG", ".png"),
        alt='"><script>',
        note="<i>",
        rows=[["x"], ["<u>"]],
    )
    write_report_page(
        tmp_path / "page.html",
        title="A <title>",
        common={"seed": "<p>"},
        results=[["x", "y"], ["1", "<script>"]],
        views=Section([exhibit], commands=["<s>"]),
        pretraining=Section([], "<img>", warnings=["<h1>"]),
        commands=["python <a>"],
    )
    text = (tmp_path / "page.html").read_text()
    outline = Outline(text)
    assert not {"script", "b", "i", "u", "a", "s"} & set(outline.seen) and outline.seen.count("h1") == 1
    assert outline.sources == ["data:,", "data:image/png;base64,iVBORw=="]
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text and "&lt;script&gt;" in text and "a&lt;b" in text


def test_common_columns_of_the_results():
    header = ["encoder", "representation", "seed", "linear last"]
    rows = [header, ["a", "seq-based", "0", "9.1"], ["a", "seq-based:bone", "0", "9.1"]]
    common, kept = split_common(rows)
    assert common == {"seed": "0"} and [len(row) for row in kept] == [3, 3, 3]
    assert kept[2] == ["a", "seq-based:bone", "9.1"]
    assert split_common([header]) == ({}, [header])


def test_main_part_of_a_page(tmp_path):
    write_report_page(tmp_path / "page.html", views=Section([Exhibit([], "One & two")]))
    part = main_part(tmp_path / "page.html")
    assert part.strip().startswith("<section>\n<h2>The method") and "<h3>One &amp; two</h3>" in part
    write_report_page(tmp_path / "outer.html", gallery=Section([Exhibit([], html=part)]))
    assert Outline((tmp_path / "outer.html").read_text()).seen.count("h2") == 2 * 8, (
        "embedded without escaping"
    )
    (tmp_path / "other.html").write_text("<p>")
    with pytest.raises(UserError, match="not written by this code base"):
        main_part(tmp_path / "other.html")


@pytest.mark.parametrize(
    "flags", [["--pretrained", "random"], ["--mode", "supervised"]], ids=["linear", "supervised"]
)
def test_classifiers_report_confusion_of_the_last_epoch(run, tmp_path, flags):
    code, out, err = run(
        "action_classification.py",
        *flags,
        *TINY_FLAGS,
        *("--epochs", 2, "--seed", 1),
        *("--output-dir", tmp_path / "o"),
    )
    assert code == 0 and "most confused pairs" in out and "per-class accuracy: " in out, err
    accuracy = read_accuracy(tmp_path / "o/confusion.csv")
    assert sum(int(clips) for _, clips, _ in accuracy) == 10
    right = sum(int(clips) * float(percent or 0) for _, clips, percent in accuracy) / 10
    assert f"last (epoch 1): top-1 {right:.2f}%" in out


def test_report_page(run, tmp_path):
    """Results, curves, pictures and the commands that produced them; for what is missing, how to get it."""
    folder = tmp_path / "runs"
    pretraining = [
        "main_moco_inter_skeleton.py",
        *("--moco-k", 16, "--batch-size", 4, "--epochs", 3, "--seed", 5),
        *TINY_FLAGS,
        *("--checkpoint-path", folder / "inter"),
    ]
    probe = [
        *("action_classification.py", "--pretrained", "random"),
        *TINY_FLAGS,
        *("--epochs", 2, "--seed", 1, "--output-dir", folder / "probe"),
    ]
    for command in (pretraining, probe):
        assert run(*command)[0] == 0
    (folder / "commands.txt").write_text(
        "".join(f"python {' '.join(map(str, command))}\n" for command in (pretraining, probe))
    )
    code, out, err = run("visual.page", folder)
    assert code == 0 and f"written: {folder / 'index.html'}" in out, err
    text = (folder / "index.html").read_text()
    outline = Outline(text)
    assert outline.seen.count("h2") == 9 and "Streams" not in text
    assert (
        "<td>untrained</td>" in text and "There is no gallery" in text and "There is no feature map" in text
    )
    assert "<p>All rows: representation seq-based, dataset ntu60, protocol cross_view, seed 1.</p>" in text
    shown = charts(text)
    assert [*shown] == [
        *("Contrastive loss", "Loss relative to chance", "Contrastive accuracy"),
        *("Effective rank of the features", "Effective rank of the embeddings"),
        *("Alignment", "Uniformity", "Linear probe"),
    ]
    loss = shown["Contrastive loss"]
    assert "loss" in loss and "top-1 accuracy" in shown["Linear probe"]
    assert "seq-&gt;graph: " in shown["Loss relative to chance"] and "graph: " in shown["Alignment"]
    path = re.search(r'id="curve-0">\s*<path d="([^"]+)"', loss)[1]
    assert len(re.findall("[ML]", path)) == 3, "one point per epoch"
    assert text.index("main_moco_inter_skeleton.py") > text.index("image/svg+xml")
    section = text.split("Confusion matrix</h2>")[1]
    assert section.count("action_classification.py") == 2, "there and among all commands"
    first = text
    assert run("visual.page", folder)[0] == 0
    assert (folder / "index.html").read_text() == first, "deterministic"
    (folder / "g").mkdir()
    write_report_page(folder / "g/index.html", views=Section([], "a query"))
    (folder / "g/gallery.png").write_bytes(b"")
    assert run("visual.page", folder)[0] == 0
    text = (folder / "index.html").read_text()
    assert "<p>a query.</p>" in text and "There is no gallery" not in text
    code, _, err = run("visual.page", tmp_path / "nowhere")
    assert code == 2 and "nowhere is not a folder" in err


def test_report_page_without_matplotlib(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    folder = tmp_path / "runs"
    code, _, err = run(
        *("action_classification.py", "--pretrained", "random", "--epochs", 1, "--seed", 1),
        *TINY_FLAGS,
        *("--output-dir", folder / "probe"),
    )
    assert code == 0 and run("visual.page", folder)[0] == 0, err
    text = (folder / "index.html").read_text()
    assert text.count("Matplotlib cannot be loaded") == 4, "two sections of curves, feature map, confusion"
    assert "<td>drink water</td>" in text


def test_report_page_of_a_damaged_run(run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/log.jsonl").write_text('{"epoch": 0, "loss": 1.0}\n{"epoch": 1')
    code, _, err = run("visual.page", tmp_path / "runs")
    assert code == 2 and "log.jsonl cannot be read" in err and len(err.strip().splitlines()) == 1
    (tmp_path / "runs/config.json").write_text("{}")
    code, _, err = run("visual.page", tmp_path / "runs")
    assert code == 0 and len(charts((tmp_path / "runs/index.html").read_text())) == 1, err
    for entry in ('{"epoch": 0, "loss": "low"}', '{"epoch": 0, "top1": 50.0}'):
        (tmp_path / "runs/log.jsonl").write_text(entry)
        code, _, err = run("visual.page", tmp_path / "runs")
        assert code == 2 and "log.jsonl cannot be read" in err and len(err.strip().splitlines()) == 1


def write_log(folder, epochs, **metrics):
    """A pretraining of ``epochs`` epochs that was measured every second epoch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"epochs": {epochs}}}')
    with open(folder / "log.jsonl", "w") as file:
        for epoch in range(epochs):
            measured = (
                {} if epoch % 2 else {"feature_rank/seq": 20.0 + epoch, "uniformity/seq": -2.0, **metrics}
            )
            entry = {"relative_loss/seq->seq": 0.6, "contrastive_accuracy/seq->seq": 30.0, **measured}
            file.write(json.dumps({"epoch": epoch, "loss": 3.0, **entry}) + "\n")


def test_report_page_warns_of_a_failed_pretraining(run, tmp_path):
    folder = tmp_path / "runs"
    write_log(folder / "healthy", 8)
    assert run("visual.page", folder)[0] == 0
    text = (folder / "index.html").read_text()
    assert 'class="warning"' not in text and "1-NN accuracy on training labels" not in text
    rank = charts(text)["Effective rank of the features"]
    path = re.search(r'id="curve-0">\s*<path d="([^"]+)"', rank)[1]
    assert len(re.findall("[ML]", path)) == 4 and "<text" in rank and "seq: 26" in rank
    write_log(folder / "collapsed", 8, **{"feature_rank/seq": 1.01, "knn/seq": 12.5})
    write_log(folder / "early", 1, **{"feature_rank/seq": 1.01})
    assert run("visual.page", folder)[0] == 0
    text = (folder / "index.html").read_text()
    (warning,) = re.findall(r'<p class="warning">(.*)</p>', text)
    assert warning.startswith("collapsed: warning, epoch 2: seq: the features have collapsed")
    assert "healthy seq: 26" in charts(text)["Effective rank of the features"]
    assert "collapsed seq: 12.5" in charts(text)["1-NN accuracy on training labels"]


def test_report_and_page_show_streams_and_their_fusion(run, probe, tmp_path):
    folder = tmp_path / "runs"
    files = []
    for stream in ("joint", "bone", "motion"):
        files.append(folder / stream / "scores.npz")
        flags = ["--stream", stream, "--epochs", 1, "--seed", 1, "--save-scores", files[-1]]
        assert probe(folder / stream, *flags)[0] == 0
    assert run("visual.page", folder)[0] == 0
    assert "Streams and their fusion" not in (folder / "index.html").read_text()
    command = ["ensemble.py", *files, "--weights", 1, 0.5, 2, "--output-dir", folder / "fusion"]
    assert run(*command)[0] == 0
    (folder / "commands.txt").write_text(f"python {' '.join(map(str, command))}\n")
    code, out, err = run("engine.report", folder)
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in out.splitlines()[1:]]
    assert code == 0 and "fusion" in header, err
    column = header.index("representation")
    fused, streams = "seq-based + seq-based:bone + seq-based:motion", ["seq-based:bone", "seq-based"]
    assert [row[column] for row in rows] == [streams[0], fused, streams[1], "seq-based:motion"]
    numbers = json.loads((folder / "fusion/results.json").read_text())["numbers"]
    assert rows[1][header.index("fusion")] == f"{numbers['fusion']['top1']:.1f}"
    code, _, err = run("visual.page", folder)
    text = (folder / "index.html").read_text()
    Outline(text)
    assert code == 0, err
    section = text.split("Streams and their fusion</h2>")[1].split("<h2>")[0]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in section.split("<tr>")[2:]]
    expected = [
        ["joint", "seq-based", "1"],
        ["bone", "seq-based:bone", "0.5"],
        ["motion", "seq-based:motion", "2"],
        ["fusion", "", ""],
    ]
    for row, start, entry in zip(cells, expected, [*numbers["single"], numbers["fusion"]], strict=True):
        assert row == [*start, f"{entry['top1']:.1f}", f"{entry['top5']:.1f}"]
    assert section.count("<img") == 1 and section.count("ensemble.py") == 1
    confusion = text.split("Confusion matrix</h2>")[1].split("<h2>")[0]
    assert confusion.count("<img") == 3, "that of the fusion is shown once"


def test_report_page_of_a_folder_without_runs(run, tmp_path):
    code, _, err = run("visual.page", tmp_path / "data")
    assert code == 0, err
    text = (tmp_path / "data/index.html").read_text()
    assert "There are no results yet" in text and "There are no curves" in text
    assert "No classifier was trained" in text
