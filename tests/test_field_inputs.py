"""Input that is easily misread: units, scores, NaN, missing people, names, tables; every source of clips."""

import json
import pickle

import numpy as np
import pytest

from data_gen import arrays_gendata, ctrgcn_gendata, pyskl_gendata, ucla_gendata
from data_gen.own_clips import Clip, frames_of_array, write_store
from dataset.raw_clips import read_raw_clips
from dataset.store import open_store
from dataset.store_format import INFO_FILE
from facts.skeletons import COCO, KINECT_V1, KINECT_V2, Skeleton
from utils.errors import BadFile, UserError

HAND = Skeleton("hand", ("wrist", "palm", "finger", "tip"), (0, 0, 1, 2), center=(0,), z_bone=(0, 1))


def person(skeleton, seed=0, frames=30, bone=0.2):
    """A moving person (frames, V, 3) whose bones have about this length, in meters; 3 m before the camera."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((frames, skeleton.num_joints, 3))
    directions = rng.normal(size=(skeleton.num_joints, 3))
    placed = {joint for joint, parent in enumerate(skeleton.parents) if joint == parent}
    while len(placed) < skeleton.num_joints:
        for joint, parent in skeleton.bones:
            if parent in placed and joint not in placed:
                moving = directions[joint] + 0.2 * np.sin(np.arange(frames)[:, None] / 5 + directions[joint])
                moving *= bone / np.linalg.norm(moving, axis=1, keepdims=True)
                joints[:, joint] = joints[:, parent] + moving
                placed.add(joint)
    return joints + [0.3, 0.2, 3]


def from_arrays(folder, clips, skeleton=KINECT_V2, table=None, flags=()):
    """Prepare arrays by name; returns the exit code."""
    np.savez(folder / "clips.npz", **clips)
    rows = [f"{name},{i % 2},{'val' if i % 3 else 'train'}" for i, name in enumerate(clips)]
    (folder / "clips.csv").write_text(table or "\n".join(["name,label,mine", *rows]))
    (folder / "skeleton.json").write_text(json.dumps(skeleton.to_dict()))
    name = skeleton.name if skeleton in (COCO, KINECT_V1, KINECT_V2) else folder / "skeleton.json"
    given = ["--dataset", "mine", "--data_path", folder / "clips.npz", "--clips", folder / "clips.csv"]
    given += ["--skeleton", name, "--out_folder", folder / "store", "--workers", 1, "--overwrite", *flags]
    return arrays_gendata.main(list(map(str, given)))


def from_pickle(folder, clips, skeleton=KINECT_V2):
    items = [{"frame_dir": name, "label": 0, "keypoint": joints[None]} for name, joints in clips.items()]
    content = {"split": {"mine_train": list(clips)}, "annotations": items}
    (folder / "clips.pkl").write_bytes(pickle.dumps(content))
    flags = ["--dataset", "mine", "--data_path", folder / "clips.pkl", "--out_folder", folder / "store"]
    return pyskl_gendata.main([*map(str, flags), "--workers", "1", "--overwrite"])


def from_ucla(folder, clips, skeleton=KINECT_V1):
    (folder / "raw").mkdir()
    for i, joints in enumerate(clips.values(), start=1):
        name = f"a01_s01_e{i:02d}_v01"
        content = {"file_name": name, "skeletons": joints.tolist(), "label": 1}
        (folder / "raw" / f"{name}.json").write_text(json.dumps(content))
    flags = ["--data_path", folder / "raw", "--out_folder", folder / "store", "--workers", 1]
    return ucla_gendata.main(list(map(str, flags)))


def from_ctrgcn(folder, clips, skeleton=KINECT_V2):
    x = np.zeros((len(clips), 300, 150))
    for row, joints in zip(x, clips.values()):
        row[: len(joints), :75] = joints.reshape(len(joints), 75)
    y = np.eye(60)[: len(clips)]
    np.savez(folder / "NTU60_CS.npz", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    flags = ["--data_path", folder / "NTU60_CS.npz", "--out_folder", folder / "store", "--workers", 1]
    return ctrgcn_gendata.main(list(map(str, flags)))


def from_raw_clips(folder, clips, skeleton=KINECT_V2):
    np.savez(folder / "clips.npz", **clips)
    return len(read_raw_clips([folder / "clips.npz"], "--input", skeleton)[1])


SOURCES = [
    (from_arrays, KINECT_V2),
    (from_arrays, HAND),
    (from_pickle, KINECT_V2),
    (from_ucla, KINECT_V1),
    (from_ctrgcn, KINECT_V2),
    (from_raw_clips, KINECT_V2),
]


def pixels(joints):
    score = np.random.default_rng(0).uniform(0.3, 1, joints.shape[:2])
    return np.concatenate([joints[..., :2] * 300 + 400, score[..., None]], axis=2)


@pytest.mark.parametrize("source,skeleton", SOURCES)
@pytest.mark.parametrize(
    "change,message",
    [
        (lambda joints: joints, None),
        (lambda joints: joints * 1000, "although coordinates are expected in meters"),
        (lambda joints: joints / 8 + 0.3, "all coordinates are within [0, 1], as if normalized"),
        (pixels, "the joints are in a plane, as pixels with a score"),
    ],
)
def test_unit_is_checked_for_every_source(tmp_path, capsys, source, skeleton, change, message):
    bone = 0.05 if skeleton == HAND else 0.2
    clips = {f"c{i}": change(person(skeleton, i, bone=bone)) for i in range(3)}
    assert source(tmp_path, clips, skeleton) == 0
    out = capsys.readouterr().out
    assert ("WARNING" in out) == (message is not None) and (message or "") in out


def coco(seed=0):
    """A standing person (frames, 17, 3) with the camera in the middle of the scene: z is often negative."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-0.4, 0.4, (1, 17, 3)) + 0.02 * rng.normal(size=(9, 17, 3))
    joints[:, 5:7, 1], joints[:, 11:13, 1] = 1.4, 0.9  # shoulders and hips
    return joints


