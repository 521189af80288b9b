"""The clips of one split as tensors from which batches are gathered."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facts.class_names import default_class_names
from facts.datasets import DATASETS, NTU60_LAST_SETUP, parse_ntu_name
from facts.skeletons import KINECT_V2, Skeleton
from utils.errors import UserError

from .official_layout import find_official, has_official, open_official
from .store import Store, is_store, open_store
from .store_format import NO_LABEL

UNLABELED = "no label"  # instead of the name of a class
COPY_BLOCK = 1024  # rows of the memory map that are copied to another device at a time


@dataclass(frozen=True)
class ClipSet:
    """Clips of one split, in one of two layouts.

    ``frames`` is ``(all frames, V, 3, M)`` with the ``first_frame`` of each clip or, in the official
    layout, ``(N, 3, 300, V, M)``.
    """

    dataset: str
    protocol: str
    split: str
    num_classes: int
    names: list[str]
    labels: Tensor  # (N,) int64; NO_LABEL for a clip without label
    num_frames: Tensor  # (N,) int64
    frames: Tensor
    first_frame: Tensor | None  # (N,) int64; None in the official layout
    source: str  # folder, for messages
    skeleton: Skeleton = KINECT_V2
    class_names: tuple[str, ...] = ()  # one per class
    normalized: bool = True  # False: stored with --keep_coordinates

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_labels(self) -> bool:
        """Whether any clip has a label."""
        return bool((self.labels != NO_LABEL).any())

    def class_of(self, index: int) -> str:
        """Return the name of the class of a clip."""
        label = int(self.labels[index])
        return UNLABELED if label == NO_LABEL else self.class_names[label]

    def gather(self, clips: Tensor, frames: Tensor) -> Tensor:
        """Return the frames ``frames`` (N, T) of the clips ``clips`` (N,): ``(N, T, V, 3, M)``."""
        if self.first_frame is not None:
            return self.frames[self.first_frame[clips, None] + frames]
        return self.frames[clips[:, None], :, frames].transpose(2, 3)

    def blend(self, clips: Tensor, before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
        """Interpolate: ``(1 - weight) before + weight after``, ``(N, T, V, 3, M)``.

        ``clips`` is (N,); the frame numbers ``before`` and ``after`` and ``weight`` are (N, T).
        """
        if self.first_frame is None:
            first, second = self.gather(clips, before), self.gather(clips, after)
            return first.lerp(second, weight[:, :, None, None, None])
        # A weighted sum of two table rows is one pass over memory, several times faster than a lerp.
        rows = self.first_frame[clips, None, None] + torch.stack([before, after], dim=2)  # N x T x 2
        weights = torch.stack([1.0 - weight, weight], dim=2)
        table = self.frames.reshape(len(self.frames), -1)
        rows, weights = rows.flatten(0, 1), weights.flatten(0, 1)
        blended = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
        return blended.view(*before.shape, *self.frames.shape[1:])

    @property
    def frames_id(self) -> tuple[str, str]:
        """Identifies the frames; splits of one store share them."""
        return self.source, "" if self.first_frame is not None else self.split

    def to(self, device: torch.device) -> ClipSet:
        """Return the clips with their frames copied to ``device``, block by block."""
        frames = torch.empty(self.frames.shape, dtype=self.frames.dtype, device=device)
        for target, block in zip(frames.split(COPY_BLOCK), self.frames.split(COPY_BLOCK)):
            target.copy_(block)
        return self.with_frames_of(replace(self, frames=frames))

    def with_frames_of(self, other: ClipSet) -> ClipSet:
        """Return these clips with the frames of ``other``, a split of the same store."""
        first = None if self.first_frame is None else self.first_frame.to(other.frames.device)
        return replace(self, frames=other.frames, first_frame=first)


def find_folder(data_root: Path, dataset: str) -> Path:
    """Return the folder of ``dataset`` under ``data_root``; a store of NTU-120 is also used for ntu60."""
    if not data_root.is_dir():
        raise UserError(f"--data-root {data_root} is not a folder; give the one that contains the stores")
    own, larger = data_root / dataset, data_root / "ntu120"
    if dataset == "ntu60" and is_store(larger) and not (is_store(own) or has_official(own)):
        return larger
    if own.is_dir():
        return own
    found = sorted(path.name for path in data_root.iterdir() if path.is_dir())
    problem = f"no dataset '{dataset}' under {data_root} (found: {', '.join(found) or 'nothing'})"
    advice = "prepare its store with the scripts in data_gen/, or give another --data-root"
    raise UserError(f"{problem}; {advice}")


def shared_tensor(frames: np.ndarray) -> Tensor:
    """Return a tensor on the memory of a read-only array, to which nothing may write."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(frames)


