"""Write a clip as the text of an NTU ``.skeleton`` file, with all fields.

A file contains the number of frames; per frame the number of bodies; per body a line of 10 fields (tracking
ID, clipped edges, confidence and state of each hand, restricted, lean x and y, tracking state), a line
``25``, and 25 lines of 12 fields (x y z in meters, the pixel of the joint in the depth and in the color
image, orientation as w x y z, tracking state).
"""

from __future__ import annotations

import numpy as np

from data_gen.synthetic.body import JOINT, NUM_JOINTS
from data_gen.synthetic.sensor import SensorClip, TrackedBody

# Kinect v2 as commonly calibrated: focal length and center in pixels; y increases downward
_DEPTH_CAMERA = (365.5, 257.0, 205.0)
_COLOR_CAMERA = (1061.0, 962.0, 538.0)
_COLOR_BASELINE = 0.052  # meters from the depth to the color camera

_JOINT_LINE = "%.6f %.6f %.6f %.2f %.2f %.2f %.2f %.4f %.4f %.4f %.4f %d\n"
_BODY_LINES = f"{{id}} 0 {{left}} {{right}} 0 %.5f %.5f 2\n{NUM_JOINTS}\n" + NUM_JOINTS * _JOINT_LINE
_HAND_STATES = ("0 0", "0 1", "1 2", "1 3")  # confidence, and state: unknown, not tracked, open, closed
_FIRST_ID = 72057594037927936  # 2**56, as Kinect numbers bodies


def skeleton_text(clip: SensorClip, rng: np.random.Generator) -> str:
    """Return the content of the file.

    All numbers are formatted at once, by one long format string: the fastest way to print them.
    """
    formats, numbers = [], []
    for body in clip.bodies:
        left, right = rng.choice(_HAND_STATES, 2)
        body_id = _FIRST_ID + int(rng.integers(10**4, 10**5))
        formats.append(_BODY_LINES.format(id=body_id, left=left, right=right))
        numbers.append(_body_numbers(body))
    present = np.stack([body.present for body in clip.bodies])
    lines, values = [f"{len(clip.order)}\n"], []
    for frame, order in enumerate(clip.order):
        listed = [index for index in order if present[index, frame]]
        lines.append(f"{len(listed)}\n")
        for index in listed:
            lines.append(formats[index])
            values.append(numbers[index][frame])
    if not values:
        return "".join(lines)
    return "".join(lines) % tuple(np.concatenate(values).tolist())


def _body_numbers(body: TrackedBody) -> np.ndarray:
    """Return (T, 2 + 25 * 12): the two leans and the joint lines of one body."""
    positions = body.positions
    joints = np.concatenate(
        [
            positions,
            _pixels(positions, _DEPTH_CAMERA),
            _pixels(positions, _COLOR_CAMERA, _COLOR_BASELINE),
            body.quaternions,
            body.states[..., None],
        ],
        axis=-1,
    )
    spine = positions[:, JOINT["SpineShoulder"]] - positions[:, JOINT["SpineBase"]]
    lean = np.clip(spine[:, [0, 2]] / np.linalg.norm(spine, axis=1, keepdims=True), -1, 1)
    return np.concatenate([lean * (1.0, -1.0), joints.reshape(len(joints), -1)], axis=1)


def _pixels(positions: np.ndarray, camera: tuple[float, float, float], shift: float = 0.0) -> np.ndarray:
    """Project (T, 25, 3) meters to (T, 25, 2) pixels; ``shift`` moves the camera, in meters."""
    focal, center_x, center_y = camera
    depth = np.maximum(positions[..., 2], 0.3)
    return np.stack(
        [
            center_x + focal * (positions[..., 0] + shift) / depth,
            center_y - focal * positions[..., 1] / depth,
        ],
        axis=-1,
    )
