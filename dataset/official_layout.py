"""Reads, in place, the layout that the authors' preparation writes.

    xview/train_data_joint.npy (N, 3, 300, 25, 2), train_num_frame.npy (N,), train_label.pkl,
    the same for val, and folders xsub and xsetup for the other protocols

The pickle holds a pair of lists, names and labels. It is read by an unpickler that knows plain
containers, strings and numbers only: nothing in the file can run.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from options.datasets import (
    MAX_FRAMES, NUM_COORDINATES, NUM_JOINTS, NUM_PEOPLE, parse_ntu_name,
)
from options.errors import UserError

PROTOCOL_FOLDERS = {"cross_view": "xview", "cross_subject": "xsub", "cross_setup": "xsetup"}
CLIP_SHAPE = (NUM_COORDINATES, MAX_FRAMES, NUM_JOINTS, NUM_PEOPLE)


class PlainUnpickler(pickle.Unpickler):
    """Refuses every class and function: only what pickle builds by itself comes out."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


@dataclass(frozen=True)
class OfficialSplit:
    """One split of one protocol; the clips stay on disk."""

    frames: np.ndarray  # (N, 3, 300, 25, 2) float32, a memory map
    names: list[str]
    labels: np.ndarray  # (N,) int64
    num_frames: np.ndarray  # (N,) int64, at most 300


def find_official(folder: Path, protocol: str, split: str) -> Path | None:
    """The path of ``<split>_data_joint.npy``, or None where ``folder`` has no such layout."""
    path = folder / PROTOCOL_FOLDERS.get(protocol, protocol) / f"{split}_data_joint.npy"
    return path if path.is_file() else None


def has_official(folder: Path) -> bool:
    """Whether ``folder`` has any protocol in the released layout."""
    return any(find_official(folder, protocol, "train") for protocol in PROTOCOL_FOLDERS)


def read_labels(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and labels of ``<split>_label.pkl``, checked to be just that."""
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file).load()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the released layout has it beside the clips")
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is no list of names and labels ({error}); it was not loaded")
    plain = (
        isinstance(content, (tuple, list)) and len(content) == 2
        and all(isinstance(part, (tuple, list)) for part in content)
        and len(content[0]) == len(content[1])
        and all(isinstance(name, str) for name in content[0])
        and all(type(label) is int and 0 <= label < 2**31 for label in content[1])
    )
    if not plain:
        raise UserError(f"{path} must hold a pair of equally long lists, names and labels from 0")
    names = [name.removesuffix(".skeleton") for name in content[0]]
    check_names(path, names, content[1])
    return names, np.array(content[1], dtype=np.int64)


def check_names(path: Path, names: list[str], labels: list[int]) -> None:
    """Hold labels against names: a pickle has no checksum, but NTU's names say the action.

    Names of another form are left as they are, where all are.
    """
    parsed = [parse_ntu_name(name) for name in names]
    if not any(parsed):
        return
    for name, fields, label in zip(names, parsed, labels):
        if fields is None or fields.label != label:
            raise UserError(
                f"{path} is damaged: {name!r:.40} is no name of an NTU clip with label {label} (A001 has "
                "label 0); make it again"
            )
    if len(set(names)) < len(names):
        raise UserError(f"{path} is damaged: a name is there twice; make it again")


def load_array(path: Path, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> np.ndarray:
    """A .npy as a memory map, refused unless it has ``shape`` (after N) and one of ``dtypes``."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error})")
    if array.shape[1:] != shape or array.dtype.name not in dtypes:
        wanted = ", ".join(["N", *map(str, shape)])
        raise UserError(f"{path} holds {array.dtype} {array.shape}, not {dtypes[0]} ({wanted})")
    return array


def open_official(path: Path) -> OfficialSplit:
    """Open the split whose clips are ``path``, a ``<split>_data_joint.npy``."""
    split = path.name.removesuffix("_data_joint.npy")
    frames = load_array(path, CLIP_SHAPE, ("float32",))
    counts = load_array(path.with_name(f"{split}_num_frame.npy"), (), ("int64", "int32"))
    names, labels = read_labels(path.with_name(f"{split}_label.pkl"))
    if not len(frames) == len(counts) == len(names):
        raise UserError(
            f"{path.parent}: {len(frames)} clips, {len(counts)} frame counts and {len(names)} "
            f"labels for '{split}' do not belong together; make them again"
        )
    # The released preparation counts the frames of the file, of which it keeps 300.
    num_frames = np.clip(np.array(counts, dtype=np.int64), 1, MAX_FRAMES)
    return OfficialSplit(frames, names, labels, num_frames)
