"""Skeletons other than Kinect v2, from the definition to every script, and invalid definitions."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSIFICATION, INTER, INTRA, RETRIEVAL, TINY_FLAGS, convert, one_line, write_store

from data_gen import arrays_gendata
from data_gen.normalize import normalize_clip
from data_gen.own_clips import frames_of_array
from data_gen.sources import BadFile
from dataset.clips import open_clips
from engine.checkpoint import load_checkpoint, save_checkpoint
from facts.skeletons import COCO, KINECT_V1, KINECT_V2, SKELETONS, Skeleton, from_data, load_skeleton
from models.graph import spatial_adjacency
from models.registry import REPRESENTATIONS
from utils.errors import UserError

ALL = list(SKELETONS.values())
SIZES = ["--moco-k", 8, "--batch-size", 4, "--epochs", 1, "--seed", 5, "--num-frames", 16, *TINY_FLAGS]
BAD = [(9, 25, 3, 1), (9, 17, 1, 1), (9, 17, 4, 1), (9, 17)]  # shapes
NAMES = [f"S001C002P{i + 1:03d}R001A{i % 2 + 1:03d}" for i in range(12)]

# The example in the documentation: an upper body whose joints are given by name.
PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"
OWN = json.loads(re.search(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1])


def body(seed, frames=9, people=1):
    """Random clips of Kinect v2, (T, 25, 3, M)."""
    return np.random.default_rng(seed).normal(0, 1, (frames, 25, 3, people))


@pytest.fixture
def store(tmp_path, run):
    """``store(skeleton)``: the name of a store of twelve clips of this skeleton under ``data``."""

    def write(skeleton):
        splits, lengths = {"cross_view": ["train"] * 8 + ["val"] * 4}, list(range(6, 18))
        folder = tmp_path / "data" / skeleton.name
        if not folder.exists():
            labels = [i % 2 for i in range(12)]
            write_store(folder, NAMES, labels, lengths, splits, skeleton.name, 2, skeleton=skeleton)
        return skeleton.name

    return write


@pytest.fixture
def pretrained(run, store, tmp_path):
    """``pretrained(skeleton, representations)``: a checkpoint pretrained on the store of a skeleton."""

    def pretrain(skeleton, names="seq-based"):
        folder = tmp_path / f"{skeleton.name}_{names}"
        flags = ["--pre-dataset", store(skeleton), "--skeleton-representation", names]
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


def test_skeleton_file_gives_joints_by_name_or_number(tmp_path):
    numbers = {"parents": [0, 0, 0, 0, 2, 3], "center": [0], "arms": [[2, 3], [4, "r_hand"]], "legs": None}
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    (tmp_path / "numbers.json").write_text(json.dumps({**OWN, **numbers}), encoding="utf-8-sig")
    own, other = (load_skeleton(str(tmp_path / f"{name}.json")) for name in ("own", "numbers"))
    assert own.to_data() == other.to_dict() and own.arms == ((2, 3), (4, 5))
    assert str(own) == "upper_body (6 joints)" and len(own.bones) == 5


FLAT = {**OWN, "z_bone": None, "x_pair": None, "dimensions": 2, "torso": [["head"], ["chest"]]}
INVALID = [  # the content of a file, or the fields that differ from the example
    ("{", "neither a skeleton file nor one of kinect_v2, kinect_v1, coco"),
    ("[" * 100_000, "neither a skeleton file"),
    ("kinect_v3", "'kinect_v3'"),
    ({"centre": ["chest"]}, "unexpected keyword argument 'centre'"),
    ({"parents": None}, "missing .* argument: 'parents'"),
    ({"joints": None}, "'joints': give 2 to 1000 different names"),
    ({"joints": [1, 2]}, "a name is not a printable text"),
    ({"name": "a\nb"}, "a name is not a printable text"),
    ({"name": "coco"}, "'name': coco is reserved"),
    ({"parents": "chest"}, "'parents': 0 is not a list of joints"),
    ({"parents": ["chest"]}, "'parents': 1 entries for 6 joints"),
    ({"parents": ["hip"] * 6}, "'parents': 'hip' is not the name of a joint or a number below 6"),
    ({"parents": [0, 1, 0, 0, 2, 3]}, "'parents': one joint, the root"),
    ({"parents": [0, 0, 4, 0, 2, 3]}, "'parents': one joint, the root"),
    ({"center": []}, "'center': .* is not a list of joints"),
    ({"z_bone": ["chest", []]}, "'z_bone': .* is not a pair of joints or of lists"),
    ({"z_bone": [["chest", "l_hand"], ["head", "hip"]]}, "'z_bone': 'hip' is not the name"),
    ({"x_pair": [2, 2]}, "'x_pair': a joint occurs twice"),
    ({"arms": ["l_hand", "r_hand"]}, "'arms': 4 is not a pair of joints"),
    ({"legs": [["l_hand", "head"]]}, "'arms', 'legs', 'head': a joint occurs twice"),
    ({"drawn_bones": [[0, 1, 2]]}, "'drawn_bones': .* is not a pair of joints"),
    ({"dimensions": 4}, "'dimensions': 4 must be 2 or 3"),
    ({"torso": [["head"], ["chest"]]}, "'torso': only 2D skeletons are scaled"),
    ({**FLAT, "torso": [["head"], ["head"]]}, "'torso': a 2D skeleton needs two lists"),
    ({**FLAT, "x_pair": [2, 3]}, "'x_pair': 2D skeletons are not rotated"),
]


def test_invalid_skeleton_files_are_one_line_errors(tmp_path):
    for content, message in INVALID:
        path = tmp_path / "own.json"
        if isinstance(content, str):
            path.write_text(json.dumps(content) if content.isidentifier() else content)
        else:
            path.write_text(json.dumps({**OWN, **content} if isinstance(content, dict) else content))
        with pytest.raises(UserError, match=message) as error:
            load_skeleton(str(path))
        assert one_line(str(error.value)) and str(error.value).startswith(str(path)), content
    with pytest.raises(UserError, match="kinect is neither a skeleton file nor one of"):
        load_skeleton("kinect")


def test_store_of_another_skeleton_is_a_one_line_error(small_store):
    path = small_store / "ntu60" / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "skeleton": "coco"}))
    with pytest.raises(UserError, match=r"expected float32 \(N, 17, 3, 2\)"):
        open_clips(small_store, "ntu60", "cross_view", "train")


# Normalization


def missing(clip, joint, frames=slice(None)):
    """``clip`` (T, V, 3, M) without a joint in some frames."""
    changed = clip.copy()
    changed[frames, joint] = 0
    return changed


def test_mean_of_the_tracked_center_joints_is_the_origin():
    skeleton = Skeleton("pair", ("a", "b", "c"), (0, 0, 0), center=(0, 1))
    bodies = np.array([[[[0.0, 2, 4], [2, 4, 4], [1, 1, 1]], [[0, 0, 0], [2, 4, 4], [0, 0, 0]]]])
    frames = normalize_clip(bodies, skeleton)[..., 0]
    np.testing.assert_array_equal(frames[0], [[-1, -1, 0], [1, 1, 0], [0, -2, -3]])
    np.testing.assert_array_equal(frames[1], np.zeros((3, 3)))  # b is the origin, the others are not tracked


def test_missing_joints_of_the_normalization_are_replaced():
    """The center is interpolated, and the first frame that has the joints rotates the clip."""
    clip = np.repeat(body(0)[:1] + 5, 9, axis=0)  # does not move
    expected, spine = frames_of_array(clip), KINECT_V2.center[0]
    others = [joint for joint in range(25) if joint != spine]
    frames = frames_of_array(missing(clip, spine, slice(3, 6)))
    np.testing.assert_allclose(frames[:, others], expected[:, others], atol=1e-6)
    never = frames_of_array(missing(clip, spine))[..., 0]
    np.testing.assert_allclose(never[:, others].mean(axis=1), 0, atol=1e-6)
    for joint in (*KINECT_V2.x_pair, *KINECT_V2.z_bone):
        frames = frames_of_array(missing(clip, joint, slice(2)))
        np.testing.assert_allclose(frames[2:], expected[2:], atol=1e-6)
    never = missing(clip, KINECT_V2.x_pair[0])
    upright_only = frames_of_array(never, skeleton=replace(KINECT_V2, x_pair=None))
    np.testing.assert_array_equal(frames_of_array(never), upright_only)


def test_2d_clip_is_scaled_by_the_torso():
    clip = convert(body(1, people=2), COCO)[:, :, :2]
    frames = frames_of_array(clip, skeleton=COCO)
    assert frames.shape == (9, 17, 3, 2) and not frames[:, :, 2].any() and frames.dtype == np.float32
    hips, shoulders = frames[:, [11, 12]].mean(axis=1), frames[:, [5, 6]].mean(axis=1)
    first = np.abs(hips).max(axis=(0, 1)).argmin()  # the one that moves most
    np.testing.assert_allclose(hips[..., first], 0, atol=1e-6)
    assert np.median(np.linalg.norm(shoulders[..., first], axis=1)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(frames_of_array(clip * 700 + 300, skeleton=COCO), frames, atol=1e-4)  # pixels


def test_2d_joints_with_score_zero_are_unseen():
    clip, score = convert(body(2), COCO)[:, :, :2] + 10, np.ones((9, 17, 1, 1))
    plain = frames_of_array(np.concatenate([clip, score], axis=2), skeleton=COCO)
    np.testing.assert_array_equal(plain, frames_of_array(clip, skeleton=COCO))
    score[3, 9], score[5, 11:13] = 0, 0
    scored = np.concatenate([clip, score], axis=2)
    frames = frames_of_array(scored, skeleton=COCO)
    assert not frames[3, 9].any() and not frames[5, 11:13].any() and frames[5, 5, :2, 0].all()
    kept = frames_of_array(scored, normalize=False, skeleton=COCO)
    assert not kept[3, 9].any() and not kept[:, :, 2].any()
    np.testing.assert_array_equal(kept[0, :, :2, 0], clip[0, ..., 0].astype(np.float32))


def test_unusable_2d_clips_are_left_out():
    flat = convert(body(3), COCO)  # z is zero
    for array, message in (
        (flat, "and not 0 for all.*; otherwise give x and y only"),
        (missing(flat, 5)[:, :, :2], "no frame shows the torso of the first person, by which coco"),
        *(
            (np.ones(shape), r"instead of \(frames, 17, 2 or 3, people\) for the skeleton coco")
            for shape in BAD
        ),
    ):
        with pytest.raises(BadFile, match=message):
            frames_of_array(array, skeleton=COCO)


# Views and encoders


def test_graph_has_the_bones_of_the_skeleton():
    _, inward, outward = spatial_adjacency(COCO)
    edges = {(joint, parent) for parent, joint in inward.nonzero().tolist()}
    assert edges == set(COCO.bones) and outward[9, 7] > 0 and inward[7, 9] > 0


# Scripts


@pytest.mark.parametrize("skeleton", [KINECT_V1, COCO], ids=str)
def test_every_script_runs(run, pretrained, tmp_path, monkeypatch, skeleton):
    monkeypatch.setattr("visual.gallery.SIZE", 40)
    monkeypatch.setattr("visual.gallery.FRAMES", 3)
    everything = "_and_".join(REPRESENTATIONS)
    path = pretrained(skeleton, everything)
    assert from_data(load_checkpoint(path)["skeleton"], "") == skeleton
    encoders = ["--pretrained", path, "--finetune-skeleton-representation"]
    for script, flags, message in (
        (CLASSIFICATION, [*encoders, "image-based", "--epochs", 1], "last (epoch 1): top-1"),
        (CLASSIFICATION, ["--mode", "supervised", *TINY_FLAGS, "--epochs", 1], "last (epoch 1): top-1"),
        (RETRIEVAL, [*encoders, everything, "--gallery", tmp_path / "gallery"], "gallery: "),
        (RETRIEVAL, ["--pretrained", "coordinates"], "retrieval of seq-based (normalized coordinates)"),
    ):
        code, out, err = run(script, "--finetune-dataset", skeleton.name, *flags)
        assert code == 0 and message in out, err
    clip = ["--dataset", skeleton.name, "--name", NAMES[0], "--num-frames", 4, "--views", 1]
    code, _, err = run("visual.clips", *clip, "--out", tmp_path / "clips")
    assert code == 0 and (tmp_path / f"clips/{NAMES[0]}_views.gif").is_file(), err


def test_checkpoint_is_rejected_on_another_skeleton(run, store, pretrained, tmp_path):
    path, other = pretrained(COCO), store(KINECT_V1)
    encoder, data = ["--pretrained", path], ["--finetune-dataset", other]
    resumed = [
        "--skeleton-representation",
        "seq-based",
        "--resume",
        path,
        "--checkpoint-path",
        tmp_path / "r",
    ]
    for command in (
        [CLASSIFICATION, *data, *encoder, "--mode", "finetune"],
        [RETRIEVAL, *data, *encoder],
        ["extract_features.py", *data, *encoder, "--knn-neighbours", 1, "--input", "x"],
        [INTRA, "--pre-dataset", other, *SIZES, *resumed],
    ):
        code, _, err = run(*command)
        assert code == 2 and one_line(err), err
        assert f"was trained on the skeleton {COCO}, but the clips have {KINECT_V1}: use" in err


def test_skeleton_in_a_checkpoint(run, store, pretrained):
    """A checkpoint without one is of Kinect v2; an invalid one is an error in one line."""
    path = pretrained(KINECT_V2)
    content = load_checkpoint(path)
    for skeleton in ("nobody", 3, {"name": "coco"}):
        save_checkpoint(path, {**content, "skeleton": skeleton})
        code, _, err = run(RETRIEVAL, "--finetune-dataset", "kinect_v2", "--pretrained", path)
        assert code == 2 and one_line(err) and f"{path}: the skeleton is not a valid definition" in err
    del content["skeleton"]
    save_checkpoint(path, content)
    code, _, err = run(RETRIEVAL, "--finetune-dataset", store(COCO), "--pretrained", path)
    assert code == 2 and one_line(err) and f"trained on the skeleton {KINECT_V2}" in err
    flags = ["--pre-dataset", "kinect_v2", "--skeleton-representation", "seq-based", *SIZES, "--epochs", 2]
    code, out, err = run(INTRA, *flags, "--resume", "auto", "--checkpoint-path", path.parent)
    assert code == 0 and "resumed" in out, err


def test_own_skeleton_from_file_to_features(run, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "clips.npz", **{name: rng.normal(size=(8, 6, 3, 1)) for name in NAMES})
    rows = [f"{name},{i % 2},{'val' if i % 3 == 0 else 'train'}" for i, name in enumerate(NAMES)]
    (tmp_path / "clips.csv").write_text("name,label,by_person\n" + "\n".join(rows))
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    flags = "--dataset mine --data-path clips.npz --clips clips.csv --skeleton own.json --workers 1"
    assert arrays_gendata.main([*flags.split(), "--out-folder", "data/mine"]) == 0
    (tmp_path / "own.json").unlink()  # its definition is in the store
    clips = open_clips("data", "mine", "by_person", "train")
    assert str(clips.skeleton) == "upper_body (6 joints)" and clips.frames.shape[1:] == (6, 3, 2)
    data = ["--protocol", "by_person"]
    assert run(INTER, "--pre-dataset", "mine", *data, *SIZES, "--checkpoint-path", "c")[0] == 0
    encoder = ["--pretrained", "c/checkpoint_0000.pth.tar"]
    encoder += ["--finetune-skeleton-representation", "graph-based"]
    assert run(RETRIEVAL, "--finetune-dataset", "mine", *data, *encoder, "--gallery", "g")[0] == 0
    np.save(tmp_path / "kinect.npy", body(0))
    (tmp_path / "a.skeleton").write_text("0\n")
    inputs = ["--input", "clips.npz", "kinect.npy", "a.skeleton"]
    code, out, err = run("extract_features.py", *encoder, *inputs, "--output", "f.npz")
    assert code == 0 and "12 clips, 2 left out" in out, err
    assert "kinect.npy: the array is (9, 25, 3, 1) instead of (frames, 6, 3 or 4, people)" in out
    assert "it contains the skeleton kinect_v2 (25 joints), but the encoders take upper_body" in out
