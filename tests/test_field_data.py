"""Input as people have it: archives of all kinds, lists under other names, spreadsheets, links and mounts."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write_eight_clips

from data_gen import arrays_gendata, ntu_gendata, pku_gendata
from data_gen.synthetic import make_pku
from data_gen.units import body_size, unit_warning
from dataset.store import open_store
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN_RAW = Path(__file__).parent / "golden" / "ntu_skeletons.zip"


@pytest.fixture(scope="module")
def raw_files():
    """The content of 12 skeleton files, by file name; all become clips."""
    with zipfile.ZipFile(GOLDEN_RAW) as archive:
        files = {
            name: archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".skeleton")
        }
    del files["S007C001P011R001A008.skeleton"]  # without a body
    return dict(list(files.items())[:12])


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
    "a.zip": lambda files: zip_bytes(files),
    "a.ZIP": lambda files: zip_bytes({f"folder\\sub\\{name}": data for name, data in files.items()}),
    "a.tar": lambda files: tar_bytes(files, "w"),
    "a.tar.gz": lambda files: tar_bytes(files),
    "a.tgz": lambda files: tar_bytes(files),
    "a.tar.bz2": lambda files: tar_bytes(files, "w:bz2"),
    "a.tar.xz": lambda files: tar_bytes(files, "w:xz"),
}


@pytest.fixture(scope="module")
def expected(raw_files, tmp_path_factory):
    """The store of the plain files."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "raw").mkdir()
    for name, data in raw_files.items():
        (folder / "raw" / name).write_bytes(data)
    assert prepare(folder / "raw", folder / "store") == 0
    return folder / "store"


@pytest.mark.parametrize("packing", PACKINGS)
def test_archives_give_the_same_bytes_as_files(raw_files, expected, tmp_path, packing):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / packing).write_bytes(PACKINGS[packing](shuffled(raw_files)))
    assert prepare(tmp_path / "raw", tmp_path / "store") == 0
    for file in (FRAMES_FILE, CLIPS_FILE):
        assert (tmp_path / "store" / file).read_bytes() == (expected / file).read_bytes()
    assert left_out(tmp_path / "store") == {}


@pytest.mark.parametrize(
    "suffix,pack",
    [
        (".SKELETON", bytes),
        (".skeleton.txt", bytes),
    ],
)
def test_single_files_under_other_suffixes_are_read(raw_files, expected, tmp_path, suffix, pack):
    (tmp_path / "raw").mkdir()
    for name, data in raw_files.items():
        (tmp_path / "raw" / (name.removesuffix(".skeleton") + suffix)).write_bytes(pack(data))
    assert prepare(tmp_path / "raw", tmp_path / "store") == 0
    assert (tmp_path / "store" / FRAMES_FILE).read_bytes() == (expected / FRAMES_FILE).read_bytes()


def test_everything_that_is_not_read_is_counted(raw_files, tmp_path, capsys):
    raw = tmp_path / "raw"
    (raw / ".hidden").mkdir(parents=True)
    (name, data), *_ = raw_files.items()
    (raw / name).write_bytes(data)
    for other in ("more.7z", "more.RAR", "x.rar", "x.skeleton.zst", "notes.docx", "README"):
        (raw / other).write_bytes(b"x")
    (raw / "cut.zip").write_bytes(zip_bytes(raw_files)[:5000])
    (raw / "cut.tar.gz").write_bytes(tar_bytes(raw_files)[:50_000])
    (raw / "outer.zip").write_bytes(zip_bytes({"inner.7z": b"7z", "S1.skel": b"", "a/b.zip": b"PK"}))
    os.mkfifo(raw / "S001C001P009R001A001.skeleton")
    (raw / "S001C001P009R001A002.skeleton").symlink_to(raw / "nowhere")
    assert prepare(raw, tmp_path / "store") == 1
    reasons = left_out(tmp_path / "store")
    assert reasons.pop("other files") == (
        "not read: 2 .7z, 2 .rar, 1 .docx, 1 .skel, 1 .zip, 1 .zst, 1 hidden, 1 without suffix"
    )
    for file, reason in {
        "cut.zip": "the archive is damaged",
        "cut.tar.gz": "the archive is damaged",
        "S001C001P009R001A001.skeleton": "not a regular file",
        "S001C001P009R001A002.skeleton": "broken link",
    }.items():
        assert reason in reasons.pop(file)
    # the last file in the cut archive is listed; the others are in the store
    assert set(reasons) <= {f"cut.tar.gz/{name}" for name in raw_files} | {name}
    out = capsys.readouterr().out
    assert "2 archives or folders could not be read completely" in out and "2 .7z, 2 .rar" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_unreadable_folder_is_listed(raw_files):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1)); from data_gen.sources import scan_input;"
        "os.setgid(65534); os.setuid(65534); found = scan_input([sys.argv[1]], ('.skeleton',), 'x');"
        "print(len(found.files), *found.problems)"
    )
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed for other users
        raw = Path(folder)
        os.chmod(raw, 0o755)
        (raw / "closed").mkdir()
        for place, name in zip((raw, raw / "closed"), raw_files):
            (place / name).write_bytes(raw_files[name])
        os.chmod(raw / "closed", 0)
        ended = subprocess.run([sys.executable, "-c", code, REPOSITORY, raw], capture_output=True, text=True)
    assert ended.stdout == f"1 {raw.name}/closed: the folder cannot be read (Permission denied)\n", (
        ended.stderr
    )


