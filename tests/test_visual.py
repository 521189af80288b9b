"""Camera, limbs, panels, confusion tables and report pages."""

import argparse
import base64
import csv
import html.parser
import json
import re

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, INTER, TINY_FLAGS, one_line

from data_gen.normalize import normalize_clip
from data_gen.synthetic.body import CHANNELS, JOINT, bone_offsets, forward_kinematics
from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.log import RunLog
from engine.randomness import VIEWS, generator
from facts.class_names import CLASS_NAMES, default_class_names, short_class_names
from facts.datasets import DATASETS
from visual.clips import view_panels
from visual.confusion import Confusion, log_lines, report_confusion
from visual.page import Exhibit, data_uri, split_common, write_page
from visual.pictures import spread
from visual.skeleton import place_camera, upright, viewing_axes


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
    assert short_class_names(CLASS_NAMES["ntu120"])[8] == "standing up"
    assert short_class_names(["walk (slow)", "walk (fast)"]) == ("walk (slow)", "walk (fast)")


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


@pytest.mark.parametrize("case", ["empty", "shoulders along the legs", "upside down"])
def test_upright_is_a_rotation_for_any_clip(case):
    clip = -standing_person() if case == "upside down" else torch.zeros(3, 25, 3, 2)
    if case == "shoulders along the legs":
        clip[:, [12, 16], 2, 0], clip[:, 8, 2, 0] = 1.0, 1.0
        clip[:, [14, 18], 0, 0] = 1e-9  # seen
    for rotation, sign in (
        (upright(clip), 1),
        (viewing_axes(-120, 40), -1),
    ):  # right, down, toward the viewer
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert torch.det(rotation) == pytest.approx(sign)


def test_two_people_are_seen_from_the_side():
    alone = standing_person()
    facing = alone.clone()
    facing[..., 1] = alone[..., 0] * torch.tensor([-1.0, -1.0, 1.0]) + torch.tensor([0.0, 1.0, 0.0])
    right = place_camera([facing]).project(facing[0, 1, :, 1])[0]
    assert right > 0.9, "one meter apart, also in the picture"


def test_camera_shows_every_joint():
    clip = torch.randn(6, 25, 3, 2, generator=torch.Generator().manual_seed(0))
    camera = place_camera([clip, 3 * clip])
    points = camera.project((3 * clip).transpose(2, 3))[..., :2] - torch.tensor([camera.left, camera.top])
    assert points.min() > 0 and points.max() < camera.side
    assert place_camera([torch.zeros(3, 25, 3, 2)]).side > 0


def test_frames_of_a_strip_are_evenly_spread():
    assert spread(3, 8) == [0, 1, 2] and spread(100, 4) == [12, 37, 62, 87] and spread(1, 1) == [0]


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
    plain = pretraining_view({"augmentations": ()}, num_frames=8)
    whole, panel = view_panels(clips, 0, plain, 1, generator(0, VIEWS))
    torch.testing.assert_close(panel.clip, whole.clip, rtol=0, atol=0)
    assert panel.ghost is None and panel.marked is None and len(panel.caption) == 1


def test_confusion_counts():
    labels = torch.tensor([7, 7, 7, 7, 2, 2, 5])
    confusion = Confusion(labels, torch.tensor([7, 2, 2, 5, 2, 7, 9]), "class {}".format)
    assert confusion.labels == [2, 5, 7, 9] and confusion.names[0] == "class 2"
    assert confusion.counts.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [2, 1, 1, 0], [0, 0, 0, 0]]
    assert confusion.accuracy[:3].tolist() == [50, 0, 25] and np.isnan(confusion.accuracy[3])
    # two of four; then one of one before one of two before one of four
    assert confusion.most_confused(5) == [(2, 0), (1, 3), (0, 2), (2, 1)]
    lines = log_lines(confusion)
    assert lines[1] == "  class 7 -> class 2: 2 of 4 clips" and "class 9" not in lines[-1]
    assert log_lines(Confusion(labels, labels, str))[0] == "no misclassified clips"


