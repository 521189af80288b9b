"""The clips of one split, wherever they are stored, as tensors that a batch is gathered from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from options.datasets import DATASETS, NTU60_LAST_SETUP, parse_ntu_name
from options.errors import UserError

from .official_layout import find_official, has_official, open_official
from .store import Store, is_store, open_store

COPY_BLOCK = 1024  # rows that a copy to another device reads at a time from the memory map


@dataclass(frozen=True)
class ClipSet:
    """Clips of one split. ``gather`` hides in which of two layouts their frames lie.

    ``frames`` is (all frames, V, 3, M) with ``first_frame`` per clip, or, in the released layout,
    (N, 3, 300, V, M) with the clip's ``rows``.
    """

    dataset: str
    protocol: str
    split: str
    num_classes: int
    names: list[str]
    labels: Tensor  # (N,) int64
    num_frames: Tensor  # (N,) int64
    frames: Tensor
    first_frame: Tensor | None  # (N,) int64; None in the released layout
    source: str  # the folder, for messages

    def __len__(self) -> int:
        return len(self.names)

    def gather(self, clips: Tensor, frames: Tensor) -> Tensor:
        """Frames ``frames`` (N, T) of clips ``clips`` (N,): ``(N, T, V, 3, M)``."""
        if self.first_frame is not None:
            return self.frames[self.first_frame[clips, None] + frames]
        return self.frames[clips[:, None], :, frames].transpose(2, 3)

    def blend(self, clips: Tensor, before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
        """Frames between two frames, ``(1 - weight) before + weight after``: ``(N, T, V, 3, M)``.

        ``clips`` is (N,); ``before``, ``after`` and ``weight`` are (N, T).
        """
        if self.first_frame is None:
            first, second = self.gather(clips, before), self.gather(clips, after)
            return first.lerp(second, weight[:, :, None, None, None])
        # A weighted sum of two rows of a table: one pass over memory, several times faster.
        rows = self.first_frame[clips, None, None] + torch.stack([before, after], dim=2)  # N x T x 2
        weights = torch.stack([1.0 - weight, weight], dim=2)
        table = self.frames.reshape(len(self.frames), -1)
        blended = F.embedding_bag(
            rows.flatten(0, 1), table, per_sample_weights=weights.flatten(0, 1), mode="sum"
        )
        return blended.view(*before.shape, *self.frames.shape[1:])

    @property
    def frames_id(self) -> tuple[str, str]:
        """The same for splits that share their frames: those of one store."""
        return self.source, "" if self.first_frame is not None else self.split

    def on(self, device: torch.device) -> "ClipSet":
        """The same clips with their frames on ``device``, copied a block at a time."""
        frames = torch.empty(self.frames.shape, dtype=self.frames.dtype, device=device)
        for target, block in zip(frames.split(COPY_BLOCK), self.frames.split(COPY_BLOCK)):
            target.copy_(block)
        return self.with_frames_of(replace(self, frames=frames))

    def with_frames_of(self, other: "ClipSet") -> "ClipSet":
        """These clips, with frames that ``other``, of the same store, has on its device."""
        first_frame = self.first_frame
        if first_frame is not None:
            first_frame = first_frame.to(other.frames.device)
        return replace(self, frames=other.frames, first_frame=first_frame)


def find_folder(data_root: Path, dataset: str) -> Path:
    """The folder of ``dataset`` below ``data_root``; an NTU-120 store also serves ntu60."""
    if not data_root.is_dir():
        raise UserError(f"--data-root {data_root} is not a folder; name the one that holds the stores")
    own, larger = data_root / dataset, data_root / "ntu120"
    if dataset == "ntu60" and is_store(larger) and not (is_store(own) or has_official(own)):
        return larger
    if own.is_dir():
        return own
    found = sorted(path.name for path in data_root.iterdir() if path.is_dir())
    raise UserError(
        f"no dataset '{dataset}' below {data_root} (there: {', '.join(found) or 'nothing'}); make "
        "its store with the scripts in data_gen/, or name another --data-root"
    )


def check_protocol(dataset: str, protocol: str, known: tuple[str, ...]) -> None:
    if protocol not in known:
        raise UserError(
            f"--protocol {protocol} is not one of {dataset}'s: choose from {', '.join(known)}"
        )


def from_store(store: Store, dataset: str, protocol: str, split: str) -> ClipSet:
    """One split of a store; of NTU-120's, the setups of NTU-60 where that is asked for."""
    info = DATASETS.get(dataset)
    known = tuple(store.splits)
    if info:
        known = tuple(name for name in info.protocols if name in store.splits)
    check_protocol(dataset, protocol, known)
    rows = store.clips_of(protocol, split)
    if dataset == "ntu60" and store.dataset == "ntu120":
        setups = np.array([parse_ntu_name(store.names[row]).setup for row in rows], dtype=np.int64)
        rows = rows[setups <= NTU60_LAST_SETUP]
    return ClipSet(
        dataset, protocol, split,
        num_classes=info.num_classes if info else store.num_classes,
        names=[store.names[row] for row in rows],
        labels=torch.from_numpy(store.labels[rows]),
        num_frames=torch.from_numpy(store.num_frames[rows]),
        frames=torch.from_numpy(store.frames),
        first_frame=torch.from_numpy(store.first_frame[rows]),
        source=str(store.folder),
    )


def from_official(path: Path, dataset: str, protocol: str, split: str) -> ClipSet:
    """One split in the released layout."""
    clips = open_official(path)
    num_classes = DATASETS[dataset].num_classes
    if len(clips.labels) and clips.labels.max() >= num_classes:
        raise UserError(f"{path.parent}: a label of '{split}' is beyond {dataset}'s {num_classes}")
    return ClipSet(
        dataset, protocol, split, num_classes,
        names=clips.names,
        labels=torch.from_numpy(clips.labels),
        num_frames=torch.from_numpy(clips.num_frames),
        frames=torch.from_numpy(clips.frames),
        first_frame=None,
        source=str(path.parent),
    )


def open_clips(data_root: str, dataset: str, protocol: str, split: str) -> ClipSet:
    """The ``train`` or ``val`` clips of a protocol, from a store or from the released layout.

    Raises ``UserError`` where the data, the protocol or the clips are missing.
    """
    folder = find_folder(Path(data_root), dataset)
    if dataset in DATASETS:
        check_protocol(dataset, protocol, DATASETS[dataset].protocols)
    if is_store(folder):
        clips = from_store(open_store(folder), dataset, protocol, split)
    else:
        path = find_official(folder, protocol, split) if dataset in DATASETS else None
        if path is None:
            raise UserError(
                f"{folder} holds no store and no clips in the released layout for {protocol}; "
                "make its store with the scripts in data_gen/"
            )
        clips = from_official(path, dataset, protocol, split)
    if not len(clips):
        raise UserError(f"{folder} has no clip in the '{split}' split of {protocol}")
    return clips