def test_names_and_links_in_archives_never_become_paths(raw_files, tmp_path):
    (name, data), *_ = raw_files.items()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path in (f"../../{name}", "/etc/passwd.skeleton"):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("S002C001P001R001A001.skeleton")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "links.tar.gz").write_bytes(content.getvalue())
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert prepare(raw, tmp_path / "store") == 1
    assert names_in(tmp_path / "store") == [name.removesuffix(".skeleton")]
    reasons = left_out(tmp_path / "store")
    assert reasons["other files"] == "not read: 1 link"
    assert "not of the form" in reasons["links.tar.gz//etc/passwd.skeleton"]
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert written == {tmp_path / "store" / file for file in (FRAMES_FILE, CLIPS_FILE, INFO_FILE)}


# Damaged archives


def damaged_archive(files, rng):
    """A random packing of some files, with a random damage; returns its name and content."""
    packing = list(PACKINGS)[rng.integers(len(PACKINGS))]
    content = bytearray(PACKINGS[packing](files))
    kind = rng.integers(5)
    if kind == 0:
        content = content[: rng.integers(len(content) + 1)]
    elif kind == 1:
        for _ in range(rng.integers(1, 20)):
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        start = int(rng.integers(len(content)))
        content[start : start + int(rng.integers(1, 5000))] = b""
    elif kind == 3:
        start = int(rng.integers(len(content)))
        length = min(int(rng.integers(1, 5000)), len(content) - start)
        content[start : start + length] = bytes(length)
    return packing, bytes(content)


def check_damaged_archive(raw_files, folder, seed):
    """Prepare plain files and a damaged archive; return how many clips of the archive are in the store."""
    rng = np.random.default_rng([seed, 15])
    names = list(raw_files)
    short = {name: first_frames(raw_files[name], 9) for name in names}
    packed = {name: short[name] for name in names[4:]}
    if seed % 3 == 0:
        packed = {
            ("../" * 9 + "tmp/" if i % 2 else "/") + name: d for i, (name, d) in enumerate(packed.items())
        }
    raw = folder / "raw"
    raw.mkdir()
    for name in names[:4]:
        (raw / name).write_bytes(short[name])
    archive, content = damaged_archive(packed, rng)
    (raw / archive).write_bytes(content)
    before = sorted(path for path in folder.rglob("*"))
    prepare(raw, folder / "store")
    after = sorted(
        path
        for path in folder.rglob("*")
        if path != folder / "store" and folder / "store" not in path.parents
    )
    assert after == before
    stored, reasons = set(names_in(folder / "store")), left_out(folder / "store")
    assert {name.removesuffix(".skeleton") for name in names[:4]} <= stored
    archive_is_listed = any(archive in file and not file.endswith(".skeleton") for file in reasons)
    for name in names[4:]:
        listed = any(file.endswith((name, f"{name}.gz")) for file in reasons)
        assert name.removesuffix(".skeleton") in stored or listed or archive_is_listed, (
            seed,
            archive,
            name,
            reasons,
        )
    assert all(reasons.values())
    assert np.isfinite(np.load(folder / "store" / FRAMES_FILE)).all()
    return len(stored) - 4


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


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_clips_around_damaged_archives_are_stored_or_listed(raw_files, tmp_path, first):
    for seed in range(first, first + 20):
        (tmp_path / str(seed)).mkdir()
        check_damaged_archive(raw_files, tmp_path / str(seed), seed)


