"""Reading the layout that the official preparation writes, in place.

    xview/train_data_joint.npy (N, 3, 300, 25, 2), train_num_frame.npy (N,), train_label.pkl,
    the same for val, and folders xsub and xsetup for the other protocols

The pickle contains a pair of lists, names and labels. It is read by an unpickler that accepts only
plain containers, strings and numbers, so no code in the file is executed.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from facts.datasets import (
    MAX_FRAMES,
    NUM_COORDINATES,
    NUM_PEOPLE,
    parse_ntu_name,
)
from facts.skeletons import KINECT_V2
from utils.errors import ARRAY_ERRORS, UserError

PROTOCOL_FOLDERS = {"cross_view": "xview", "cross_subject": "xsub", "cross_setup": "xsetup"}
CLIP_SHAPE = (NUM_COORDINATES, MAX_FRAMES, KINECT_V2.num_joints, NUM_PEOPLE)


class PlainUnpickler(pickle.Unpickler):
    """Rejects every class and function; only built-in containers, strings and numbers are created."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Reject the class."""
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


@dataclass(frozen=True)
class OfficialSplit:
    """One split of one protocol; the frames are a memory map."""

    frames: np.ndarray  # (N, 3, 300, 25, 2) float32
    names: list[str]
    labels: np.ndarray  # (N,) int64
    num_frames: np.ndarray  # (N,) int64, at most 300


def find_official(folder: Path, protocol: str, split: str) -> Path | None:
    """Return the path of ``<split>_data_joint.npy``, or None if ``folder`` does not have this layout."""
    path = folder / PROTOCOL_FOLDERS.get(protocol, protocol) / f"{split}_data_joint.npy"
    return path if path.is_file() else None


def has_official(folder: Path) -> bool:
    """Return whether ``folder`` contains any protocol in the official layout."""
    return any(find_official(folder, protocol, "train") for protocol in PROTOCOL_FOLDERS)


def read_labels(path: Path) -> tuple[list[str], np.ndarray]:
    """Read names and labels from ``<split>_label.pkl``; raises ``UserError`` for any other content."""
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file).load()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: the official layout has it next to the clips") from error
    except Exception as error:  # a corrupted pickle can raise almost anything
        raise UserError(f"{path} is not a list of names and labels ({error}); it was not loaded") from error
    plain = (
        isinstance(content, (tuple, list))
        and len(content) == 2
        and all(isinstance(part, (tuple, list)) for part in content)
        and len(content[0]) == len(content[1])
        and all(isinstance(name, str) for name in content[0])
        and all(type(label) is int and 0 <= label < 2**31 for label in content[1])
    )
    if not plain:
        raise UserError(f"{path} must contain two lists of the same length, names and labels from 0")
    names = [name.removesuffix(".skeleton") for name in content[0]]
    check_names(path, names, content[1])
    return names, np.array(content[1], dtype=np.int64)


def check_names(path: Path, names: list[str], labels: list[int]) -> None:
    """Raise ``UserError`` if labels contradict NTU names; a pickle has no checksum of its own.

    Nothing is checked if no name has NTU's form.
    """
    parsed = [parse_ntu_name(name) for name in names]
    if not any(parsed):
        return
    for name, fields, label in zip(names, parsed, labels):
        if fields is None or fields.label != label:
            raise UserError(
                f"{path} is corrupted: {name!r:.40} is not the name of an NTU clip with label {label} (A001 "
                "has label 0); run the preparation again"
            )
    if len(set(names)) < len(names):
        raise UserError(f"{path} is corrupted: a name occurs twice; run the preparation again")


def load_array(path: Path, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> np.ndarray:
    """Open a .npy as a memory map; raises ``UserError`` unless shape ``(N, *shape)`` and dtype match."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except ARRAY_ERRORS as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    if array.shape[1:] != shape or array.dtype.name not in dtypes:
        expected = ", ".join(["N", *map(str, shape)])
        raise UserError(f"{path} contains {array.dtype} {array.shape}, expected {dtypes[0]} ({expected})")
    return array


def open_official(path: Path) -> OfficialSplit:
    """Open the split whose frames are in ``path``, a ``<split>_data_joint.npy``."""
    split = path.name.removesuffix("_data_joint.npy")
    frames = load_array(path, CLIP_SHAPE, ("float32",))
    counts = load_array(path.with_name(f"{split}_num_frame.npy"), (), ("int64", "int32"))
    names, labels = read_labels(path.with_name(f"{split}_label.pkl"))
    if not len(frames) == len(counts) == len(names):
        raise UserError(
            f"{path.parent}: {len(frames)} clips, {len(counts)} frame counts and {len(names)} labels for "
            f"'{split}' do not match; run the preparation again"
        )
    # The official preparation stores the frame count of the file, but only the first 300 frames.
    num_frames = np.clip(np.array(counts, dtype=np.int64), 1, MAX_FRAMES)
    return OfficialSplit(frames, names, labels, num_frames)
