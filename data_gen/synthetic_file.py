"""Write a recording as NTU RGB+D's ``.skeleton`` text, all fields filled.

A file is: the number of frames; per frame the number of bodies; per body a line of 10 fields
(tracking id, clipped edges, confidence and state of either hand, restricted, lean x and y,
tracking state), a line ``25``, and 25 lines of 12 fields (x y z in metres, the joint's pixel in
the depth and in the colour image, orientation as w x y z, tracking state).
"""

from __future__ import annotations

import numpy as np

from data_gen.synthetic_body import JOINT
from data_gen.synthetic_sensor import Recording, TrackedBody

# Kinect v2 as commonly calibrated: focal length and centre in pixels; y grows downwards
_DEPTH_CAMERA = (365.5, 257.0, 205.0)
_COLOUR_CAMERA = (1061.0, 962.0, 538.0)
_COLOUR_BASELINE = 0.052  # metres from the depth to the colour camera

_JOINT_LINE = "%.6f %.6f %.6f %.2f %.2f %.2f %.2f %.4f %.4f %.4f %.4f %d\n"
_BODY_LINES = "{id} 0 {left} {right} 0 %.5f %.5f 2\n25\n" + 25 * _JOINT_LINE
_HAND_STATES = ("0 0", "0 1", "1 2", "1 3")  # confidence and unknown, not tracked, open, closed
_FIRST_ID = 72057594037927936  # 2**56, as Kinect counts bodies


def _pixels(positions: np.ndarray, camera: tuple[float, float, float], shift: float = 0.0
            ) -> np.ndarray:
    """(T, 25, 3) metres -> (T, 25, 2) pixels."""
    focal, centre_x, centre_y = camera
    depth = np.maximum(positions[..., 2], 0.3)
    return np.stack([centre_x + focal * (positions[..., 0] + shift) / depth,
                     centre_y - focal * positions[..., 1] / depth], axis=-1)


def _numbers(body: TrackedBody) -> np.ndarray:
    """(T, 2 + 25 * 12): the two leans and the joint lines of one body."""
    positions = body.positions
    joints = np.concatenate([
        positions, _pixels(positions, _DEPTH_CAMERA),
        _pixels(positions, _COLOUR_CAMERA, _COLOUR_BASELINE),
        body.quaternions, body.states[..., None]], axis=-1)
    spine = positions[:, JOINT["SpineShoulder"]] - positions[:, JOINT["SpineBase"]]
    lean = np.clip(spine[:, [0, 2]] / np.linalg.norm(spine, axis=1, keepdims=True), -1, 1)
    return np.concatenate([lean * (1.0, -1.0), joints.reshape(len(joints), -1)], axis=1)


def skeleton_text(recording: Recording, rng: np.random.Generator) -> str:
    """The whole file. One format string and one flat list: the fastest way to print numbers."""
    formats, numbers = [], []
    for body in recording.bodies:
        left, right = rng.choice(_HAND_STATES, 2)
        formats.append(_BODY_LINES.format(
            id=_FIRST_ID + int(rng.integers(10**4, 10**5)), left=left, right=right))
        numbers.append(_numbers(body))
    present = np.stack([body.present for body in recording.bodies])
    lines, values = [f"{len(recording.order)}\n"], []
    for frame, order in enumerate(recording.order):
        there = [index for index in order if present[index, frame]]
        lines.append(f"{len(there)}\n")
        for index in there:
            lines.append(formats[index])
            values.append(numbers[index][frame])
    if not values:
        return "".join(lines)
    return "".join(lines) % tuple(np.concatenate(values).tolist())
