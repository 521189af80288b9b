"""The synthetic dataset: the NTU file format, a plausible body, reproducible clips."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_gen.normalize import normalize_clip
from data_gen.synthetic import make_ntu
from data_gen.synthetic.actions import ACTIONS, pose
from data_gen.synthetic.body import (
    CHANNEL,
    CHANNELS,
    JOINT,
    LATERAL,
    PARENTS,
    bone_offsets,
    forward_kinematics,
)
from data_gen.synthetic.performance import (
    DEFAULT_IDLE,
    FRAMES_PER_SECOND,
    LONGEST,
    SHORTEST,
    Performance,
    Variation,
    interpolate,
    mirror,
    perform,
    sample_subject,
)
from data_gen.synthetic.sensor import observe, place_camera, quaternions_of
from data_gen.synthetic.skeleton_text import skeleton_text
from facts.datasets import ntu_splits, parse_ntu_name
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = ["--subjects", "2", "--actions", "1", "50", "--repetitions", "1"]


def generate(folder: Path, *flags: str) -> dict[str, bytes]:
    """Run the script in this process; return name -> content of the files that it wrote."""
    make_ntu.main([*SMALL, "--out_folder", str(folder), *flags])
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def parse(text: str) -> list[list[tuple[list[str], np.ndarray]]]:
    """Return frames of bodies, each as its 10 fields and (25, 12) numbers; checks the format strictly."""
    lines = iter(text.split("\n"))
    frames = []
    for _ in range(int(next(lines))):
        bodies = []
        for _ in range(int(next(lines))):
            fields = next(lines).split(" ")
            assert len(fields) == 10
            assert next(lines) == "25"
            rows = [next(lines).split(" ") for _ in range(25)]
            assert all(len(row) == 12 and row[11] in ("1", "2") for row in rows)
            bodies.append((fields, np.array(rows, dtype=float)))
        frames.append(bodies)
    assert list(lines) == [""]
    return frames


def positions_of(action: int, subject: int = 1, difficulty: float = 1.0) -> np.ndarray:
    """Return (T, 25, 3) of the first person of one performance, before any sensor."""
    return perform(0, Performance(1, subject, 1, action), Variation(difficulty))[0].positions


def bone_lengths(positions: np.ndarray) -> np.ndarray:
    """Return (T, 24) for positions (T, 25, 3)."""
    children, parents = list(PARENTS), list(PARENTS.values())
    return np.linalg.norm(positions[:, children] - positions[:, parents], axis=-1)


def rigid_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the median distance in meters of (n, 3) points after the best rotation and shift of ``a``."""
    a, b = a - a.mean(0), b - b.mean(0)
    left, _, right = np.linalg.svd(a.T @ b)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return float(np.median(np.linalg.norm(a @ left @ flip @ right - b, axis=1)))


def test_files_depend_on_the_seed_but_not_on_workers(tmp_path: Path) -> None:
    first = generate(tmp_path / "a", "--workers", "1")
    assert first == generate(tmp_path / "b", "--workers", "2")
    assert len(first) == 2 * 2 * 3  # subjects, actions, cameras
    other = generate(tmp_path / "c", "--workers", "1", "--seed", "1")
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_clips_do_not_depend_on_the_number_of_subjects_or_actions(tmp_path: Path) -> None:
    all_files = generate(tmp_path / "a", "--workers", "1")
    some_files = generate(
        tmp_path / "b", "--workers", "1", "--subjects", "1", "--actions", "50", "--cameras", "2"
    )
    assert some_files and some_files.items() < all_files.items()


def test_files_have_all_fields_of_the_ntu_format(tmp_path: Path) -> None:
    for name, content in generate(tmp_path / "a", "--workers", "1").items():
        assert parse_ntu_name(name.removesuffix(".skeleton"))
        frames = parse(content.decode("ascii"))
        assert SHORTEST <= len(frames) <= LONGEST
        joints = np.concatenate([numbers for bodies in frames for _, numbers in bodies])
        assert np.isfinite(joints).all()
        assert (joints[:, 2] > 0.5).all() and (joints[:, 2] < 6).all()
        sizes = np.linalg.norm(joints[:, 7:11], axis=1)
        assert np.all((abs(sizes - 1) < 1e-3) | (sizes == 0))
        if name.endswith("A050.skeleton"):
            assert np.median([len(bodies) for bodies in frames]) == 2


