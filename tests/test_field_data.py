"""Input as people have it: archives, lists under other names, spreadsheets, units, links."""

import csv
import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import GOLDEN, write_eight_clips
from damaged_inputs import BYTE_DAMAGES, damage

from data_gen import arrays_gendata, ntu_gendata, pku_gendata
from data_gen.synthetic import make_pku
from dataset.store import open_store
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE
from utils.errors import UserError


@pytest.fixture(scope="module")
def raw_files():
    """The content of 12 short skeleton files, by file name; all become clips."""
    with zipfile.ZipFile(GOLDEN / "ntu_skeletons.zip") as archive:
        files = {
            name: archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".skeleton")
        }
    del files["S007C001P011R001A008.skeleton"]  # without a body
    return {name: first_frames(files[name], 9) for name in list(files)[:12]}


def first_frames(data, count):
    """The first frames of a skeleton file with one body per frame."""
    lines = data.split(b"\n")
    count = min(count, int(lines[0]))
    at, frames = 1, []
    while len(frames) < count:
        length = 1 + 27 * int(lines[at])
        frames.append(b"\n".join(lines[at : at + length]))
        at += length
    return b"\n".join([b"%d" % count, *frames]) + b"\n"


def write_files(folder, files):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def prepare(data, out, *flags):
    arguments = ["--workers", 1, "--dataset", "ntu120", "--data_path", data, "--out_folder", out, *flags]
    return ntu_gendata.main(list(map(str, arguments)))


def names_in(store):
    with open(store / CLIPS_FILE) as file:
        return [row["name"] for row in csv.DictReader(file)]


def left_out(store):
    info = json.loads((store / INFO_FILE).read_text())
    return {item["file"]: item["reason"] for item in info["left_out"]}