def check_protocol(dataset: str, protocol: str, known: tuple[str, ...]) -> None:
    """Raise ``UserError`` if ``protocol`` is not one of ``known``."""
    if protocol not in known:
        raise UserError(f"{dataset} does not have --protocol {protocol}: choose from {', '.join(known)}")


def from_store(store: Store, dataset: str, protocol: str, split: str) -> ClipSet:
    """Return one split of a store; for ntu60, only the setups of NTU-60 in a store of NTU-120."""
    info = DATASETS.get(dataset)
    known = [name for name in info.protocols if name in store.splits] if info else store.splits
    check_protocol(dataset, protocol, tuple(known))
    rows = store.clips_of(protocol, split)
    if dataset == "ntu60" and store.dataset == "ntu120":
        parsed = [parse_ntu_name(store.names[row]) for row in rows]
        rows = rows[[name is not None and name.setup <= NTU60_LAST_SETUP for name in parsed]]
    num_classes = info.num_classes if info else store.num_classes
    class_names = store.class_names[:num_classes]
    return ClipSet(
        dataset,
        protocol,
        split,
        num_classes,
        names=[store.names[row] for row in rows],
        labels=torch.from_numpy(store.labels[rows]),
        num_frames=torch.from_numpy(store.num_frames[rows]),
        frames=shared_tensor(store.frames),
        first_frame=torch.from_numpy(store.first_frame[rows]),
        source=str(store.folder),
        skeleton=store.skeleton,
        class_names=class_names + default_class_names(dataset, num_classes)[len(class_names) :],
        normalized=store.normalized,
    )


def from_official(path: Path, dataset: str, protocol: str, split: str) -> ClipSet:
    """Return one split in the official layout."""
    frames, names, labels, num_frames = open_official(path)
    num_classes = DATASETS[dataset].num_classes
    if len(labels) and labels.max() >= num_classes:
        raise UserError(f"{path.parent}: a label of '{split}' exceeds the {num_classes} classes of {dataset}")
    return ClipSet(
        dataset,
        protocol,
        split,
        num_classes,
        names=names,
        labels=torch.from_numpy(labels),
        num_frames=torch.from_numpy(num_frames),
        frames=shared_tensor(frames),
        first_frame=None,
        source=str(path.parent),
        class_names=default_class_names(dataset, num_classes),
    )


def open_splits(data_root: str, dataset: str, protocol: str) -> tuple[ClipSet, ClipSet]:
    """Open the training and the validation clips, as ``open_clips``.

    Without labels there may be no validation clips: then the training clips take their place.
    """
    train = open_clips(data_root, dataset, protocol, "train")
    try:
        return train, open_clips(data_root, dataset, protocol, "val")
    except NoClips:
        if train.has_labels:
            raise
        return train, replace(train, split="val")


class NoClips(UserError):
    """A split has no clips."""


def open_clips(data_root: str, dataset: str, protocol: str, split: str) -> ClipSet:
    """Open the ``train`` or ``val`` clips of a protocol, from a store or from the official layout.

    Raises ``UserError`` if the data, the protocol or the clips are missing.
    """
    folder = find_folder(Path(data_root), dataset)
    if dataset in DATASETS:
        check_protocol(dataset, protocol, DATASETS[dataset].protocols)
    if is_store(folder):
        clips = from_store(open_store(folder), dataset, protocol, split)
    else:
        path = find_official(folder, protocol, split) if dataset in DATASETS else None
        if path is None:
            problem = f"contains neither a store nor clips of {protocol} in the official layout"
            raise UserError(f"{folder} {problem}; prepare a store with the scripts in data_gen/")
        clips = from_official(path, dataset, protocol, split)
    if not len(clips):
        raise NoClips(f"{folder} has no clip in the '{split}' split of {protocol}")
    return clips
