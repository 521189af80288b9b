"""Make a store of your own clips, from Python:

    from data_gen.own_clips import Clip, write_store

    write_store("data/mine", num_classes=2, protocols=["cross_subject"], clips=[
        Clip("walk-anna", 0, array, {"cross_subject": "train"}),
        Clip("wave-ben", 1, other, {"cross_subject": "val"}),
    ])

An array is (frames, V joints, 3, people) in meters, zero for joints and people that are not tracked. The
joints are those of Kinect v2 unless another skeleton is given. For a 2D skeleton the third axis is x, y and
optionally the score of the pose estimator. ``data_gen/arrays_gendata.py`` does the same with files; the table
that it reads is parsed here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from data_gen.normalize import normalize_clip, stored_frames, visible_coordinates
from data_gen.sources import Issue, RawFile
from data_gen.store_writer import Clip, StoreWriter
from data_gen.units import body_size, unit_warning
from dataset.store_format import CLIP_COLUMNS, SPLITS
from facts.class_names import is_class_name
from facts.datasets import NUM_COORDINATES, NUM_PEOPLE
from facts.skeletons import KINECT_V2, Skeleton
from utils.csv_tables import read_csv
from utils.errors import BadFile, UserError, parse_errors

CLASS_NAME_COLUMN = "class_name"  # of the table of clips
MAX_CLASSES = 10_000


def write_store(
    folder: str | Path,
    clips: Iterable[Clip],
    num_classes: int,
    protocols: Sequence[str],
    normalize: bool = True,
    overwrite: bool = False,
    skeleton: Skeleton = KINECT_V2,
    class_names: Sequence[str] = (),
) -> None:
    """Write clips, whose ``frames`` are (frames, V, 3, people), as the store ``folder``.

    Args:
        folder: the store to write; its name becomes the name of the dataset.
        clips: a list, or an iterator in the order of the names, so that not all clips need to be in memory.
            Labels count from 0; ``splits`` maps protocols to "train" or "val".
        num_classes: labels are less than this.
        protocols: the names of the protocols.
        normalize: select two people, center and rotate every clip as for NTU RGB+D, or scale it if the
            skeleton is 2D. Otherwise the coordinates of at most two people are stored unchanged.
        overwrite: replace an existing store.
        skeleton: from ``facts.skeletons``: one of ``SKELETONS``, or read by ``load_skeleton``.
        class_names: one name per class, class 0 first.

    Raises:
        ValueError: a clip cannot be stored; nothing is written.
        utils.errors.UserError: the folder cannot be written; nothing is left there.
    """
    if isinstance(clips, (list, tuple)):
        clips = sorted(clips, key=lambda clip: clip.name)
    folder = Path(folder)
    # "normalise" is the key that existing stores have
    provenance = {"script": "data_gen.own_clips.write_store", "normalise": normalize}
    store = StoreWriter(folder, folder.name, num_classes, protocols, provenance, overwrite, skeleton)
    store.class_names = class_names
    with store:
        for clip in clips:
            try:
                store.add(replace(clip, frames=frames_of_array(clip.frames, normalize, skeleton)))
            except BadFile as error:
                raise ValueError(f"clip {clip.name}: {error.reason}") from error
            store.body_sizes.append(body_size(clip.frames, skeleton))
    if warning := unit_warning(store.body_sizes):
        warnings.warn(warning, stacklevel=2)


def frames_of_array(array: np.ndarray, normalize: bool = True, skeleton: Skeleton = KINECT_V2) -> np.ndarray:
    """Convert an array to the frames of a store, float32 (frames, V, 3, 2).

    Args:
        array: (frames, V, 3, people), or (frames, V, 3) for one person. For a 2D skeleton also 2 instead of
            3, and the third number is a score.
        normalize, skeleton: see ``write_store``.

    Raises:
        BadFile: the array has another shape, contains non-finite values, or has no body in any frame.
    """
    if array.ndim == 3:
        array = array[..., None]
    sizes = range(skeleton.dimensions, NUM_COORDINATES + 1)
    expected = f"(frames, {skeleton.num_joints}, {' or '.join(map(str, sizes))}, people)"
    if (
        array.ndim != 4
        or array.shape[1] != skeleton.num_joints
        or array.shape[2] not in sizes
        or not array.size
    ):
        raise BadFile(f"the array is {array.shape} instead of {expected} for the skeleton {skeleton.name}")
    if not normalize and array.shape[3] > NUM_PEOPLE:
        raise BadFile(
            f"it has {array.shape[3]} people; without normalization at most {NUM_PEOPLE} can be stored"
        )
    with parse_errors("the array does not consist of numbers", BadFile), np.errstate(invalid="ignore"):
        bodies = np.asarray(array, np.float64).transpose(3, 0, 1, 2)
    if normalize:
        return normalize_clip(bodies, skeleton)
    return stored_frames(visible_coordinates(bodies, skeleton))


@dataclass(frozen=True)
class TableRow:
    """One row of the table of clips: ``splits`` maps protocols to "train" or "val"."""

    name: str
    label: int
    splits: Mapping[str, str]
    class_name: str = ""
    file: RawFile | None = None  # with the array

    @property
    def display_name(self) -> str:
        return self.file.display_name if self.file else self.name


def read_table(path: Path, num_classes: int | None) -> tuple[dict[str, TableRow], list[str], list[Issue]]:
    """Read the table of clips, a CSV file with the columns name, label and one per protocol.

    A column class_name is optional.

    Returns the rows by name, the protocols, and the issues of invalid rows. Raises ``UserError`` if the file
    is not such a table.
    """
    advice = "see data_gen/arrays_gendata.py --help"
    table = read_csv(path, ("name", "label"), advice)
    protocols = [column for column in table.columns if column not in (*CLIP_COLUMNS, CLASS_NAME_COLUMN)]
    if not {"name", "label"} <= set(table.columns) or not protocols or "" in protocols:
        raise UserError(
            f"{path} needs the columns name, label, and one for each protocol with train or val, but has "
            f"{', '.join(table.columns)[:100] or 'none'}; {advice}"
        )
    rows: dict[str, TableRow] = {}
    left_out: list[Issue] = []
    for line, cells in table.rows:
        row = dict(zip_longest(table.columns, cells))  # column None if there are more cells than columns
        name, label = row["name"], row["label"] or ""
        splits = {protocol: cell.lower() for protocol in protocols if (cell := row[protocol])}
        if None in row:
            reason = f"{len(cells)} cells, the header has {len(table.columns)}"
        elif not name:
            reason = "the name is empty"
        elif not label.isdecimal() or int(label) >= (num_classes or MAX_CLASSES):
            reason = f"label '{label:.40}' is not a whole number from 0 to {(num_classes or MAX_CLASSES) - 1}"
        elif not set(splits.values()) <= set(SPLITS):
            reason = f"protocol columns must contain {' or '.join(SPLITS)}, or be empty"
        elif name in rows:
            reason = f"{name} is listed twice"
        else:
            rows[name] = TableRow(name, int(label), splits, row.get(CLASS_NAME_COLUMN) or "")
            continue
        left_out.append(Issue(path.name, line, reason))
    return rows, protocols, left_out


def class_names_of(rows: Iterable[TableRow], num_classes: int) -> tuple[str, ...]:
    """Return the names in the column class_name, or none if no row has one.

    Raises:
        UserError: a class has two names, or a name is too long.
    """
    names: dict[int, str] = {}
    for row in rows:
        first = names.setdefault(row.label, row.class_name) if row.class_name else ""
        if row.class_name != first or (first and not is_class_name(first)):
            names_of_class = f"{first[:40]!r} and {row.class_name[:40]!r}"
            raise UserError(f"class {row.label} has two names, or one that is too long: {names_of_class}")
    return tuple(names.get(label, f"class {label}") for label in range(num_classes)) if names else ()
