"""Stores of the files of pose estimators, class folders, and stores without labels."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from conftest import INTER, RETRIEVAL, TINY_FLAGS, one_line

from data_gen import arrays_gendata, poses_gendata, pyskl_gendata
from data_gen.own_clips import frames_of_array
from data_gen.pose_files import array_of_frames, make_person
from dataset.store import open_store
from dataset.store_format import INFO_FILE
from facts.skeletons import SKELETONS
from utils.errors import UserError

# Where a joint is, by a word in its name: from the middle to the left, up, and to the front, in meters.
PLACES = {
    "eye": (0.04, 1.66, 0.1), "ear": (0.08, 1.65, 0), "mouth": (0.03, 1.58, 0.1), "nose": (0, 1.62, 0.12),
    "clavicle": (0.1, 1.42, 0), "collar": (0.1, 1.42, 0), "shouldercenter": (0, 1.45, 0),
    "hipcenter": (0, 0.92, 0), "shoulder": (0.2, 1.4, 0), "elbow": (0.27, 1.12, 0), "wrist": (0.28, 0.9, 0.1),
    "hand": (0.28, 0.82, 0.1), "pinky": (0.3, 0.8, 0.1), "index": (0.29, 0.78, 0.12),
    "thumb": (0.26, 0.82, 0.15), "pelvis": (0, 0.95, 0),
    "mid_hip": (0, 0.92, 0), "hip": (0.12, 0.92, 0), "knee": (0.13, 0.5, 0.02), "ankle": (0.13, 0.1, 0),
    "heel": (0.13, 0.04, -0.05), "toe": (0.14, 0.02, 0.15), "foot": (0.13, 0.03, 0.12),
    "neck": (0, 1.47, 0), "head": (0, 1.65, 0), "spine": (0, 1.15, 0), "torso": (0, 1.15, 0),
}  # fmt: skip
FRAMES = 40


def walker(name, frames=FRAMES, start=0.0, speed=0.02):
    """A person of the skeleton ``name`` who walks to the left: (frames, V, 3), y up and meters."""
    joints = []
    for joint in SKELETONS[name].joints:
        lower = joint.lower()
        words = ["toe"] if "foot_index" in lower else [word for word in PLACES if word in lower]
        x, y, z = PLACES[words[0]]
        joints.append((x * (-1 if "right" in lower else 1), y, z))
    t = np.arange(frames)[:, None]
    points = np.repeat(np.array(joints)[None], frames, axis=0)
    swing = 0.15 * np.sin(t / 4) * np.sign(points[:, :, 0]) * (points[:, :, 1] < 1.2)
    points[:, :, 2] += swing
    points[:, :, 0] += start + speed * t
    return points


def pixels(name, **walk):
    """The same person in an image, (frames, V, 2): the left side is on the right, y down."""
    return walker(name, **walk)[:, :, :2] * [200, -200] + [400, 500]


def scored(points, score=0.9):
    """Points (V, 2) as a flat list of x, y and score."""
    return np.concatenate([points, np.full((len(points), 1), score)], axis=1).ravel().tolist()


def landmarks(points):
    """A person of MediaPipe, (V, 3): y down and z away from the camera."""
    flipped = points * [1, -1, -1]
    return [dict(zip("xyz", map(float, point)), visibility=0.8) for point in flipped]


def write(folder, files):
    """Write files: path -> text, array or JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))


def text(points, numbered=False):
    """Frames (T, V, 3) as a line each."""
    lines = [[*([i + 1] if numbered else []), *frame.ravel()] for i, frame in enumerate(points)]
    return "\n".join(" ".join(f"{value:.6g}" for value in line) for line in lines)


def openpose(name, stem="v_"):
    people = [{"person_id": [-1], "pose_keypoints_2d": scored(frame)} for frame in pixels(name)]
    return {f"{stem}{i:012d}_keypoints.json": {"people": [person]} for i, person in enumerate(people)}


def mmpose(points):
    scores = [0.9] * points.shape[1]
    people = [{"keypoints": frame.tolist(), "keypoint_scores": scores} for frame in points]
    return [{"frame_id": i + 1, "instances": [person]} for i, person in enumerate(people)]


def kinetics(label="waving", number=1):
    poses = [(pose / [340, 256]).ravel().tolist() for pose in pixels("openpose_18")]
    frames = [{"frame_index": i, "skeleton": [{"pose": x, "score": [0.7] * 18}]} for i, x in enumerate(poses)]
    return {"data": frames, "label": label, "label_index": number}


