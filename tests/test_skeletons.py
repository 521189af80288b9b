"""Skeletons other than Kinect v2, from the definition to every script, and invalid definitions."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, INTER, INTRA, RETRIEVAL, TINY_FLAGS, convert, one_line, write_store

from data_gen import arrays_gendata
from data_gen.normalize import normalize_clip
from data_gen.own_clips import Clip, frames_of_array
from data_gen.own_clips import write_store as write_own_store
from data_gen.sources import BadFile
from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.encoders import load_encoders
from facts.skeletons import COCO, KINECT_V1, KINECT_V2, SKELETONS, Skeleton, from_data, load_skeleton
from models.graph import spatial_adjacency
from models.registry import REPRESENTATIONS, build_encoder, lay_out
from utils.errors import UserError
from visual.skeleton import TRUNK, camera_axes, limbs_of, place_camera, render_clip

ALL = list(SKELETONS.values())
SIZES = ["--moco-k", 8, "--batch-size", 4, "--epochs", 1, "--seed", 5, "--num-frames", 16, *TINY_FLAGS]
NAMES = [f"S001C002P{i + 1:03d}R001A{i % 2 + 1:03d}" for i in range(12)]

# The example in the documentation: an upper body whose joints are given by name.
PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"
OWN = json.loads(re.search(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1])


def body(seed, frames=9, people=1):
    """Random clips of Kinect v2, (T, 25, 3, M)."""
    return np.random.default_rng(seed).normal(0, 1, (frames, 25, 3, people))


@pytest.fixture
def stores(tmp_path, run):
    """``stores(skeleton)``: the name of a store of twelve clips of this skeleton under ``data``."""

    def write(skeleton):
        cells = ["train"] * 8 + ["val"] * 4
        folder = tmp_path / "data" / skeleton.name
        if not folder.exists():
            labels, lengths = [i % 2 for i in range(12)], list(range(6, 18))
            splits = {"cross_view": cells}
            write_store(folder, NAMES, labels, lengths, splits, skeleton.name, 2, skeleton=skeleton)
        return skeleton.name

    return write


@pytest.fixture
def pretrained(run, stores, tmp_path):
    """``pretrained(skeleton)``: a checkpoint of an inter-skeleton pretraining on the store of a skeleton."""

    def pretrain(skeleton, names="seq-based_and_graph-based"):
        folder = tmp_path / f"{skeleton.name}_{names}"
        flags = ["--pre-dataset", stores(skeleton), "--skeleton-representation", names]
        script = INTER if "_and_" in names else INTRA
        code, _, err = run(script, *flags, *SIZES, "--checkpoint-path", folder)
        assert code == 0, err
        return folder / "checkpoint_0000.pth.tar"

    return pretrain


# Definitions


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_definition_survives_json(skeleton):
    copy = from_data(json.loads(json.dumps(skeleton.to_dict())), "a file")
    assert copy == skeleton and copy.to_dict() == skeleton.to_dict()
    assert from_data(skeleton.to_data(), "a store") is skeleton
    assert len(skeleton.bones) == skeleton.num_joints - 1


def test_joints_of_kinect_v1_have_the_same_parents_in_kinect_v2():
    names = {"HipCenter": "SpineBase", "Spine": "SpineMid", "ShoulderCenter": "SpineShoulder"}
    for joint, parent in KINECT_V1.bones:
        pair = [KINECT_V1.joints[i] for i in (joint, parent)]
        old, new = (KINECT_V2.joints.index(names.get(name, name)) for name in pair)
        assert KINECT_V2.parents[old] == new or pair == ["Head", "ShoulderCenter"]  # has no neck


def test_skeleton_file_gives_joints_by_name_or_number(tmp_path):
    numbers = {name: i for i, name in enumerate(OWN["joints"])}
    by_number = {
        **OWN,
        "parents": [numbers[name] for name in OWN["parents"]],
        "center": [0],
        "z_bone": [0, 1],
        "arms": [[2, 3], [4, "r_hand"]],
        "legs": None,
    }
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    (tmp_path / "numbers.json").write_text("\ufeff" + json.dumps(by_number), encoding="utf-8")
    own, other = (load_skeleton(str(tmp_path / f"{name}.json")) for name in ("own", "numbers"))
    assert own.to_dict() == other.to_dict() and own.arms == ((2, 3), (4, 5))
    assert own.to_data() == own.to_dict() and str(own) == "upper_body (6 joints)"


def without(field):
    return {key: value for key, value in OWN.items() if key != field}


FLAT = {**without("z_bone"), "x_pair": None, "dimensions": 2, "torso": [["head"], ["chest"]]}
INVALID = {
    "not JSON": ("{", "is not a JSON file"),
    "no object": ([1, 2], "neither a definition nor one of kinect_v2, kinect_v1, coco"),
    "unknown name": ('"kinect_v3"', "'kinect_v3' is neither a definition nor one of"),
    "too deep": ("[" * 100_000, "is not a JSON file"),
    "unknown field": ({**OWN, "centre": ["chest"]}, "'centre': unknown field; the fields are name, joints"),
    "no name": (without("name"), "'name' is missing"),
    "empty name": ({**OWN, "name": " "}, "'name': ' ' is not a name"),
    "name of two lines": ({**OWN, "name": "a\nb"}, "'name': 'a.*' is not a name"),
    "reserved name": ({**OWN, "name": "coco"}, "'name': coco is reserved"),
    "no joints": (without("joints"), "'joints' is missing"),
    "joints as text": ({**OWN, "joints": "chest"}, "'joints': 'chest' is not a list"),
    "numbered joints": ({**OWN, "joints": [1, 2]}, "'joints': 1 is not a name"),
    "one joint": ({**OWN, "joints": ["chest"]}, "'joints': 1 joints; a skeleton has 2 to 1000"),
    "repeated joint": ({**OWN, "joints": ["chest", "chest"]}, "'joints': chest occurs twice"),
    "no parents": (without("parents"), "'parents' is missing"),
    "too few parents": ({**OWN, "parents": ["chest"]}, "'parents': 1 entries for 6 joints"),
    "unknown parent": ({**OWN, "parents": ["hip"] * 6}, "'parents': 'hip' is not the name of a joint"),
    "parent below zero": ({**OWN, "parents": [-1, 0, 0, 0, 2, 3]}, "'parents': -1 is not the name"),
    "true as a parent": ({**OWN, "parents": [True] * 6}, "'parents': True is not the name"),
    "two roots": ({**OWN, "parents": [0, 1, 0, 0, 2, 3]}, "'parents': 2 joints are their own parent"),
    "no root": ({**OWN, "parents": [1, 2, 0, 0, 2, 3]}, "'parents': 0 joints are their own parent"),
    "a cycle": ({**OWN, "parents": [0, 0, 4, 0, 2, 3]}, "'parents': the parents of l_elbow do not lead"),
    "no center": (without("center"), "'center' is missing"),
    "empty center": ({**OWN, "center": []}, "'center': give at least one joint"),
    "center without list": ({**OWN, "center": "chest"}, "'center': 'chest' is not a list"),
    "repeated center": ({**OWN, "center": [0, "chest"]}, "'center': a joint occurs twice"),
    "z bone of one joint": ({**OWN, "z_bone": ["chest"]}, "'z_bone': .* is not a pair of joints"),
    "x pair of equal joints": ({**OWN, "x_pair": [2, 2]}, "'x_pair': a joint occurs twice"),
    "arms without pairs": ({**OWN, "arms": ["l_hand", "r_hand"]}, "'arms': 'l_hand' is not a list"),
    "joint in arm and leg": ({**OWN, "legs": [["l_hand", "head"]]}, "'arms', 'legs', 'head': a joint occurs"),
    "four dimensions": ({**OWN, "dimensions": 4}, "'dimensions': 4 must be 2 or 3"),
    "dimensions as text": ({**OWN, "dimensions": "3"}, "'dimensions': '3' is not an integer"),
    "torso in 3D": ({**OWN, "torso": [["head"], ["chest"]]}, "'torso': only 2D skeletons are scaled"),
    "2D without torso": ({**FLAT, "torso": None}, "'torso': a 2D skeleton needs"),
    "rotated 2D": ({**FLAT, "x_pair": [2, 3]}, "'x_pair': 2D skeletons are not rotated"),
    "torso of one end": ({**FLAT, "torso": [["head"]]}, "'torso': it must consist of two lists"),
    "torso of equal ends": ({**FLAT, "torso": [["head"], ["head"]]}, "'torso': give two lists of different"),
    "bones of three": ({**OWN, "drawn_bones": [[0, 1, 2]]}, "'drawn_bones': .* is not a pair of joints"),
}


@pytest.mark.parametrize("content, message", INVALID.values(), ids=INVALID.keys())
def test_invalid_skeleton_files_are_one_line_errors(tmp_path, content, message):
    path = tmp_path / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        load_skeleton(str(path))
    assert one_line(str(error.value)) and str(error.value).startswith(str(path))


def test_missing_skeleton_file_is_a_one_line_error(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for text, message in (("kinect", "kinect cannot be read"), ("binary.json", "is not a JSON file")):
        with pytest.raises(UserError, match=message) as error:
            load_skeleton(str(tmp_path / text))
        assert one_line(str(error.value))


@pytest.mark.parametrize(
    "value, message",
    [
        ("coco_wholebody", "'coco_wholebody' is neither a definition nor one of"),
        (25, "25 is neither"),
        (None, "None is neither"),
        ({**OWN, "parents": [0]}, "'parents': 1 entries for 6 joints"),
        ("coco", r"expected float32 \(F, 17, 3, 2\) for the skeleton coco"),
    ],
)
def test_store_with_an_invalid_skeleton_is_a_one_line_error(small_store, value, message):
    path = small_store / "ntu60" / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "skeleton": value}))
    with pytest.raises(UserError, match=message) as error:
        open_clips(small_store, "ntu60", "cross_view", "train")
    assert one_line(str(error.value)) and str(path.parent) in str(error.value)


# Normalization


def test_kinect_v1_is_normalized_as_kinect_v2():
    clip = body(0)
    expected = convert(frames_of_array(clip), KINECT_V1)
    np.testing.assert_array_equal(frames_of_array(convert(clip, KINECT_V1), skeleton=KINECT_V1), expected)


def test_mean_of_the_tracked_center_joints_is_the_origin():
    skeleton = Skeleton("pair", ("a", "b", "c"), (0, 0, 0), center=(0, 1))
    bodies = np.array([[[[0.0, 2, 4], [2, 4, 4], [1, 1, 1]], [[0, 0, 0], [2, 4, 4], [0, 0, 0]]]])
    frames = normalize_clip(bodies, skeleton)[..., 0]
    np.testing.assert_array_equal(frames[0], [[-1, -1, 0], [1, 1, 0], [0, -2, -3]])
    np.testing.assert_array_equal(frames[1], np.zeros((3, 3)))  # b is the origin, the others are not tracked


def missing(clip, joint, frames):
    """``clip`` (T, V, 3, M) without a joint in some frames."""
    changed = clip.copy()
    changed[frames, joint] = 0
    return changed


def test_missing_center_is_interpolated():
    clip = np.repeat(body(0)[:1] + 5, 9, axis=0)[..., :1]  # does not move
    spine = KINECT_V2.center[0]
    expected = frames_of_array(clip)
    frames = frames_of_array(missing(clip, spine, slice(3, 6)))
    others = [joint for joint in range(25) if joint != spine]
    np.testing.assert_allclose(frames[:, others], expected[:, others], atol=1e-6)
    never = frames_of_array(missing(clip, spine, slice(None)))[..., 0]
    np.testing.assert_allclose(never[:, others].mean(axis=1), 0, atol=1e-6)


def test_clip_is_rotated_by_the_first_frame_that_has_the_joints():
    clip = np.repeat(body(0)[:1] + 5, 9, axis=0)[..., :1]
    expected = frames_of_array(clip)
    for joint in (*KINECT_V2.x_pair, *KINECT_V2.z_bone):
        frames = frames_of_array(missing(clip, joint, slice(2)))
        np.testing.assert_allclose(frames[2:], expected[2:], atol=1e-6)
    never = missing(clip, KINECT_V2.x_pair[0], slice(None))
    upright_only = frames_of_array(never, skeleton=replace(KINECT_V2, x_pair=None))
    np.testing.assert_array_equal(frames_of_array(never), upright_only)


def test_zero_joints_of_centered_coordinates_are_tracked():
    clip = body(0)
    clip -= clip[:, [KINECT_V2.center[0]]]
    spine = KINECT_V2.z_bone
    assert not clip[:, KINECT_V2.center[0]].any() and KINECT_V2.center[0] in spine
    frames = frames_of_array(clip)[..., 0]
    np.testing.assert_array_equal(frames[:, KINECT_V2.center[0]], 0)
    upright = frames[0, spine[1]] - frames[0, spine[0]]
    np.testing.assert_allclose(frames_of_array(clip + 5)[..., 0], frames, atol=1e-5)
    assert np.linalg.norm(upright) > 0


def test_2d_clip_is_scaled_by_the_torso():
    clip = convert(body(1, people=2), COCO)[:, :, :2]
    frames = frames_of_array(clip, skeleton=COCO)
    assert frames.shape == (9, 17, 3, 2) and not frames[:, :, 2].any() and frames.dtype == np.float32
    hips, shoulders = frames[:, [11, 12]].mean(axis=1), frames[:, [5, 6]].mean(axis=1)
    first = np.abs(hips).max(axis=(0, 1)).argmin()  # the one that moves most
    np.testing.assert_allclose(hips[..., first], 0, atol=1e-6)
    torso = np.linalg.norm(shoulders[..., first], axis=1)
    assert np.median(torso) == pytest.approx(1, abs=1e-5)
    moved = frames_of_array(clip * 700 + 300, skeleton=COCO)  # in pixels
    np.testing.assert_allclose(moved, frames, atol=1e-4)


def test_2d_joints_with_score_zero_are_unseen():
    clip = convert(body(2), COCO)[:, :, :2] + 10
    score = np.ones((9, 17, 1, 1))
    plain = frames_of_array(np.concatenate([clip, score], axis=2), skeleton=COCO)
    np.testing.assert_array_equal(plain, frames_of_array(clip, skeleton=COCO))
    score[3, 9], score[5, 11:13] = 0, -1
    frames = frames_of_array(np.concatenate([clip, score], axis=2), skeleton=COCO)
    assert not frames[3, 9].any() and not frames[5, 11:13].any() and frames[5, 5, :2, 0].all()
    kept = frames_of_array(np.concatenate([clip, score], axis=2), normalize=False, skeleton=COCO)
    assert not kept[3, 9].any() and not kept[:, :, 2].any()
    np.testing.assert_array_equal(kept[0, :, :2, 0], clip[0, ..., 0].astype(np.float32))


def test_2d_clip_without_torso_is_left_out():
    flat = convert(body(3), COCO)  # z is zero
    with pytest.raises(BadFile, match="no joint has a positive score.*; give x and y only"):
        frames_of_array(flat, skeleton=COCO)
    flat[:, 5] = 0
    with pytest.raises(BadFile, match="no frame shows the torso of the first person, by which coco"):
        frames_of_array(flat[:, :, :2], skeleton=COCO)


@pytest.mark.parametrize("shape", [(9, 25, 3, 1), (9, 17, 1, 1), (9, 17, 4, 1), (9, 17)])
def test_arrays_of_other_shapes_are_left_out(shape):
    expected = r"instead of \(frames, 17, 2 or 3, people\) for the skeleton coco"
    with pytest.raises(BadFile, match=expected):
        frames_of_array(np.ones(shape), skeleton=COCO)


# Views and encoders


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_jittered_joints_are_a_share_of_the_skeleton(stores, pretrained, run, skeleton, tmp_path):
    path = pretrained(skeleton, "seq-based")
    jittered = {"kinect_v2": 15, "kinect_v1": 12, "coco": 10}[skeleton.name]
    assert load_checkpoint(path)["flags"]["jitter_joints"] == jittered
    clips = open_clips("data", stores(skeleton), "cross_view", "train")
    view = pretraining_view({"augmentations": ("jitter",)}, 8, skeleton)
    joints = view.sample(clips, torch.arange(8)).augmentations.parts[0].joints
    assert joints.shape == (8, skeleton.num_joints) and (joints.sum(dim=1) == jittered).all()
    flags = ["--pre-dataset", skeleton.name, "--jitter-joints", skeleton.num_joints + 1]
    code, _, err = run(INTER, *flags, *SIZES, "--checkpoint-path", tmp_path / "x")
    expected = f"must be at most {skeleton.num_joints}, the joints of {skeleton.name}"
    assert code == 2 and one_line(err) and expected in err and not (tmp_path / "x").exists()


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_encoders_take_the_joints_of_the_skeleton(skeleton, representation):
    encoder = build_encoder(representation, 5, skeleton, gru_hidden_size=8, graph_width=4, image_width=16)
    views = torch.randn(2, 64, *skeleton.frame_shape)
    output = encoder(lay_out(views, [representation])[representation])
    output.sum().backward()
    assert output.shape == (2, 5)
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_graph_has_the_bones_of_the_skeleton():
    identity, inward, outward = spatial_adjacency(COCO)
    assert identity.equal(torch.eye(17))
    edges = {(joint, parent) for parent, joint in inward.nonzero().tolist()}
    assert edges == set(COCO.bones) and outward[9, 7] > 0 and inward[7, 9] > 0


# Scripts


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_every_script_runs(run, pretrained, tmp_path, monkeypatch, skeleton):
    monkeypatch.setattr("visual.gallery.SIZE", 40)
    monkeypatch.setattr("visual.gallery.FRAMES", 3)
    both = pretrained(skeleton)
    everything = pretrained(skeleton, "_and_".join(REPRESENTATIONS))
    image = pretrained(skeleton, "image-based")
    assert from_data(load_checkpoint(both)["skeleton"], "") == skeleton
    data = ["--finetune-dataset", skeleton.name]
    encoders = ["--pretrained", everything]
    encoders += ["--finetune-skeleton-representation", "_and_".join(REPRESENTATIONS)]
    code, out, err = run(CLASSIFICATION, *data, "--pretrained", image, "--epochs", 1)
    assert code == 0 and "last (epoch 0): top-1" in out, err
    code, out, err = run(CLASSIFICATION, *data, "--mode", "supervised", *TINY_FLAGS, "--epochs", 1)
    assert code == 0 and "last (epoch 0): top-1" in out, err
    code, out, err = run(RETRIEVAL, *data, *encoders, "--gallery", tmp_path / "gallery")
    assert code == 0 and "gallery: " in out, err
    assert (tmp_path / "gallery/gallery.png").is_file()
    code, out, err = run(RETRIEVAL, *data, "--pretrained", "coordinates")
    assert code == 0 and "retrieval of seq-based (normalized coordinates)" in out, err
    clip = ["--dataset", skeleton.name, "--name", NAMES[0], "--num-frames", 4, "--views", 1]
    code, _, err = run("visual.clips", *clip, "--out", tmp_path / "clips")
    assert code == 0 and (tmp_path / f"clips/{NAMES[0]}_views.gif").is_file(), err


@pytest.mark.parametrize("trained, other", [(KINECT_V2, COCO), (KINECT_V1, KINECT_V2), (COCO, KINECT_V1)])
def test_checkpoint_is_rejected_on_another_skeleton(run, stores, pretrained, tmp_path, trained, other):
    path, dataset = pretrained(trained), stores(other)
    encoder = ["--pretrained", path, "--finetune-skeleton-representation", "seq-based"]
    data, neighbors = ["--finetune-dataset", dataset], ["--knn-neighbours", 1]
    resumed = ["--resume", path, "--checkpoint-path", tmp_path / "resumed"]
    before = sorted(tmp_path.rglob("*"))
    for command in (
        [CLASSIFICATION, *data, *encoder],
        [CLASSIFICATION, *data, *encoder, "--mode", "finetune"],
        [RETRIEVAL, *data, *encoder],
        ["extract_features.py", *data, *encoder, *neighbors, "--input", "x"],
        [INTER, "--pre-dataset", dataset, *SIZES, *resumed],
    ):
        code, _, err = run(*command)
        assert code == 2 and one_line(err), err
        assert f"was trained on the skeleton {trained}, but the clips have {other}: use" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_checkpoint_without_a_skeleton_is_of_kinect_v2(run, stores, pretrained, tmp_path):
    path = pretrained(KINECT_V2, "seq-based")
    content = load_checkpoint(path)
    del content["skeleton"]
    save_checkpoint(path, content)
    assert load_encoders(str(path), None, None, {}).skeleton is KINECT_V2
    code, _, err = run(RETRIEVAL, "--finetune-dataset", stores(COCO), "--pretrained", path)
    assert code == 2 and one_line(err) and f"trained on the skeleton {KINECT_V2}" in err
    flags = ["--pre-dataset", "kinect_v2", "--skeleton-representation", "seq-based", *SIZES, "--epochs", 2]
    code, out, err = run(INTRA, *flags, "--resume", "auto", "--checkpoint-path", path.parent)
    assert code == 0 and "resumed" in out, err


def test_checkpoint_with_a_corrupted_skeleton_is_a_one_line_error(run, stores, pretrained):
    path = pretrained(COCO, "seq-based")
    for skeleton in ("nobody", 3, {"name": "coco"}, {**COCO.to_dict(), "parents": (1, 0) * 8 + (0,)}):
        save_checkpoint(path, {**load_checkpoint(path), "skeleton": skeleton})
        code, _, err = run(RETRIEVAL, "--finetune-dataset", stores(COCO), "--pretrained", path)
        assert code == 2 and one_line(err) and f"{path}: the skeleton is invalid" in err


def test_own_skeleton_from_file_to_features(run, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(8, 6, 3, 1)) for name in NAMES}
    np.savez(tmp_path / "clips.npz", **arrays)
    rows = [f"{name},{i % 2},{'val' if i % 3 == 0 else 'train'}" for i, name in enumerate(NAMES)]
    (tmp_path / "clips.csv").write_text("name,label,by_person\n" + "\n".join(rows))
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    flags = f"--dataset mine --data-path {tmp_path}/clips.npz --clips {tmp_path}/clips.csv --workers 1"
    store = tmp_path / "data/mine"
    own = [*flags.split(), "--out-folder", str(store), "--skeleton", str(tmp_path / "own.json")]
    assert arrays_gendata.main(own) == 0
    (tmp_path / "own.json").unlink()  # its definition is in the store
    clips = open_clips(str(tmp_path / "data"), "mine", "by_person", "train")
    assert str(clips.skeleton) == "upper_body (6 joints)" and clips.frames.shape[1:] == (6, 3, 2)
    data = ["--protocol", "by_person"]
    code, _, err = run(INTER, "--pre-dataset", "mine", *data, *SIZES, "--checkpoint-path", tmp_path / "c")
    assert code == 0, err
    encoder = ["--pretrained", tmp_path / "c/checkpoint_0000.pth.tar"]
    encoder += ["--finetune-skeleton-representation", "graph-based"]
    code, _, err = run(RETRIEVAL, "--finetune-dataset", "mine", *data, *encoder, "--gallery", tmp_path / "g")
    assert code == 0, err
    np.save(tmp_path / "kinect.npy", body(0))
    inputs = ["--input", tmp_path / "clips.npz", tmp_path / "kinect.npy"]
    code, out, err = run("extract_features.py", *encoder, *inputs, "--output", tmp_path / "f.npz")
    assert code == 0 and "12 clips, 1 left out" in out, err
    assert "kinect.npy: the array is (9, 25, 3, 1) instead of (frames, 6, 3, people)" in out


def test_2d_arrays_from_python_and_by_script_give_the_same_store(tmp_path):
    clips = [Clip(name, 0, convert(body(i), COCO)[:, :, :2], {"all": "train"}) for i, name in enumerate("ab")]
    write_own_store(tmp_path / "python", clips, 1, ["all"], skeleton=COCO)
    np.savez(tmp_path / "clips.npz", **{clip.name: clip.frames for clip in clips})
    (tmp_path / "clips.csv").write_text("name,label,all\na,0,train\nb,0,train\n")
    flags = f"--dataset flat --data_path {tmp_path}/clips.npz --clips {tmp_path}/clips.csv --skeleton coco"
    flags += f" --out_folder {tmp_path}/script --workers 1"
    assert arrays_gendata.main(flags.split()) == 0
    python, script = (np.load(tmp_path / name / "frames.npy") for name in ("python", "script"))
    np.testing.assert_array_equal(python, script)
    info = json.loads((tmp_path / "script/store.json").read_text())
    assert info["skeleton"] == "coco"


def test_ntu_files_are_left_out_by_encoders_of_another_skeleton(run, pretrained, tmp_path):
    (tmp_path / "a.skeleton").write_text("0\n")
    flags = ["--pretrained", pretrained(COCO, "seq-based"), "--input", tmp_path / "a.skeleton"]
    code, _, err = run("extract_features.py", *flags)
    assert code == 2 and one_line(err)
    assert "it contains the skeleton kinect_v2 (25 joints), but the encoders take coco (17 joints)" in err


# Drawing


@pytest.mark.parametrize("skeleton", ALL, ids=str)
def test_limbs_cover_every_joint(skeleton):
    limbs = limbs_of(skeleton)
    assert list(limbs) == [TRUNK, "left arm", "right arm", "left leg", "right leg"]
    assert {joint for limb in limbs.values() for joint in limb.joints} == set(range(skeleton.num_joints))
    for left, right in (*skeleton.arms, *skeleton.legs):
        part = "arm" if (left, right) in skeleton.arms else "leg"
        assert left in limbs[f"left {part}"].joints and right in limbs[f"right {part}"].joints


def test_skeleton_without_pairs_is_one_limb():
    skeleton = Skeleton("chain", ("a", "b", "c"), (0, 0, 1), center=(0,))
    assert list(limbs_of(skeleton)) == [TRUNK] and limbs_of(skeleton)[TRUNK].bones == ((1, 0), (2, 1))
    (image,) = render_clip(torch.randn(1, 3, 3, 2), 40, skeleton=skeleton)
    assert image.size == (40, 40)


def test_2d_picture_has_the_orientation_of_the_image():
    clip = torch.from_numpy(convert(np.ones((1, 25, 3, 1)), COCO)).float()
    clip[0, 0, :2, 0], clip[0, 15, :2, 0] = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0])
    camera = place_camera([clip], COCO)
    pixels = camera.to_pixels(camera.project(clip[0, :, :, 0]), 100)
    nose, ankle = pixels[0], pixels[15]
    assert (nose < ankle).all(), "x to the right, y downward"
    assert torch.equal(camera_axes(clip, COCO)[:2], torch.eye(3, dtype=torch.float64)[:2])