@pytest.mark.parametrize("third", [-0.2, 1.4, 3.0, np.inf])
@pytest.mark.parametrize("normalize", [True, False])
def test_third_coordinate_is_no_score(third, normalize):
    joints = coco()
    joints[..., 2] = np.linspace(0.1, 1, 17)
    assert frames_of_array(joints, normalize, COCO)[..., 0].any(axis=2).all()  # these are scores
    joints[3, 4, 2] = third
    with pytest.raises(BadFile, match="score from 0 to 1.*define a 3D skeleton.*--skeleton"):
        frames_of_array(joints, normalize, COCO)


@pytest.mark.parametrize("source", [from_arrays, from_raw_clips])
def test_3d_joints_of_a_2d_skeleton_are_rejected(tmp_path, source):
    with pytest.raises(UserError, match="score from 0 to 1"):
        source(tmp_path, {"a": coco(0), "b": coco(1)}, COCO)


def test_named_scores_may_overshoot_but_are_no_percentages(tmp_path):
    """Peaks of heatmaps are sometimes slightly negative or above 1."""
    item = {"frame_dir": "a", "label": 0, "keypoint": coco()[None, ..., :2] * 300 + 400}
    for score, is_stored in ((np.linspace(-0.1, 1.1, 17), True), (np.linspace(0, 100, 17), False)):
        item["keypoint_score"] = np.broadcast_to(score, (1, 9, 17))
        content = {"split": {"train": ["a"]}, "annotations": [item]}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        flags = ["--dataset", "mine", "--data_path", tmp_path / "x.pkl", "--out_folder", tmp_path / "store"]
        if is_stored:
            assert pyskl_gendata.main([*map(str, flags), "--workers", "1"]) == 0
            assert not open_store(tmp_path / "store").frames[:, 0].any()  # its score is negative
        else:
            with pytest.raises(UserError, match="from 0 to 100"):
                pyskl_gendata.main([*map(str, flags), "--workers", "1", "--overwrite"])


@pytest.mark.parametrize("source,skeleton", SOURCES)
def test_nan_is_a_missing_joint(tmp_path, source, skeleton):
    """As zero is; only a clip without any joint is left out."""
    frames = []
    for missing in (np.nan, 0):
        clips = {f"c{i:02d}": person(skeleton, i) for i in range(3)}
        clips["c00"][4:9, 2] = clips["c01"][:, 1] = missing
        (tmp_path / str(missing)).mkdir()
        if source is from_raw_clips:
            np.savez(tmp_path / "clips.npz", **clips)
            frames.append(read_raw_clips([tmp_path / "clips.npz"], "--input", skeleton)[0].frames.numpy())
        else:
            assert source(tmp_path / str(missing), clips, skeleton) == 0
            frames.append(open_store(tmp_path / str(missing) / "store").frames)
    np.testing.assert_array_equal(*frames)
    with pytest.raises(BadFile, match="no body in any frame"):
        frames_of_array(np.full((5, 25, 3), np.nan))


