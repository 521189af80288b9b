"""``atomic_folder``: complete or absent, leftovers of killed runs, existing targets."""

import os
from pathlib import Path

import pytest

from data_gen.output_folder import atomic_folder, check_folder
from utils.errors import UserError


def make(target, names=("a.txt",), fail=False):
    with atomic_folder(target, lambda: None) as folder:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        if fail:
            raise RuntimeError


def test_folder_replaces_an_existing_one(tmp_path):
    make(tmp_path / "target", ["old.txt"])
    make(tmp_path / "target", ["sub/new.txt"])
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(tmp_path / "target") == ["sub"]


def test_exception_keeps_the_existing_folder(tmp_path):
    make(tmp_path / "target", ["old.txt"])
    with pytest.raises(RuntimeError):
        make(tmp_path / "target", ["new.txt"], fail=True)
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(tmp_path / "target") == ["old.txt"]


def test_leftovers_of_killed_runs_are_cleared_or_restored(tmp_path):
    partial = tmp_path / ".target.partial"
    (partial / "new" / "sub").mkdir(parents=True)
    (partial / "new" / "sub" / "half.txt").write_text("")
    make(tmp_path / "target")
    assert os.listdir(tmp_path) == ["target"] and os.listdir(tmp_path / "target") == ["a.txt"]
    partial.mkdir()
    os.rename(tmp_path / "target", partial / "old")  # killed between the renames
    with pytest.raises(RuntimeError):
        make(tmp_path / "target", ["new.txt"], fail=True)
    assert os.listdir(tmp_path) == ["target"] and os.listdir(tmp_path / "target") == ["a.txt"]


def test_target_is_checked_again_at_the_end(tmp_path):
    """A folder that appears during the work is not replaced."""

    def check():
        if (tmp_path / "target").exists():
            raise UserError("target exists")

    with pytest.raises(UserError, match="target exists"):
        with atomic_folder(tmp_path / "target", check) as folder:
            (folder / "new.txt").write_text("")
            (tmp_path / "target").mkdir()
    assert os.listdir(tmp_path) == ["target"] and not os.listdir(tmp_path / "target")


def test_mount_point_is_rejected_before_the_work(tmp_path, monkeypatch):
    check_folder(tmp_path)
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(UserError, match="is a mount point and cannot be replaced; choose a folder inside it"):
        check_folder(tmp_path)
    check_folder(tmp_path / "store")