def ucla_frames():
    frames = ["\n".join(f"{x:.5f},{y:.5f},{z:.5f},1" for x, y, z in f) for f in walker("kinect_v1")]
    names = [f"frame_{i}_tc_{900 + 33 * i}_skeletons.txt" for i in range(FRAMES)]
    return {**{name: f"1\n{frame}" for name, frame in zip(names, frames)}, "fileList.txt": "frame_0 frame_1"}


COCO_ITEMS = [
    {"image_id": f"{i}.jpg", "keypoints": scored(f), "idx": 7} for i, f in enumerate(pixels("coco"))
]
LANDMARKS = [landmarks(points) for points in walker("mediapipe")]
TASKS = {"frames": [{"landmarks": None, "pose_world_landmarks": [points]} for points in LANDMARKS]}
ARRAY = np.concatenate([walker("mediapipe") * [1, -1, -1], np.full((FRAMES, 33, 2), 0.9)], axis=2)
LINES = text(walker("kinect_v1"))
FORMATS = {  # name -> skeleton, and the files of a clip
    "openpose": ("body_25", openpose("body_25")),
    "openpose_coco": ("openpose_18", openpose("openpose_18", "")),
    "alphapose": ("coco", {"alphapose-results.json": COCO_ITEMS}),
    "mmpose": ("coco", {"a.json": {"instance_info": mmpose(pixels("coco"))}}),
    "mmpose_list": ("coco", {"a.json": mmpose(pixels("coco"))}),
    "kinetics": ("openpose_18", {"a.json": kinetics()}),
    "mediapipe": ("mediapipe", {"a.json": LANDMARKS}),
    "mediapipe_tasks": ("mediapipe", {"a.json": TASKS}),
    "mediapipe_npy": ("mediapipe", {"a.npy": ARRAY}),
    "utkinect": ("kinect_v1", {"joints_s01_e01.txt": text(walker("kinect_v1"), True)}),
    "ucla_frames": ("kinect_v1", ucla_frames()),
    "ucla_clip": ("kinect_v1", {"a01_s01_e00_v01.txt": LINES}),
}


def prepare(folder, *flags, script=poses_gendata):
    """Prepare the files of ``folder``; returns the store and the content of ``store.json``."""
    out = folder.parent / "data" / "mine"
    given = ["--dataset", "mine", "--data_path", folder, "--out_folder", out, "--overwrite", "--workers", 1]
    script.main(list(map(str, [*given, *flags])))
    return open_store(out), json.loads((out / INFO_FILE).read_text())


@pytest.mark.parametrize("name", FORMATS)
def test_format_ends_in_an_upright_person(tmp_path, name):
    skeleton, files = FORMATS[name]
    write(tmp_path / "poses" / "wave" / "clip", files)
    store, info = prepare(tmp_path / "poses", "--min-score", 0.5)
    assert store.skeleton.name == skeleton and store.num_frames.tolist() == [FRAMES]
    assert not any(item["reason"].startswith("cannot") for item in info["left_out"])
    names = [joint.lower() for joint in store.skeleton.joints]
    height = -store.frames[:, :, 1] if store.skeleton.dimensions == 2 else store.frames[:, :, 2]
    head = [i for i, joint in enumerate(names) if "nose" in joint or "head" in joint]
    feet = [i for i, joint in enumerate(names) if "ankle" in joint]
    assert height[:, head, 0].min() > height[:, feet, 0].max() + 1 and not store.frames[..., 1].any()
    same = pixels(skeleton) if store.skeleton.dimensions == 2 else walker(skeleton) + [0, 0, 3]
    np.testing.assert_allclose(store.frames, frames_of_array(same, skeleton=store.skeleton), atol=1e-3)


# Tracks


def crossing(ids=(None, None)):
    """Two people who walk past each other, in changing order; returns their paths and the frames.

    Those with two numbers in the file change places in between, which only the numbers tell.
    """
    paths = [pixels("coco", speed=0.03, start=-0.6), pixels("coco", speed=-0.03, start=0.6) + [0, 3]]
    if None not in ids:
        paths = [np.concatenate([path[:5], other[5:]]) for path, other in zip(paths, paths[::-1])]
    people = [[make_person(path[t], track=track) for path, track in zip(paths, ids)] for t in range(FRAMES)]
    return paths, {t: some[:: 1 if t % 3 else -1] for t, some in enumerate(people)}


