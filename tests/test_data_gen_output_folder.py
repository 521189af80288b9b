"""``atomic_folder``: complete or absent, leftovers of killed runs, existing targets."""

import os

import pytest

from data_gen.output_folder import atomic_folder
from utils.errors import UserError


def make(target, names=("a.txt",), fail=False):
    with atomic_folder(target, ("*.txt",), lambda: None) as folder:
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


def test_leftovers_with_known_names_are_cleared(tmp_path):
    leftover = tmp_path / ".target.partial" / "sub"
    leftover.mkdir(parents=True)
    (leftover / "half.txt").write_text("")
    make(tmp_path / "target")
    assert os.listdir(tmp_path) == ["target"]
    assert os.listdir(tmp_path / "target") == ["a.txt"]


def test_leftovers_with_other_names_are_kept(tmp_path):
    leftover = tmp_path / ".target.partial" / "sub"
    leftover.mkdir(parents=True)
    (leftover / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="thesis.tex"):
        make(tmp_path / "target")
    assert (leftover / "thesis.tex").exists() and not (tmp_path / "target").exists()


def test_target_is_checked_again_at_the_end(tmp_path):
    """A folder that appears during the work is not replaced."""

    def check():
        if (tmp_path / "target").exists():
            raise UserError("target exists")

    with pytest.raises(UserError, match="target exists"):
        with atomic_folder(tmp_path / "target", ("*.txt",), check) as folder:
            (folder / "new.txt").write_text("")
            (tmp_path / "target").mkdir()
    assert os.listdir(tmp_path) == ["target"] and not os.listdir(tmp_path / "target")
