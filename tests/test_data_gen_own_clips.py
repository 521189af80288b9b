"""Stores of arrays, from Python and with the script."""

import csv
import json
import os

import numpy as np
import pytest
from conftest import one_line

from data_gen import arrays_gendata
from data_gen.normalize import normalize_clip
from data_gen.own_clips import Clip, write_store
from dataset.clips import open_clips
from dataset.store import open_store
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE
from utils.errors import UserError


def array(seed, frames=6, people=2):
    return np.random.default_rng(seed).normal(0, 1, (frames, 25, 3, people))


def rows_of(store):
    with open(store / CLIPS_FILE) as file:
        return list(csv.DictReader(file))


def test_write_store_normalizes(tmp_path):
    clips = [
        Clip("wave", 1, array(0, 4, 3), {"mine": "val"}),
        Clip("sit", 0, array(1, 6, 1)[..., 0], {"mine": "train"}),
    ]
    write_store(tmp_path / "store", clips, num_classes=2, protocols=["mine"])
    frames = np.load(tmp_path / "store" / FRAMES_FILE)
    assert [(row["name"], row["mine"]) for row in rows_of(tmp_path / "store")] == [
        ("sit", "train"),
        ("wave", "val"),
    ]
    assert np.array_equal(frames[:6], normalize_clip(clips[1].frames[None]))
    assert np.array_equal(frames[6:], normalize_clip(clips[0].frames.transpose(3, 0, 1, 2)))
    assert not frames[:6, ..., 1].any()  # no second person


def test_write_store_keeps_coordinates(tmp_path):
    values = array(0, people=1)
    write_store(tmp_path / "store", iter([Clip("a", 0, values, {})]), 1, ["mine"], normalize=False)
    frames = np.load(tmp_path / "store" / FRAMES_FILE)
    assert np.array_equal(frames[..., :1], values.astype(np.float32))