def check_tracks(array, paths, frames=slice(None)):
    for number, path in enumerate(paths):
        np.testing.assert_allclose(array[frames, :, :, number], path[frames])


@pytest.mark.parametrize("ids", [(None, None), (12, 3), ("b", "a"), (4, None)])
def test_two_people_who_cross_stay_two_tracks(ids):
    paths, frames = crossing(ids)
    first = frames[0][0].joints
    array, notes = array_of_frames(frames, 0)
    check_tracks(array, paths if np.array_equal(first, paths[0][0]) else paths[::-1])
    assert array.shape == (FRAMES, 17, 2, 2) and notes == []


def test_missing_people_frames_and_joints():
    paths, frames = crossing()
    order = paths[::-1]
    for t in range(15, 25):  # where they cross, one is missing for ten frames; nobody is there in frame 30
        frames[t] = [person for person in frames[t] if np.array_equal(person.joints, paths[0][t])]
    frames[30] = []
    del frames[31]
    frames |= {FRAMES: [], FRAMES + 1: []}
    scores = np.where(np.arange(17) == 5, 0, 0.4)
    frames[33] = [make_person(order[0][33], scores), make_person(order[1][33], np.full(17, 0.1))]
    array, notes = array_of_frames(frames, 0.3)
    assert array.shape == (FRAMES, 17, 2, 2)  # no third track
    check_tracks(array, order, [*range(15), *range(25, 30), 32, *range(34, FRAMES)])
    assert not array[15:25, :, :, 0].any() and not array[30:32].any() and not array[33, 5].any()
    assert not array[33, :, :, 1].any() and array[33, 4, :, 0].all()
    assert notes == [
        "17 of 1121 joints have a score below 0.3",
        "2 of 40 frames show nobody",
        "2 frames before and after show nobody and are left out",
    ]


def test_frame_numbers_of_any_step_are_used():
    _, frames = crossing()
    every_fifth = {1000 + 5 * t: people for t, people in frames.items() if t not in (7, 8)}
    array, _ = array_of_frames(every_fifth, 0)
    assert len(array) == FRAMES and not array[7:9].any() and array[9].any()
    far = {1_600_000_000_000 + 10**9 * t + t % 7: people for t, people in frames.items()}
    assert len(array_of_frames(far, 0)[0]) == FRAMES


# Labels and splits


def test_kinetics_utkinect_and_ucla_have_their_labels(tmp_path):
    wave = kinetics()
    files = {"kinetics_train/w.json": wave, "kinetics_val/w.json": wave}
    write(tmp_path / "k", {**files, "kinetics_train/s.json": kinetics("sit", 0)})
    store, _ = prepare(tmp_path / "k")
    assert store.class_names == ("sit", "waving") and store.splits == {"split": ["train", "train", "val"]}
    assert store.labels.tolist() == [0, 1, 1]
    files = {f"joints/joints_s0{subject}_e01.txt": text(walker("kinect_v1"), True) for subject in (1, 2)}
    actions = "walk: 1 12\nsitDown: 15 30\ncarry: NaN NaN\n"
    write(tmp_path / "u", {**files, "actionLabel.txt": f"s01_e01 \n{actions}s02_e01\n{actions}"})
    store, _ = prepare(tmp_path / "u", "--val-subjects", "s02")
    assert store.class_names == ("sitDown", "walk") and store.num_frames.tolist() == [16, 12] * 2
    assert store.splits == {"cross_subject": ["train"] * 2 + ["val"] * 2}
    assert store.labels.tolist() == [0, 1] * 2
    frames = {f"view_3/a12_s01_e00/{name}": content for name, content in ucla_frames().items()}
    write(tmp_path / "w", {**frames, "a02_s01_e00_v01.txt": LINES})
    store, _ = prepare(tmp_path / "w", "--dataset", "ucla")
    assert store.names == ["a02_s01_e00_v01", "a12_s01_e00_v03"] and store.labels.tolist() == [1, 9]
    assert store.splits["cross_view"] == ["train", "val"] and store.num_classes == 10


