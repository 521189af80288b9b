"""Stores of NW-UCLA: labels and splits by file name, damaged files, and every script on 20 joints."""

import json
import os

import numpy as np
import pytest
from conftest import one_line
from damaged_inputs import damage, store_or_error

from data_gen import ucla_gendata
from data_gen.normalize import normalize_clip
from dataset.store import open_store
from dataset.store_format import INFO_FILE
from facts.skeletons import KINECT_V1
from utils.errors import UserError


def content(name, seed=0, frames=6, label=None):
    """Return the content of a file, with a random walk of 20 joints."""
    rng = np.random.default_rng(seed)
    joints = rng.normal(0, 0.5, (1, 20, 3)) + np.cumsum(rng.normal(0, 0.02, (frames, 20, 3)), 0) + [0, 0, 3]
    label = label or ucla_gendata.ACTIONS.index(int(name[1:3])) + 1
    return {"file_name": name, "skeletons": joints.round(6).tolist(), "label": label}


def write(folder, name, **settings):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content(name, **settings)))


@pytest.fixture
def raw(tmp_path):
    """A folder with 18 clips: three actions, two subjects, three views."""
    names = [f"a{a:02d}_s{s:02d}_e00_v{v:02d}" for a in (1, 8, 12) for s in (1, 2) for v in (1, 2, 3)]
    for seed, name in enumerate(names):
        write(tmp_path / "raw", name, seed=seed, frames=1 + seed * 5)
    return tmp_path / "raw"


def prepare(path, store, *flags):
    return ucla_gendata.main(
        ["--data_path", str(path), "--out_folder", str(store), "--workers", "1", *map(str, flags)]
    )


def left_out(store):
    info = json.loads((store / INFO_FILE).read_text())
    return {item["file"]: item["reason"] for item in info["left_out"]}


def test_clips_labels_and_splits(raw, tmp_path, capsys):
    assert prepare(raw, tmp_path / "store") == 0
    assert "/ 1,020" in capsys.readouterr().out
    store = open_store(tmp_path / "store")
    assert store.dataset == "ucla" and store.skeleton == KINECT_V1 and store.num_classes == 10
    assert store.class_names[:2] == ("pick up with one hand", "pick up with two hands")
    assert store.names == sorted(path.stem for path in raw.iterdir())
    assert store.num_frames.tolist() == [1 + i * 5 for i in range(18)]
    assert store.labels.tolist() == [0] * 6 + [6] * 6 + [9] * 6
    assert store.splits == {
        "cross_view": ["train", "train", "val"] * 6,
        "view1": ["val", "train", "train"] * 6,
        "view2": ["train", "val", "train"] * 6,
    }
    joints = np.array(json.loads((raw / "a01_s01_e00_v02.json").read_text())["skeletons"])
    assert np.array_equal(store.frames[1:7], normalize_clip(joints[None], KINECT_V1))


def test_labels_of_all_actions(tmp_path):
    for number, action in enumerate(ucla_gendata.ACTIONS):
        write(tmp_path / "raw", f"a{action:02d}_s01_e00_v01", label=number + 1)
    assert prepare(tmp_path / "raw", tmp_path / "store") == 0
    assert open_store(tmp_path / "store").labels.tolist() == list(range(10))


def test_dry_run_scans_names_only(raw, tmp_path, capsys):
    (raw / "a01_s01_e00_v01.json").write_text("damaged")
    (raw / "a07_s01_e00_v01.json").write_text("")
    assert prepare(raw, tmp_path / "store", "--dry-run") == 0
    output = capsys.readouterr().out
    assert (
        "train     12 / 1,020   val      6 / 464" in output
        and "a07_s01_e00_v01.json: the name is not" in output
    )
    assert not (tmp_path / "store").exists()


