"""PKU-MMD: readers, unusual label lines, and synthetic data up to the store."""

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
from damaged_inputs import TEXT_DAMAGES, damage

from data_gen import pku_gendata
from data_gen.normalize import normalize_clip
from data_gen.pku_files import Video, parse_split, read_splits
from data_gen.skeleton_file import read_pku_skeleton
from data_gen.sources import BadFile, RawFile
from data_gen.synthetic import make_pku
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE
from utils.errors import UserError

KINDS = {"data": "skeletons", "label": "labels", "split": "splits"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pku") / "raw"
    flags = ["--out_folder", str(folder), "--subjects", "4", "--actions_per_video", "2"]
    assert make_pku.main([*flags, "--workers", "1"]) == 0
    return folder


def prepare(raw, out, *flags, packing="", part="1"):
    paths = [f"--{kind}_path={raw / name}{packing}" for kind, name in KINDS.items()]
    return pku_gendata.main(
        ["--part", part, *paths, "--out_folder", str(out), *(flags or ["--workers", "1"])]
    )


def read_store(out):
    with open(out / CLIPS_FILE) as file:
        rows = list(csv.DictReader(file))
    return rows, np.load(out / FRAMES_FILE), json.loads((out / INFO_FILE).read_text())


def test_synthetic_videos_become_a_store(raw, tmp_path):
    assert prepare(raw, tmp_path / "store") == 0
    rows, frames, info = read_store(tmp_path / "store")
    assert len(rows) == 8 * 3 * 2 and info["num_classes"] == 51 and info["dataset"] == "pku1"
    assert info["counts"]["cross_subject"] == {"train": 36, "val": 12}
    assert info["counts"]["cross_view"] == {"train": 32, "val": 16}
    for row in rows[::7]:
        video, start, end, action = row["name"].split("_")
        values = np.loadtxt(raw / "skeletons" / f"{video}.txt").reshape(-1, 2, 25, 3)
        bodies = values[int(start) : int(end)].swapaxes(0, 1)
        first, count = int(row["first_frame"]), int(row["num_frames"])
        assert np.array_equal(frames[first : first + count], normalize_clip(bodies))
        label_line = f"{action[1:].lstrip('0')},{int(start)},{int(end)},"
        assert label_line in (raw / "labels" / f"{video}.txt").read_text()
        assert int(row["label"]) == int(action[1:]) - 1
        assert row["cross_view"] == ("val" if video.endswith("-L") else "train")
        assert row["cross_subject"] == ("val" if video[:4] in ("0007", "0008") else "train")


def test_workers_and_archives_give_the_same_bytes(raw, tmp_path):
    for name in KINDS.values():
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (raw / name).iterdir():
                archive.write(path, f"inside/{path.name}")
    prepare(raw, tmp_path / "one")
    assert prepare(tmp_path, tmp_path / "two", "--workers", "2", packing=".zip") == 0
    for file in (FRAMES_FILE, CLIPS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_files_of_the_same_name_must_be_equal(raw, tmp_path):
    """As those of both parts of the dataset are not."""
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "skeletons" / "copy").mkdir()
    other = tmp_path / "raw" / "skeletons" / "copy" / "0001-L.txt"
    shutil.copy(raw / "skeletons" / "0001-L.txt", other)
    prepare(tmp_path / "raw", tmp_path / "store")
    assert "the same file as" in read_store(tmp_path / "store")[2]["left_out"][0]["reason"]
    shutil.copy(raw / "skeletons" / "0002-L.txt", other)
    with pytest.raises(UserError, match="0001-L.txt and copy/0001-L.txt are different files"):
        prepare(tmp_path / "raw", tmp_path / "other")


def test_unusual_label_lines(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    labels = tmp_path / "raw" / "labels" / "0001-L.txt"
    length = len((raw / "skeletons" / "0001-L.txt").read_text().splitlines())
    lines = [
        ("3,60,90,1", None),
        ("4,10,40,1", "note: out of order"),
        ("5,30,70,1", "note: out of order, overlaps the action on line 1"),
        (f"6,{length - 20},{length + 50},1", "note: cut at the end"),
        ("7,90,91,1", "shorter than 2"),
        (f"8,{length},{length + 9},1", "beyond the end"),
        ("9,50,40,1", "not a valid range"),
        ("52,10,40,1", "class 52"),
        ("x,10,40,1", "not class,start,end"),
        ("10,-5,40,1", "not a valid range"),
        ("3,60,90,2", "same action"),
        ("", None),
        ("11,100,130", "note: out of order"),  # no confidence
    ]
    labels.write_text("\n".join(line for line, _ in lines))
    assert prepare(tmp_path / "raw", tmp_path / "store") == 1  # 6 of 51 clips failed
    rows, _, info = read_store(tmp_path / "store")
    assert [row["name"] for row in rows if row["name"].startswith("0001-L")] == [
        "0001-L_00010_00040_A004",
        "0001-L_00030_00070_A005",
        "0001-L_00060_00090_A003",
        "0001-L_00100_00130_A011",
        f"0001-L_{length - 20:05d}_{length + 50:05d}_A006",
    ]
    assert rows[4]["num_frames"] == "20"
    reasons = {item["line"]: item["reason"] for item in info["left_out"]}
    notes = {}
    for item in info["notes"]:
        notes[item["line"]] = f"{notes.get(item['line'], 'note')} {item['reason']}"
    for number, (line, expected) in enumerate(lines, start=1):
        text = notes.get(number, "") + reasons.get(number, "")
        words = (expected or "").removeprefix("note: ").split(", ") if expected else []
        assert bool(text) == bool(expected) and (number in notes) == str(expected).startswith("note"), line
        assert expected == "not class,start,end" or all(word in text for word in words), (line, text)


def test_bad_videos_are_left_out(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    skeletons, labels = tmp_path / "raw" / "skeletons", tmp_path / "raw" / "labels"
    lines = (skeletons / "0001-M.txt").read_text().splitlines()
    lines[9] = lines[9].replace(" ", " nan ", 1).rsplit(" ", 1)[0]
    (skeletons / "0001-M.txt").write_text("\n".join(lines))
    (skeletons / "0001-R.txt").write_text("\n".join(lines[:5] + [lines[5][:-9]]))
    (labels / "0002-L.txt").unlink()
    (skeletons / "0002-M.txt").unlink()
    assert prepare(tmp_path / "raw", tmp_path / "store") == 1
    rows, _, info = read_store(tmp_path / "store")
    assert len(rows) == 48 - 8
    assert [(item["file"], item["line"], item["reason"]) for item in info["left_out"]] == [
        ("0001-M.txt", 10, "'nan' is not a finite number"),
        ("0001-R.txt", 6, "a frame has 149 numbers instead of 150"),
        ("0002-L.txt", None, "no label file has this name"),
        ("0002-M.txt", None, "no skeleton file has this name"),
    ]
    with pytest.raises(UserError, match="no label file"):
        prepare(tmp_path / "raw", tmp_path / "other", "--on-error", "stop", "--workers", "1")
    assert not (tmp_path / "other").exists()


def test_long_actions_are_cut_to_300_frames(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    lines = (raw / "skeletons" / "0001-L.txt").read_text().splitlines()
    (tmp_path / "raw" / "skeletons" / "0001-L.txt").write_text("\n".join(lines * 3))
    (tmp_path / "raw" / "labels" / "0001-L.txt").write_bytes(b"\xef\xbb\xbf51,10,400,2\r\n")
    assert prepare(tmp_path / "raw", tmp_path / "store") == 0
    rows, _, info = read_store(tmp_path / "store")
    assert (rows[0]["name"], rows[0]["label"], rows[0]["num_frames"]) == (
        "0001-L_00010_00400_A051",
        "50",
        "300",
    )
    assert info["notes"] == [{"file": "0001-L.txt", "line": 1, "reason": "390 frames, cut to the first 300"}]


def test_damaged_files_give_clips_or_reasons(raw):
    """They never cause a crash or a NaN."""
    names = sorted(path.stem for path in (raw / "labels").iterdir())
    clips = 0
    for seed in range(150):
        name = names[seed % len(names)]
        data = [(raw / part / f"{name}.txt").read_bytes() for part in ("skeletons", "labels")]
        for i in ((0,), (1,), (0, 1))[seed % 3]:
            data[i] = damage(data[i], seed, TEXT_DAMAGES)
        files = (RawFile("0001-L", "0001-L.txt", "", content=content) for content in data)
        result = pku_gendata.read_video(Video(*files, {"cross_view": "val"}), 51)
        assert result.clips or result.left_out or not data[1].strip()
        assert all(np.isfinite(clip.frames).all() for clip in result.clips)
        assert all(issue.reason for issue in result.left_out + result.notes)
        clips += len(result.clips)
    assert 40 < clips < 270


def split_file(content):
    return RawFile("cross-view", "cross-view.txt", "", content=content)


def test_split_files_are_found_by_name_and_part(raw, tmp_path):
    text = b"Training videos:\r\n0002-L, 0003-M,\r\nValidataion videos:\r\n0004-R\r\n"
    assert parse_split(split_file(text)) == {"0002-L": "train", "0003-M": "train", "0004-R": "val"}
    for bad, reason in ((b"0002-L, 0003-M\n", "expected 4"), (b"a\n1,2\nb\n2,3\n", "both")):
        with pytest.raises(UserError, match=reason):
            parse_split(split_file(bad))
    one = raw / "splits" / "cross-view.txt"
    assert read_splits(one, "1").keys() == {"cross_view"}
    shutil.copy(one, tmp_path / "split.txt")
    with pytest.raises(UserError, match="subject"):
        read_splits(tmp_path / "split.txt", "1")
    for name in ("cross-subject.txt", "cross_subject_v2.txt", "cross_view_v2.txt"):
        shutil.copy(one, tmp_path / name)
    (tmp_path / "cross_subject_v2.txt").write_bytes(text)
    assert read_splits(tmp_path, "2")["cross_subject"]["0002-L"] == "train"
    assert read_splits(tmp_path, "1")["cross_subject"]["0002-L"] == "val"


def test_empty_skeleton_file_is_rejected():
    with pytest.raises(BadFile, match="empty"):
        read_pku_skeleton(b"\n")
