"""What is drawn, as far as no package that draws is needed: projection, limbs, pages, tables, names."""

import csv
import html.parser
import sys

import numpy as np
import pytest
import torch

from conftest import TINY_FLAGS
from data_gen.synthetic_body import CHANNELS, JOINT, bone_offsets, forward_kinematics
from data_gen.normalise import clip_frames
from models.graph import INWARD_EDGES
from options.class_names import NTU_ACTIONS, class_name, short_class_name
from options.errors import UserError
from visual import packages
from visual.camera import place_camera, seen_joints, upright, viewing_axes
from visual.chart import line_chart, ticks
from visual.confusion import count_confusion, csv_text, log_lines, most_confused, read_accuracy, report_confusion
from visual.feature_map import draw_classes
from visual.markup import main_part, page, save_page, section, table
from visual.packages import matching_torchvision, require, why_not
from visual.pictures import spread
from visual.skeleton import LIMBS, PALETTE


def standing_person(**angles):
    """One synthetic person, normalised: (1, 25, 3, 2). Angles in degrees, as the data generator names them."""
    values = np.zeros((1, len(CHANNELS)))
    for name, value in angles.items():
        values[0, CHANNELS.index(name)] = value
    joints, _ = forward_kinematics(values, bone_offsets(), np.array([[0.0, 0.0, 3.0]]))
    return torch.from_numpy(clip_frames(joints[None]))


def test_names():
    assert len(NTU_ACTIONS) == len(set(NTU_ACTIONS)) == 120
    assert class_name("ntu60", 0) == "drink water" and class_name("ntu60", 58) == "walking towards each other"
    assert class_name("ntu120", 119).startswith("finger-guessing game")
    assert short_class_name("ntu120", 8) == "standing up"
    assert len({short_class_name("ntu120", i) for i in range(120)}) == 120
    assert class_name("pku1", 3) == class_name("mine", 3) == "class 3" and class_name("ntu120", 120) == "class 120"


def test_limbs_are_the_skeleton():
    """Every joint, every bone of the graph but the two finger tips', which here hang on the hand."""
    bones = {frozenset(bone) for limb in LIMBS.values() for bone in limb.bones}
    graph = {frozenset(edge) for edge in INWARD_EDGES}
    assert len(bones) == 24 and {joint for bone in bones for joint in bone} == set(range(25))
    assert graph - bones == {frozenset({21, 22}), frozenset({23, 24})}
    assert bones - graph == {frozenset({7, 21}), frozenset({11, 23})}
    assert len(set(PALETTE)) == len(PALETTE), "colours that can be told apart"


def test_seen_from_before():
    """The person's right hand on the left of the picture, the head above, what is in front nearer."""
    clip = standing_person(r_flex=90.0)  # the right arm held forward
    camera = place_camera([clip])
    right, down, near = camera.project(clip[0, :, :, 0]).T
    hand, left_hand = JOINT["HandRight"], JOINT["HandLeft"]
    assert right[JOINT["ShoulderRight"]] < right[JOINT["ShoulderLeft"]]
    assert down[JOINT["Head"]] < down[JOINT["SpineBase"]] < down[JOINT["FootLeft"]]
    assert near[hand] > near[left_hand] + 0.3
    assert (right[hand] - right[JOINT["ShoulderRight"]]).abs() > 0.2, "an arm held forward is seen as one"
    front = clip[0, :, :, 0] @ viewing_axes(azimuth=0.0, elevation=0.0).T
    assert (front[hand, 0] - front[JOINT["ShoulderRight"], 0]).abs() < 0.05, "and not from straight before"


def test_axes_keep_lengths_and_handedness():
    for azimuth, elevation in ((0, 0), (30, 10), (-120, 40)):
        axes = viewing_axes(azimuth, elevation)
        torch.testing.assert_close(axes @ axes.T, torch.eye(3))
        assert torch.det(axes) == pytest.approx(-1), "right, down, towards the viewer: left-handed"