@pytest.mark.slow
def test_1000_damaged_archives(raw_files, tmp_path):
    counts = []
    for seed in range(1000, 2000):
        (tmp_path / str(seed)).mkdir()
        counts.append(check_damaged_archive(raw_files, tmp_path / str(seed), seed))
        shutil.rmtree(tmp_path / str(seed))
    print(f"{sum(counts)} clips of damaged archives are stored; {counts.count(8)} archives completely")


# Lists of missing skeletons


LIST_NAMES = [
    "NTU_RGBD120_samples_with_missing_skeletons.txt",
    "samples_with_missing_skeletons.txt",
    "samples_with_missing_skeletons_NTU_RGBD120.txt",
    "ntu_rgb120_missings.txt",
    "NTU_RGBD120_samples_with_missing_skeletons (1).txt",
    "ntu_rgbd120_SAMPLES_with_missing_skeletons.TXT",
    "missing.txt.txt",
    "missing_skeletons.csv",
    "deep/er/missing_skeletons",
]


@pytest.mark.parametrize("name", LIST_NAMES)
def test_list_of_missing_skeletons_is_found_under_other_names(raw_files, tmp_path, name, capsys):
    path = tmp_path / "raw" / name
    path.parent.mkdir(parents=True)
    for file, data in raw_files.items():
        (tmp_path / "raw" / file).write_bytes(data)
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
    (tmp_path / "raw").mkdir()
    for file, data in raw_files.items():
        (tmp_path / "raw" / file).write_bytes(data)
    names = "\n".join(name.removesuffix(".skeleton") for name in raw_files)
    (tmp_path / "raw" / "train.txt").write_text(names)  # not evidently the list
    prepare(tmp_path / "raw", tmp_path / "store", "--dataset", dataset)
    out = capsys.readouterr().out
    assert f"WARNING: no list of missing skeletons found, so all files are used: up to {count} clips" in out
    assert "it may be train.txt" in out and out.count("WARNING") == 2  # at the beginning and at the end


def test_only_later_setups_suggest_ntu120(raw_files, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "S018C001P008R001A061.skeleton").write_bytes(min(raw_files.values()))
    with pytest.raises(UserError, match="add --dataset ntu120"):
        prepare(tmp_path / "raw", tmp_path / "store", "--dataset", "ntu60")


# Interrupted downloads


