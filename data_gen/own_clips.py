"""Make a store of your own clips, from Python:

    from data_gen.own_clips import Clip, write_store

    write_store("data/mine", num_classes=2, protocols=["cross_subject"], clips=[
        Clip("walk-anna", 0, array, {"cross_subject": "train"}),
        Clip("wave-ben", 1, other, {"cross_subject": "val"}),
    ])

An array is (frames, V joints, 3, people) in meters, NaN or zero for joints and people that are missing. The
joints are those of Kinect v2 unless another skeleton is given. For a 2D skeleton the third axis is x and y.
The score of a pose estimator may follow the coordinates. ``data_gen/arrays_gendata.py`` does the same with
files; the table that it reads is parsed here.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from data_gen.normalize import interpolate_gaps, normalize_clip, stored_frames
from data_gen.sources import Issue, RawFile
from data_gen.store_writer import Clip, FileResult, StoreWriter
from dataset.store_format import CLIP_COLUMNS, MAX_CLASSES, NO_LABEL, SPLIT_NAMES
from facts.class_names import is_class_name
from facts.datasets import NUM_PEOPLE
from facts.skeletons import KINECT_V2, Skeleton
from utils.csv_tables import read_csv
from utils.errors import BadFile, UserError, parse_errors


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
        clips: may be an iterator. Labels count from 0; ``splits`` maps protocols to "train" or "val".
        num_classes: labels are less than this.
        protocols: their names.
        normalize: select two people, center and rotate every clip as for NTU RGB+D, or scale it if the
            skeleton is 2D. Otherwise the coordinates of at most two people are stored unchanged.
        overwrite: replace an existing store.
        skeleton: one of ``facts.skeletons.SKELETONS``, or read by ``load_skeleton``.
        class_names: one name per class, class 0 first.

    Raises:
        ValueError: a clip cannot be stored; nothing is written.
        utils.errors.UserError: the folder cannot be written; nothing is left there.
    """
    folder = Path(folder)
    # "normalise" is the key that existing stores have
    provenance = {"script": "data_gen.own_clips.write_store", "normalise": normalize}
    store = StoreWriter(folder, folder.name, num_classes, protocols, provenance, overwrite, skeleton)
    store.class_names = class_names
    with store:
        for clip in clips:
            try:
                store.add_result(prepare_clip(clip, clip.name, normalize, skeleton))
            except BadFile as error:
                raise ValueError(f"clip {clip.name}: {error.reason}") from error
    if warning := store.units.warning():
        warnings.warn(warning, stacklevel=2)


def prepare_clip(
    clip: Clip, display_name: str, normalize: bool = True, skeleton: Skeleton = KINECT_V2
) -> FileResult:
    """Convert a clip whose ``frames`` are an array, see ``frames_of_array``, to one of a store.

    A person who is missing for longer than can be interpolated is noted. Raises ``BadFile``.
    """
    bodies = bodies_of_array(clip.frames, normalize, skeleton)
    x_y, z = bodies[..., :2], bodies[..., 2:]
    is_normalized = bool(x_y.min() >= 0 and x_y.max() <= 1 and np.abs(z).max(initial=0) <= 1)
    gap = max(map(interpolate_gaps, bodies)) if normalize else 0
    frames = normalize_clip(bodies, skeleton) if normalize else stored_frames(bodies)
    note = Issue(display_name, None, f"a person is missing in {gap} frames in a row, which stay empty")
    clip = replace(clip, frames=frames, is_normalized=is_normalized)
    return FileResult([clip], notes=[note] if gap else [])


def frames_of_array(array: np.ndarray, normalize: bool = True, skeleton: Skeleton = KINECT_V2) -> np.ndarray:
    """Convert an array to the frames of a store, float32 (frames, V, 3, 2); see ``write_store``.

    ``array`` is (frames, V, C, people), or (frames, V, C) for one person; NaN or zero for what is missing. C
    is 3 or, for a 2D skeleton, 2 coordinates; a score may follow. Raises ``BadFile`` for anything else.
    """
    return prepare_clip(Clip("", 0, array, {}), "", normalize, skeleton).clips[0].frames


