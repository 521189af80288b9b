"""Opening clips: our store, the released layout, NTU-60 out of NTU-120, and everything refused."""

import pickle

import numpy as np
import pytest
import torch

from conftest import write_store
from dataset.clips import open_clips
from dataset.views import evaluation_view
from options.errors import UserError


class WritesAFile:
    """A hostile pickle: whoever loads it runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_released(folder, names, labels, counts, split="train", frames=None):
    folder.mkdir(parents=True, exist_ok=True)
    if frames is None:
        frames = np.random.default_rng(0).normal(size=(len(counts), 3, 300, 25, 2)).astype(np.float32)
    np.save(folder / f"{split}_data_joint.npy", frames)
    np.save(folder / f"{split}_num_frame.npy", np.array(counts))
    (folder / f"{split}_label.pkl").write_bytes(pickle.dumps((names, labels)))
    return frames


def test_store(small_store):
    train = open_clips(small_store, "ntu60", "cross_view", "train")
    val = open_clips(small_store, "ntu60", "cross_view", "val")
    assert (len(train), len(val), train.num_classes) == (20, 10, 60)
    assert not set(train.names) & set(val.names)
    frames = np.load(small_store / "ntu60" / "frames.npy")
    first = int(val.first_frame[3])
    gathered = val.gather(torch.tensor([3]), torch.tensor([[0, 2, 1]]))
    np.testing.assert_array_equal(gathered[0].numpy(), frames[[first, first + 2, first + 1]])


def test_released_layout_is_read_in_place(tmp_path):
    names = [f"S001C002P001R00{i}A005.skeleton" for i in range(1, 4)]
    frames = write_released(tmp_path / "ntu60" / "xview", names, [4, 4, 4], [10, 300, 936])
    clips = open_clips(tmp_path, "ntu60", "cross_view", "train")
    assert clips.names[0] == "S001C002P001R001A005" and clips.labels.tolist() == [4, 4, 4]
    assert clips.num_frames.tolist() == [10, 300, 300], "beyond 300 is clamped"
    view = clips.gather(torch.tensor([2, 0]), torch.tensor([[0, 299], [5, 9]]))
    np.testing.assert_array_equal(view[0, 1].numpy(), frames[2, :, 299].transpose(1, 0, 2))
    np.testing.assert_array_equal(view[1, 0].numpy(), frames[0, :, 5].transpose(1, 0, 2))


def test_both_layouts_give_the_same_views(tmp_path):
    lengths = [7, 40, 120]
    names = [f"S001C002P001R00{i}A00{i}" for i in range(1, 4)]
    store = write_store(tmp_path / "a" / "ntu60", names, [0, 1, 2], lengths, {"cross_view": ["train"] * 3})
    frames = np.load(store / "frames.npy")
    released = np.zeros((3, 3, 300, 25, 2), np.float32)
    for i, (end, length) in enumerate(zip(np.cumsum(lengths), lengths)):
        released[i, :, :length] = frames[end - length : end].transpose(2, 0, 1, 3)
    write_released(tmp_path / "b" / "ntu60" / "xview", names, [0, 1, 2], lengths, frames=released)
    views = [
        evaluation_view().of(open_clips(tmp_path / root, "ntu60", "cross_view", "train"), torch.arange(3))
        for root in "ab"
    ]
    torch.testing.assert_close(*views, rtol=1e-6, atol=1e-6)


def test_a_store_of_ntu120_serves_ntu60(tmp_path):
    names = ["S017C002P001R001A060", "S018C002P041R001A061", "S002C001P001R001A001"]
    splits = {"cross_subject": ["train"] * 3, "cross_view": ["train", "train", "val"], "cross_setup": ["val", "train", "train"]}
    write_store(tmp_path / "ntu120", names, [59, 60, 0], [5, 6, 7], splits, "ntu120", 120)
    clips = open_clips(tmp_path, "ntu60", "cross_view", "train")
    assert clips.names == ["S017C002P001R001A060"] and clips.num_classes == 60
    assert len(open_clips(tmp_path, "ntu120", "cross_setup", "train")) == 2
    with pytest.raises(UserError, match="cross_setup is not one of ntu60's"):
        open_clips(tmp_path, "ntu60", "cross_setup", "train")


def test_your_own_store_brings_its_own_protocol_and_classes(tmp_path):
    write_store(tmp_path / "gestures", ["a", "b"], [0, 6], [9, 9], {"by_day": ["train", "val"]}, "gestures", 7)
    clips = open_clips(tmp_path, "gestures", "by_day", "val")
    assert clips.names == ["b"] and clips.num_classes == 7
    with pytest.raises(UserError, match="choose from by_day"):
        open_clips(tmp_path, "gestures", "cross_view", "val")


def corrupt(store, file, content):
    (store / "ntu60" / file).write_bytes(content)


@pytest.mark.parametrize("file, content, sentence", [
    ("store.json", b"{", "cannot be read as a store"),
    ("store.json", b'{"format_version": 99, "dataset": "x", "num_classes": 3}', "format version 99"),
    ("clips.csv", b"name,first\n", "line 1: the columns"),
    ("clips.csv", b"name,label,first_frame,num_frames,cross_view\na,1,0\n", "line 2: 3 cells"),
    ("clips.csv", b"name,label,first_frame,num_frames,cross_view\na,x,0,5,val\n", "line 2: label"),
    ("clips.csv", b"name,label,first_frame,num_frames,cross_view\na,1,0,5,test\n", "line 2: 'test'"),
    ("clips.csv", b"name,label,first_frame,num_frames,cross_view\na,1,0,999999,val\n", "does not have"),
    ("clips.csv", b"name,label,first_frame,num_frames,cross_view\na,60,0,5,val\n", "outside 0..59"),
    ("clips.csv", b"", "columns must begin"),
    ("frames.npy", b"\x93NUMPY\x01", "cannot be read"),
    ("frames.npy", b"", "cannot be read"),
])
def test_a_damaged_store_is_a_sentence(small_store, file, content, sentence):
    corrupt(small_store, file, content)
    with pytest.raises(UserError, match=sentence):
        open_clips(small_store, "ntu60", "cross_view", "train")


def test_what_is_not_there_is_a_sentence(small_store, tmp_path):
    for root, dataset, protocol, sentence in (
        (tmp_path / "nowhere", "ntu60", "cross_view", "is not a folder"),
        (small_store, "pku1", "cross_view", r"no dataset 'pku1' below .* \(there: ntu60\)"),
        (small_store, "ntu60", "cross_camera", "choose from cross_subject, cross_view"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_clips(root, dataset, protocol, "train")
    (small_store / "pku1").mkdir()
    with pytest.raises(UserError, match="holds no store"):
        open_clips(small_store, "pku1", "cross_view", "train")


def test_an_empty_split_is_a_sentence(tmp_path):
    write_store(tmp_path / "ntu60", ["a"], [0], [9], {"cross_view": ["val"]})
    with pytest.raises(UserError, match="no clip in the 'train' split"):
        open_clips(tmp_path, "ntu60", "cross_view", "train")


def test_a_hostile_label_pickle_does_nothing(tmp_path):
    marker = tmp_path / "created"
    folder = tmp_path / "ntu60" / "xview"
    write_released(folder, ["a"], [0], [5])
    for content in (WritesAFile(marker), (["a"], [WritesAFile(marker)])):
        (folder / "train_label.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="not loaded"):
            open_clips(tmp_path, "ntu60", "cross_view", "train")
    assert not marker.exists()


@pytest.mark.parametrize("content", [
    (["a", "b"], [0]), (["a"], ["0"]), ([1], [0]), (["a"], [-1]), (["a"], [True]), "text", {"a": 1}, (["a"], [0], []),
])
def test_labels_that_are_no_labels(tmp_path, content):
    folder = tmp_path / "ntu60" / "xview"
    write_released(folder, ["a"], [0], [5])
    (folder / "train_label.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="pair of equally long lists"):
        open_clips(tmp_path, "ntu60", "cross_view", "train")


def test_200_damaged_label_pickles(tmp_path):
    """Each is refused with a sentence, or still gives a list of names and labels; nothing runs."""
    folder = tmp_path / "ntu60" / "xview"
    write_released(folder, ["a", "b"], [3, 4], [5, 6])
    good = (folder / "train_label.pkl").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(good)
        for position in rng.integers(0, len(good), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        (folder / "train_label.pkl").write_bytes(damaged[: rng.integers(len(good) // 2, len(good) + 1)])
        try:
            clips = open_clips(tmp_path, "ntu60", "cross_view", "train")
            assert len(clips.names) == 2 and all(0 <= label < 60 for label in clips.labels)
        except UserError:
            refused += 1
    assert refused > 100


def test_a_released_split_that_does_not_belong_together(tmp_path):
    folder = tmp_path / "ntu60" / "xview"
    write_released(folder, ["a", "b"], [0, 1], [5])
    with pytest.raises(UserError, match="do not belong together"):
        open_clips(tmp_path, "ntu60", "cross_view", "train")
    np.save(folder / "train_data_joint.npy", np.zeros((1, 3, 64, 25, 2), np.float32))
    with pytest.raises(UserError, match="not float32"):
        open_clips(tmp_path, "ntu60", "cross_view", "train")
