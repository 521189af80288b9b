"""Stores of the files of pose estimators, class folders, and stores without labels."""

import json

import numpy as np
import pytest

from data_gen import poses_gendata
from dataset.store import open_store
from dataset.store_format import INFO_FILE
from facts.skeletons import SKELETONS

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