GOOD = content("a01_s01_e00_v01")
NOT_A_CLIP = "cannot be read as a clip of NW-UCLA"
BAD_FILES = [
    (b"", NOT_A_CLIP),
    (b"\0" * 300, "consists of 300 NUL bytes"),
    (b"\xff\xfe\xfd", NOT_A_CLIP),
    (b"[" * 100000, NOT_A_CLIP),
    (b"[]", NOT_A_CLIP),
    ({"skeletons": {}}, NOT_A_CLIP),
    ({"label": 2}, "contains the clip a01_s01_e00_v01 with label 2, unlike its name"),
    ({"label": None}, "unlike its name"),
    ({"file_name": "a01_s01_e00_v02"}, "contains the clip a01_s01_e00_v02"),
    ({"skeletons": []}, "instead of"),
    ({"skeletons": [[[1, 2, 3]] * 25]}, "instead of \\(frames, 20, 3"),
    ({"skeletons": [[[1, 2]] * 20]}, "instead of"),
    ({"skeletons": [[[1, 2, 3]] * 19 + [[1, 2]]]}, NOT_A_CLIP),
    ({"skeletons": [[[1, 2, "x"]] * 20]}, NOT_A_CLIP),
    ({"skeletons": [[[1, 2, 10**400]] * 20]}, NOT_A_CLIP),
    ({"skeletons": [[[1, 2, 1e300]] * 20]}, "too large"),
    ({"skeletons": [[[0, 0, 0]] * 20]}, "no body"),
]


@pytest.mark.parametrize("bad,reason", BAD_FILES)
def test_bad_files_are_left_out(tmp_path, bad, reason):
    write(tmp_path / "raw", "a02_s01_e00_v01")
    data = bad if isinstance(bad, bytes) else json.dumps({**GOOD, **bad}).encode()
    (tmp_path / "raw" / "a01_s01_e00_v01.json").write_bytes(data)
    assert prepare(tmp_path / "raw", tmp_path / "store") == 1
    assert open_store(tmp_path / "store").names == ["a02_s01_e00_v01"]
    (text,) = left_out(tmp_path / "store").values()
    with pytest.raises(UserError, match=reason) as caught:
        prepare(tmp_path / "raw", tmp_path / "store", "--overwrite", "--on-error", "stop")
    assert one_line(str(caught.value)) and text in str(caught.value)


def test_other_names_are_left_out(tmp_path):
    write(tmp_path / "raw", "a02_s01_e00_v01")
    for name in ("package", "a02_s01_e00_v04", "a07_s01_e00_v01", "a02_s01_e00_v01 (1)"):
        (tmp_path / "raw" / f"{name}.json").write_text("{}")
    (tmp_path / "raw" / "copy").mkdir()
    write(tmp_path / "raw" / "copy", "a02_s01_e00_v01")
    assert prepare(tmp_path / "raw", tmp_path / "store") == 1
    reasons = left_out(tmp_path / "store")
    copy = reasons.pop("copy/a02_s01_e00_v01.json")
    assert copy == "a copy of a02_s01_e00_v01.json, which is used"
    names = "a02_s01_e00_v01 (1)", "a02_s01_e00_v04", "a07_s01_e00_v01", "package"
    assert sorted(reasons) == [f"{name}.json" for name in names]
    assert all(
        reason.startswith("the name is not of the form aAA_sSS_eEE_vVV with an action of 1, 2")
        for reason in reasons.values()
    )


def test_other_files_of_the_same_name_are_failures(tmp_path):
    for seed, part in enumerate(("one", "two")):
        (tmp_path / "raw" / part).mkdir(parents=True)
        write(tmp_path / "raw" / part, "a02_s01_e00_v01", seed=seed)
    with pytest.raises(
        UserError, match="two/a02_s01_e00_v01.json: the same name as one/a02_s01_e00_v01.json"
    ):
        prepare(tmp_path / "raw", tmp_path / "store", "--on-error", "stop")


def test_folder_without_clips_raises(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="no file is named like"):
        prepare(tmp_path / "raw", tmp_path / "store")
    assert os.listdir(tmp_path) == ["raw"]


def test_damaged_files_give_a_store_or_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "a01_s01_e00_v01.json"
    results = []
    for seed in range(100):
        path.write_bytes(damage(json.dumps(GOOD).encode(), seed))
        results.append(
            store_or_error(ucla_gendata.main, ["--data_path", tmp_path / "raw"], tmp_path / "store")
        )
    assert results.count("store") >= 5
