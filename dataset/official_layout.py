"""Reading the layout that the official preparation writes, in place.

    xview/train_data_joint.npy (N, 3, 300, 25, 2), train_num_frame.npy (N,), train_label.pkl,
    the same for val, and folders xsub and xsetup for the other protocols

The pickle contains a pair of lists, names and labels. It is read by ``utils.pickles``, so no code in the
file is executed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facts.datasets import MAX_FRAMES, NUM_COORDINATES, NUM_PEOPLE, parse_ntu_name
from facts.skeletons import KINECT_V2
from utils.errors import UserError, parse_errors
from utils.pickles import read_pickle

PROTOCOL_FOLDERS = {"cross_view": "xview", "cross_subject": "xsub", "cross_setup": "xsetup"}
CLIP_SHAPE = (NUM_COORDINATES, MAX_FRAMES, KINECT_V2.num_joints, NUM_PEOPLE)


def find_official(folder: Path, protocol: str, split: str) -> Path | None:
    """Return the path of ``<split>_data_joint.npy``, or None if ``folder`` does not have this layout."""
    path = folder / PROTOCOL_FOLDERS.get(protocol, protocol) / f"{split}_data_joint.npy"
    return path if path.is_file() else None


def has_official(folder: Path) -> bool:
    """Return whether ``folder`` contains any protocol in the official layout."""
    return any(find_official(folder, protocol, "train") for protocol in PROTOCOL_FOLDERS)


def read_labels(path: Path) -> tuple[list[str], np.ndarray]:
    """Read names and labels from ``<split>_label.pkl``.

    Raises ``UserError`` for any other content, and for labels that contradict NTU names: a pickle has no
    checksum of its own.
    """
    content = read_pickle(path)
    with parse_errors(f"{path} must contain two lists of the same length, names and labels from 0"):
        names, labels = (list(part) for part in content)
        names = [name.removesuffix(".skeleton") for name in names]
        array = np.array(labels)
        if len(names) != len(array) or array.dtype.kind not in "iu" or array.min() < 0:
            raise ValueError(f"{len(names)} names, {len(array)} labels of type {array.dtype}")
    parsed = [parse_ntu_name(name) for name in names]
    if any(parsed):  # otherwise they are names of another form
        known = [fields.label if fields else None for fields in parsed]
        wrong = [name for name, expected, label in zip(names, known, labels) if expected != label]
        if wrong or len(set(names)) < len(names):
            reason = f"the label of {wrong[0]!r:.40} is wrong" if wrong else "a name occurs twice"
            raise UserError(f"{path} is corrupted: {reason}; run the preparation again")
    return names, array.astype(np.int64)


def load_array(path: Path, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> np.ndarray:
    """Open a .npy as a read-only memory map.

    Raises ``UserError`` unless ``shape`` follows the first dimension and the dtype is named in ``dtypes``.
    """
    with parse_errors(f"{path} cannot be read"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.shape[1:] != shape or array.dtype.name not in dtypes:
        expected = ", ".join(["N", *map(str, shape)])
        raise UserError(f"{path} contains {array.dtype} {array.shape}, expected {dtypes[0]} ({expected})")
    return array


def open_official(path: Path) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Open the split whose frames are in ``path``, a ``<split>_data_joint.npy``.

    Returns the frames (N, 3, 300, 25, 2), a memory map, the names, the labels (N,), and the numbers of
    frames (N,), at most 300.
    """
    split = path.name.removesuffix("_data_joint.npy")
    frames = load_array(path, CLIP_SHAPE, ("float32",))
    counts = load_array(path.with_name(f"{split}_num_frame.npy"), (), ("int64", "int32"))
    names, labels = read_labels(path.with_name(f"{split}_label.pkl"))
    if not len(frames) == len(counts) == len(names):
        lengths = f"{len(frames)} clips, {len(counts)} frame counts and {len(names)} labels for '{split}'"
        raise UserError(f"{path.parent}: {lengths} do not match; run the preparation again")
    # The official preparation stores the frame count of the file, but only the first 300 frames.
    num_frames = np.clip(np.array(counts, dtype=np.int64), 1, MAX_FRAMES)
    return frames, names, labels, num_frames
