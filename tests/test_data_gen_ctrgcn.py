"""Stores of CTR-GCN's npz files: the same clips as from raw files, two protocols, damaged files."""

import os
import zipfile

import numpy as np
import pytest
from conftest import one_line
from damaged_inputs import damage, same_stores, store_or_error

from data_gen import ctrgcn_gendata, ntu_gendata
from data_gen.normalize import select_people
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import find_raw_files
from dataset.store import open_store
from facts.datasets import ntu_splits, parse_ntu_name
from utils.errors import UserError


def clips_of(raw):
    """Return name -> (300, 150) of skeleton files: the first frame's spine at the origin, then padding."""
    clips = {}
    for file in find_raw_files([raw], ".skeleton"):
        bodies, _ = read_skeleton(file.read())
        people = select_people(bodies)
        tracked = people.any(axis=(2, 3))
        people -= people[0, np.flatnonzero(tracked[0])[0], 1] * tracked[..., None, None]
        clips[file.name] = np.zeros((300, 150), np.float32)
        clips[file.name][: people.shape[1]] = people.swapaxes(0, 1).reshape(-1, 150)
    return clips


def arrays_of(clips, protocol):
    """Return the arrays of the file of one protocol; clips are ordered by subject and camera, not by name."""
    arrays = {}
    for part, split in (("train", "train"), ("test", "val")):
        names = [name for name in clips if ntu_splits(parse_ntu_name(name))[protocol] == split]
        names.sort(key=lambda name: name[8:12] + name[4:8] if protocol == "cross_subject" else name[4:8])
        arrays[f"x_{part}"] = np.array([clips[name] for name in names]).reshape(-1, 300, 150)
        arrays[f"y_{part}"] = np.eye(60)[[parse_ntu_name(name).label for name in names]].reshape(-1, 60)
    return arrays


def small_clips(count=6, frames=4):
    rng = np.random.default_rng(0)
    clips = {}
    for i in range(count):
        values = np.zeros((300, 150), np.float32)
        values[:frames, : 75 * (1 + i % 2)] = rng.normal(size=(frames, 75 * (1 + i % 2)))
        clips[f"S001C{i % 3 + 1:03d}P{i % 4 + 1:03d}R001A{i + 1:03d}"] = values
    return clips


def prepare(paths, store, *flags):
    return ctrgcn_gendata.main(
        ["--data_path", *map(str, paths), "--out_folder", str(store), "--workers", "1", *map(str, flags)]
    )


@pytest.fixture(scope="module")
def both_protocols(ntu_raw, tmp_path_factory):
    """The paths of NTU60_CS.npz and NTU60_CV.npz with the clips of ``ntu_raw``."""
    folder, clips = tmp_path_factory.mktemp("npz"), clips_of(ntu_raw)
    np.savez(folder / "NTU60_CS.npz", **arrays_of(clips, "cross_subject"))
    np.savez_compressed(folder / "NTU60_CV.npz", **arrays_of(clips, "cross_view"))
    return folder / "NTU60_CS.npz", folder / "NTU60_CV.npz"


def test_same_clips_as_from_raw_files(ntu_raw, both_protocols, tmp_path, capsys):
    assert prepare(both_protocols, tmp_path / "ctrgcn") == 0
    assert "40,091" in capsys.readouterr().out
    flags = ["--data_path", str(ntu_raw), "--out_folder", str(tmp_path / "ntu60"), "--workers", "1"]
    assert ntu_gendata.main(flags) == 0
    ours, theirs = open_store(tmp_path / "ntu60"), open_store(tmp_path / "ctrgcn")
    assert len(ours.names) == len(theirs.names) == 24
    matched = [match(theirs, row, ours) for row in range(24)]
    assert sorted(matched) == list(range(24))
    assert theirs.labels.tolist() == ours.labels[matched].tolist()
    for protocol in ("cross_subject", "cross_view"):
        assert theirs.splits[protocol] == [ours.splits[protocol][row] for row in matched]
    assert theirs.names[0] == "cross_subject-train-000000"


