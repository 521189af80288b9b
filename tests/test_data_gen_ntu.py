"""Selection of NTU files: names, lists of missing skeletons, duplicates, flags, dry runs."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data_gen import ntu_files, ntu_gendata
from data_gen.sources import RawFile
from dataset.store_format import CLIPS_FILE, INFO_FILE
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN_RAW = Path(__file__).parent / "golden" / "ntu_skeletons.zip"
PROSE = (
    '2 of the captured samples in the "NTU RGB+D" dataset have missing skeleton data.\n'
    "If you are working on skeleton-based analysis, please ignore these files.\n\n"
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    with zipfile.ZipFile(GOLDEN_RAW) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty folder that replaces the ``data`` folder of the repository."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setattr(ntu_gendata, "DATA_FOLDER", folder)
    return folder


def run(*flags):
    return ntu_gendata.main(["--workers", "1", *map(str, flags)])


def names_in(store):
    with open(store / CLIPS_FILE) as file:
        return [row["name"] for row in csv.DictReader(file)]


def left_out(store):
    info = json.loads((store / INFO_FILE).read_text())
    return {item["file"]: item["reason"] for item in info["left_out"]}


def test_without_flags_the_data_folder_is_used(raw, data, capsys):
    """Without flags, data/ is searched for skeleton files and for the list of missing skeletons."""
    shutil.copytree(raw, data / "deep" / "nturgb+d_skeletons")
    (data / "NTU_RGBD_samples_with_missing_skeletons.txt").write_text(
        PROSE + "S009C003P013R001A010\nS001C001P001R001A001\n"
    )
    assert run() == 1
    store = data / "ntu60"
    names = names_in(store)
    assert len(names) == 8 and max(names) == "S008C002P012R001A009"
    assert sorted(left_out(store).items()) == [
        ("deep/nturgb+d_skeletons/S001C001P001R001A001.skeleton", "listed as a missing skeleton"),
        ("deep/nturgb+d_skeletons/S007C001P011R001A008.skeleton", "no body in any frame"),
        ("deep/nturgb+d_skeletons/S009C003P013R001A010.skeleton", "listed as a missing skeleton"),
    ]
    assert "3 files are not in ntu60" in capsys.readouterr().out
    made_by = json.loads((store / INFO_FILE).read_text())["made_by"]
    assert str(data) not in json.dumps(made_by)
    run("--dataset", "ntu120")  # the store of ntu60 is skipped
    assert len(names_in(data / "ntu120")) == 13  # the list is not the one of NTU-120


def test_duplicates_in_archive_and_folder_are_left_out(raw, data):
    shutil.copytree(raw, data / "b")
    with zipfile.ZipFile(data / "a.zip", "w") as archive:
        for path in sorted(raw.iterdir())[:3]:
            archive.write(path)
        archive.writestr("__MACOSX/._S001C001P001R001A001.skeleton", b"\0")
    assert run("--dataset", "ntu120") == 1
    assert len(names_in(data / "ntu120")) == 13
    reasons = left_out(data / "ntu120")
    assert len(reasons) == 4
    assert sum("the same name as a.zip/" in reason for reason in reasons.values()) == 3


def test_files_with_other_names_are_left_out(raw, data):
    names = ("S001C001P001R001A001", "S001C001P001R001A061", "S001C001P001R001A000", "S01C001P001R001A001")
    for name in (*names, "readme"):
        shutil.copy(raw / "S001C001P001R001A001.skeleton", data / f"{name}.skeleton")
    run()
    assert names_in(data / "ntu60") == ["S001C001P001R001A001"]
    assert left_out(data / "ntu60") == {
        "S001C001P001R001A000.skeleton": "action 0 is not one of the 60 of ntu60",
        "S001C001P001R001A061.skeleton": "action 61 is not one of the 60 of ntu60",
        "S01C001P001R001A001.skeleton": "the name is not of the form SsssCcccPpppRrrrAaaa",
        "readme.skeleton": "the name is not of the form SsssCcccPpppRrrrAaaa",
    }


def test_links_are_followed_once(raw, data, tmp_path):
    (data / "raw").symlink_to(raw)
    (data / "loop").symlink_to(data)
    assert run("--dataset", "ntu120") == 1
    assert len(names_in(data / "ntu120")) == 13 and len(left_out(data / "ntu120")) == 1
    run("--dataset", "ntu120", "--data_path", raw, raw.parent / raw.name, "--out-folder", tmp_path / "store")
    assert len(left_out(tmp_path / "store")) == 1


def test_on_error_stop_writes_nothing(raw, data):
    with pytest.raises(UserError, match="S007C001P011R001A008.skeleton: no body"):
        run("--data_path", raw, "--on-error", "stop")
    assert os.listdir(data) == []


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--data_path", "nowhere"], "nowhere does not exist"),
        ([], "no .skeleton file below"),
        (["--data_path", "RAW", "--ignored_sample_path", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--data_path", "RAW", "--ignored_sample_path", __file__], "contains no line with only a name like"),
        (["--data_path", "RAW", "--out_folder", "RAW"], "exists but is not a store"),
        (["--data_path", "broken.zip"], "the archive is damaged"),
    ],
)
def test_user_errors_write_nothing(raw, data, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 cut")
    before = sorted(os.walk(tmp_path))
    with pytest.raises(UserError, match=message):
        run(*[str(raw) if flag == "RAW" else flag for flag in flags])
    assert sorted(os.walk(tmp_path)) == before


def test_damaged_archive_member_is_left_out(raw, data):
    with zipfile.ZipFile(data / "raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(raw.iterdir()):
            archive.write(path, path.name)
        place = archive.getinfo("S002C001P003R002A003.skeleton").header_offset
    damaged = bytearray((data / "raw.zip").read_bytes())
    damaged[place + 2000 : place + 2100] = bytes(100)
    (data / "raw.zip").write_bytes(damaged)
    run()
    reason = left_out(data / "ntu60")["raw.zip/S002C001P003R002A003.skeleton"]
    assert "cannot be read" in reason or "damaged" in reason


def test_script_runs_from_its_folder(raw, tmp_path):
    for source, code, text in ((raw, 1, "10 clips"), ("nowhere", 2, "error: nowhere does not exist")):
        flags = [f"--data-path={source}", f"--out_folder={tmp_path / str(code)}", "--workers=2"]
        command = [sys.executable, "ntu_gendata.py", *flags]
        result = subprocess.run(command, cwd=REPOSITORY / "data_gen", capture_output=True, text=True)
        assert result.returncode == code and text in result.stdout + result.stderr  # one of 11 has no body
        assert "Traceback" not in result.stderr


def published_names(dataset):
    for setup, subjects in ntu_files.read_setups(dataset).items():
        first_action = 1 if setup <= 17 else 61
        for subject in subjects:
            for camera in (1, 2, 3):
                for repetition in (1, 2):
                    for action in range(first_action, first_action + 60):
                        yield (f"S{setup:03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}")


def test_published_names_have_the_published_count():
    """56,880 and 114,480 clips, including those with missing skeletons (Liu et al., TPAMI 2019)."""
    assert sum(1 for _ in published_names("ntu60")) == 56880
    assert sum(1 for _ in published_names("ntu120")) == 114480


def test_dry_run_reports_missing_clips(data, tmp_path, capsys):
    names = list(published_names("ntu120"))
    listed, absent = names[:2], names[5000]
    removed = set(names[1440:1800]) | {absent}  # all of one subject in setup 1, and one listed clip
    (tmp_path / "names.txt").write_text("\n".join(sorted(set(names) - removed)))
    (tmp_path / "missing.txt").write_text(PROSE + "\n".join([*listed, absent]))
    flags = ["--data_path", tmp_path / "names.txt", "--ignored_sample_path", tmp_path / "missing.txt"]
    assert run("--dry-run", *flags, "--dataset", "ntu120") == 0
    out = capsys.readouterr().out
    assert "Of 3 names on the list of missing skeletons, 2 are present" in out and absent in out
    assert "setup  1: 2,518 of 2,878 clips; no clip of subject 5" in out
    assert out.count("  setup ") == 1
    assert "cross_setup    train 54,719 / 54,468   val 59,398 / 59,477" in out
    assert os.listdir(data) == []


def test_later_setups_are_not_in_ntu60():
    files = [RawFile(f"S0{setup}C001P001R001A001", "display name", "path") for setup in (17, 18)]
    assert ntu_files.select_files(files, "ntu60", set()).num_other_files == 1
    assert ntu_files.select_files(files, "ntu120", set()).num_other_files == 0