def bodies_of_array(array: np.ndarray, normalize: bool, skeleton: Skeleton) -> np.ndarray:
    """Return a copy of the coordinates, float64 (people, frames, V, C), zero for what is missing."""
    if array.ndim == 3:
        array = array[..., None]
    sizes = (skeleton.dimensions, skeleton.dimensions + 1)
    shape = array.shape[1:3] if array.ndim == 4 and array.size else ()
    if shape not in [(skeleton.num_joints, size) for size in sizes]:
        expected = f"(frames, {skeleton.num_joints}, {' or '.join(map(str, sizes))}, people)"
        raise BadFile(f"the array is {array.shape} instead of {expected} for the skeleton {skeleton.name}")
    if not normalize and array.shape[3] > NUM_PEOPLE:
        reason = f"without normalization at most {NUM_PEOPLE} can be stored"
        raise BadFile(f"it has {array.shape[3]} people; {reason}")
    with parse_errors("the array does not consist of numbers", BadFile), np.errstate(invalid="ignore"):
        bodies = np.array(array, np.float64).transpose(3, 0, 1, 2)
    bodies[np.isnan(bodies).any(axis=-1)] = 0
    if not bodies.any():
        raise BadFile("no body in any frame")
    coordinates, scores = bodies[..., : skeleton.dimensions], bodies[..., skeleton.dimensions :]
    if not scores.size:
        return coordinates
    if scores.min() < 0 or scores.max() > 1 or not scores.any():
        order, axes = ("third", "x and y") if skeleton.dimensions == 2 else ("fourth", "x, y and z")
        advice = "for 3D joints, choose or define a 3D skeleton with --skeleton (docs/data.md); otherwise "
        raise BadFile(
            f"the {order} number of a joint of {skeleton.name} is a score from 0 to 1, and not 0 for all, "
            f"but here it is from {scores.min():.3g} to {scores.max():.3g}: "
            f"{advice if skeleton.dimensions == 2 else ''}give {axes} only"
        )
    return np.where(scores > 0, coordinates, 0)


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


@dataclass
class ClipTable:
    """The clips to store, each with its file, and what the store says about them."""

    rows: list[TableRow] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    left_out: list[Issue] = field(default_factory=list)
    notes: list[Issue] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        """The largest label + 1; 0 without labels."""
        return max((row.label for row in self.rows), default=NO_LABEL) + 1


def read_table(path: Path, num_classes: int | None, needs_split: bool = True) -> ClipTable:
    """Read the table of clips, a CSV file with the columns name, label, class_name and one per protocol.

    The splits are train and val, also called validation or test; beside val, test is in no split. Labels and
    class_name are optional. Columns without a name, such as the index of pandas, are ignored, and so are
    those without any split, with a note. Rows that have the same name are all left out. Raises ``UserError``
    if the file is not such a table.
    """
    advice = "see data_gen/arrays_gendata.py --help"
    table = read_csv(path, ("name",), advice)
    rows = {line: dict(zip_longest(table.columns, cells, fillvalue="")) for line, cells in table.rows}
    too_long = {line for line, cells in table.rows if len(cells) > len(table.columns)}
    names = Counter(row["name"] for row in rows.values())
    found = ClipTable()
    for column in table.columns:
        values = {row[column].lower() for row in rows.values()} - {""}
        known = values & SPLIT_NAMES.keys()
        if column in (*CLIP_COLUMNS, "class_name", "") or column.startswith("Unnamed:"):
            continue
        if values and not known:
            reason = f"the column {column} contains neither train nor val and is ignored"
            found.notes.append(Issue(path.name, None, reason))
            continue
        found.protocols.append(column)
        if "test" in known and known & {"val", "validation"}:
            reason = f"{column} has clips in val and in test; test is left out"
            found.notes.append(Issue(path.name, None, reason))
            for row in rows.values():
                row[column] = "" if row[column].lower() == "test" else row[column]
    if not found.protocols and needs_split:
        columns = ", ".join(table.columns)[:100]
        raise UserError(f"{path} has no column with train or val, for a protocol, but {columns}; {advice}")
    max_classes = num_classes or MAX_CLASSES
    for line, row in rows.items():
        name, label = row["name"], row.get("label", "")
        words = {protocol: row[protocol].lower() for protocol in found.protocols if row[protocol]}
        wrong = [f"{column} is '{word:.40}'" for column, word in words.items() if word not in SPLIT_NAMES]
        if line in too_long:
            reason = "it has more cells than the header"
        elif not name or names[name] > 1:
            reason = f"{names[name]} rows have the name '{name:.40}'"
        elif label and not (label.isdecimal() and len(label) <= 9 and int(label) < max_classes):
            reason = f"label '{label:.40}' is not a whole number from 0 to {max_classes - 1}"
        elif wrong:
            reason = f"{wrong[0]}, but must be train, val or empty"
        else:
            splits = {protocol: SPLIT_NAMES[word] for protocol, word in words.items()}
            number = int(label) if label else NO_LABEL
            found.rows.append(TableRow(name, number, splits, row.get("class_name", "")))
            continue
        found.left_out.append(Issue(path.name, line, reason))
    return found


def class_names_of(rows: Iterable[TableRow], num_classes: int) -> tuple[str, ...]:
    """Return the names in the column class_name, or none if no row has one.

    Raises ``UserError`` if a class has two names, or a name is too long.
    """
    names: dict[int, str] = {}
    for row in rows:
        if row.label == NO_LABEL or not row.class_name:
            continue
        first = names.setdefault(row.label, row.class_name)
        if row.class_name != first or not is_class_name(first):
            names_of_class = f"{first[:40]!r} and {row.class_name[:40]!r}"
            raise UserError(f"class {row.label} has two names, or one that is too long: {names_of_class}")
    return tuple(names.get(label, f"class {label}") for label in range(num_classes)) if names else ()