def match(store, row, other):
    """Return the only row of another store with the same frames up to rounding."""
    frames = frames_of(store, row)
    candidates = [i for i in range(len(other.names)) if other.num_frames[i] == len(frames)]
    (found,) = [i for i in candidates if np.abs(frames_of(other, i) - frames).max() < 1e-3]
    return found


def frames_of(store, row):
    first = store.first_frame[row]
    return store.frames[first : first + store.num_frames[row]]


def test_same_store_for_any_number_of_workers(tmp_path):
    for save, name in ((np.savez, "stored"), (np.savez_compressed, "compressed")):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "NTU60_CV.npz", **arrays_of(small_clips(60), "cross_view"))
        prepare([tmp_path / name / "NTU60_CV.npz"], tmp_path / f"store_{name}")
    prepare([tmp_path / "stored" / "NTU60_CV.npz"], tmp_path / "two", "--workers", 2)
    assert same_stores(tmp_path / "store_stored", tmp_path / "store_compressed")
    assert same_stores(tmp_path / "store_stored", tmp_path / "two")


def test_dry_run_reads_sizes_only(both_protocols, tmp_path, capsys):
    assert prepare(both_protocols, tmp_path / "store", "--dry-run") == 0
    output = capsys.readouterr().out
    assert "train     12 / 37,646" in output and "val      8 / 16,487" in output
    assert os.listdir(tmp_path) == []


def test_bad_clips_are_left_out(tmp_path):
    arrays = arrays_of(small_clips(60), "cross_subject")
    arrays["y_train"][0] = 0
    arrays["y_train"][1, 3:5] = 1
    arrays["x_train"][2] = 0
    arrays["x_train"][3, 1, 7] = np.inf
    np.savez(tmp_path / "NTU60_CS.npz", **arrays)
    assert prepare([tmp_path / "NTU60_CS.npz"], tmp_path / "store") == 1
    store = open_store(tmp_path / "store")
    assert store.names[0] == "cross_subject-train-000004" and len(store.names) == 56
    with pytest.raises(UserError, match="not one-hot"):
        prepare([tmp_path / "NTU60_CS.npz"], tmp_path / "store", "--overwrite", "--on-error", "stop")


def changed(clips, change):
    clips = {name: values.copy() for name, values in clips.items()}
    change(clips)
    return clips


ONES = np.ones((300, 150))


@pytest.mark.parametrize(
    "change,count",
    [
        (lambda clips: clips.pop("S001C001P001R001A001"), 1),
        (lambda clips: clips.update(S001C001P001R001A009=ONES), 1),
        (lambda clips: clips["S001C002P002R001A002"].__setitem__((0, 0), 7), 2),
        # equal clips of the same subject, in both splits of cross-view
        (lambda clips: clips.update(S001C001P001R001A009=ONES, S001C002P001R001A009=ONES), 1),
    ],
)
def test_files_with_different_clips_raise(tmp_path, change, count):
    clips = small_clips()
    np.savez(tmp_path / "NTU60_CS.npz", **arrays_of(clips, "cross_subject"))
    other = {name: values.copy() for name, values in clips.items()}
    change(other)
    np.savez(tmp_path / "NTU60_CV.npz", **arrays_of(other, "cross_view"))
    message = f"NTU60_CS.npz and NTU60_CV.npz do not match: {count} clips"
    with pytest.raises(UserError, match=message) as caught:
        prepare([tmp_path / "NTU60_CS.npz", tmp_path / "NTU60_CV.npz"], tmp_path / "store")
    assert one_line(str(caught.value)) and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "names,flags,message",
    [
        (["x.npz"], [], "give --dataset and --protocol"),
        (["x.npz"], ["--dataset", "ntu60"], "give --dataset and --protocol"),
        (["NTU60_CS.npz", "NTU120_CSet.npz"], [], "another protocol of one dataset"),
        (["NTU60_CS.npz", "NTU60_CSub.npz"], [], "another protocol of one dataset"),
        (["NTU60_CSet.npz"], [], "ntu60 has cross_subject, cross_view"),
    ],
)
def test_names_of_files(tmp_path, capsys, names, flags, message):
    with pytest.raises(SystemExit):
        prepare([tmp_path / name for name in names], tmp_path / "store", *flags)
    assert message in capsys.readouterr().err


