"""Finding raw files: folders and archives, names in tables, arrays, and what is not read."""

import io
import zipfile

import numpy as np
import pytest

from data_gen import arrays_gendata
from data_gen.sources import RawFile, find_arrays, parse_array, resolve_names
from dataset.store import open_store
from utils.errors import BadFile, UserError


def array(seed):
    return np.random.default_rng(seed).normal(0, 0.3, (5, 25, 3))


def class_folders(folder, names):
    for i, name in enumerate(names):
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array(i))
    return folder


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.npy")):
            archive.write(file, file.relative_to(folder))
    return path


def prepare(data, table, out):
    table = "\n".join(["name,label,mine", *table])
    (out.parent / "clips.csv").write_text(table)
    flags = [
        "--dataset",
        "mine",
        "--data_path",
        data,
        "--clips",
        out.parent / "clips.csv",
        "--out_folder",
        out,
    ]
    return arrays_gendata.main([*map(str, flags), "--workers", "1", "--overwrite"])


@pytest.mark.parametrize("packing", ["folder", "zip"])
def test_equal_file_names_in_folders_are_different_clips(tmp_path, packing):
    data = class_folders(tmp_path / "arrays", ["run/a", "sit/a", "sit/b"])
    if packing == "zip":
        data = zipped(data, tmp_path / "arrays.zip")
    assert prepare(data, ["run/a,0,train", "sit\\a.npy,1,val", "b,1,train"], tmp_path / "store") == 0
    store = open_store(tmp_path / "store")
    assert sorted(zip(store.names, store.labels.tolist())) == [("b", 1), ("run/a", 0), ("sit\\a", 1)]
    with pytest.raises(UserError, match=r"a fits 2 files \(.*run/a\.npy, .*sit/a\.npy\)"):
        prepare(data, ["a,0,train", "b,1,val"], tmp_path / "store")


def test_rows_of_the_same_file_are_an_error(tmp_path):
    data = class_folders(tmp_path / "arrays", ["run/a"])
    with pytest.raises(UserError, match="a and run/a in the table are the same file, arrays/run/a.npy"):
        prepare(data, ["a,0,train", "run/a,1,val"], tmp_path / "store")


def test_path_is_preferred_to_the_end_of_another(tmp_path):
    files = find_arrays(class_folders(tmp_path / "arrays", ["a", "x/a", "x/y/b", "z/y/b"]), [])
    assert resolve_names(["a", "x/y/b", "absent"], files).keys() == {"a", "x/y/b"}
    assert resolve_names(["a"], files)["a"].full_name == "a"
    with pytest.raises(UserError, match="y/b fits 2 files"):
        resolve_names(["y/b"], files)


def npy(shape, dtype="<f4", data=b""):
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def test_array_larger_than_its_file_is_left_out(tmp_path):
    """The header declares 2 TiB; the other clips are stored."""
    data = class_folders(tmp_path / "arrays", [f"c{i:02d}" for i in range(30)])
    (data / "c00.npy").write_bytes(npy((1 << 39, 25, 3), data=bytes(900)))
    assert prepare(data, [f"c{i:02d},0,train" for i in range(30)], tmp_path / "store") == 0
    assert len(open_store(tmp_path / "store").names) == 29
    with pytest.raises(BadFile, match="buffer is smaller"):
        parse_array(npy((1 << 39,), data=bytes(900)))


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01", npy((1,), "|O", bytes(8)), bytes(99)])
def test_other_content_than_an_array_is_left_out(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(BadFile):
        RawFile("a", "a.npy", str(tmp_path / "a.npy")).read_array()


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_equal_those_of_numpy(tmp_path, order):
    for dtype in ("f8", ">f4", "i2", "u1"):
        expected = np.asarray(array(0) * 100, dtype, order)
        np.save(tmp_path / "a.npy", expected)
        got = parse_array((tmp_path / "a.npy").read_bytes())
        assert got.dtype == dtype and np.array_equal(got, expected)


@pytest.mark.parametrize("label", ["1" + "0" * 30, "9" * 5000, "1e30", "-1", "10000"])
def test_label_that_no_store_can_have_is_left_out(tmp_path, label):
    data = class_folders(tmp_path / "arrays", [f"c{i:02d}" for i in range(25)])
    rows = [f"c{i:02d},{label if i == 3 else i % 2},train" for i in range(25)]
    prepare(data, rows, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert len(store.names) == 24 and store.num_classes == 2
