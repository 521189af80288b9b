"""Stores of the files of pose estimators, class folders, and stores without labels."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from conftest import INTER, RETRIEVAL, TINY_FLAGS, one_line

from data_gen import arrays_gendata, poses_gendata, pyskl_gendata
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


def openpose(people, **more):
    return {"people": [{"person_id": [-1], "pose_keypoints_2d": scored(p), **more} for p in people]}


def landmarks(points):
    """A person of MediaPipe, (V, 3): y down and z away from the camera."""
    flipped = points * [1, -1, -1]
    return [dict(zip("xyz", map(float, point)), visibility=0.8) for point in flipped]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def text(points, numbered=False):
    """Frames (T, V, 3) as a line each."""
    lines = [[*([i + 1] if numbered else []), *frame.ravel()] for i, frame in enumerate(points)]
    return "\n".join(" ".join(f"{value:.6g}" for value in line) for line in lines)


def write_openpose(folder, name):
    for i, frame in enumerate(pixels(name)):
        write(folder / f"v_{i:012d}_keypoints.json", openpose([frame]))


def write_alphapose(folder):
    items = [
        {"image_id": f"{i}.jpg", "keypoints": scored(frame), "score": 2.5, "idx": 7}
        for i, frame in enumerate(pixels("coco"))
    ]
    write(folder / "alphapose-results.json", items)


def mmpose(points):
    scores = [0.9] * points.shape[1]
    instances = [
        {"keypoints": frame.tolist(), "keypoint_scores": scores, "bbox": [[0, 0, 9, 9]]} for frame in points
    ]
    return [{"frame_id": i + 1, "instances": [item]} for i, item in enumerate(instances)]


def kinetics(label="waving", number=1):
    poses = pixels("openpose_18") / [340, 256]
    skeletons = [[{"pose": pose.ravel().tolist(), "score": [0.7] * 18}] for pose in poses]
    frames = [{"frame_index": i + 1, "skeleton": skeleton} for i, skeleton in enumerate(skeletons)]
    return {"data": frames, "label": label, "label_index": number}


def write_frames(folder):
    for i, frame in enumerate(walker("kinect_v1")):
        lines = "\n".join(",".join([*map("{:.5f}".format, joint), "1"]) for joint in frame)
        write(folder / f"frame_{i}_tc_{900 + 33 * i}_skeletons.txt", f"1\n{lines}")
    write(folder / "fileList.txt", "frame_0 frame_1")


def mediapipe_array():
    return np.concatenate([walker("mediapipe") * [1, -1, -1], np.full((FRAMES, 33, 2), 0.9)], axis=2)


FORMATS = {  # name -> skeleton, and what writes a clip into a folder
    "openpose": ("body_25", lambda folder: write_openpose(folder, "body_25")),
    "openpose_coco": ("openpose_18", lambda folder: write_openpose(folder, "openpose_18")),
    "alphapose": ("coco", write_alphapose),
    "mmpose": ("coco", lambda folder: write(folder / "a.json", {"instance_info": mmpose(pixels("coco"))})),
    "mmpose_list": ("coco", lambda folder: write(folder / "a.json", mmpose(pixels("coco")))),
    "kinetics": ("openpose_18", lambda folder: write(folder / "a.json", kinetics())),
    "mediapipe": (
        "mediapipe",
        lambda folder: write(folder / "a.json", [*map(landmarks, walker("mediapipe"))]),
    ),
    "mediapipe_tasks": (
        "mediapipe",
        lambda folder: write(
            folder / "a.json",
            {
                "frames": [
                    {"landmarks": None, "pose_world_landmarks": [landmarks(p)]} for p in walker("mediapipe")
                ]
            },
        ),
    ),
    "mediapipe_npy": (
        "mediapipe",
        lambda folder: (folder.mkdir(parents=True), np.save(folder / "a.npy", mediapipe_array())),
    ),
    "utkinect": ("kinect_v1", lambda f: write(f / "joints_s01_e01.txt", text(walker("kinect_v1"), True))),
    "ucla_frames": ("kinect_v1", write_frames),
    "ucla_clip": (
        "kinect_v1",
        lambda folder: write(folder / "a01_s01_e00_v01.txt", text(walker("kinect_v1"))),
    ),
}


def prepare(folder, *flags, script=poses_gendata):
    """Prepare the files of ``folder``; returns the store and the content of ``store.json``."""
    out = folder.parent / "data" / "mine"
    given = ["--dataset", "mine", "--data_path", folder, "--out_folder", out, "--overwrite", "--workers", 1]
    script.main(list(map(str, [*given, *flags])))
    return open_store(out), json.loads((out / INFO_FILE).read_text())


@pytest.mark.parametrize("name", FORMATS)
def test_format_ends_in_an_upright_person(tmp_path, name):
    skeleton, write_clip = FORMATS[name]
    write_clip(tmp_path / "poses" / "wave" / "clip")
    store, info = prepare(tmp_path / "poses", "--min-score", 0.5)
    assert store.skeleton.name == skeleton and store.num_frames.tolist() == [FRAMES]
    assert not any(item["reason"].startswith("cannot") for item in info["left_out"])
    names = [joint.lower() for joint in store.skeleton.joints]
    frames, up = store.frames[..., 0], -1 if store.skeleton.dimensions == 2 else 1
    high = frames[:, [i for i, joint in enumerate(names) if "nose" in joint or "head" in joint]]
    low = frames[:, [i for i, joint in enumerate(names) if "ankle" in joint]]
    axis = 1 if up == -1 else 2
    assert (up * high[:, :, axis]).min() > (up * low[:, :, axis]).max() + 1
    assert not store.frames[..., 1].any()


# Tracks


def crossing(ids=(None, None)):
    """Two people who walk past each other, in changing order; returns their paths and the frames."""
    paths = [pixels("coco", speed=0.03, start=-0.6), pixels("coco", speed=-0.03, start=0.6) + [0, 15]]
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
    for t in range(8, 18):  # one person is missing for ten frames, nobody is there in frame 30 and at the end
        frames[t] = [person for person in frames[t] if np.array_equal(person.joints, paths[0][t])]
    frames[30] = []
    del frames[31]
    frames |= {FRAMES: [], FRAMES + 1: []}
    scores = np.where(np.arange(17) == 5, 0, 0.4)
    frames[33] = [make_person(order[0][33], scores), make_person(order[1][33], np.full(17, 0.1))]
    array, notes = array_of_frames(frames, 0.3)
    assert array.shape == (FRAMES, 17, 2, 2)  # no third track
    check_tracks(array, order, [*range(8), *range(18, 30), 32, *range(34, FRAMES)])
    assert not array[8:18, :, :, 0].any() and not array[30:32].any() and not array[33, 5].any()
    assert not array[33, :, :, 1].any() and array[33, 4, :, 0].all()
    assert notes == [
        "17 of 1121 joints have a score below 0.3",
        "2 of 40 frames show nobody",
        "2 frames before and after show nobody and are left out",
    ]


def test_frame_numbers_of_any_step_are_used(tmp_path):
    _, frames = crossing()
    every_fifth = {1000 + 5 * t: people for t, people in frames.items() if t not in (7, 8)}
    array, _ = array_of_frames(every_fifth, 0)
    assert len(array) == FRAMES and not array[7:9].any() and array[9].any()
    far = {1_600_000_000_000 + 10**9 * t + t % 7: people for t, people in frames.items()}
    assert len(array_of_frames(far, 0)[0]) == FRAMES


# Labels and splits


def test_kinetics_utkinect_and_ucla_have_their_labels(tmp_path):
    for split, label, number in (("train", "waving", 1), ("train", "sit", 0), ("val", "waving", 1)):
        write(tmp_path / "k" / f"kinetics_{split}" / f"{label}.json", kinetics(label, number))
    store, _ = prepare(tmp_path / "k")
    assert store.class_names == ("sit", "waving") and store.splits == {"split": ["train", "train", "val"]}
    assert dict(zip(store.names, store.labels)) == {
        "kinetics_train/sit": 0,
        "kinetics_train/waving": 1,
        "kinetics_val/waving": 1,
    }
    for subject in (1, 2):
        write(tmp_path / "u" / "joints" / f"joints_s0{subject}_e01.txt", text(walker("kinect_v1"), True))
    actions = "walk: 1 12\nsitDown: 15 30\ncarry: NaN NaN\n"
    write(tmp_path / "u" / "actionLabel.txt", f"s01_e01 \n{actions}s02_e01\n{actions}")
    store, _ = prepare(tmp_path / "u", "--val-subjects", "s02")
    assert store.class_names == ("sitDown", "walk") and store.num_frames.tolist() == [16, 12] * 2
    assert store.splits == {"cross_subject": ["train", "train", "val", "val"]} and store.labels.tolist() == [
        0,
        1,
        0,
        1,
    ]
    write_frames(tmp_path / "w" / "view_3" / "a12_s01_e00")
    write(tmp_path / "w" / "a02_s01_e00_v01.txt", text(walker("kinect_v1")))
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
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", walker("kinect_v2") + [0, 0, 3])
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
    rows = [
        f"{name},{'validation' if '1_0' in name else 'test' if '2' in name else 'train'}" for name in NAMES
    ]
    write(tmp_path / "t.csv", "name,mine\n" + "\n".join(rows))
    store, info = prepare(folder, "--clips", tmp_path / "t.csv", script=arrays_gendata)
    assert store.splits["mine"].count("val") == 2 and store.splits["mine"].count("") == 12
    assert store.labels.tolist() == [0] * 10 + [1] * 10 and "test is left out" in info["notes"][0]["reason"]


BAD_FLAGS = [
    (["--val-subjects", "anna"], "--val-subjects anna: no path has this part; there are"),
    (["--val-fraction", 1.5], "--val-fraction 1.5 must be between 0 and 1"),
    (["--val-subjects", "sit", "wave"], "all 20 clips are in the split 'val' of cross_subject"),
    (["--class-names", "names.txt"], "the folder wave is not one of the names of --class-names: sit, stand"),
]


def test_wrong_splits_and_files_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "names.txt", "sit\nstand\n")
    folder = arrays_in(tmp_path / "clips", NAMES)
    for flags, message in BAD_FLAGS:
        with pytest.raises(UserError, match=message) as error:
            prepare(folder, *flags, script=arrays_gendata)
        assert one_line(str(error.value))
    arrays_in(folder, ["alone"])
    with pytest.raises(
        UserError, match="alone is in no folder, whose name would be its class, unlike sit/s01_0"
    ):
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
        write(tmp_path / "bad" / "a.json", content)
        with pytest.raises(UserError, match=message) as error:
            prepare(tmp_path / "bad")
        assert one_line(str(error.value))


def test_damaged_frame_is_listed_and_an_archive_is_read(tmp_path):
    write_openpose(tmp_path / "poses" / "a", "body_25")
    write(tmp_path / "poses" / "a" / f"v_{5:012d}_keypoints.json", "{")
    with zipfile.ZipFile(tmp_path / "poses.zip", "w") as archive:
        for file in sorted((tmp_path / "poses").rglob("*.json")):
            archive.write(file, file.relative_to(tmp_path / "poses"))
    store, info = prepare(tmp_path / "poses.zip")
    assert (
        store.names == ["a"] and store.num_frames.tolist() == [FRAMES] and store.frames[5].any()
    )  # interpolated
    assert "v_000000000005_keypoints.json" in info["left_out"][0]["file"]


# Without labels


def test_clips_without_labels_from_pretraining_to_figures(run, tmp_path, monkeypatch):
    monkeypatch.setattr("visual.gallery.SIZE", 40)
    monkeypatch.setattr("visual.gallery.FRAMES", 3)
    folder = arrays_in(tmp_path / "clips", [f"{i:02d}" for i in range(12)])
    store, _ = prepare(folder, script=arrays_gendata)
    assert (
        store.labels.tolist() == [-1] * 12
        and store.num_classes == 0
        and store.splits == {"all": ["train"] * 12}
    )
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
        assert (
            code == 2 and one_line(err) and "needs labels, but the 'train' clips of mine all have none" in err
        )
