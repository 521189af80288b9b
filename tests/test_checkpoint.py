"""Checkpoints and results: whole or not at all, and nothing in a damaged or hostile file runs."""

import pickle

import numpy as np
import pytest
import torch

from engine.checkpoint import (
    LAST, checkpoints_in, load_checkpoint, newest_checkpoint, save_checkpoint, atomic_write,
)
from options.errors import UserError


class FullDisk:
    """A file object that has room for so many bytes."""

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
    state = {"epoch": 1, "state_dict": {"weight": torch.full((500,), value)}}
    if room is None:
        return save_checkpoint(path, state)
    atomic_write(path, lambda file: torch.save(state, FullDisk(file, room)))


def test_saved_and_loaded(tmp_path):
    save(tmp_path / "deep" / "er" / "c.pth.tar")
    loaded = load_checkpoint(tmp_path / "deep" / "er" / "c.pth.tar")
    assert loaded["state_dict"]["weight"].sum() == 500 and loaded["format_version"] == 1


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, room):
    path = tmp_path / "c.pth.tar"
    save(path)
    with pytest.raises(UserError, match="could not be written"):
        save(path, value=2.0, room=room)
    assert load_checkpoint(path)["state_dict"]["weight"][0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth.tar"], "nothing half-written stays"


def test_an_interrupt_while_writing_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pth.tar"
    save(path)

    def interrupted(file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, interrupted)
    assert load_checkpoint(path)["epoch"] == 1 and len(list(tmp_path.iterdir())) == 1


def test_damaged_checkpoints_are_refused_or_right(tmp_path):
    """Cut, flipped and zeroed files: a sentence, or the weights that were saved; never others."""
    path = tmp_path / "c.pth.tar"
    save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(150):
        damaged = bytearray(good)
        at = int(rng.integers(len(good)))
        if i % 3 == 0:
            damaged = damaged[:at]
        elif i % 3 == 1:
            damaged[at] ^= 1 << int(rng.integers(8))
        else:
            damaged[at : at + 512] = bytes(min(512, len(good) - at))
        path.write_bytes(damaged)
        try:
            assert torch.equal(load_checkpoint(path)["state_dict"]["weight"], torch.ones(500))
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 75


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_a_hostile_checkpoint_runs_nothing(tmp_path):
    path, marker = tmp_path / "c.pth.tar", tmp_path / "created"
    contents = [{"state_dict": Hostile(marker)}, Hostile(marker)]
    for content in contents:
        torch.save(content, path)
        with pytest.raises(UserError, match="damaged or no checkpoint"):
            load_checkpoint(path)
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="damaged or no checkpoint"):
            load_checkpoint(path)
    assert not marker.exists()


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "checkpoint_0003.pth.tar"
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(path)
    save(path)
    with pytest.raises(UserError, match="that folder has checkpoint_0003"):
        load_checkpoint(tmp_path / "checkpoint_0004.pth.tar")
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="no 'state_dict'"):
        load_checkpoint(path)
    torch.save({"format_version": 99, "state_dict": {}}, path)
    with pytest.raises(UserError, match="format 99"):
        load_checkpoint(path)


def test_the_newest_checkpoint_is_the_one_that_stands_furthest(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for name, epoch, step in (("checkpoint_0010.pth.tar", 11, 0), ("checkpoint_0000.pth.tar", 1, 0), (LAST, 11, 3)):
        save_checkpoint(tmp_path / name, {"epoch": epoch, "step": step, "state_dict": {}})
    (tmp_path / "checkpoint_other.pth.tar").write_text("")
    names = ["checkpoint_0000.pth.tar", "checkpoint_0010.pth.tar", LAST]
    assert [p.name for p in checkpoints_in(tmp_path)] == names
    assert newest_checkpoint(tmp_path)[0].name == LAST
    save_checkpoint(tmp_path / LAST, {"epoch": 10, "step": 3, "state_dict": {}})
    assert newest_checkpoint(tmp_path)[0].name == "checkpoint_0010.pth.tar"
    (tmp_path / "checkpoint_0010.pth.tar").write_bytes(b"cut")
    assert newest_checkpoint(tmp_path)[0].name == LAST