def test_confusion_files(tmp_path):
    labels, names = torch.tensor([0, 0, 1]), CLASS_NAMES["ntu60"].__getitem__
    with RunLog(tmp_path, argparse.Namespace(), 0) as log:
        lines = report_confusion(labels, torch.tensor([0, 1, 1]), names, tmp_path, log, "confusion", 3)
    assert lines[-1] == f"written: {tmp_path / 'confusion.png'}"
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert [image.step for image in tensorboard_events(tmp_path).Images("confusion")] == [3]
    header, *rows = csv.reader((tmp_path / "confusion.csv").open())
    assert header == ["label", "class", "clips", "accuracy", "drink water", "eat meal/snack"]
    assert rows[0] == ["0", "drink water", "2", "50.00", "1", "1"] and len(rows) == 2


class Outline(html.parser.HTMLParser):
    """The elements and sources of a page; every element must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.sources = [], [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def charts(text):
    """The SVG charts of a page by heading."""
    found = re.findall(r'"data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)" class="small"', text)
    return {heading: base64.b64decode(data).decode() for data, heading in found}


def tensorboard_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def test_pages_are_self_contained_and_escape_text(tmp_path):
    picture = data_uri(b"\x89PNG", ".png")
    exhibit = Exhibit("a<b", ["python <b>"], picture, '"><script>', note="<i>", rows=[["x"], ["<u>"]])
    names = ("streams", "pretraining", "classifiers", "gallery", "feature_map", "confusion", "method")
    texts = {
        "title": "A <title>",
        "common": "<p>",
        "commands": ["python <a>"],
        "warnings": ["<h1>"],
        "best": None,
    }
    results = [["x", "y"], ["1", "<script>"]]
    values = {**dict.fromkeys(names, ()), **texts, "results": results, "views": [exhibit]}
    write_page(tmp_path / "page.html", **values)
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


def test_report_page(run, pretrain, tmp_path):
    """Results, curves, pictures and the commands that produced them; for what is missing, how to get it."""
    folder = tmp_path / "runs"
    assert pretrain(folder / "inter", "--epochs", 3)[0] == 0
    flags = ["--pretrained", "random", *TINY_FLAGS, "--seed", 1]
    code, out, err = run(CLASSIFICATION, *flags, "--epochs", 2, "--output-dir", folder / "probe")
    assert code == 0 and "most confused pairs" in out and "per-class accuracy: " in out, err
    classes = list(csv.DictReader((folder / "probe/confusion.csv").open()))
    right = sum(int(row["clips"]) * float(row["accuracy"] or 0) for row in classes) / 10
    assert f"last (epoch 2): top-1 {right:.2f}%" in out, "the confusion matrix is that of the last epoch"
    commands = [
        f"python {INTER} --checkpoint-path {folder}/inter",
        f"python {CLASSIFICATION} {folder}/probe/",
    ]
    (folder / "commands.txt").write_text("\n".join(commands))
    code, out, err = run("visual.page", folder)
    assert code == 0 and f"written: {folder / 'index.html'}" in out, err
    text = (folder / "index.html").read_text()
    assert Outline(text).seen.count("h2") == 9 and "Streams" not in text
    assert all(part in text for part in ("<td>untrained</td>", "There is no gallery", "There is no feature"))
    assert "<p>All rows: representation seq-based, dataset ntu60, protocol cross_view, seed 1.</p>" in text
    shown = charts(text)
    assert len(shown) == 8 and {"Contrastive accuracy", "Effective rank of the embeddings"} <= {*shown}
    loss = shown["Contrastive loss"]
    assert "loss" in loss and "top-1 accuracy" in shown["Linear probe"]
    assert "seq-&gt;graph: " in shown["Loss relative to chance"] and "graph: " in shown["Alignment"]
    path = re.search(r'id="curve-0">\s*<path d="([^"]+)"', loss)[1]
    assert len(re.findall("[ML]", path)) == 3, "one point per epoch"
    assert text.index(INTER) > text.index("image/svg+xml")
    section = text.split("Confusion matrix</h2>")[1]
    assert section.count(CLASSIFICATION) == 2, "there and among all commands"
    assert run("visual.page", folder)[0] == 0
    assert (folder / "index.html").read_text() == text, "deterministic"
    code, _, err = run("visual.page", tmp_path / "nowhere")
    assert code == 2 and "nowhere is not a folder" in err
    assert run("visual.page", tmp_path / "data")[0] == 0
    text = (tmp_path / "data/index.html").read_text()
    assert all(part in text for part in ("There are no results yet", "no curves of", "No classifier was"))


def test_report_page_of_a_damaged_run(run, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    bad = ['{"epoch": 0, "loss": "low"}', '{"epoch": 0, "top1": 50.0}']
    cases = [(None, '{"epoch": 0, "loss": 1.0}'), *(("{}", line) for line in bad), ("[]", '{"epoch": 0}')]
    for config, log in cases:
        (runs / "log.jsonl").write_text(log)
        if config:
            (runs / "config.json").write_text(config)
        code, _, err = run("visual.page", runs)
        assert code == 0 and "left out: " in err and "log.jsonl cannot be read" in err and one_line(err)
    (runs / "config.json").write_text("{}")
    (runs / "log.jsonl").write_text('{"epoch": 0, "loss": 1.0}\n{"epoch": 1')
    code, _, err = run("visual.page", runs)
    assert code == 0 and "After one epoch: runs: 1." in (runs / "index.html").read_text(), err


def write_log(folder, epochs, **metrics):
    """A pretraining of ``epochs`` epochs that was measured every second epoch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"epochs": {epochs}}}')
    with open(folder / "log.jsonl", "w") as file:
        for epoch in range(epochs):
            measured = {"feature_rank/seq": 20.0 + epoch, "uniformity/seq": -2, **metrics}
            entry = {"epoch": epoch, "loss": 3.0, "relative_loss/seq->seq": 0.6}
            file.write(json.dumps({**entry, **({} if epoch % 2 else measured)}) + "\n")


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
    assert warning.startswith("collapsed: warning, epoch 3: seq: the features have collapsed")
    assert "healthy seq: 26" in charts(text)["Effective rank of the features"]
    assert "collapsed seq: 12.5" in charts(text)["1-NN accuracy on training labels"]


