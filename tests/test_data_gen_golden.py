"""The preparation gives the same clips as the official code for the same skeleton files.

``golden/ntu_skeletons.zip`` contains 14 skeleton files, ``golden/ntu_clips.npz`` their clips and splits.
"""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_gen import ntu_gendata
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE

GOLDEN = Path(__file__).parent / "golden"
NO_BODY = "S007C001P011R001A008"  # the official code stores it as zeros, this repository leaves it out
MISSING = "S009C003P013R001A010"
PROTOCOLS = {"cross_subject": "xsub", "cross_view": "xview", "cross_setup": "xsetup"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    with zipfile.ZipFile(GOLDEN / "ntu_skeletons.zip") as archive:
        archive.extractall(folder / "skeletons")
    with zipfile.ZipFile(folder / "skeletons.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "skeletons").iterdir()):
            archive.write(path, f"nturgb+d_skeletons/{path.name}")
    (folder / "missing.txt").write_text(f"1 of the samples has missing data.\n\n{MISSING}\n")
    return folder


def prepare(raw, out, *flags, source="skeletons"):
    paths = [f"--data_path={raw / source}", f"--ignored-sample-path={raw / 'missing.txt'}"]
    return ntu_gendata.main(["--dataset", "ntu120", *paths, "--out_folder", str(out), *flags])


@pytest.mark.parametrize("source,workers", [("skeletons", 1), ("skeletons.zip", 2)])
def test_clips_equal_those_of_the_official_code(tmp_path, raw, source, workers):
    out = tmp_path / "store"
    code = prepare(raw, out, "--workers", str(workers), source=source)
    assert code == 1  # one clip of 13 is left out, which is more than 5%
    golden = np.load(GOLDEN / "ntu_clips.npz")
    frames = np.load(out / FRAMES_FILE)
    assert frames.dtype == np.float32
    with open(out / CLIPS_FILE) as file:
        rows = list(csv.DictReader(file))
    names = {key[5:] for key in golden.files if key.startswith("data/")}
    assert [row["name"] for row in rows] == sorted(names - {NO_BODY})
    for row in rows:
        name, first = row["name"], int(row["first_frame"])
        expected = golden[f"data/{name}"].transpose(1, 2, 0, 3)
        assert int(row["label"]) == golden[f"label/{name}"]
        assert int(row["num_frames"]) == golden[f"num_frame/{name}"] == len(expected)
        got = frames[first : first + len(expected)]
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-7)  # values of up to 2 meters
        for protocol, short in PROTOCOLS.items():
            assert f"{name}.skeleton" in golden[f"split/{short}/{row[protocol]}"]


def test_output_does_not_depend_on_workers_or_archive(tmp_path, raw):
    for workers in (1, 2):
        prepare(raw, tmp_path / f"store{workers}", "--workers", str(workers))
    prepare(raw, tmp_path / "zip", source="skeletons.zip")
    for file in (FRAMES_FILE, CLIPS_FILE, INFO_FILE):
        one, two = (tmp_path / f"store{workers}" / file for workers in (1, 2))
        assert one.read_bytes() == two.read_bytes()
    for file in (FRAMES_FILE, CLIPS_FILE):
        assert (tmp_path / "store1" / file).read_bytes() == (tmp_path / "zip" / file).read_bytes()


def test_left_out_files_are_listed_with_reason(tmp_path, raw):
    prepare(raw, tmp_path / "store", "--workers", "1")
    info = json.loads((tmp_path / "store" / INFO_FILE).read_text())
    assert [(item["file"], item["reason"]) for item in info["left_out"]] == [
        (f"{NO_BODY}.skeleton", "no body in any frame"),
        (f"{MISSING}.skeleton", "listed as a missing skeleton"),
    ]
    assert info["counts"]["clips"] == 12 and info["num_classes"] == 120
