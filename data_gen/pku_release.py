"""Which files of PKU-MMD belong together: a video, its labels, and its side in every protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from data_gen.errors import BadFile
from data_gen.pku_files import read_pku_split
from data_gen.sources import RawFile, find_files
from data_gen.store_writer import Remark
from options.errors import UserError

SUFFIX = ".txt"
PROTOCOL_WORDS = {"subject": "cross_subject", "view": "cross_view"}  # in names of split files


@dataclass(frozen=True)
class Video:
    """One video: its skeletons, its labels, and the side it is on in every protocol."""

    skeletons: RawFile
    labels: RawFile
    splits: dict[str, str]  # protocol -> "train" or "val"
    num_classes: int


def read_splits(path: Path, part: str) -> dict[str, dict[str, str]]:
    """``{protocol: {video: side}}`` from a split file or a folder of them."""
    if path.suffix == SUFFIX and path.is_file():
        files = [RawFile(path.stem, path.name, str(path))]
    else:
        files = find_files([path], SUFFIX, flag="--split_path")
    of_part = [file for file in files if ("v2" in file.name.lower()) == (part == "2")]
    splits: dict[str, dict[str, str]] = {}
    for file in of_part or files:
        protocols = [protocol for word, protocol in PROTOCOL_WORDS.items()
                     if word in file.name.lower()]
        if len(protocols) != 1:
            continue
        if protocols[0] in splits:
            raise UserError(f"{path} holds more than one split file of {protocols[0]} for part "
                            f"{part}; give the one to use with --split_path")
        try:
            splits[protocols[0]] = read_pku_split(file.read())
        except BadFile as error:
            raise UserError(f"the split file {file.shown} cannot be used: {error.reason}"
                            ) from error
    if not splits:
        raise UserError(f"no split file in {path}: its name should hold 'subject' or 'view', as "
                        "in cross-subject.txt")
    return splits


def find_videos(data_path: Sequence[Path], label_path: Sequence[Path],
                splits: dict[str, dict[str, str]], num_classes: int
                ) -> tuple[list[Video], list[Remark]]:
    """Skeleton and label files with the same name, and the files that have no partner."""
    left_out: list[Remark] = []
    skeletons = unique(find_files(data_path, SUFFIX), left_out)
    labels = unique(find_files(label_path, SUFFIX, flag="--label_path"), left_out)
    videos = [Video(skeletons[name], labels[name],
                    {protocol: sides[name] for protocol, sides in splits.items() if name in sides},
                    num_classes)
              # in the order of the clips' names, which begin with these
              for name in sorted(skeletons.keys() & labels.keys(), key="{}_".format)]
    if not videos:
        raise UserError(f"no video has a skeleton file below --data_path ({len(skeletons)} files) "
                        f"and a label file of the same name below --label_path ({len(labels)})")
    left_out += [Remark(skeletons[name].shown, None, "no label file has this name")
                 for name in sorted(skeletons.keys() - labels.keys())]
    left_out += [Remark(labels[name].shown, None, "no skeleton file has this name")
                 for name in sorted(labels.keys() - skeletons.keys())]
    return videos, left_out


def unique(files: list[RawFile], left_out: list[Remark]) -> dict[str, RawFile]:
    by_name: dict[str, RawFile] = {}
    for file in files:
        if by_name.setdefault(file.name, file) is not file:
            left_out.append(Remark(file.shown, None, "the same name as "
                                   f"{by_name[file.name].shown}, which is used", lost=0))
    return by_name
