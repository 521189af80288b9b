"""Read the files of pose estimators and of Kinect datasets: who is where in each frame, then tracks.

The formats are listed in ``data_gen/poses_gendata.py``. JSON is told apart by its content, not by its name.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_gen.sources import Issue, RawFile
from facts.skeletons import KINECT_V1
from utils.errors import BadFile, parse_errors

KINETICS_PIXELS = 340, 256  # width and height of the videos, to which coordinates are relative
SCORE_RANGE = -0.5, 1.5  # the peak of a heatmap can be just outside of [0, 1]
LANDMARK_KEYS = (  # of MediaPipe, those in meters first
    *("pose_world_landmarks", "poseWorldLandmarks", "world_landmarks", "worldLandmarks"),
    *("pose_landmarks", "poseLandmarks", "landmarks", "landmark", "frames"),
)
MAX_SPAN = 20  # frame numbers further apart than this, on average, are not those of a video
GATE = 0.5  # a track continues within this distance, relative to the size of the person
VELOCITY_FRAMES, MAX_PREDICTED = 15, 10  # frames that determine the velocity, and to which it applies
FRAME_FILE = re.compile(r"frame_?(\d+)")  # of NW-UCLA
_FRAME_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class Person:
    """One person in one frame: ``joints`` (V, C), ``scores`` (V,), and the number of the track, if any."""

    joints: np.ndarray
    scores: np.ndarray
    track: Hashable = None

    @property
    def seen(self) -> np.ndarray:
        """Which joints are not missing, (V,)."""
        return self.scores > 0


Frames = dict[int, list[Person]]  # by the number of the frame


@dataclass(frozen=True, order=True)
class ClipFiles(RawFile):
    """The files of one clip, and what they say about it; ``name`` and ``full_name`` are those of the clip."""

    parts: tuple[RawFile, ...] = field(default=(), compare=False)  # one, or one per frame
    frames: tuple[int, int] | None = field(default=None, compare=False)  # first and last, of a part of a file
    label: int | None = field(default=None, compare=False)
    class_name: str = field(default="", compare=False)
    splits: Mapping[str, str] = field(default_factory=dict, compare=False)


def make_person(joints: Any, scores: Any = None, track: Hashable = None) -> Person:
    """Return a person; joints that are NaN, or zero without ``scores``, are missing."""
    points = np.array(joints, np.float64)
    known = np.isfinite(points).all(axis=1)
    values = points.any(axis=1) if scores is None else np.array(scores, np.float64).reshape(len(points))
    return Person(np.where(known[:, None], points, 0), np.where(known, np.nan_to_num(values), 0), track)


def person_of_triples(numbers: Sequence[float], track: Hashable = None) -> Person:
    """Return a person from x, y and score of each joint."""
    x_y, scores = np.split(np.array(numbers, np.float64).reshape(-1, 3), [2], axis=1)
    if not SCORE_RANGE[0] <= np.nanmin(scores) <= np.nanmax(scores) <= SCORE_RANGE[1]:
        reason = f"from {np.nanmin(scores):.3g} to {np.nanmax(scores):.3g}, not from 0 to 1"
        raise BadFile(f"the third number of a joint is a score, but here it is {reason}")
    return make_person(x_y, scores, track)


def frame_number(name: Any) -> int:
    """Return the last number in a name, such as 12 of ``clip_000012.jpg`` without its suffix."""
    match = _FRAME_NUMBER.search(re.sub(r"\.\w*$", "", str(name)))
    if match is None:
        raise BadFile(f"'{name!s:.40}' contains no frame number")
    return int(match[1])


# Formats


def read_frames(clip: ClipFiles) -> tuple[Frames, list[Issue]]:
    """Return the people by frame, and the issues of damaged files; raises ``BadFile`` if all are damaged."""
    frames: Frames = {}
    issues = []
    for part in clip.parts:
        try:
            with parse_errors("cannot be read as poses", BadFile):
                found = {".json": read_json, ".npy": read_landmarks, ".txt": read_text}[part.suffix](part)
        except BadFile as error:
            issues.append(Issue.of(error, part.display_name, failed_clips=0))
            if len(issues) == len(clip.parts):
                raise
            continue
        if len(clip.parts) > 1:
            match = FRAME_FILE.match(part.name)
            number = int(match[1]) if match else frame_number(part.name.removesuffix("_keypoints"))
            found = {number: sum(found.values(), [])}
        frames |= found
    first, last = clip.frames or (min(frames, default=0), max(frames, default=0))
    return {number: frames[number] for number in sorted(frames) if first <= number <= last}, issues


def read_json(file: RawFile) -> Frames:
    """Read a JSON file of any of the formats."""
    content = json.loads(file.read())
    if isinstance(content, dict):
        if "people" in content:
            return {0: [person_of_openpose(item) for item in content["people"] if item["pose_keypoints_2d"]]}
        if "data" in content:
            return {int(frame["frame_index"]): read_kinetics(frame) for frame in content["data"]}
        content = content.get("instance_info", content)
    if not isinstance(content, (dict, list)) or not content:
        raise BadFile("it contains no poses of a known format")
    first = content[0] if isinstance(content, list) and isinstance(content[0], dict) else {}
    if "instances" in first:
        return {int(frame.get("frame_id", i)): read_mmpose(frame) for i, frame in enumerate(content)}
    if "image_id" in first:
        frames: Frames = defaultdict(list)
        for item in content:
            track = item.get("idx", item.get("track_id"))
            track = None if track is None else float(np.ravel(track)[0])
            frames[frame_number(item["image_id"])].append(person_of_triples(item["keypoints"], track))
        return frames
    while isinstance(content, dict):
        content = content[next(key for key in LANDMARK_KEYS if key in content)]
    return {i: people_of_landmarks(frame) for i, frame in enumerate(content)}


def person_of_openpose(person: Mapping[str, Any]) -> Person:
    """Read one of the ``people`` of OpenPose; its ID is -1 unless it tracks them."""
    track = np.ravel(person.get("person_id", -1)).tolist()[:1]
    return person_of_triples(person["pose_keypoints_2d"], track[0] if track and track[0] != -1 else None)


def read_kinetics(frame: Mapping[str, Any]) -> list[Person]:
    """Read one frame of Kinetics-skeleton, in pixels."""
    poses = ((np.reshape(item["pose"], (-1, 2)), item["score"]) for item in frame["skeleton"])
    return [make_person(pose * KINETICS_PIXELS, score) for pose, score in poses]


def read_mmpose(frame: Mapping[str, Any]) -> list[Person]:
    """Read one frame of the predictions of MMPose."""
    people = frame["instances"]
    return [make_person(item["keypoints"], item["keypoint_scores"], item.get("track_id")) for item in people]


def people_of_landmarks(frame: Any) -> list[Person]:
    """Read one frame of MediaPipe: the landmarks of one or several people, or nothing."""
    while isinstance(frame, dict):
        frame = frame[next(key for key in LANDMARK_KEYS if key in frame)]
    if not frame:
        return []
    if isinstance(frame[0], dict) and "x" in frame[0]:
        frame = [[*map(point.get, "xyz"), point.get("visibility", 1)] for point in frame]
    if np.ndim(frame[0]) == 1 and not isinstance(frame[0][0], dict):
        return [person_of_landmarks(np.array(frame, np.float64))]
    return [person for item in frame for person in people_of_landmarks(item)]


def person_of_landmarks(points: np.ndarray) -> Person:
    """Read x, y, z and optionally visibility and presence of the joints of a person, (V, 3 to 5)."""
    return make_person(points[:, :3], points[:, 3] if points.shape[1] > 3 else None)


def read_landmarks(file: RawFile) -> Frames:
    """Read an array (frames, joints, 3 to 5), or (frames, people, joints, 3 to 5)."""
    array = file.read_array()
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or not 3 <= array.shape[3] <= 5:
        raise BadFile(f"the array is {array.shape} instead of (frames, joints, 3 to 5)")
    return {i: [person_of_landmarks(points) for points in frame] for i, frame in enumerate(array)}


def read_text(file: RawFile) -> Frames:
    """Read 20 joints of Kinect v1 per person: a line per frame, with or without its number, or per joint.

    A fourth number of a joint is its confidence or state: 0 if it is missing. Shorter lines are headers.
    """
    V = KINECT_V1.num_joints
    text = file.read().decode("utf-8-sig").replace(",", " ")
    rows = [[float(word) for word in line.split()] for line in text.splitlines()]
    rows = [row for row in rows if len(row) >= 3]
    if not rows:
        return {0: []}
    width = len(rows[0])
    if {*map(len, rows)} not in ({3}, {4}, {3 * V}, {3 * V + 1}, {4 * V}) or (width < 5 and len(rows) % V):
        raise BadFile(f"the lines are not those of frames or joints of {V} joints")
    has_numbers = width == 3 * V + 1
    numbers = [int(row[0]) for row in rows] if has_numbers else range(len(rows))
    joints = np.array(rows)[:, int(has_numbers) :].reshape(-1, V, 4 if width in (4, 4 * V) else 3)
    people = [person_of_landmarks(points) for points in joints]
    if FRAME_FILE.match(file.name):
        return {0: people}
    return {number: [person] for number, person in reversed([*zip(numbers, people)])}


# Tracks


Track = list[tuple[int, Person]]  # a person over time: the frames that show the person, in ascending order


def distance(track: Track, frame: int, person: Person) -> float:
    """Return how far a person is from where the track is expected, relative to the allowed distance."""
    (start, first), (end, last) = track[max(len(track) - VELOCITY_FRAMES, 0)], track[-1]
    common, gap = first.seen & last.seen, frame - end
    moved = (last.joints - first.joints)[common].sum(axis=0) / max(common.sum(), 1)
    expected = last.joints + moved / max(end - start, 1) * min(gap, MAX_PREDICTED)
    common = last.seen & person.seen
    if not common.any():
        return np.inf
    away = np.linalg.norm((person.joints - expected)[common], axis=1).mean()
    size = np.linalg.norm(np.ptp(last.joints[last.seen], axis=0))
    return float(away / max(size * GATE * (1 + min(gap, 3 * MAX_PREDICTED) / MAX_PREDICTED), 1e-9))


def find_tracks(frames: Sequence[Sequence[Person]]) -> list[Track]:
    """Return the tracks of people: by their numbers in the file, or by the nearest person of the next frame.

    The numbers are used if all people have one, and no two in a frame the same.
    """
    ids = [[person.track for person in people] for people in frames]
    if all(None not in some and len({*some}) == len(some) for some in ids):
        tracks: dict[Hashable, Track] = defaultdict(list)
        for frame, people in enumerate(frames):
            for person in people:
                tracks[person.track].append((frame, person))
        return list(tracks.values())
    found: list[Track] = []
    for frame, people in enumerate(frames):
        distances = np.array([[distance(track, frame, person) for person in people] for track in found])
        free = set(range(len(people)))
        while distances.size and distances.min() <= 1:
            track, number = np.unravel_index(distances.argmin(), distances.shape)
            found[track].append((frame, people[number]))
            distances[track], distances[:, number] = np.inf, np.inf
            free.discard(int(number))
        found += [[(frame, people[number])] for number in sorted(free)]
    return found


def in_order(frames: Frames) -> list[list[Person]]:
    """Return the frames from the first to the last one with a person; frames that are not listed are empty.

    Numbers may have any constant distance. If they are too far apart for a video, only their order counts.
    """
    numbers = [number for number, people in frames.items() if people]
    if not numbers:
        raise BadFile("no body in any frame")
    inside = [number for number in sorted(frames) if numbers[0] <= number <= numbers[-1]]
    step = int(np.gcd.reduce(np.diff(inside))) if len(inside) > 1 else 1
    every = range(inside[0], inside[-1] + 1, step)
    return [frames.get(number, []) for number in (every if len(every) <= MAX_SPAN * len(inside) else inside)]


def array_of_frames(frames: Frames, min_score: float) -> tuple[np.ndarray, list[str]]:
    """Return the tracks as an array (frames, V, C, people), zero for what is missing, and what was dropped.

    Joints of a score below ``min_score`` are missing. Raises ``BadFile`` if no joint is left, or the numbers
    of joints differ.
    """
    low = total = 0
    kept: Frames = {}
    for number, people in sorted(frames.items()):
        kept[number] = []
        for person in people:
            is_low = person.seen & (person.scores < min_score)
            low, total = low + int(is_low.sum()), total + int(person.seen.sum())
            person = Person(person.joints, np.where(is_low, 0, person.scores), person.track)
            if person.seen.any():
                kept[number].append(person)
    ordered = in_order(kept)
    shapes = {person.joints.shape for people in ordered for person in people}
    if len(shapes) > 1:
        raise BadFile(f"people have different numbers of joints: {', '.join(map(str, sorted(shapes)))}")
    tracks = find_tracks(ordered)
    array = np.zeros((len(ordered), *shapes.pop(), len(tracks)))
    for number, track in enumerate(tracks):
        for frame, person in track:
            array[frame, ..., number] = np.where(person.seen[:, None], person.joints, 0)
    empty = sum(not people for people in ordered)
    present = [number for number, people in kept.items() if people]
    outside = sum(not present[0] <= number <= present[-1] for number in kept)
    counts = {
        f"{low} of {total} joints have a score below {min_score:g}": low,
        f"{empty} of {len(ordered)} frames show nobody": empty,
        f"{outside} frames before and after show nobody and are left out": outside,
        f"of {len(tracks)} people the two with the most motion are kept": len(tracks) > 2,
    }
    return array, [text for text, count in counts.items() if count]