def test_page_shows_streams_and_their_fusion(run, probe, tmp_path):
    folder = tmp_path / "runs"
    files = [folder / stream / "scores.npz" for stream in ("joint", "bone")]
    for file in files:
        flags = ["--stream", file.parent.name, "--epochs", 1, "--seed", 1, "--save-scores", file]
        assert probe(file.parent, *flags)[0] == 0
    assert run("visual.page", folder)[0] == 0
    assert "Streams and their fusion" not in (folder / "index.html").read_text()
    command = ["ensemble.py", *files, "--weights", 1, 0.5, "--output-dir", folder / "fusion"]
    assert run(*command)[0] == 0
    (folder / "commands.txt").write_text(f"python {' '.join(map(str, command))}\n")
    code, _, err = run("visual.page", folder)
    text = (folder / "index.html").read_text()
    assert code == 0 and Outline(text), err
    section = text.split("Streams and their fusion</h2>")[1].split("<h2>")[0]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in section.split("<tr>")[2:]]
    expected = [["joint", "seq-based", "1"], ["bone", "seq-based:bone", "0.5"], ["fusion", "", ""]]
    numbers = json.loads((folder / "fusion/results.json").read_text())["numbers"]
    for row, start, entry in zip(cells, expected, [*numbers["single"], numbers["fusion"]], strict=True):
        assert row == [*start, f"{entry['top1']:.1f}", f"{entry['top5']:.1f}"]
    assert section.count("<img") == 1 and section.count("ensemble.py") == 1
    confusion = text.split("Confusion matrix</h2>")[1].split("<h2>")[0]
    assert confusion.count("<img") == 2, "that of the fusion is shown once"