@pytest.mark.parametrize(
    "bad,message",
    [
        (np.zeros((5, 24, 3, 1)), "instead of"),
        (np.zeros((0, 25, 3, 1)), "instead of"),
        (np.zeros((5, 25, 3, 1)), "no body"),
        (np.full((5, 25, 3, 1), np.inf), "too large"),
        (np.full((5, 25, 3, 1), "x"), "does not consist of numbers"),
    ],
)
def test_invalid_arrays_raise(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path / "store", [Clip("a", 0, bad, {})], 1, ["mine"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_script_reads_npz_and_npy(tmp_path, form):
    arrays = {f"clip{i:02d}": array(i) for i in range(30)}
    if form == "npz":
        data = tmp_path / "arrays.npz"
        np.savez(data, **arrays, alone=array(99))
    else:
        data = tmp_path / "arrays"
        data.mkdir()
        for name, values in {**arrays, "alone": array(99)}.items():
            np.save(data / f"{name}.npy", values)
    lines = [f"{name},{i % 3},{'val' if i % 4 else 'train'}," for i, name in enumerate(arrays)]
    lines += ["clip03,1,train,", "absent,0,train,"]
    stored = sorted(arrays.keys() - {"clip03"})
    (tmp_path / "clips.csv").write_text("name,label,cross_subject,other\n" + "\n".join(lines))
    flags = flags_of(tmp_path, data)
    assert arrays_gendata.main(flags) == 1  # four of 33 are left out
    assert [row["name"] for row in rows_of(tmp_path / "data" / "mine")] == stored
    frames = np.load(tmp_path / "data" / "mine" / FRAMES_FILE)
    assert np.array_equal(frames[:6], normalize_clip(arrays["clip00"].transpose(3, 0, 1, 2)))
    info = json.loads((tmp_path / "data" / "mine" / INFO_FILE).read_text())
    assert info["num_classes"] == 3 and info["protocols"] == ["cross_subject", "other"]
    assert [(item["file"], item["line"]) for item in info["left_out"]] == [
        (f"{data.name}/absent", None),
        (f"{data.name}/alone.npy", None),
        (f"{data.name}/clip03.npy", None),
        ("clips.csv", 5),
        ("clips.csv", 32),
    ]
    with pytest.raises(UserError, match="2 rows have the name 'clip03'"):
        arrays_gendata.main([*flags, "--overwrite", "--on-error", "stop"])


def flags_of(folder, data, *flags):
    """Return the flags to prepare ``data`` with the table ``clips.csv``."""
    paths = ["--data-path", data, "--clips", folder / "clips.csv", "--out_folder", folder / "data" / "mine"]
    return list(map(str, ["--dataset", "mine", *paths, "--workers", 1, *flags]))


def prepare_named(tmp_path, table, *flags):
    """Prepare two clips, ``a`` and ``b``, with this table; return the content of ``store.json``."""
    np.savez(tmp_path / "arrays.npz", a=array(0), b=array(1))
    (tmp_path / "clips.csv").write_text(table)
    arrays_gendata.main(flags_of(tmp_path, tmp_path / "arrays.npz", *flags))
    return json.loads((tmp_path / "data" / "mine" / INFO_FILE).read_text())


def test_table_without_protocol_raises(tmp_path):
    with pytest.raises(UserError, match="has no column with train or val"):
        prepare_named(tmp_path, "name,label\na,0\n")


def test_class_names_in_the_table(tmp_path):
    info = prepare_named(tmp_path, "name,label,class_name,split\na,0,walk,train\nb,2,wave (hand),val\n")
    assert info["class_names"] == ["walk", "class 1", "wave (hand)"] and info["protocols"] == ["split"]
    clips = open_clips(tmp_path / "data", "mine", "split", "val")
    assert clips.class_names == ("walk", "class 1", "wave (hand)")


def test_class_names_in_a_file(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffstand\nröntgen\n\n".encode())
    flags = ["--class-names", tmp_path / "names.txt"]
    info = prepare_named(tmp_path, "name,label,split\na,0,train\nb,1,val\n", *flags)
    assert info["class_names"] == ["stand", "röntgen"] and info["num_classes"] == 2


def test_store_without_class_names(tmp_path):
    info = prepare_named(tmp_path, "name,label,split\na,0,train\nb,1,val\n")
    assert "class_names" not in info
    assert open_clips(tmp_path / "data", "mine", "split", "val").class_names == ("class 0", "class 1")


@pytest.mark.parametrize(
    "names,table,flags,message",
    [
        (b"a\nb\n", "name,label,split\na,0,train\n", ["--num-classes", "3"], "2 names for 3 classes"),
        (b"a\n\nb\n", "name,label,split\na,0,train\n", [], "line 2: expected a class name"),
        (b"a\n" + b"b" * 101, "name,label,split\na,0,train\n", [], "line 2: expected a class name"),
        (b"\n", "name,label,split\na,0,train\n", [], "line 1: expected a class name"),
        (b"\xff\xfe", "name,label,split\na,0,train\n", [], "cannot be read as a list"),
        (None, "name,label,split,class_name\na,0,train,x\nb,0,val,y\n", [], "class 0 has two names"),
        (None, "name,label,split,class_name\na,0,train," + "x" * 101, [], "too long"),
    ],
)
def test_invalid_class_names_raise(tmp_path, names, table, flags, message):
    if names is not None:
        (tmp_path / "names.txt").write_bytes(names)
        flags = [*flags, "--class-names", tmp_path / "names.txt"]
    with pytest.raises(UserError, match=message) as caught:
        prepare_named(tmp_path, table, *flags)
    assert one_line(str(caught.value)) and not (tmp_path / "data").exists()


def test_write_store_stores_class_names(tmp_path):
    clips = [Clip("a", 1, array(0), {"mine": "train"})]
    write_store(tmp_path / "mine", clips, 2, ["mine"], class_names=["stand", "walk"])
    assert open_store(tmp_path / "mine").class_names == ("stand", "walk")
    with pytest.raises(UserError, match="1 class names for 2 classes"):
        write_store(tmp_path / "other", clips, 2, ["mine"], class_names=["stand"])


@pytest.mark.parametrize("names", [[], ["a"], ["a", 3], "ab", {"0": "a"}, ["a", "b\nc"], ["a", ""]])
def test_damaged_class_names_raise(tmp_path, names):
    write_store(tmp_path / "mine", [Clip("a", 1, array(0), {"mine": "train"})], 2, ["mine"])
    path = tmp_path / "mine" / INFO_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "class_names": names}))
    with pytest.raises(UserError, match="class_names is not a list of 2 names"):
        open_store(tmp_path / "mine")


@pytest.mark.parametrize("first", [0, 1])
def test_labels_that_count_from_one_have_a_warning(tmp_path, capsys, first):
    prepare_named(tmp_path, f"name,label,split\na,{first},train\nb,{first + 1},val\n")
    assert ("no clip has label 0" in capsys.readouterr().out) == bool(first)
