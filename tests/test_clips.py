"""Opening clips: stores, the official layout, NTU-60 in a store of NTU-120, and invalid data."""

import math
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_official, write_store

import visual.clips
from dataset.clips import open_clips
from dataset.views import evaluation_view
from facts.class_names import CLASS_NAMES
from utils.errors import UserError
from utils.files import safe_file_name


def test_store(small_store):
    train = open_clips(small_store, "ntu60", "cross_view", "train")
    val = open_clips(small_store, "ntu60", "cross_view", "val")
    assert (len(train), len(val), train.num_classes) == (20, 10, 60)
    assert not set(train.names) & set(val.names)
    frames = np.load(small_store / "ntu60" / "frames.npy")
    first = int(val.first_frame[3])
    gathered = val.gather(torch.tensor([3]), torch.tensor([[0, 2, 1]]))
    np.testing.assert_array_equal(gathered[0].numpy(), frames[[first, first + 2, first + 1]])


def test_official_layout(tmp_path):
    names = [f"S001C002P001R00{i}A005.skeleton" for i in range(1, 4)]
    frames = write_official(tmp_path / "ntu60" / "xview", names, [4, 4, 4], [10, 300, 936])
    clips = open_clips(tmp_path, "ntu60", "cross_view", "train")
    assert clips.names[0] == "S001C002P001R001A005" and clips.labels.tolist() == [4, 4, 4]
    assert clips.num_frames.tolist() == [10, 300, 300], "at most 300 frames are stored"
    view = clips.gather(torch.tensor([2, 0]), torch.tensor([[0, 299], [5, 9]]))
    np.testing.assert_array_equal(view[0, 1].numpy(), frames[2, :, 299].transpose(1, 0, 2))
    np.testing.assert_array_equal(view[1, 0].numpy(), frames[0, :, 5].transpose(1, 0, 2))


def test_both_layouts_give_the_same_views(tmp_path):
    lengths = [7, 40, 120]
    names = [f"S001C002P001R00{i}A00{i}" for i in range(1, 4)]
    store = write_store(tmp_path / "a" / "ntu60", names, [0, 1, 2], lengths, {"cross_view": ["train"] * 3})
    frames = np.load(store / "frames.npy")
    official = np.zeros((3, 3, 300, 25, 2), np.float32)
    for i, (end, length) in enumerate(zip(np.cumsum(lengths), lengths)):
        official[i, :, :length] = frames[end - length : end].transpose(2, 0, 1, 3)
    write_official(tmp_path / "b" / "ntu60" / "xview", names, [0, 1, 2], lengths, frames=official)
    views = [
        evaluation_view().of(open_clips(tmp_path / root, "ntu60", "cross_view", "train"), torch.arange(3))
        for root in "ab"
    ]
    torch.testing.assert_close(*views, rtol=1e-6, atol=1e-6)


def test_store_of_ntu120_contains_ntu60(tmp_path):
    names = ["S017C002P001R001A060", "S018C002P041R001A061", "S002C001P001R001A001"]
    splits = {
        "cross_subject": ["train"] * 3,
        "cross_view": ["train", "train", "val"],
        "cross_setup": ["val", "train", "train"],
    }
    write_store(tmp_path / "ntu120", names, [59, 60, 0], [5, 6, 7], splits, "ntu120", 120)
    clips = open_clips(tmp_path, "ntu60", "cross_view", "train")
    assert clips.names == ["S017C002P001R001A060"] and clips.num_classes == 60
    assert len(open_clips(tmp_path, "ntu120", "cross_setup", "train")) == 2
    assert open_clips(tmp_path, "ntu60", "cross_subject", "train").class_names == CLASS_NAMES["ntu60"]
    assert open_clips(tmp_path, "ntu120", "cross_setup", "train").class_names == CLASS_NAMES["ntu120"]
    with pytest.raises(UserError, match="ntu60 does not have --protocol cross_setup"):
        open_clips(tmp_path, "ntu60", "cross_setup", "train")


def test_own_store_has_its_own_protocol_and_classes(tmp_path):
    write_store(
        tmp_path / "gestures", ["a", "b"], [0, 6], [9, 9], {"by_day": ["train", "val"]}, "gestures", 7
    )
    clips = open_clips(tmp_path, "gestures", "by_day", "val")
    assert clips.names == ["b"] and clips.num_classes == 7
    with pytest.raises(UserError, match="choose from by_day"):
        open_clips(tmp_path, "gestures", "cross_view", "val")