def test_pixels_follow_the_joints(tmp_path: Path) -> None:
    content = next(iter(generate(tmp_path / "a", "--workers", "1").values()))
    x, y, z, depth_x, depth_y, color_x, color_y = parse(content.decode())[20][0][1][:, :7].T
    assert np.corrcoef(x / z, depth_x)[0, 1] > 0.999 and np.corrcoef(y / z, depth_y)[0, 1] < -0.999
    assert np.corrcoef(depth_x, color_x)[0, 1] > 0.99
    assert (depth_x > 0).all() and (depth_x < 512).all()
    assert (color_y > -100).all() and (color_y < 1180).all()


def test_frame_without_a_body_has_count_0() -> None:
    clip = observe(perform(0, Performance(1, 1, 1, 1)), place_camera(0, 1, 1), np.random.default_rng(0))
    clip.bodies[0].present[:] = True
    clip.bodies[0].present[[0, 7]] = False
    del clip.bodies[1:]
    clip = type(clip)(clip.bodies, clip.order[:, :1] * 0)
    frames = parse(skeleton_text(clip, np.random.default_rng(0)))
    assert [index for index, bodies in enumerate(frames) if not bodies] == [0, 7]


def test_bones_keep_their_length_and_differ_between_subjects() -> None:
    lengths = [bone_lengths(positions_of(action, subject=3)) for action in ACTIONS]
    # shoulders can be shrugged, all other bones are rigid
    shoulders = (JOINT["ShoulderLeft"], JOINT["ShoulderRight"])
    fixed = [index for index, child in enumerate(PARENTS) if child not in shoulders]
    together = np.concatenate(lengths)[:, fixed]
    assert np.ptp(together, axis=0).max() < 1e-9
    other = bone_lengths(positions_of(1, subject=4))[0, fixed]
    assert np.abs(other - together[0]).max() > 0.01


@pytest.mark.parametrize("subject", (1, 2, 5))
def test_resting_pose_is_upright_with_left_and_right_in_place(subject: int) -> None:
    """A person who faces the sensor has the left shoulder at the smaller x, as with a Kinect."""
    rest = sample_subject(0, subject).posture[None]
    joints = forward_kinematics(rest, sample_subject(0, subject).offsets, np.zeros((1, 3)))[0][0]
    height = {name: joints[index, 1] for name, index in JOINT.items()}
    assert height["Head"] > height["Neck"] > height["SpineShoulder"] > height["SpineMid"]
    assert height["SpineMid"] > height["SpineBase"] > height["KneeLeft"] > height["AnkleLeft"]
    assert min(height.values()) == pytest.approx(0.0, abs=1e-6)  # the feet are on the floor
    assert 1.2 < height["Head"] < 2.0
    for name in ("Shoulder", "Elbow", "Hand", "Hip", "Knee", "Ankle"):
        assert joints[JOINT[name + "Left"], 0] < joints[JOINT[name + "Right"], 0]
    # toes point to the sensor, toward smaller z
    assert joints[JOINT["FootLeft"], 2] < joints[JOINT["AnkleLeft"], 2]


def test_knees_and_elbows_bend_the_right_way() -> None:
    angles = np.zeros((1, len(CHANNELS)))
    for name in ("l_knee", "r_elbow"):
        angles[0, CHANNEL[name]] = 60.0
    joints = forward_kinematics(angles, bone_offsets(), np.zeros((1, 3)))[0][0]
    assert joints[JOINT["AnkleLeft"], 2] > joints[JOINT["KneeLeft"], 2]  # shin goes back
    assert joints[JOINT["WristRight"], 2] < joints[JOINT["ElbowRight"], 2]  # forearm forward


