"""The lock that keeps a second run out of an output folder."""

import errno
import fcntl
import os

import pytest
from conftest import one_line

from utils.files import LOCK_FILE, LOCK_HOLDER_FILE, exclusive_folder


def test_lock_rejects_a_second_pretraining(pretrain, tmp_path):
    folder = tmp_path / "c"
    with exclusive_folder(folder, "--checkpoint-path"):
        code, _, err = pretrain(folder)
        assert code == 2 and f"another run is writing to {folder} (PID {os.getpid()} on " in err
        assert "choose another --checkpoint-path" in err and one_line(err)
        assert sorted(path.name for path in folder.iterdir()) == [LOCK_FILE, LOCK_HOLDER_FILE]
    assert pretrain(folder)[0] == 0
    assert not (folder / LOCK_HOLDER_FILE).exists()


def test_lock_rejects_a_second_evaluation(probe, tmp_path):
    with exclusive_folder(tmp_path / "o", "--output-dir"):
        code, _, err = probe(tmp_path / "o", "--epochs", 1)
    assert code == 2 and f"another run is writing to {tmp_path / 'o'}" in err
    assert "choose another --output-dir" in err


def test_files_of_a_killed_run_do_not_lock_the_folder(tmp_path):
    """Its lock files are taken over, and its temporary files are removed."""
    (tmp_path / LOCK_FILE).write_text("")
    (tmp_path / LOCK_HOLDER_FILE).write_text("PID 1 on another host")
    (tmp_path / ".checkpoint_last.pth.tar.1234.tmp").write_text("half")
    (tmp_path / ".hidden").write_text("of the user")
    with exclusive_folder(tmp_path, "--checkpoint-path"):
        assert f"PID {os.getpid()} on " in (tmp_path / LOCK_HOLDER_FILE).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", LOCK_FILE]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_noted(tmp_path, monkeypatch, capsys, number):
    def flock_without_support(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock_without_support)
    with exclusive_folder(tmp_path, "--checkpoint-path"):
        pass
    out = capsys.readouterr().out
    assert f"note: {tmp_path} cannot be locked ([Errno {number}] {os.strerror(number)})" in out
    assert "do not start a second run there" in out


def test_folder_that_cannot_be_locked_is_an_error(pretrain, tmp_path):
    (tmp_path / "c" / LOCK_FILE).mkdir(parents=True)
    code, _, err = pretrain(tmp_path / "c")
    assert code == 2
    assert f"cannot write to {tmp_path / 'c'} (Is a directory); choose another --checkpoint-path" in err