HEADER = b"name,label,first_frame,num_frames,cross_view\n"


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("store.json", b"{", "is not a valid store description"),
        ("store.json", b'{"format_version": 99, "dataset": "x", "num_classes": 3}', "format version 99"),
        ("clips.csv", b"name,first\n", "line 1: the first columns"),
        ("clips.csv", HEADER + b"a,1,0\n", "line 2: 'a,1,0' is not 5 cells"),
        ("clips.csv", HEADER + b"a,x,0,5,val\n", "line 2: 'a,x,0,5,val' is not"),
        ("clips.csv", HEADER + b"a,1,0,5,test\n", "line 2: 'a,1,0,5,test' is not"),
        ("clips.csv", HEADER + b"a,1,0,999999,val\n", "beyond the end of frames.npy"),
        ("clips.csv", HEADER + b"a,60,0,5,val\n", r"outside 0\.\.59"),
        ("clips.csv", b"", "line 1: the first columns"),
        ("frames.npy", b"\x93NUMPY\x01", "cannot be read"),
        ("frames.npy", b"", "cannot be read"),
    ],
)
def test_damaged_store_raises_one_line_error(small_store, file, content, message):
    (small_store / "ntu60" / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_clips(small_store, "ntu60", "cross_view", "train")
    assert "\n" not in str(error.value)


def test_missing_data_raises_one_line_error(small_store, tmp_path):
    for root, dataset, protocol, message in (
        (tmp_path / "nowhere", "ntu60", "cross_view", "is not a folder"),
        (small_store, "pku1", "cross_view", r"no dataset 'pku1' under .* \(found: ntu60\)"),
        (small_store, "ntu60", "cross_camera", "choose from cross_subject, cross_view"),
    ):
        with pytest.raises(UserError, match=message) as error:
            open_clips(root, dataset, protocol, "train")
        assert "\n" not in str(error.value)
    (small_store / "pku1").mkdir()
    with pytest.raises(UserError, match="contains neither a store nor clips of cross_view"):
        open_clips(small_store, "pku1", "cross_view", "train")


def test_empty_split_raises_one_line_error(tmp_path):
    write_store(tmp_path / "ntu60", ["a"], [0], [9], {"cross_view": ["val"]})
    with pytest.raises(UserError, match="no clip in the 'train' split") as error:
        open_clips(tmp_path, "ntu60", "cross_view", "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [(["a", "b"], [0]), (["a"], ["0"]), ([1], [0]), (["a"], [-1]), (["a"], [True]), "text", (["a"], [0], [])],
)
def test_invalid_label_pickles_are_rejected(tmp_path, content):
    folder = tmp_path / "ntu60" / "xview"
    write_official(folder, ["a"], [0], [5])
    (folder / "train_label.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="two lists of the same length"):
        open_clips(tmp_path, "ntu60", "cross_view", "train")


def test_inconsistent_official_split_is_rejected(tmp_path):
    folder = tmp_path / "ntu60" / "xview"
    write_official(folder, ["a", "b"], [0, 1], [5])
    with pytest.raises(UserError, match="1 clips, 1 frame counts and 2 labels for 'train' do not match"):
        open_clips(tmp_path, "ntu60", "cross_view", "train")
    np.save(folder / "train_data_joint.npy", np.zeros((1, 3, 64, 25, 2), np.float32))
    with pytest.raises(UserError, match="expected float32"):
        open_clips(tmp_path, "ntu60", "cross_view", "train")


def write_sparse_store(folder, num_clips, frames_per_clip):
    """Write a store whose frames are zero and take no space on the disk."""
    folder.mkdir(parents=True)
    shape = (num_clips * frames_per_clip, 25, 3, 2)
    with open(folder / "frames.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * math.prod(shape))
    rows = (
        f"S001C001P{i:08d},{i % 60},{i * frames_per_clip},{frames_per_clip},{'val' if i % 3 else 'train'}\n"
        for i in range(num_clips)
    )
    (folder / "clips.csv").write_text(HEADER.decode() + "".join(rows))
    (folder / "store.json").write_text('{"format_version": 1, "dataset": "big", "num_classes": 60}')


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the size of the memory is read from /proc")
def test_store_larger_than_the_memory_is_opened(tmp_path, recwarn):
    numbers = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    memory = 1024 * (int(numbers["MemTotal:"]) + int(numbers["SwapTotal:"]))
    write_sparse_store(tmp_path / "big", 4, memory // 1200)  # twice the memory
    clips = open_clips(tmp_path, "big", "cross_view", "val")
    assert clips.frames.nbytes > 1.9 * memory and not recwarn.list
    last = clips.num_frames[-1:, None] - 1
    assert not clips.gather(torch.tensor([len(clips) - 1]), last).any()


def test_many_clips_need_little_memory_and_are_read_once(tmp_path, monkeypatch):
    write_sparse_store(tmp_path / "big", 50_000, 80)
    tracemalloc.start()
    train = open_clips(tmp_path, "big", "cross_view", "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # bytes; 0.4 GB for a million clips
    monkeypatch.setattr("csv.reader", None)
    val = open_clips(tmp_path, "big", "cross_view", "val")
    assert len(train) + len(val) == 50_000 and val.names[0] == "S001C001P00000001"


@pytest.mark.parametrize("name", ["../../x", "/abs", "a/b", "..", "", "x" * 300, "n\nl", "con:1", "é" * 90])
def test_name_of_a_clip_is_not_a_path(tmp_path, name):
    path = tmp_path / f"{safe_file_name(name)}.png"
    path.write_text("x")
    assert path.resolve().parent == tmp_path.resolve() and path.name.isprintable()
    assert safe_file_name(name) != safe_file_name(name.replace("/", "_") + "_")


def test_pictures_are_written_to_the_output_folder(tmp_path, monkeypatch, capsys):
    write_store(tmp_path / "data" / "mine", ["../../x"], [0], [9], {"mine": ["train"]}, "mine", 1)
    flags = ["--dataset=mine", "--protocol=mine", "--name=../../x", "--views=0", f"--out={tmp_path}/a/b/c"]
    monkeypatch.setattr("sys.argv", ["clips.py", *flags, f"--data-root={tmp_path / 'data'}"])
    assert visual.clips.main() == 0
    assert len(list((tmp_path / "a" / "b" / "c").iterdir())) == 2 == len(list((tmp_path / "a").rglob("*.*")))