@pytest.mark.parametrize("name, near", [("mouth", 0.25), ("ear", 0.25), ("hat", 0.3)])
def test_hands_reach_the_head(name: str, near: float) -> None:
    angles = np.zeros((1, len(CHANNELS)))
    for channel, value in pose(name).items():
        angles[0, CHANNEL[channel]] = value
    joints = forward_kinematics(angles, bone_offsets(), np.zeros((1, 3)))[0][0]
    assert np.linalg.norm(joints[JOINT["HandRight"]] - joints[JOINT["Head"]]) < near


def test_mirror_exchanges_left_and_right() -> None:
    rng = np.random.default_rng(0)
    angles = rng.normal(0, 30, (4, len(CHANNELS)))
    angles[:, CHANNEL["support"]] = rng.uniform(-1, 1, 4)
    place = np.zeros((4, 3))
    joints = forward_kinematics(angles, bone_offsets(), place)[0]
    mirrored = forward_kinematics(mirror(angles), bone_offsets(), place)[0]
    swap = [JOINT[name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")] for name in JOINT]
    np.testing.assert_allclose(mirrored[:, swap] * (-1, 1, 1), joints, atol=1e-9)
    np.testing.assert_array_equal(mirror(mirror(angles)), angles)
    assert set(LATERAL) < set(CHANNELS)


def test_interpolation_passes_through_the_key_poses() -> None:
    keys, times = np.array([[0.0, 5.0], [10.0, -5.0], [4.0, 0.0]]), np.array([0.5, 1.0, 2.0])
    frames = np.array([0.0, 0.5, 0.75, 1.0, 2.0, 9.0])
    angles = interpolate(keys, times, frames, np.zeros(2))
    np.testing.assert_allclose(angles, [[0, 5], [0, 5], [5, 0], [10, -5], [4, 0], [4, 0]])


def test_sitting_down_and_standing_up_change_the_height_of_the_hips() -> None:
    hips = {action: positions_of(action, difficulty=0.0)[:, JOINT["SpineBase"], 1] for action in (8, 9)}
    assert hips[8].max() - hips[8][-1] > 0.25
    assert hips[9][-1] - hips[9].min() > 0.25


def test_two_person_actions_have_two_people_at_arms_length() -> None:
    for action, roles in ACTIONS.items():
        people = perform(0, Performance(1, 1, 1, action))
        assert len(people) == len(roles) == (2 if action in (50, 58) else 1)
        if len(people) == 2:
            chests = [person.positions[:, JOINT["SpineShoulder"]] for person in people]
            assert 0.4 < np.linalg.norm(chests[0] - chests[1], axis=1).mean() < 1.6


def test_cameras_record_one_motion_up_to_a_rigid_transform_and_noise() -> None:
    people = perform(0, Performance(2, 2, 1, 24))
    views = []
    for camera in (1, 2, 3):
        placed = place_camera(0, 2, camera)
        np.testing.assert_allclose(placed.rotation @ placed.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(placed.rotation) == pytest.approx(1.0)
        clean = observe(people, placed, np.random.default_rng(camera), difficulty=0.0)
        noisy = observe(people, placed, np.random.default_rng(camera), difficulty=1.0)
        views.append((clean.bodies[0].positions[:, 0], noisy.bodies[0].positions.reshape(-1, 3)))
    for clean, noisy in views[1:]:
        assert rigid_distance(clean, views[0][0]) < 1e-9
        assert 1e-4 < rigid_distance(noisy, views[0][1]) < 0.1
        assert np.abs(noisy - views[0][1]).mean() > 0.06  # raw coordinates differ


ONE_PERSON = [action for action, roles in ACTIONS.items() if len(roles) == 1]


def clips_of(variation: Variation, subjects: range = range(1, 3)) -> list[np.ndarray]:
    """Return (T, 25, 3) of the person in a clip of every action of one person, for some subjects."""
    return [
        perform(0, Performance(1, subject, 1, action), variation)[0].positions
        for subject in subjects
        for action in ONE_PERSON
    ]


def heading(positions: np.ndarray) -> np.ndarray:
    """Return (T,) the direction of the hips in degrees; positions are (T, 25, 3)."""
    x, _, z = (positions[:, JOINT["HipRight"]] - positions[:, JOINT["HipLeft"]]).T
    return np.degrees(np.arctan2(z, x))


STILL = Variation(difficulty=0.0, settle=0.0)  # no motion except the action


def moving_frames(positions: np.ndarray) -> np.ndarray:
    """Return the frames in which some joint moves by more than 5 mm; positions are (T, 25, 3)."""
    return np.flatnonzero(np.abs(np.diff(positions, axis=0)).max((1, 2)) > 0.005)


def test_idle_time_lies_before_and_after_the_action() -> None:
    """Longer idle time lengthens the still parts at both ends; the action keeps its duration."""
    idle = 4.0
    short, long = (clips_of(replace(STILL, idle=seconds)) for seconds in (DEFAULT_IDLE, idle))
    for clips, longest in ((short, DEFAULT_IDLE), (long, idle)):
        before = [moving_frames(clip)[0] / FRAMES_PER_SECOND for clip in clips]
        after = [(len(clip) - moving_frames(clip)[-1]) / FRAMES_PER_SECOND for clip in clips]
        for seconds in (before, after):
            assert 0.5 * longest < max(seconds) < longest + 1.0 and min(seconds) < 0.2 * longest
            inside = [0.2 * longest < value < 0.8 * longest for value in seconds]
            assert np.mean(inside) > 0.25  # clips are cut at random moments
    durations = [np.mean([np.ptp(moving_frames(clip)) for clip in clips]) for clips in (short, long)]
    assert 0.9 < durations[1] / durations[0] < 1.25


def test_tempo_changes_the_duration_of_the_action() -> None:
    def durations(tempo: float) -> np.ndarray:
        idle = 4.0  # long enough for no clip to be shortened
        return np.array(
            [np.ptp(moving_frames(clip)) for clip in clips_of(replace(STILL, idle=idle, tempo=tempo))]
        )

    ratios = durations(0.4) / durations(0.0)
    assert 1.25 < ratios.max() < 1.55 and 0.65 < ratios.min() < 0.8
    assert abs(np.log(ratios).mean()) < 0.1  # neither faster nor slower on average


def test_turn_rotates_the_person_in_the_first_frame_only() -> None:
    largest = 60.0
    turned = []
    for straight, clip in zip(clips_of(STILL), clips_of(replace(STILL, turn=largest))):
        angle = (heading(clip) - heading(straight) + 180) % 360 - 180
        turned.append(angle[0])
        np.testing.assert_allclose(clip[31:], straight[31:], atol=1e-9)
    assert 0.8 * largest < np.abs(turned).max() < largest
    assert min(turned) < -0.5 * largest and max(turned) > 0.5 * largest


def test_turn_rotates_the_whole_normalized_clip() -> None:
    """Normalization aligns the first frame."""
    straight, turned = (
        [normalize_clip(clip[None]) for clip in clips_of(variation)]
        for variation in (STILL, replace(STILL, turn=60.0))
    )
    distances = [
        np.linalg.norm(a[40:, :, :, 0] - b[40:, :, :, 0], axis=-1).mean() for a, b in zip(straight, turned)
    ]
    assert np.median(distances) > 0.05  # meters


def test_body_changes_height_and_limb_lengths() -> None:
    def joints(body: float) -> np.ndarray:
        """Return (20 subjects, 25, 3) in the pose in which the angles are 0."""
        rest = np.zeros((1, len(CHANNELS)))
        people = [sample_subject(0, subject, Variation(body=body)) for subject in range(1, 21)]
        return np.concatenate([forward_kinematics(rest, p.offsets, np.zeros((1, 3)))[0] for p in people])

    default, varied = joints(0.0), joints(0.2)
    scale = np.log(bone_lengths(varied) / bone_lengths(default)) / np.log(1.2)
    assert 1.0 < abs(scale).max() < 2.0  # two factors of 1.2 at most
    assert 0.45 < scale.mean(axis=1).std() < 0.8  # of the body as a whole
    assert (scale.std(axis=1) > 0.1).all()  # of the limbs, relative to the body


@pytest.mark.parametrize(
    "performance, frames, hand",
    [
        (Performance(2, 3, 1, 24), 93, (-0.442212318, 0.735482538, -0.171369304)),
        (Performance(2, 4, 1, 50), 70, (-0.494585807, 1.252334785, 0.082690207)),
    ],
)
def test_default_clips_stay_the_same(performance: Performance, frames: int, hand: tuple[float, ...]) -> None:
    positions = perform(0, performance)[0].positions
    assert len(positions) == frames
    np.testing.assert_allclose(positions[30, JOINT["HandRight"]], hand, atol=1e-6)


@pytest.mark.parametrize(
    "flags", (["--idle", "3"], ["--tempo", "0.4"], ["--turn", "60"], ["--body", "0.2"]), ids=" ".join
)
def test_flags_of_variation_change_the_files(tmp_path: Path, flags: list[str]) -> None:
    default = generate(tmp_path / "a", "--workers", "1", "--cameras", "1")
    varied = generate(tmp_path / "b", "--workers", "1", "--cameras", "1", *flags)
    assert default.keys() == varied.keys()
    assert all(default[name] != varied[name] for name in default)


def test_quaternions_describe_their_rotation() -> None:
    rng = np.random.default_rng(0)
    matrices = np.linalg.qr(rng.normal(size=(50, 3, 3)))[0]
    matrices *= np.sign(np.linalg.det(matrices))[:, None, None]
    w, x, y, z = quaternions_of(matrices).T
    np.testing.assert_allclose(w * w + x * x + y * y + z * z, 1)
    np.testing.assert_allclose(matrices[:, 0, 1], 2 * (x * y - w * z), atol=1e-9)
    np.testing.assert_allclose(matrices[:, 2, 0], 2 * (x * z - w * y), atol=1e-9)


def test_default_dataset_has_both_splits_of_every_protocol() -> None:
    args = make_ntu.parse_args([])
    performances = list(make_ntu.list_performances(args))
    assert 1000 <= len(performances) * args.cameras <= 2000
    assert len(set(performances)) == len(performances)
    names = [
        parse_ntu_name(f"S{s:03d}C{camera:03d}P{p:03d}R{r:03d}A{a:03d}")
        for s, p, r, a in performances
        for camera in range(1, args.cameras + 1)
    ]
    for protocol in ("cross_subject", "cross_view", "cross_setup"):
        for split in ("train", "val"):
            labels = {name.label for name in names if ntu_splits(name)[protocol] == split}
            assert len(labels) == len(ACTIONS), (protocol, split)


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--actions", "4"], "--actions: invalid choice: 4"),
        (["--cameras", "4"], "--cameras"),
        (["--subjects", "0"], "--subjects"),
        (["--difficulty", "-1"], "--difficulty"),
        (["--seed", "-3"], "--seed"),
        (["--idle", "-1"], "--idle"),
        (["--tempo", "3"], "--tempo"),
        (["--turn", "181"], "--turn"),
        (["--body", "1.5"], "--body"),
    ],
)
def test_invalid_flags_are_rejected(flags: list[str], word: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        make_ntu.parse_args(flags)
    assert end.value.code == 2 and word in capsys.readouterr().err


def test_only_skeleton_files_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    generate(folder, "--workers", "1", "--cameras", "1")
    with pytest.raises(UserError, match="--overwrite"):
        generate(folder, "--workers", "1")
    assert len(generate(folder, "--workers", "1", "--cameras", "2", "--overwrite")) == 8
    (folder / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="notes.txt"):
        generate(folder, "--workers", "1", "--overwrite")
    assert (folder / "notes.txt").read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]  # no temporary folder is left


@pytest.mark.parametrize(
    "folder, script", [(".", "data_gen/synthetic/make_ntu.py"), ("data_gen/synthetic", "make_ntu.py")]
)
def test_script_ends_with_a_one_line_error(folder: str, script: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "--actions", "99"], cwd=REPOSITORY / folder, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: argument --actions: invalid choice: 99")
        and done.stderr.count("\n") == 1
    )


def test_all_sampled_actions_are_valid() -> None:
    for roles in ACTIONS.values():
        for role in roles:
            for seed in range(20):
                keys = role(np.random.default_rng(seed))
                assert keys[0][0] == 0.0 and all(seconds > 0 for seconds, _ in keys[1:])
                assert all(
                    name in CHANNEL and math.isfinite(value)
                    for _, angles in keys
                    for name, value in angles.items()
                )
