"""Which NTU RGB+D files belong to a data set, and how what is there compares to what was published.

Only names are looked at here. The counts are those of the published sets after the files on the
list of missing skeletons are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Sequence

from data_gen.sources import RawFile, walk
from data_gen.store_writer import Remark
from options.datasets import DATASETS, NTU60_LAST_SETUP, ntu_splits, parse_ntu_name
from options.errors import UserError

SKELETON_SUFFIX = ".skeleton"
PROTOCOLS = ("cross_subject", "cross_view", "cross_setup")
IGNORED_LISTS = {  # as published; the list of NTU-120 contains that of NTU-60
    "ntu60": ("NTU_RGBD_samples_with_missing_skeletons.txt",
              "NTU_RGBD120_samples_with_missing_skeletons.txt"),
    "ntu120": ("NTU_RGBD120_samples_with_missing_skeletons.txt",),
}
_NAME_LINE = re.compile(r"\s*(S\d{3}C\d{3}P\d{3}R\d{3}A\d{3})(\.skeleton)?\s*")


@dataclass
class Selection:
    """The files to read, in order of their names, and what happened to the others."""

    files: list[RawFile] = field(default_factory=list)
    left_out: list[Remark] = field(default_factory=list)
    not_in_dataset: int = 0
    ignored: set[str] = field(default_factory=set)  # names that the list of missing ones removed


def read_ignored_list(path: Path) -> set[str]:
    """The names in a published list of missing skeletons; its lines of prose are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the list of missing "
                        "skeletons with --ignored_sample_path") from error
    names = {match[1] for match in map(_NAME_LINE.fullmatch, text.splitlines()) if match}
    if not names:
        raise UserError(f"{path} holds no name like S001C002P005R002A008 on a line of its own; "
                        "give the published list with --ignored_sample_path")
    return names


def find_ignored_list(dataset: str, roots: Sequence[Path]) -> Path | None:
    """The published list of this data set somewhere below the roots, by its file name."""
    wanted = IGNORED_LISTS[dataset]
    found = {path.name: path for root in roots for path in walk(root) if path.name in wanted}
    return next((found[name] for name in wanted if name in found), None)


def select(files: Iterable[RawFile], dataset: str, ignored: set[str]) -> Selection:
    """Sort out which of the raw files (ordered by name) become clips of ``dataset``."""
    chosen = Selection()
    num_classes = DATASETS[dataset].num_classes
    previous: RawFile | None = None
    for file in files:
        name = parse_ntu_name(file.name)
        if name is None:
            chosen.left_out.append(Remark(file.shown, None, "the name is not of the form "
                                          "SsssCcccPpppRrrrAaaa"))
        elif dataset == "ntu60" and name.setup > NTU60_LAST_SETUP:
            chosen.not_in_dataset += 1
        elif not 1 <= name.action <= num_classes:
            chosen.left_out.append(Remark(file.shown, None, f"action {name.action} is not one of "
                                          f"the {num_classes} of {dataset}"))
        elif file.name in ignored:
            chosen.ignored.add(file.name)
            chosen.left_out.append(Remark(file.shown, None, "on the list of missing skeletons",
                                          lost=False))
        elif previous is not None and previous.name == file.name:
            chosen.left_out.append(Remark(file.shown, None, "the same name as "
                                          f"{previous.shown}, which is used", lost=False))
        else:
            chosen.files.append(file)
            previous = file
    return chosen


def compare_to_published(names: Iterable[str], dataset: str) -> list[str]:
    """Lines that put the found clips of every protocol beside the published counts."""
    info = DATASETS[dataset]
    counts = {(protocol, split): 0 for protocol in info.protocols for split in ("train", "val")}
    for name in names:
        for protocol, split in ntu_splits(parse_ntu_name(name)).items():
            if protocol in info.protocols:
                counts[protocol, split] += 1
    lines = []
    for protocol in info.protocols:
        train, val = info.official_counts[protocol]
        lines.append(f"  {protocol:13s}  train {counts[protocol, 'train']:6,} / {train:,}   "
                     f"val {counts[protocol, 'val']:6,} / {val:,}")
    return [f"{info.title}, clips found / published:", *lines]
