"""Checkpoints are written completely or not at all, and no code in a file is executed."""

import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import LAST, checkpoints_in, load_checkpoint, newest_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import atomic_write


class FullDisk:
    """A file object with room for ``room`` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def save(path, value=1.0, room=None):
    """Save a checkpoint whose weights are ``value``, to a disk with ``room`` bytes if given."""
    state = {"epoch": 1, "state_dict": {"weight": torch.full((500,), value)}}
    if room is None:
        save_checkpoint(path, state)
    else:
        atomic_write(path, lambda file: torch.save(state, FullDisk(file, room)))


def test_save_and_load(tmp_path):
    save(tmp_path / "deep" / "er" / "c.pth.tar")
    loaded = load_checkpoint(tmp_path / "deep" / "er" / "c.pth.tar")
    assert loaded["state_dict"]["weight"].sum() == 500 and loaded["format_version"] == 1


@pytest.mark.parametrize("room", [0, 2000])
def test_full_disk_keeps_the_previous_checkpoint(tmp_path, room):
    path = tmp_path / "c.pth.tar"
    save(path)
    with pytest.raises(UserError, match=f"cannot write {path} .*: the previous file is unchanged"):
        save(path, value=2.0, room=room)
    assert load_checkpoint(path)["state_dict"]["weight"][0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth.tar"], "no half-written file is left"


def test_corrupted_checkpoints_are_rejected_or_unchanged(tmp_path):
    """Cut, flipped and zeroed files: an error or the weights that were saved, never other weights."""
    path = tmp_path / "c.pth.tar"
    save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    rejected = 0
    for i in range(60):
        corrupted = bytearray(good)
        at = int(rng.integers(len(good)))
        if i % 3 == 0:
            corrupted = corrupted[:at]
        elif i % 3 == 1:
            corrupted[at] ^= 1 << int(rng.integers(8))
        else:
            corrupted[at : at + 512] = bytes(min(512, len(good) - at))
        path.write_bytes(corrupted)
        try:
            assert torch.equal(load_checkpoint(path)["state_dict"]["weight"], torch.ones(500))
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            rejected += 1
    assert rejected > 30


class CreatesFile:
    """Unpickling this object creates the file ``marker``."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    path, marker = tmp_path / "c.pth.tar", tmp_path / "created"
    for content in ({"state_dict": CreatesFile(marker)}, CreatesFile(marker)):
        torch.save(content, path)
        with pytest.raises(UserError, match="is corrupted or not a|not allowed in a checkpoint"):
            load_checkpoint(path)
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="is corrupted or not a|not allowed in a checkpoint"):
            load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_scalars_of_all_versions_are_read(tmp_path, module):
    scalars = {"acc": np.float64(0.5), "best": np.float32(0.25), "count": np.int64(3), "flag": np.bool_(True)}
    torch.save({"state_dict": {"weight": torch.ones(2)}, **scalars}, tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "a.tar") as old, zipfile.ZipFile(tmp_path / "b.tar", "w") as new:
        for name in old.namelist():
            pickled = re.sub(rb"numpy\._?core\.multiarray", module, old.read(name))
            new.writestr(name, pickled if name.endswith(".pkl") else old.read(name))
    loaded = load_checkpoint(tmp_path / "b.tar")
    assert {name: loaded[name] for name in scalars} == scalars


@pytest.mark.parametrize("value", [Namespace(lr=0.1), Path("x")])
def test_intact_checkpoint_with_other_objects_is_called_intact(tmp_path, value):
    torch.save({"state_dict": {"weight": torch.ones(2)}, "args": value}, tmp_path / "a.tar")
    with pytest.raises(UserError, match=f"intact, but contains {type(value).__module__}.*torch.save"):
        load_checkpoint(tmp_path / "a.tar")


def test_invalid_checkpoints_are_rejected(tmp_path):
    path = tmp_path / "checkpoint_0003.pth.tar"
    with pytest.raises(UserError, match=f"checkpoint {path} does not exist$"):
        load_checkpoint(path)
    save(path)
    with pytest.raises(UserError, match="does not exist; the folder contains checkpoint_0003"):
        load_checkpoint(tmp_path / "checkpoint_0004.pth.tar")
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="no 'state_dict'"):
        load_checkpoint(path)
    torch.save({"format_version": 99, "state_dict": {}}, path)
    with pytest.raises(UserError, match="format 99"):
        load_checkpoint(path)


def test_newest_checkpoint_is_the_most_advanced_one(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    positions = {"checkpoint_0010.pth.tar": (11, 0), "checkpoint_0000.pth.tar": (1, 0), LAST: (11, 3)}
    for name, (epoch, step) in positions.items():
        save_checkpoint(tmp_path / name, {"epoch": epoch, "step": step, "state_dict": {}})
    (tmp_path / "checkpoint_other.pth.tar").write_text("")
    names = ["checkpoint_0000.pth.tar", "checkpoint_0010.pth.tar", LAST]
    assert [p.name for p in checkpoints_in(tmp_path)] == names
    assert newest_checkpoint(tmp_path)[0].name == LAST
    save_checkpoint(tmp_path / LAST, {"epoch": 10, "step": 3, "state_dict": {}})
    assert newest_checkpoint(tmp_path)[0].name == "checkpoint_0010.pth.tar"
    (tmp_path / "checkpoint_0010.pth.tar").write_bytes(b"cut")
    assert newest_checkpoint(tmp_path)[0].name == LAST