def test_lists_of_mmaction2(tmp_path):
    for split in ("train", "val"):
        item = {"frame_dir": split, "label": 1, "keypoint": pixels("coco")[None], "total_frames": FRAMES}
        item["keypoint_score"] = np.ones((1, FRAMES, 17))
        (tmp_path / f"gym_{split}.pkl").write_bytes(pickle.dumps([item]))
    flags = ["--dataset", "gym", "--out_folder", tmp_path / "data", "--workers", 1, "--data_path"]
    pyskl_gendata.main([*map(str, [*flags, tmp_path / "gym_train.pkl", tmp_path / "gym_val.pkl"])])
    assert open_store(tmp_path / "data").splits == {"split": ["train", "val"]}
    with pytest.raises(UserError, match="has the same split as another file"):
        pyskl_gendata.main([*map(str, [*flags, *[tmp_path / "gym_val.pkl"] * 2, "--overwrite"])])


def arrays_in(folder, names):
    write(folder, {f"{name}.npy": walker("kinect_v2") + [0, 0, 3] for name in names})
    return folder


NAMES = [f"{label}/s0{subject}_{i}" for label in ("sit", "wave") for subject in (1, 2) for i in range(5)]


def test_folders_are_classes(tmp_path):
    folder = arrays_in(tmp_path / "clips", NAMES)
    flags = ["--val-subjects", "S02", "--val-fraction", 0.2]
    store, _ = prepare(folder, *flags, script=arrays_gendata)
    assert store.class_names == ("sit", "wave") and store.labels.tolist() == [0] * 10 + [1] * 10
    assert store.splits["cross_subject"] == (["train"] * 5 + ["val"] * 5) * 2
    chosen = [name for name, split in zip(store.names, store.splits["by_file"]) if split == "val"]
    assert [name.split("/")[0] for name in chosen] == ["sit"] * 2 + ["wave"] * 2
    again, _ = prepare(folder, *flags, "--workers", 2, script=arrays_gendata)
    other, _ = prepare(folder, *flags, "--split-seed", 1, script=arrays_gendata)
    assert again.splits == store.splits and other.splits["by_file"] != store.splits["by_file"]
    split_of = {"1_0": "validation", "2_0": "test", "2_1": "test"}
    rows = [f"{name},{split_of.get(name[-3:], 'train')}" for name in NAMES]
    write(tmp_path, {"t.csv": "\n".join(["name,mine", *rows])})
    store, info = prepare(folder, "--clips", tmp_path / "t.csv", script=arrays_gendata)
    assert store.splits["mine"].count("val") == 2 and store.splits["mine"].count("") == 4
    assert store.labels.tolist() == [0] * 10 + [1] * 10 and "test is left out" in info["notes"][0]["reason"]


BAD_FLAGS = [
    (["--val-subjects", "anna"], "--val-subjects anna: no path has this part; there are"),
    (["--val-fraction", 1.5], "--val-fraction 1.5 must be between 0 and 1"),
    (["--val-subjects", "sit", "wave"], "all 20 clips are in the split 'val' of cross_subject"),
    (["--class-names", "names.txt"], "the folder wave is not one of the names of --class-names: sit, stand"),
]


def test_wrong_splits_and_files_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"names.txt": "sit\nstand\n"})
    folder = arrays_in(tmp_path / "clips", NAMES)
    for flags, message in BAD_FLAGS:
        with pytest.raises(UserError, match=message) as error:
            prepare(folder, *flags, script=arrays_gendata)
        assert one_line(str(error.value))
    single = arrays_in(tmp_path / "single", ["sit/a", "wave/b"])
    with pytest.raises(UserError, match="--val-fraction: no class has two files"):
        prepare(single, "--val-fraction", 0.5, script=arrays_gendata)
    arrays_in(folder, ["alone"])
    with pytest.raises(UserError, match="alone is in no folder, whose name would be its class, unlike sit"):
        prepare(folder, script=arrays_gendata)
    flat = [{"image_id": 3, "keypoints": [1.0, 2.0, 3.0] * 17}]
    lifted = [{"frame_id": 0, "instances": [{"keypoints": [[1, 2, 3]] * 17, "keypoint_scores": [1] * 17}]}]
    for content, message in (
        (flat, "the third number of a joint is a score, but here it is from 3 to 3"),
        (lifted, "17 joints in 3D, which can be those of COCO or Human3.6M: give --skeleton"),
        ("[", "cannot be read as poses"),
        ({"a": 1}, "cannot be read as poses"),
        ([], "no poses of a known format"),
        ([[]] * 3, "they show nobody"),
    ):
        write(tmp_path / "bad", {"a.json": content})
        with pytest.raises(UserError, match=message) as error:
            prepare(tmp_path / "bad")
        assert one_line(str(error.value))