def test_other_names_with_flags(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays_of(small_clips(), "cross_subject"))
    flags = ["--dataset", "ntu60", "--protocol", "cross_subject"]
    assert prepare([tmp_path / "x.npz"], tmp_path / "store", *flags) == 0


def small_arrays(**changes):
    arrays = {"x_train": np.ones((1, 300, 150)), "y_train": np.eye(60)[:1]}
    arrays |= {"x_test": np.ones((1, 300, 150)), "y_test": np.eye(60)[:1]}
    return {name: array for name, array in (arrays | changes).items() if array is not None}


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"x_test": None}, "no item named 'x_test.npy'"),
        ({"x_train": np.ones((1, 64, 150))}, r"float64 \(1, 64, 150\) instead of numbers \(1, 300, 150\)"),
        ({"x_train": np.ones((300, 150))}, "instead of"),
        ({"y_train": np.zeros(1)}, r"instead of numbers \(1, 60\)"),
        ({"y_train": np.eye(60)[:2]}, r"y_train is float64 \(2, 60\) instead of numbers \(1, 60\)"),
        ({"x_train": np.asfortranarray(np.ones((2, 300, 150)))}, "in Fortran order"),
        ({"x_train": np.full((1, 300, 150), "x")}, "instead of numbers"),
    ],
)
def test_other_arrays_raise(tmp_path, changes, message):
    np.savez(tmp_path / "NTU60_CS.npz", **small_arrays(**changes))
    with pytest.raises(UserError, match=message) as caught:
        prepare([tmp_path / "NTU60_CS.npz"], tmp_path / "store")
    assert one_line(str(caught.value)) and os.listdir(tmp_path) == ["NTU60_CS.npz"]


def rewrite(path, change):
    """Write the members of an archive again, with valid checksums, after changing the bytes of each."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(data))


def longer_header(data):
    return data.replace(b"(1, 300, 150)", b"(9, 300, 150)").replace(b"(1, 60)", b"(9, 60)")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-8],
        longer_header,
        lambda data: data.replace(b"(1, 300, 150), ", b"(-1, 300, 150),"),
        lambda data: data.replace(b"'<f8'", b"'|O' "),
        lambda data: b"",
        lambda data: b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70000,
    ],
)
def test_damaged_arrays_raise(tmp_path, change):
    path = tmp_path / "NTU60_CS.npz"
    np.savez(path, **small_arrays())
    rewrite(path, change)
    with pytest.raises(UserError, match="NTU60_CS.npz cannot be used") as caught:
        prepare([path], tmp_path / "store")
    assert one_line(str(caught.value)) and os.listdir(tmp_path) == ["NTU60_CS.npz"]


@pytest.mark.parametrize("content", [None, b"x" * 100])
def test_other_files_raise(tmp_path, content):
    if content:
        (tmp_path / "NTU60_CS.npz").write_bytes(content)
    with pytest.raises(UserError, match="NTU60_CS.npz cannot be used"):
        prepare([tmp_path / "NTU60_CS.npz"], tmp_path / "store")


def test_damaged_archives_give_a_store_or_an_error(tmp_path):
    """Random damages of the file, or with valid checksums of its members and their headers."""
    path = tmp_path / "NTU60_CS.npz"
    results = []
    for seed in range(60):
        np.savez(path, **arrays_of(small_clips(), "cross_subject"))
        if seed % 3 == 0:
            path.write_bytes(damage(path.read_bytes(), seed))
        else:
            start, end = (0, 128) if seed % 3 == 1 else (128, None)
            rewrite(
                path,
                lambda data, seed=seed, start=start, end=end: (
                    data[:start] + damage(data[start:end], seed) + (data[end:] if end else b"")
                ),
            )
        results.append(store_or_error(ctrgcn_gendata.main, ["--data_path", path], tmp_path / "store"))
    assert 20 < results.count("error") < 60