def test_nul_bytes_are_named(raw_files, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    names = list(raw_files)
    (raw / names[0]).write_bytes(bytes(4096))
    (raw / names[1]).write_bytes(raw_files[names[1]][:9000] + bytes(4096))
    (raw / names[2]).write_bytes(raw_files[names[2]])
    prepare(raw, tmp_path / "store")
    reasons = left_out(tmp_path / "store")
    assert "consists of 4,096 NUL bytes" in reasons[names[0]]
    assert "is truncated in frame 2" in reasons[names[1]]
    (tmp_path / "clips.csv").write_bytes(bytes(99))
    with pytest.raises(UserError, match="NUL bytes"):
        prepare_arrays(tmp_path, raw, tmp_path / "clips.csv")


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
        b"sep=;\r\nname;label;cross_subject\r\na;0;Train\r\nb;1;Val \r\n",
        "name\tlabel\tcross_subject\r\na\t0\ttrain\r\nb\t1\tval\r\n".encode("utf-16"),
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
    [(b"PK\3\4", "an Excel workbook"), (b"n;l\n", "but has n"), ("name;l\xe4\n".encode("latin-1"), "UTF-8")],
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
    for changed in (
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n",
        b"\xef\xbb\xbf" + text.replace(",", ";").encode() + b";;;;\n",
    ):
        (store / CLIPS_FILE).write_bytes(changed)
        after = open_store(store)
        assert after.names == before.names and after.splits == before.splits
    info = json.loads((store / INFO_FILE).read_text())
    (store / INFO_FILE).write_text(json.dumps({**info, "format_version": "1"}))
    open_store(store)
    (store / INFO_FILE).write_text(json.dumps({**info, "format_version": "7"}))
    with pytest.raises(UserError, match="format version 7, but this version reads 1"):
        open_store(store)


# Units


@pytest.mark.parametrize(
    "factor,message",
    [
        (100, "in centimeters that would be 1.8 m, so divide the coordinates by 100"),
        (1000, "in millimeters that would be 1.8 m, so divide the coordinates by 1,000"),
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = unit_warning([body_size(body * factor)])
    assert (message or "None") in str(text)


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
    assert prepare_pku(tmp_path / "one", pku, pku, pku) == 0
    files = {path.relative_to(pku).as_posix(): path.read_bytes() for path in pku.rglob("*.txt")}
    (tmp_path / "all.tar.gz").write_bytes(tar_bytes(shuffled(files)))
    assert prepare_pku(tmp_path / "two", *[tmp_path / "all.tar.gz"] * 3) == 0
    for store in ("one", "two"):
        for file in (FRAMES_FILE, CLIPS_FILE):
            assert (tmp_path / store / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()
        assert left_out(tmp_path / store) == {}


@pytest.mark.parametrize("spelling", ["{}.avi", "{}.AVI", "Videos/{}.txt", '"{}"', "lower"])
def test_names_in_split_files_may_have_suffix_and_case(pku, tmp_path, spelling):
    text = (pku / "splits" / "cross-view.txt").read_text()
    lines = text.splitlines()
    for i in (1, 3):
        names = [name.strip() for name in lines[i].split(",") if name.strip()]
        lines[i] = ", ".join(name.lower() if spelling == "lower" else spelling.format(name) for name in names)
    (tmp_path / "Cross-View.TXT").write_text("\n".join(lines))
    assert (
        prepare_pku(tmp_path / "store", pku / "skeletons", pku / "labels", tmp_path / "Cross-View.TXT") == 0
    )
    prepare_pku(tmp_path / "expected", pku / "skeletons", pku / "labels", pku / "splits" / "cross-view.txt")
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
    with pytest.raises(UserError, match="0 .txt files.*not read: 1 .7z"):
        prepare_pku(tmp_path / "store", tmp_path / "data", pku / "labels", pku / "splits")
    with pytest.raises(UserError, match=r"\(24 .txt files, 24 with labels\)"):
        prepare_pku(tmp_path / "store", pku / "labels", pku / "labels", pku / "splits")


# Targets


@pytest.fixture
def raw(raw_files, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in list(raw_files)[:2]:
        (folder / name).write_bytes(raw_files[name])
    return folder


@pytest.mark.parametrize("content", ["nothing", "an empty folder", "a store"])
def test_links_to_folders_are_followed(raw, tmp_path, content):
    scratch, link = tmp_path / "scratch" / "ntu", tmp_path / "link"
    scratch.parent.mkdir()
    if content == "an empty folder":
        scratch.mkdir()
    elif content == "a store":
        prepare(raw, scratch)
    link.symlink_to(scratch)
    for _ in range(2):
        assert prepare(raw, link, "--overwrite") == 0
        assert link.is_symlink() and len(names_in(scratch)) == 2
        assert sorted(os.listdir(tmp_path)) == ["link", "raw", "scratch"]
        assert os.listdir(scratch.parent) == ["ntu"]


@pytest.mark.parametrize("kind", ["device", "fifo", "file", "link to a file"])
def test_other_targets_are_rejected_before_the_work(tmp_path, kind):
    target = tmp_path / "target"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "file":
        target.write_text("thesis")
    else:
        (tmp_path / "file").write_text("thesis")
        target.symlink_to("/dev/null" if kind == "device" else tmp_path / "file")
    before = target.lstat()
    with pytest.raises(UserError, match="not a store"):
        prepare(tmp_path / "nowhere", target, "--overwrite")  # the input is not even looked for
    assert os.path.samestat(before, target.lstat()) and before.st_mode == target.lstat().st_mode


def test_mount_point_is_rejected_before_the_work(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(UserError, match="is a mount point and cannot be replaced; choose a folder inside it"):
        prepare(tmp_path / "nowhere", tmp_path / "disk")  # the input is not even looked for
    assert prepare(raw, tmp_path / "disk" / "store") == 0


def test_home_folder_is_expanded(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare("~/raw", "~/store")
    assert len(names_in(tmp_path / "store")) == 2