def tar_bytes(files, mode="w:gz"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def zip_bytes(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def shuffled(files):
    return dict(sorted(files.items(), key=lambda item: item[0][::-1]))


PACKINGS = {
    "a.zip": zip_bytes,
    "a.ZIP": lambda files: zip_bytes({f"folder\\sub\\{name}": data for name, data in files.items()}),
    "a.tar": lambda files: tar_bytes(files, "w"),
    "a.tar.gz": tar_bytes,
    "a.tar.xz": lambda files: tar_bytes(files, "w:xz"),
}


@pytest.fixture(scope="module")
def expected(raw_files, tmp_path_factory):
    """The store of the plain files."""
    folder = tmp_path_factory.mktemp("expected")
    assert prepare(write_files(folder / "raw", raw_files), folder / "store") == 0
    return folder / "store"


@pytest.mark.parametrize("packing", PACKINGS)
def test_archives_give_the_same_bytes_as_files(raw_files, expected, tmp_path, packing):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / packing).write_bytes(PACKINGS[packing](shuffled(raw_files)))
    assert prepare(tmp_path / "raw", tmp_path / "store") == 0
    for file in (FRAMES_FILE, CLIPS_FILE):
        assert (tmp_path / "store" / file).read_bytes() == (expected / file).read_bytes()
    assert left_out(tmp_path / "store") == {}


@pytest.mark.parametrize("suffix", [".SKELETON", ".skeleton.txt"])
def test_files_under_other_suffixes_are_read(raw_files, expected, tmp_path, suffix):
    files = {name.removesuffix(".skeleton") + suffix: data for name, data in raw_files.items()}
    assert prepare(write_files(tmp_path / "raw", files), tmp_path / "store") == 0
    assert (tmp_path / "store" / FRAMES_FILE).read_bytes() == (expected / FRAMES_FILE).read_bytes()


def test_everything_that_is_not_read_is_listed(raw_files, tmp_path, capsys):
    (name, data), *_ = raw_files.items()
    files = {
        name: data,
        "more.7z": b"7z\xbc\xaf",
        "notes.docx": b"PK",
        "page.zip": b"<html>",
        "nul.tgz": b"\x1f" + bytes(900),
    }
    files |= {
        "cut.zip": zip_bytes(raw_files)[:5000],
        "outer.zip": zip_bytes({"inner.7z": b"7z", "S1.skel": b""}),
    }
    raw = write_files(tmp_path / "raw", files)
    (raw / ".hidden").mkdir()
    os.mkfifo(raw / "S001C001P009R001A001.skeleton")
    (raw / "S001C001P009R001A002.skeleton").symlink_to(raw / "nowhere")
    assert prepare(raw, tmp_path / "store") == 1
    reasons = left_out(tmp_path / "store")
    assert all("the archive is damaged" in reasons.pop(file) for file in ("cut.zip", "page.zip", "nul.tgz"))
    for action in (1, 2):
        assert "not a regular file" in reasons.pop(f"S001C001P009R001A00{action}.skeleton")
    (others,) = reasons.values()
    for kind in ("2 .7z", "1 .docx", "1 .skel", "1 hidden"):
        assert kind in others
    assert "3 archives or folders could not be read completely" in capsys.readouterr().out


def test_links_in_archives_are_not_followed(raw_files, tmp_path):
    """Names of members never become paths."""
    (name, data), *_ = raw_files.items()
    content = io.BytesIO(tar_bytes({f"../../{name}": data, "/etc/passwd.skeleton": data}, "w"))
    with tarfile.open(fileobj=content, mode="a") as archive:
        link = tarfile.TarInfo("S002C001P001R001A001.skeleton")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    raw = write_files(tmp_path / "raw", {"links.tar": content.getvalue()})
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert prepare(raw, tmp_path / "store") == 1
    assert names_in(tmp_path / "store") == [name.removesuffix(".skeleton")]
    assert "1 link" in " ".join(left_out(tmp_path / "store").values())
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert written == {tmp_path / "store" / file for file in (FRAMES_FILE, CLIPS_FILE, INFO_FILE)}


@pytest.mark.parametrize("seed", range(20))
def test_clips_around_damaged_archives_are_stored_or_listed(raw_files, tmp_path, seed):
    names = list(raw_files)
    packing = list(PACKINGS)[seed % len(PACKINGS)]
    content = damage(PACKINGS[packing]({name: raw_files[name] for name in names[4:]}), seed, BYTE_DAMAGES)
    files = {name: raw_files[name] for name in names[:4]}
    prepare(write_files(tmp_path / "raw", {**files, packing: content}), tmp_path / "store")
    stored, reasons = set(names_in(tmp_path / "store")), left_out(tmp_path / "store")
    assert {name.removesuffix(".skeleton") for name in names[:4]} <= stored and all(reasons.values())
    archive_is_listed = any(packing in file and not file.endswith(".skeleton") for file in reasons)
    for name in names[4:]:
        listed = any(file.endswith(name) for file in reasons)
        assert name.removesuffix(".skeleton") in stored or listed or archive_is_listed, (name, reasons)
    assert np.isfinite(np.load(tmp_path / "store" / FRAMES_FILE)).all()


# Lists of missing skeletons


LIST_NAMES = [
    "NTU_RGBD120_samples_with_missing_skeletons (1).txt",
    "samples_with_missing_skeletons_NTU_RGBD120.TXT",
    "ntu_rgb120_missings.txt",
    "missing.txt.txt",
    "deep/er/missing_skeletons",
]


@pytest.mark.parametrize("name", LIST_NAMES)
def test_list_of_missing_skeletons_is_found_under_other_names(raw_files, tmp_path, name, capsys):
    path = write_files(tmp_path / "raw", raw_files) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = min(raw_files).removesuffix(".skeleton")
    path.write_text(f"The samples below:\r\n\r\n{listed}\r\n")
    assert prepare(tmp_path / "raw", tmp_path / "store") == 0
    assert listed not in names_in(tmp_path / "store") and len(names_in(tmp_path / "store")) == 11
    out = capsys.readouterr().out
    assert "list of missing skeletons" in out and "WARNING" not in out


@pytest.mark.parametrize("packing", ["a.zip", "a.tar.gz"])
def test_list_of_missing_skeletons_is_found_in_archives(raw_files, tmp_path, packing):
    """Also under any name, if the text in it is about missing skeletons."""
    listed = min(raw_files).removesuffix(".skeleton")
    text = f"302 samples have missing skeletons:\n{listed}\n".encode()
    (tmp_path / "raw").mkdir()
    content = PACKINGS[packing]({**raw_files, "lists/readme.txt": text})
    (tmp_path / "raw" / packing).write_bytes(content)
    assert prepare(tmp_path / "raw", tmp_path / "store") == 0
    assert listed not in names_in(tmp_path / "store") and len(names_in(tmp_path / "store")) == 11


@pytest.mark.parametrize("dataset,count", [("ntu60", 302), ("ntu120", 535)])
def test_no_list_of_missing_skeletons_is_a_warning(raw_files, tmp_path, dataset, count, capsys):
    names = "\n".join(name.removesuffix(".skeleton") for name in raw_files)
    files = {**raw_files, "train.txt": names.encode()}  # not evidently the list
    prepare(write_files(tmp_path / "raw", files), tmp_path / "store", "--dataset", dataset)
    out = capsys.readouterr().out
    assert f"WARNING: no list of missing skeletons found, so all files are used: up to {count} clips" in out
    assert "it may be train.txt" in out and out.count("WARNING") == 2  # at the beginning and at the end


def test_only_later_setups_suggest_ntu120(raw_files, tmp_path):
    files = {"S018C001P008R001A061.skeleton": min(raw_files.values())}
    with pytest.raises(UserError, match="add --dataset ntu120"):
        prepare(write_files(tmp_path / "raw", files), tmp_path / "store", "--dataset", "ntu60")


def test_nul_bytes_are_named(raw_files, tmp_path):
    """As after an interrupted download."""
    first, second, third, *_ = raw_files
    files = {first: bytes(4096), second: raw_files[second][:9000] + bytes(4096), third: raw_files[third]}
    prepare(write_files(tmp_path / "raw", files), tmp_path / "store")
    reasons = left_out(tmp_path / "store")
    assert "consists of 4,096 NUL bytes" in reasons[first]
    assert "is truncated in frame 2" in reasons[second]


# Tables


def prepare_arrays(folder, data, table):
    flags = ["--dataset", "mine", "--data_path", data, "--clips", table, "--out_folder", folder / "store"]
    return arrays_gendata.main([*map(str, flags), "--overwrite", "--workers", "1"])


@pytest.fixture
def body():
    """A standing person of 1.7 m, as (8 frames, 25 joints, 3)."""
    rng = np.random.default_rng(3)
    joints = np.stack([rng.uniform(-0.25, 0.25, 25), np.linspace(0, 1.7, 25), np.full(25, 3.0)], axis=1)
    return joints + rng.normal(0, 0.01, (8, 25, 3))


@pytest.mark.parametrize(
    "table",
    [
        b"\xef\xbb\xbfname;label;cross_subject\r\na;0;train\r\nb;1;val\r\n;;\r\n\r\n",
        b"name,label,cross_subject\na.npy,0,train\nb.NPY,1,val\n,,\n",
        b"name,label,cross_subject,,\na,0,train,,\nb,1,val,,\n",
        b"name\tlabel\tcross_subject\r\na\t0\tTrain\r\nb\t1\tVal \r\n",
        b'"name" , "label", cross_subject\n\na , 0, train\nb,1,val'.replace(b' , "', b',"').replace(
            b', "', b',"'
        ),
    ],
)
def test_tables_of_spreadsheet_programs(tmp_path, body, table):
    np.savez(tmp_path / "arrays.npz", a=body, b=body)
    (tmp_path / "clips.csv").write_bytes(table)
    assert prepare_arrays(tmp_path, tmp_path / "arrays.npz", tmp_path / "clips.csv") == 0
    assert (tmp_path / "store" / CLIPS_FILE).read_text().splitlines()[1:] == ["a,0,0,8,train", "b,1,8,8,val"]


@pytest.mark.parametrize(
    "table,message",
    [
        (b"PK\3\4", "has no column name"),
        (b"n;l\n", "but has n"),
        ("name;l\xe4\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_unreadable_tables_name_the_cause(tmp_path, body, table, message):
    np.savez(tmp_path / "arrays.npz", a=body)
    (tmp_path / "clips.csv").write_bytes(table)
    with pytest.raises(UserError, match=message):
        prepare_arrays(tmp_path, tmp_path / "arrays.npz", tmp_path / "clips.csv")


def test_store_table_saved_by_a_spreadsheet_program(tmp_path):
    store = write_eight_clips(tmp_path)
    before = open_store(store)
    text = (store / CLIPS_FILE).read_text()
    for changed in (text.replace("\n", "\r\n") + "\r\n", text.replace(",", ";") + ";;;;\n"):
        (store / CLIPS_FILE).write_bytes(b"\xef\xbb\xbf" + changed.encode())
        after = open_store(store)
        assert after.names == before.names and after.splits == before.splits
    info = json.loads((store / INFO_FILE).read_text())
    (store / INFO_FILE).write_text(json.dumps({**info, "format_version": "7"}))
    with pytest.raises(UserError, match="format version 7, but this version reads 1"):
        open_store(store)


# Units


@pytest.mark.parametrize(
    "factor,message",
    [
        (100, "m, so divide the coordinates by 100"),
        (1000, "m, so divide the coordinates by 1,000"),
        (0.001, "fits no common unit"),
        (1, None),
    ],
)
def test_implausible_body_size_is_a_warning(tmp_path, body, factor, message, capsys):
    np.savez(tmp_path / "arrays.npz", a=body * factor, b=np.stack([body * factor, 0 * body], axis=-1))
    (tmp_path / "clips.csv").write_text("name,label,cross_subject\na,0,train\nb,1,val\n")
    assert prepare_arrays(tmp_path, tmp_path / "arrays.npz", tmp_path / "clips.csv") == 0
    out = capsys.readouterr().out
    assert ("WARNING" in out) == bool(message) and (message or "") in out


# PKU-MMD


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pku") / "raw"
    flags = ["--out_folder", str(folder), "--subjects", "4", "--actions_per_video", "2", "--workers", "1"]
    assert make_pku.main(flags) == 0
    return folder


def prepare_pku(out, data, labels, splits):
    flags = ["--part", 1, "--data_path", data, "--label_path", labels, "--split_path", splits]
    return pku_gendata.main(list(map(str, [*flags, "--out_folder", out, "--workers", 1])))


def counts(store):
    return json.loads((store / INFO_FILE).read_text())["counts"]


def test_one_root_for_all_files_of_pku(pku, tmp_path):
    prepare_pku(tmp_path / "expected", pku / "skeletons", pku / "labels", pku / "splits")
    files = {path.relative_to(pku).as_posix(): path.read_bytes() for path in pku.rglob("*.txt")}
    (tmp_path / "all.tar").write_bytes(tar_bytes(shuffled(files), "w"))
    assert prepare_pku(tmp_path / "store", *[tmp_path / "all.tar"] * 3) == 0
    for file in (FRAMES_FILE, CLIPS_FILE):
        assert (tmp_path / "store" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()
    assert left_out(tmp_path / "store") == {}


def test_names_in_split_files_may_have_suffix_and_case(pku, tmp_path):
    lines = (pku / "splits" / "cross-view.txt").read_text().splitlines()
    spellings = ["{}.AVI", "Videos/{}.txt", '"{}"']
    for i in (1, 3):
        names = [name.strip().lower() for name in lines[i].split(",") if name.strip()]
        lines[i] = ", ".join(spellings[k % 3].format(name) for k, name in enumerate(names))
    (tmp_path / "Cross-View.TXT").write_text("\n".join(lines))
    data = pku / "skeletons", pku / "labels"
    assert prepare_pku(tmp_path / "store", *data, tmp_path / "Cross-View.TXT") == 0
    prepare_pku(tmp_path / "expected", *data, pku / "splits" / "cross-view.txt")
    assert counts(tmp_path / "store") == counts(tmp_path / "expected")


def test_split_files_of_other_videos(pku, tmp_path, capsys):
    (tmp_path / "cross-view.txt").write_text("Training videos:\nA1, A2\nTest videos:\nA3\n")
    with pytest.raises(UserError, match="24 of 24 videos, such as 0001-L, are not in the split file"):
        prepare_pku(tmp_path / "store", pku / "skeletons", pku / "labels", tmp_path / "cross-view.txt")
    (tmp_path / "cross-view.txt").write_text("Training videos:\n0001-L.avi\nTest videos:\n0001-M.avi\n")
    prepare_pku(tmp_path / "store", pku / "skeletons", pku / "labels", tmp_path / "cross-view.txt")
    assert "WARNING: 22 of 24 videos" in capsys.readouterr().out


def test_packed_skeletons_of_pku_are_named(pku, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "skeleton.7z").write_bytes(b"7z")
    with pytest.raises(UserError, match="0 .txt files.*1 .7z"):
        prepare_pku(tmp_path / "store", tmp_path / "data", pku / "labels", pku / "splits")
    with pytest.raises(UserError, match=r"\(24 .txt files, 24 with labels\)"):
        prepare_pku(tmp_path / "store", pku / "labels", pku / "labels", pku / "splits")


# Targets


@pytest.fixture
def raw(raw_files, tmp_path):
    return write_files(tmp_path / "raw", dict(list(raw_files.items())[:2]))


@pytest.mark.parametrize("content", ["nothing", "a store"])
def test_links_to_folders_are_followed(raw, tmp_path, content):
    scratch, link = tmp_path / "scratch" / "ntu", tmp_path / "link"
    scratch.parent.mkdir()
    if content == "a store":
        prepare(raw, scratch)
    link.symlink_to(scratch)
    for _ in range(2):
        assert prepare(raw, link, "--overwrite") == 0
        assert link.is_symlink() and len(names_in(scratch)) == 2


@pytest.mark.parametrize("kind", ["fifo", "file"])
def test_other_targets_are_rejected_before_the_work(tmp_path, kind):
    target = tmp_path / "target"
    os.mkfifo(target) if kind == "fifo" else target.write_text("thesis")
    before = target.lstat()
    with pytest.raises(UserError, match="not a store"):
        prepare(tmp_path / "nowhere", target, "--overwrite")  # the input is not even looked for
    assert os.path.samestat(before, target.lstat()) and before.st_mode == target.lstat().st_mode


def test_home_folder_is_expanded(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare("~/raw", "~/store")
    assert len(names_in(tmp_path / "store")) == 2