def test_someone_who_stoops_first_still_stands():
    """The stored clip is turned by its first frame; the picture is not."""
    stooped, straight = standing_person(bend=60.0), standing_person()
    tilt = torch.from_numpy(np.array([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]], dtype=np.float32))
    clip = torch.cat([stooped, torch.einsum("ij,tvjm->tvim", tilt, straight.repeat(9, 1, 1, 1))])
    legs = clip[5, JOINT["SpineBase"], :, 0] - clip[5, JOINT["AnkleLeft"], :, 0]
    assert legs[2] / legs.norm() < 0.7
    legs = upright(clip) @ legs
    assert legs[2] / legs.norm() > 0.98
    torch.testing.assert_close(upright(straight.repeat(3, 1, 1, 1)), torch.eye(3), atol=0.05, rtol=0)


def test_what_was_not_seen():
    clip = standing_person().repeat(2, 1, 1, 1)
    clip[1, 7] = 0
    clip[1, :, :, 0] = 0
    seen = seen_joints(clip)
    assert seen[0, :, 0].all() and not seen[:, :, 1].any(), "the origin is seen, a second person is not there"
    assert not seen[1].any()


def test_two_people_are_seen_from_the_side():
    alone = standing_person()
    facing = alone.clone()
    facing[..., 1] = alone[..., 0] * torch.tensor([-1.0, -1.0, 1.0]) + torch.tensor([0.0, 1.0, 0.0])
    right = place_camera([facing]).project(facing[0, 1, :, 1])[0]
    assert right > 0.9, "one metre apart in space, and nearly so in the picture"


def test_everything_is_in_the_picture():
    clip = torch.randn(6, 25, 3, 2, generator=torch.Generator().manual_seed(0))
    camera = place_camera([clip, 3 * clip])
    pixels = camera.to_pixels(camera.project((3 * clip).transpose(2, 3)), 100)
    assert pixels.min() > 0 and pixels.max() < 100
    empty = place_camera([torch.zeros(3, 25, 3, 2)])
    assert empty.side > 0


def test_frames_of_a_strip():
    assert spread(8, 8) == list(range(8)) and spread(3, 8) == [0, 1, 2]
    assert spread(100, 4) == [12, 37, 62, 87] and spread(1, 1) == [0]


def test_the_release_of_torchvision():
    for torch_version, expected in (("2.2.0", "0.17.0"), ("2.13.0+cpu", "0.28.0"), ("2.14.1+cu130", "0.29.1")):
        assert matching_torchvision(torch_version) == expected


def test_missing_packages_are_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.utils", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "torchvision" in why_not(packages.SKELETONS) and "--install" in why_not(packages.PLOTS)
    with pytest.raises(UserError, match="--tsne: drawing plots needs matplotlib.*or leave --tsne out"):
        require("--tsne", packages.PLOTS)


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
    assert lines[1] == "  class 7, taken for class 2: 2 of 4 clips" and "class 9" not in lines[-1]
    perfect = count_confusion(labels, labels, str)
    assert log_lines(perfect)[0] == "no clip was taken for another class"


def test_the_table_of_a_confusion_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    labels, predictions = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    lines = report_confusion(labels, predictions, lambda label: class_name("ntu60", label), tmp_path)
    assert "confusion.png is left out" in lines[-1] and not (tmp_path / "confusion.png").exists()
    rows = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert rows == [["label", "class", "clips", "accuracy", "drink water", "eat meal/snack"],
                    ["0", "drink water", "2", "50.00", "1", "1"], ["1", "eat meal/snack", "1", "100.00", "0", "1"]]
    assert read_accuracy(tmp_path / "confusion.csv")[0] == ["drink water", "2", "50.00"]
    assert csv_text(count_confusion(labels, predictions, str)).startswith("label,class")


def test_classes_of_the_feature_maps():
    labels = torch.arange(30).repeat(4)
    draws = draw_classes(labels, seed=1)
    assert [len(set(classes)) for classes in draws] == [10, 10, 10] and draws[0] != draws[1] != draws[2]
    assert draws == draw_classes(labels, seed=1) != draw_classes(labels, seed=2)
    assert draw_classes(torch.tensor([4, 9, 4]), seed=1) == [[4, 9]]


class Outline(html.parser.HTMLParser):
    """Which elements are opened, and that every one is closed in its order."""

    VOID = {"meta", "link", "img", "br"}

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


