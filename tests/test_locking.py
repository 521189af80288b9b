"""The lock that keeps a second run out of an output folder."""

import errno
import os
from functools import partial

import pytest
from conftest import RETRIEVAL, TINY_FLAGS

from data_gen.output_folder import atomic_folder
from utils.files import LOCK_FILE, LOCK_HOLDER_FILE, exclusive_folder


def test_lock_rejects_a_second_run(run, pretrain, probe, tmp_path):
    folder = tmp_path / "c"
    retrieve = partial(run.fail, RETRIEVAL, *TINY_FLAGS, "--pretrained", "random", "--output-dir")
    for fail, flag in (
        (pretrain.fail, "--checkpoint-path"),
        (probe.fail, "--output-dir"),
        (retrieve, "--output-dir"),
    ):
        with exclusive_folder(folder, flag):
            err = fail(folder)
            assert f"another run is writing to {folder} (PID {os.getpid()} on " in err
            assert f"choose another {flag}" in err
            assert sorted(path.name for path in folder.iterdir()) == [LOCK_FILE, LOCK_HOLDER_FILE]
    pretrain.succeed(folder, "--epochs", 1)
    assert not (folder / LOCK_HOLDER_FILE).exists()


def test_files_of_a_killed_run_do_not_lock_the_folder(tmp_path):
    """Its lock files are taken over, and its temporary files are removed."""
    for name in (LOCK_FILE, LOCK_HOLDER_FILE, ".checkpoint_last.pth.tar.1234.tmp", ".hidden"):
        (tmp_path / name).write_text("PID 1 on another host")
    with exclusive_folder(tmp_path, "--checkpoint-path"):
        assert f"PID {os.getpid()} on " in (tmp_path / LOCK_HOLDER_FILE).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", LOCK_FILE]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_noted(tmp_path, monkeypatch, capsys, number):
    def flock_without_support(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock_without_support)
    with exclusive_folder(tmp_path, "--checkpoint-path"):
        pass
    with atomic_folder(tmp_path / "store", lambda: None) as folder:  # of the data preparation
        (folder / "file").write_text("x")
    assert (tmp_path / "store" / "file").is_file()
    note = (
        f"note: {tmp_path} cannot be locked ([Errno {number}] {os.strerror(number)}); do not start a second"
    )
    assert note in capsys.readouterr().out


def test_folder_that_cannot_be_locked_is_an_error(pretrain, tmp_path):
    (tmp_path / "c" / LOCK_FILE).mkdir(parents=True)
    assert f"cannot access {tmp_path / 'c' / LOCK_FILE} (Is a directory)" in pretrain.fail(tmp_path / "c")