def test_one_missing_coordinate_is_a_missing_joint():
    joints = person(KINECT_V2)
    joints[3, 5, 1] = np.nan
    frames = frames_of_array(joints)
    assert not frames[3, 5].any() and np.isfinite(frames).all() and frames[3, 6, :, 0].any()


def test_missing_person_is_interpolated_or_noted(tmp_path):
    complete = person(KINECT_V2, frames=60)
    short, long = complete.copy(), complete.copy()
    short[20:30] = np.nan
    short[30, 7] = np.nan  # is not interpolated
    long[20:31] = np.nan
    write_store(tmp_path / "store", [Clip("a", 0, short, {}), Clip("b", 0, long, {})], 1, ["mine"])
    store = open_store(tmp_path / "store")
    interpolated, empty = store.frames[20:30], store.frames[80:91]
    expected = frames_of_array(complete)[20:30]
    assert np.abs(interpolated - expected)[:, 8:].max() < 0.1
    assert (interpolated[:, 8:, :, 0].any(axis=2)).all() and not interpolated[:, 7].any() and not empty.any()
    (note,) = json.loads((tmp_path / "store" / INFO_FILE).read_text())["notes"]
    assert note["file"] == "b" and "missing in 11 frames in a row" in note["reason"]


@pytest.mark.parametrize("label", ["10000", "1" + "0" * 30, "1" * 5000, "-1", "1.5", "1e3", "²"])
def test_labels_have_an_upper_bound(tmp_path, label):
    clips = {f"c{i:02d}": person(KINECT_V2, i) for i in range(30)}
    rows = [f"{name},{i % 2},train" for i, name in enumerate(clips)]
    table = "\n".join(["name,label,mine", *rows[1:], f"c00,{label},train"])
    assert from_arrays(tmp_path, clips, table=table) == 1  # the row and its array are more than 5 percent
    assert open_store(tmp_path / "store").num_classes == 2
    with pytest.raises(UserError, match="a store has at most 10,000"):
        write_store(tmp_path / "other", [], 10**30, ["mine"])


def test_rows_of_the_same_name_are_failures(tmp_path):
    """Neither label can be trusted."""
    table = "name,label,mine\na,0,train\nb,1,train\na,1,val\n"
    clips = {"a": person(KINECT_V2, 0), "b": person(KINECT_V2, 1)}
    assert from_arrays(tmp_path, clips, table=table) == 1
    assert open_store(tmp_path / "store").names == ["b"]
    with pytest.raises(UserError, match="line 2: 2 rows have the name 'a'"):
        from_arrays(tmp_path, clips, table=table, flags=["--on-error", "stop"])


def test_names_without_an_array_show_some_that_exist(tmp_path):
    table = "name,label,mine\nclip-a,0,train\n"
    with pytest.raises(UserError, match="clips.npz/clip-a: no file of this name; there are a, b"):
        from_arrays(tmp_path, {"a": person(KINECT_V2), "b": person(KINECT_V2, 1)}, table=table)


@pytest.mark.parametrize(
    "table,ignored",
    [
        (",name,label,mine\n0,a,0,train\n1,b,1,val\n", []),
        ("Unnamed: 0,name,label,mine\n0,a,0,train\n1,b,1,val\n", []),
        ("name,label,mine,subject,fps\na,0,train,7,30\nb,1,val,8,30\n", ["subject", "fps"]),
        ("name,label,comment,mine\na,0,,train\nb,1,blurred,val\n", ["comment"]),
    ],
)
def test_other_columns_are_ignored(tmp_path, table, ignored):
    clips = {"a": person(KINECT_V2, 0), "b": person(KINECT_V2, 1)}
    assert from_arrays(tmp_path, clips, table=table) == 0
    store = open_store(tmp_path / "store")
    assert store.splits == {"mine": ["train", "val"]}
    notes = json.loads((tmp_path / "store" / INFO_FILE).read_text())["notes"]
    assert [note["reason"] for note in notes] == [
        f"the column {column} contains neither train nor val and is ignored" for column in sorted(ignored)
    ]


def test_misspelled_split_names_the_column(tmp_path):
    table = "name,label,mine\na,0,train\nb,1,vla\n"
    clips = {"a": person(KINECT_V2, 0), "b": person(KINECT_V2, 1)}
    with pytest.raises(UserError, match="line 3: mine is 'vla', but must be train, val or empty"):
        from_arrays(tmp_path, clips, table=table, flags=["--on-error", "stop"])