def test_a_page(tmp_path):
    """Well-formed, nothing fetched, and what is text stays text."""
    chart = line_chart({"a<b": [(0, 3.0), (1, 2.0), (2, 2.5)], "c": [(0, 1.0), (2, 1.5)]}, "epoch", "loss & more")
    text = page("A <title>", section("One", table([["x", "y"], ["1", "<script>"]]), chart))
    outline = Outline(text)
    assert outline.seen.count("polyline") == 2 and "script" not in outline.seen
    assert outline.sources == ["data:,"] and "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text and "&lt;script&gt;" in text and "a&lt;b" in text
    save_page(tmp_path / "page.html", text)
    assert main_part(tmp_path / "page.html").startswith("<section>\n<h2>One</h2>")
    (tmp_path / "other.html").write_text("<p>")
    with pytest.raises(UserError, match="no page of this program"):
        main_part(tmp_path / "other.html")


def test_charts():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(0.13, 0.52) == [0.2, 0.3, 0.4, 0.5]
    assert ticks(5, 5) == [5]
    flat = line_chart({"one": [(0, 4.0)]}, "epoch", "loss")  # one epoch, one value
    assert "nan" not in flat and "inf" not in flat
    points = line_chart({"one": [(0, 0.0), (10, 1.0)]}, "epoch", "y").split('points="')[1].split('"')[0]
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    assert x0 < x1 and y0 > y1, "up is up"


@pytest.mark.parametrize("flags", [["--pretrained", "random"], ["--mode", "supervised"]], ids=["linear", "supervised"])
def test_classifiers_say_what_they_confuse(run, tmp_path, flags):
    """The table's diagonal is the last epoch's accuracy."""
    code, out, err = run("action_classification.py", *flags, *TINY_FLAGS, "--epochs", 2, "--seed", 1,
                         "--output-dir", tmp_path / "o")
    assert code == 0 and "taken for" in out and "accuracy of a class: " in out, err
    accuracy = read_accuracy(tmp_path / "o/confusion.csv")
    assert sum(int(clips) for _, clips, _ in accuracy) == 10
    right = sum(int(clips) * float(percent or 0) for _, clips, percent in accuracy) / 10
    assert f"last (epoch 1): top-1 {right:.2f}%" in out


def test_the_page_of_a_folder(run, tmp_path):
    """Results, curves, what was drawn and by which command, and for what is missing how to get it."""
    folder = tmp_path / "runs"
    pretraining = ["main_moco_inter_skeleton.py", "--moco-k", 16, "--batch-size", 4, "--epochs", 3, "--seed", 5, *TINY_FLAGS,
                   "--checkpoint-path", folder / "inter"]
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 2, "--seed", 1,
             "--output-dir", folder / "probe"]
    for command in (pretraining, probe):
        assert run(*command)[0] == 0
    (folder / "commands.txt").write_text("".join(f"python {' '.join(map(str, c))}\n" for c in (pretraining, probe)))
    code, out, err = run("visual.page", folder)
    assert code == 0 and f"written: {folder / 'index.html'}" in out, err
    text = (folder / "index.html").read_text()
    outline = Outline(text)
    assert outline.seen.count("h2") == 7 and outline.seen.count("polyline") == 2
    assert "<td>untrained</td>" in text and "No gallery was made" in text and "No feature map was made" in text
    curve = text.split("main_moco_inter_skeleton.py")[0].split('points="')[1].split('"')[0]
    assert len(curve.split()) == 3, "one point an epoch"
    assert text.split("Confusion matrix</h2>")[1].count("action_classification.py") == 2, "there, and among all"
    (folder / "g").mkdir()
    save_page(folder / "g/index.html", page("Retrieval gallery", "<p>a query</p>"))
    (folder / "g/gallery.png").write_bytes(b"")
    assert run("visual.page", folder)[0] == 0
    text = (folder / "index.html").read_text()
    assert "<p>a query</p>" in text and "No gallery was made" not in text
    code, _, err = run("visual.page", tmp_path / "nowhere")
    assert code == 2 and "usage: python -m visual.page FOLDER" in err


def test_a_page_of_nothing(run, tmp_path):
    code, _, err = run("visual.page", tmp_path / "data")
    assert code == 0, err
    text = (tmp_path / "data/index.html").read_text()
    assert "There are no results yet" in text and "There are no curves" in text and "No classifier was trained" in text
