"""The synthetic dataset: the NTU file format, a plausible body, reproducible clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_gen.normalize import normalize_clip
from data_gen.skeleton_file import read_skeleton
from data_gen.synthetic import make_ntu, motion
from data_gen.synthetic.actions import ACTIONS, ARM_POSES, SCRIPTS, arm, sample_script
from data_gen.synthetic.body import CHANNEL, CHANNELS, JOINT, bone_offsets, forward_kinematics, mirror
from data_gen.synthetic.motion import DEFAULT_IDLE, Subject, Variation, per_channel, perform
from data_gen.synthetic.sensor import observe, place_camera
from facts.datasets import ntu_splits, parse_ntu_name
from utils.errors import UserError

SMALL = ["--subjects", "2", "--actions", "1", "50", "--repetitions", "1", "--workers", "1"]
STILL = Variation(difficulty=0.0, settle=0.0)  # no motion except the action
ONE_PERSON = [number for number, action in ACTIONS.items() if len(action.scripts) == 1]


def generate(folder: Path, *flags: str) -> dict[str, bytes]:
    """Run the script in this process; return name -> content of the files that it wrote."""
    make_ntu.main([*SMALL, "--out_folder", str(folder), *flags])
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pose(angles: dict[str, float]) -> np.ndarray:
    """Return (25, 3) of an average body with these joint angles, which are 0 by default."""
    return forward_kinematics(per_channel(**angles)[None], bone_offsets(), np.zeros(3))[0]


def bone_lengths(positions: np.ndarray) -> np.ndarray:
    """Return (T, 24) for positions (T, 25, 3)."""
    parents = [parent for parent, _ in bone_offsets().values()]
    return np.linalg.norm(positions[:, list(bone_offsets())] - positions[:, parents], axis=-1)


def clips_of(variation: Variation) -> list[np.ndarray]:
    """Return (T, 25, 3) of the person in a clip of every action of one person, by two subjects."""
    return [perform(0, (1, subject, 1, action), variation)[0] for subject in (1, 2) for action in ONE_PERSON]


def moving_frames(positions: np.ndarray) -> np.ndarray:
    """Return the frames in which some joint moves by more than 5 mm; positions are (T, 25, 3)."""
    return np.flatnonzero(np.abs(np.diff(positions, axis=0)).max((1, 2)) > 0.005)


def test_files_depend_on_the_seed_only(tmp_path: Path) -> None:
    first = generate(tmp_path / "a")
    assert first == generate(tmp_path / "b", "--workers", "2")
    assert len(first) == 2 * 2 * 3  # subjects, actions, cameras
    other = generate(tmp_path / "c", "--seed", "1")
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    part = generate(tmp_path / "d", "--subjects", "1", "--actions", "50", "--cameras", "2")
    assert part and part.items() < first.items()


def test_files_have_all_fields_of_the_ntu_format(tmp_path: Path) -> None:
    for name, content in generate(tmp_path / "a").items():
        assert parse_ntu_name(name.removesuffix(".skeleton"))
        lines = content.decode("ascii").split("\n")
        assert {len(line.split(" ")) for line in lines} == {1, 10, 12} and lines[-1] == ""
        bodies, num_frames = read_skeleton(content)  # checks the structure
        assert motion.SHORTEST <= num_frames <= motion.LONGEST and np.isfinite(bodies).all()
        found = bodies[bodies.any((2, 3))]
        assert (found[..., 2] > 0.5).all() and (found[..., 2] < 6).all()
        assert len(bodies) == (2 if name.endswith("A050.skeleton") else 1)
        ids = {line.split(" ")[0] for line in lines if line.count(" ") == 9}
        assert len(ids) == len(bodies)


def test_frames_without_a_body_have_count_0() -> None:
    clip = observe(perform(0, (1, 1, 1, 50)), place_camera(0, 1, 1), np.random.default_rng(0))
    clip[[0, 7]] = np.nan
    clip[3, 1] = np.nan
    bodies, _ = read_skeleton(make_ntu.skeleton_text(clip).encode())
    present = bodies.any((2, 3)).sum(0)
    assert [index for index, count in enumerate(present) if count == 0] == [0, 7] and present[3] == 1
    np.testing.assert_allclose(bodies[:, 5], clip[5], atol=1e-6)


def test_bones_keep_their_length_and_differ_between_subjects() -> None:
    lengths = np.concatenate([bone_lengths(perform(0, (1, 3, 1, action))[0]) for action in ACTIONS])
    assert np.ptp(lengths, axis=0).max() < 1e-9
    assert np.abs(bone_lengths(perform(0, (1, 4, 1, 1))[0])[0] - lengths[0]).max() > 0.01


def test_resting_pose_is_upright_with_left_and_right_in_place() -> None:
    """A person who faces the sensor has the left shoulder at the smaller x, as with a Kinect."""
    for subject in (Subject(0, number) for number in (1, 2, 5)):
        joints = forward_kinematics(subject.posture[None], subject.bones, np.zeros(3))[0]
        upward = "AnkleLeft KneeLeft SpineBase SpineMid SpineShoulder Neck Head".split()
        heights = joints[[JOINT[name] for name in upward], 1]
        assert (np.diff(heights) > 0).all() and 1.2 < heights[-1] < 2.0
        assert joints[:, 1].min() == pytest.approx(0.0, abs=1e-6)  # the feet are on the floor
        for name in ("Shoulder", "Elbow", "Hand", "Hip", "Knee", "Ankle"):
            assert joints[JOINT[name + "Left"], 0] < joints[JOINT[name + "Right"], 0]
        # toes point to the sensor, toward smaller z
        assert joints[JOINT["FootLeft"], 2] < joints[JOINT["AnkleLeft"], 2]


def test_limbs_bend_the_right_way_and_hands_reach_the_head() -> None:
    joints = pose({"l_knee": 60.0, "r_elbow": 60.0})
    assert joints[JOINT["AnkleLeft"], 2] > joints[JOINT["KneeLeft"], 2]  # shin goes back
    assert joints[JOINT["WristRight"], 2] < joints[JOINT["ElbowRight"], 2]  # forearm forward
    for name, near in (("mouth", 0.25), ("ear", 0.25), ("hat", 0.3)):
        joints = pose(arm("r_", name))
        assert np.linalg.norm(joints[JOINT["HandRight"]] - joints[JOINT["Head"]]) < near


def test_mirror_exchanges_left_and_right() -> None:
    rng = np.random.default_rng(0)
    angles = rng.normal(0, 30, (4, len(CHANNELS)))
    angles[:, CHANNEL["support"]] = rng.uniform(-1, 1, 4)
    joints, mirrored = (forward_kinematics(a, bone_offsets(), np.zeros(3)) for a in (angles, mirror(angles)))
    swap = [JOINT[name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")] for name in JOINT]
    np.testing.assert_allclose(mirrored[:, swap] * (-1, 1, 1), joints, atol=1e-9)
    np.testing.assert_array_equal(mirror(mirror(angles)), angles)


def test_interpolation_passes_through_the_key_poses() -> None:
    keys, times = np.array([[0.0, 5.0], [10.0, -5.0], [4.0, 0.0]]), np.array([0.5, 1.0, 2.0])
    angles = motion.interpolate(keys, times, np.array([0.0, 0.5, 0.75, 1.0, 2.0, 9.0]))
    np.testing.assert_allclose(angles, [[0, 5], [0, 5], [5, 0], [10, -5], [4, 0], [4, 0]])


def test_scripts_give_valid_key_poses() -> None:
    assert {name for action in ACTIONS.values() for name in action.scripts} == SCRIPTS.keys()
    known = {"hold", "rest", "maybe:", *ARM_POSES, *CHANNELS, *(channel[2:] for channel in CHANNELS)}
    for name, parts in SCRIPTS.items():
        words = {word.partition("=")[0] for part in parts for word in part.replace(",", " ").split()}
        assert {word for word in words if not word[0].isdigit()} <= known, name
        for seed in range(10):
            keys = sample_script(name, 0.5, np.random.default_rng(seed))
            assert keys[0][0] == 0.0 and all(seconds > 0 for seconds, _ in keys[1:]) and len(keys) > 2


def test_sitting_down_and_standing_up_change_the_height_of_the_hips() -> None:
    down, up = (perform(0, (1, 1, 1, action), STILL)[0][:, JOINT["SpineBase"], 1] for action in (8, 9))
    assert down.max() - down[-1] > 0.25 and up[-1] - up.min() > 0.25


def test_two_person_actions_have_two_people_at_arms_length() -> None:
    for number, action in ACTIONS.items():
        people = perform(0, (1, 1, 1, number))
        assert len(people) == len(action.scripts) == (2 if number in (50, 58) else 1)
        if len(people) == 2:
            chests = [person[:, JOINT["SpineShoulder"]] for person in people]
            assert 0.4 < np.linalg.norm(chests[0] - chests[1], axis=1).mean() < 1.6


def test_cameras_record_one_motion_up_to_a_rigid_transform_and_noise() -> None:
    people, distances = perform(0, (2, 2, 1, 24)), []
    for camera in (1, 2, 3):
        position, rotation = place_camera(0, 2, camera)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        clean, noisy = (
            observe(people, (position, rotation), np.random.default_rng(camera), difficulty)[:, 0]
            for difficulty in (0.0, 1.0)
        )
        np.testing.assert_allclose(clean @ rotation + position - people[0], 0 * clean, atol=1e-9)
        error = np.linalg.norm(noisy @ rotation + position - people[0], axis=-1)
        distances.append(np.nanmedian(error))
        assert np.nanmean(np.abs(noisy - people[0])) > 0.06  # raw coordinates differ
    assert 1e-4 < min(distances) and max(distances) < 0.1


def test_idle_time_lies_before_and_after_the_action() -> None:
    """Longer idle time lengthens the still parts at both ends; the action keeps its duration."""
    durations = []
    for longest in (DEFAULT_IDLE, 4.0):
        clips = clips_of(replace(STILL, idle=longest))
        before = [moving_frames(clip)[0] / motion.FRAMES_PER_SECOND for clip in clips]
        after = [(len(clip) - moving_frames(clip)[-1]) / motion.FRAMES_PER_SECOND for clip in clips]
        for seconds in (before, after):
            assert 0.5 * longest < max(seconds) < longest + 1.2 and min(seconds) < 0.3 * longest
        durations.append(np.mean([np.ptp(moving_frames(clip)) for clip in clips]))
    assert 0.9 < durations[1] / durations[0] < 1.25


def test_tempo_changes_the_duration_of_the_action() -> None:
    long = replace(STILL, idle=4.0)  # long enough for no clip to be shortened
    ratios = np.divide(
        *([np.ptp(moving_frames(clip)) for clip in clips_of(v)] for v in (replace(long, tempo=0.4), long))
    )
    assert 1.2 < ratios.max() < 1.6 and 0.6 < ratios.min() < 0.85
    assert abs(np.log(ratios).mean()) < 0.15  # neither faster nor slower on average


def test_turn_rotates_the_first_frame_and_the_whole_normalized_clip() -> None:
    largest, angles, distances = 60.0, [], []
    for pair in zip(clips_of(STILL), clips_of(replace(STILL, turn=largest))):
        hips = [clip[:, JOINT["HipRight"]] - clip[:, JOINT["HipLeft"]] for clip in pair]
        straight, turned = (np.degrees(np.arctan2(hip[0, 2], hip[0, 0])) for hip in hips)
        angles.append((turned - straight + 180) % 360 - 180)
        np.testing.assert_allclose(pair[0][31:], pair[1][31:], atol=1e-9)
        a, b = (normalize_clip(clip[None])[40:, :, :, 0] for clip in pair)  # aligns the first frame
        distances.append(np.linalg.norm(a - b, axis=-1).mean())
    assert max(angles) > 0.5 * largest and min(angles) < -0.5 * largest
    assert 0.8 * largest < np.abs(angles).max() < largest and np.median(distances) > 0.05  # meters


def test_body_changes_height_and_limb_lengths() -> None:
    default, varied = (
        np.concatenate(
            [
                bone_lengths(
                    forward_kinematics(np.zeros((1, len(CHANNELS))), Subject(0, n, v).bones, np.zeros(3))
                )
                for n in range(1, 21)
            ]
        )
        for v in (Variation(), Variation(body=0.2))
    )
    scale = np.log(varied / default) / np.log(1.2)
    assert 1.0 < abs(scale).max() < 2.0  # two factors of 1.2 at most
    assert 0.45 < scale.mean(axis=1).std() < 0.8  # of the body as a whole
    assert (scale.std(axis=1) > 0.1).all()  # of the limbs, relative to the body


def test_default_dataset_has_both_splits_of_every_protocol() -> None:
    args = make_ntu.parse_args([])
    performances = list(make_ntu.list_performances(args))
    assert len(set(performances)) == len(performances) == 640
    names = [f"S{s:03d}C{c:03d}P{p:03d}R{r:03d}A{a:03d}" for s, p, r, a in performances for c in (1, 2, 3)]
    for protocol in ("cross_subject", "cross_view", "cross_setup"):
        for split in ("train", "val"):
            parsed = map(parse_ntu_name, names)
            labels = {name.label for name in parsed if ntu_splits(name)[protocol] == split}
            assert len(labels) == len(ACTIONS), (protocol, split)


def test_only_skeleton_files_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    generate(folder, "--cameras", "1")
    with pytest.raises(UserError, match="--overwrite"):
        generate(folder)
    assert len(generate(folder, "--cameras", "2", "--overwrite")) == 8
    (folder / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="notes.txt"):
        generate(folder, "--overwrite")
    assert (folder / "notes.txt").read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]  # no temporary folder is left
