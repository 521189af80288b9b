"""Checkpoint files: what they may contain, and which one of a folder is the newest."""

import re
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import LAST, checkpoints_in, load_checkpoint, newest_checkpoint, save_checkpoint
from utils.errors import UserError


def test_save_and_load(tmp_path):
    save_checkpoint(tmp_path / "deep" / "er" / "c.pth.tar", {"state_dict": {"weight": torch.ones(500)}})
    loaded = load_checkpoint(tmp_path / "deep" / "er" / "c.pth.tar")
    assert loaded["state_dict"]["weight"].sum() == 500 and loaded["format_version"] == 1


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
    save_checkpoint(path, {"state_dict": {}})
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