def test_damaged_frame_is_listed_and_an_archive_is_read(tmp_path):
    write(tmp_path / "poses" / "a", {**openpose("body_25"), f"v_{5:012d}_keypoints.json": "{"})
    with zipfile.ZipFile(tmp_path / "poses.zip", "w") as archive:
        for file in sorted((tmp_path / "poses").rglob("*.json")):
            archive.write(file, file.relative_to(tmp_path / "poses"))
    store, info = prepare(tmp_path / "poses.zip")
    assert store.names == ["a"] and len(store.frames) == FRAMES and store.frames[5].any()  # interpolated
    assert "v_000000000005_keypoints.json" in info["left_out"][0]["file"]
    write(tmp_path / "twice", {"a.json": LANDMARKS, "a.npy": ARRAY, "b.npy": ARRAY})
    store, info = prepare(tmp_path / "twice")
    assert store.names == ["b"] and [item["file"] for item in info["left_out"]] == ["a", "a"]


# Without labels


def test_clips_without_labels_from_pretraining_to_figures(run, tmp_path, monkeypatch):
    monkeypatch.setattr("visual.gallery.SIZE", 40)
    monkeypatch.setattr("visual.gallery.FRAMES", 3)
    folder = arrays_in(tmp_path / "clips", [f"{i:02d}" for i in range(12)])
    store, _ = prepare(folder, script=arrays_gendata)
    assert store.labels.tolist() == [-1] * 12 and store.splits == {"all": ["train"] * 12}
    assert (tmp_path / "data/mine/clips.csv").read_text().splitlines()[1] == "00,,0,40,train"
    flags = ["--pre-dataset", "mine", "--protocol", "all", "--moco-k", 8, "--batch-size", 4, "--epochs", 1]
    flags += ["--monitor-freq", 1, "--num-frames", 16, "--seed", 1, *TINY_FLAGS, "--checkpoint-path", "c"]
    code, _, err = run(INTER, *flags, "--monitor-knn")
    assert code == 2 and one_line(err) and "--monitor-knn needs labels" in err
    code, _, err = run(INTER, *flags)
    assert code == 0, err
    data = ["--finetune-dataset", "mine", "--protocol", "all", "--pretrained", "c/checkpoint_0000.pth.tar"]
    data += ["--finetune-skeleton-representation", "seq-based"]
    code, out, err = run(RETRIEVAL, *data, "--gallery", "g", "--tsne", "t", "--save-features", "f.npz")
    assert code == 0 and "accuracy needs labels" in out and "12 clips of 1 classes" in out, err
    assert "the nearest clips of 8 queries, without labels" in out and (tmp_path / "g/index.html").is_file()
    assert run("visual.tsne", "f.npz", "--out", "u", "--seed", 1)[0] == 0
    code, out, err = run("extract_features.py", *data, "--input", "clips/03.npy", "--knn-neighbours", 2)
    assert code == 0 and "03: no label (nearest" in out, err
    code, out, _ = run("visual.clips", "--dataset", "mine", "--protocol", "all", "--name", "03", "--views", 0)
    assert code == 0 and "03, no label" in out
    for mode in ("linear", "finetune"):
        code, _, err = run("action_classification.py", *data, "--mode", mode)
        assert code == 2 and one_line(err) and "needs labels, but the 'train' clips of mine all have" in err
    rows = [f"{i:02d},{i % 2 if i < 6 else ''},{'val' if i % 3 == 0 else 'train'}" for i in range(12)]
    write(tmp_path, {"t.csv": "\n".join(["name,label,some", *rows])})
    _, info = prepare(folder, "--clips", tmp_path / "t.csv", script=arrays_gendata)
    assert info["notes"][0]["reason"] == "6 of 12 clips have no label"
    code, out, err = run(RETRIEVAL, *data, "--protocol", "some", "--gallery", "h", "--overwrite")
    assert code == 0 and "note: 4 of 8 'train' clips have no label and are not used" in out, err
    assert "4 training and 2 validation clips" in out and "1-nearest-neighbor retrieval: " in out
