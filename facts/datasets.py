"""The table of datasets: classes, protocols, official counts, pretraining defaults.

Sources: Shahroudy et al., CVPR 2016 (NTU RGB+D 60); Liu et al., TPAMI 2019 (NTU RGB+D 120); Liu et al., 2017
(PKU-MMD); Wang et al., CVPR 2014 (NW-UCLA); Yun et al., CVPR Workshops 2012 (SBU Kinect Interaction); section
4 of the skeleton-contrastive paper for the defaults.
Nothing in this module imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

NUM_COORDINATES, NUM_PEOPLE = 3, 2
MAX_FRAMES = 300  # the official preparation truncates clips to this length
NUM_FRAMES = 64  # frames of a view (section 4.2)
_SUBJECT, _VIEW, _SETUP = "cross_subject", "cross_view", "cross_setup"  # protocols

# Training subjects of cross-subject; the first twenty are those of NTU-60.
NTU_TRAIN_SUBJECTS = frozenset(
    [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
    + [45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78]
    + [80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103]
)
NTU_TRAIN_CAMERAS = frozenset([2, 3])
NTU60_LAST_SETUP = 17  # NTU-60 is setups 1 to 17 of NTU-120


class NtuName(NamedTuple):
    """The numbers in an NTU file name ``SsssCcccPpppRrrrAaaa``, all 1-based."""

    setup: int
    camera: int
    subject: int
    repetition: int
    action: int

    @property
    def label(self) -> int:
        """The 0-based class."""
        return self.action - 1


_NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


def parse_ntu_name(name: str) -> NtuName | None:
    """Parse ``S001C002P003R002A013``; None if the name does not have this form."""
    match = _NTU_NAME.fullmatch(name)
    return NtuName(*map(int, match.groups())) if match else None


def ntu_splits(name: NtuName) -> dict[str, str]:
    """Return ``{protocol: "train" | "val"}`` of one NTU clip, for every protocol of both datasets."""
    train = {
        _SUBJECT: name.subject in NTU_TRAIN_SUBJECTS,
        _VIEW: name.camera in NTU_TRAIN_CAMERAS,
        _SETUP: name.setup % 2 == 0,
    }
    return {protocol: "train" if is_train else "val" for protocol, is_train in train.items()}


@dataclass(frozen=True)
class DatasetInfo:
    """Constants of a dataset and the paper's pretraining settings for it."""

    title: str
    num_classes: int
    protocols: tuple[str, ...]
    # protocol -> published number of training and validation clips
    official_counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    # pretraining defaults: queue size, epochs, epochs at which the learning rate is divided by 10
    moco_k: int = 16384
    epochs: int = 451
    schedule: tuple[int, ...] = (351,)


DATASETS: dict[str, DatasetInfo] = {
    "ntu60": DatasetInfo(
        "NTU RGB+D 60", 60, (_SUBJECT, _VIEW), {_SUBJECT: (40091, 16487), _VIEW: (37646, 18932)}
    ),
    "ntu120": DatasetInfo(
        "NTU RGB+D 120",
        120,
        (_SUBJECT, _SETUP),
        {_SUBJECT: (63026, 50919), _SETUP: (54468, 59477)},
        epochs=351,
        schedule=(251,),
    ),
    "pku1": DatasetInfo("PKU-MMD I", 51, (_SUBJECT, _VIEW), {_SUBJECT: (18841, 2704)}, 8192, 600, ()),
    # 41 of the classes of part I; the classifier keeps 51 outputs
    "pku2": DatasetInfo("PKU-MMD II", 51, (_SUBJECT, _VIEW), {_SUBJECT: (5332, 1613)}, 2048, 600, ()),
    # not in the paper: the settings of PKU-MMD with a queue smaller than the datasets
    "ucla": DatasetInfo("NW-UCLA", 10, (_VIEW, "view1", "view2"), {_VIEW: (1020, 464)}, 512, 600, ()),
    "sbu": DatasetInfo("SBU Kinect Interaction", 8, tuple(f"fold{i}" for i in range(1, 6)), {}, 128, 600, ()),
}
