"""What people do to runs in the field: outputs, paths and checkpoints of all kinds."""

import json
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, INTER, RETRIEVAL, TINY_FLAGS, identical, one_line, write_pretraining

from engine.checkpoint import load_checkpoint, without_wrappers
from engine.distributed import processes
from engine.report import RESULTS
from utils.errors import UserError
from utils.files import atomic_write, check_output_file, check_output_folder

EXTRACTION = "extract_features.py"
RANDOM = ["--pretrained", "random", *TINY_FLAGS]


def device(path, minor):
    """A copy of ``/dev/null`` (3) or ``/dev/full`` (7); skips the test without permission."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        with open(path, "wb"):
            return path
    except PermissionError:
        pytest.skip("this user or file system has no devices")


# Output files


def test_output_files_of_every_kind(tmp_path):
    """A device and a FIFO receive the bytes, a link is followed, and a folder is an error before the work."""

    def write(path):
        check_output_file(path, "--output")
        atomic_write(path, lambda file: np.savez(file, x=np.arange(3)))
        return path

    assert stat.S_ISCHR(write(device(tmp_path / "null", 3)).stat().st_mode)
    fifo, received = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    assert stat.S_ISFIFO(write(fifo).stat().st_mode)
    reader.join(30)
    assert received[0][:2] == b"PK"
    target, link = tmp_path / "below" / "target.npz", tmp_path / "link.npz"
    link.symlink_to(target)  # dangling at first
    assert write(link).is_symlink() and np.load(target)
    target.write_bytes(b"old")
    assert write(link).is_symlink() and np.load(target)
    with pytest.raises(UserError, match="is a folder; give a file"):
        write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "fifo", "link.npz", "null"]


def test_names_that_the_file_system_allows_are_written(tmp_path):
    """The temporary name must not be longer than the file system allows, in bytes."""
    for name in ("x" * 251 + ".npz", "é" * 125 + ".npz", "骨" * 83 + ".npz"):
        atomic_write(tmp_path / name, lambda file: file.write(b"x"))
        assert (tmp_path / name).read_bytes() == b"x"
    assert len(list(tmp_path.iterdir())) == 3


def test_full_device_does_not_lose_the_numbers(run, tmp_path):
    full = device(tmp_path / "full", 7)
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).normal(size=(40, 25, 3, 2)).astype(np.float32))
    for script, flags, number in (
        (RETRIEVAL, ["--output-dir", "r", "--save-features"], "1-nearest-neighbor retrieval"),
        (CLASSIFICATION, ["--output-dir", "c", "--epochs", 1, "--save-scores"], "best (epoch 1): top-1"),
        (EXTRACTION, ["--input", "clip.npy", "--output"], ""),
    ):
        code, out, err = run(script, *RANDOM, *flags, full)
        assert code == 2 and one_line(err) and f"cannot write {full} ([Errno 28] No space left" in err
        assert number in out
    assert (tmp_path / "r" / RESULTS).is_file() and (tmp_path / "c" / RESULTS).is_file()


def test_results_are_in_the_error_if_they_cannot_be_written(run, tmp_path, monkeypatch):
    def full(path, write):
        if path.name == RESULTS:
            raise UserError(f"cannot write {path} (No space left on device)")
        atomic_write(path, write)

    monkeypatch.setattr("utils.files.atomic_write", full)
    for script, number in ((RETRIEVAL, '"knn"'), (CLASSIFICATION, '"top1"')):
        epochs = ["--epochs", 1] if script == CLASSIFICATION else []
        err = run.fail(script, *RANDOM, *epochs, "--output-dir", tmp_path / script)
        assert "the results are {" in err and number in err


# Output folders


@pytest.mark.parametrize(
    "script, flags, flag",
    [
        (INTER, ["--moco-k", 16, "--batch-size", 4, "--epochs", 1, *TINY_FLAGS], "--checkpoint-path"),
        (CLASSIFICATION, [*RANDOM, "--epochs", 1], "--output-dir"),
        (RETRIEVAL, RANDOM, "--output-dir"),
        (RETRIEVAL, [*RANDOM, "--output-dir", "o"], "--gallery"),
        (RETRIEVAL, [*RANDOM, "--output-dir", "o"], "--tsne"),
        ("ensemble.py", ["a.npz", "b.npz"], "--output-dir"),
        ("reproduce_tables.py", ["--scale", "smoke"], "--runs"),
        ("visual.clips", ["--name", "S001C002P001R001A001"], "--out"),
        ("benchmarks.real_data", ["table"], "--runs"),
    ],
)
def test_folder_flags_reject_other_files_before_the_work(run, tmp_path, script, flags, flag):
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "file", tmp_path / "fifo"):
        before = path.lstat()
        code, out, err = run(script, *flags, flag, path)
        assert code == 2 and one_line(err) and f"{path} is not a folder" in err and "features" not in out
        assert path.lstat() == before
    assert not (tmp_path / "o").exists()


def test_folders_without_space_are_found_before_the_work(tmp_path, monkeypatch):
    """Root has the permission to write to a pseudo file system, but no file can be created."""
    with pytest.raises(UserError, match="choose another folder"):
        check_output_folder(Path("/proc/self/x"), "--output")

    def no_space(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.files.TemporaryFile", no_space)
    for check, path in ((check_output_folder, tmp_path / "o"), (check_output_file, tmp_path / "o.npz")):
        with pytest.raises(UserError, match="No space left on device"):
            check(path, "--output")


# Paths

COMMANDS = {
    INTER: ["--checkpoint-path", "--data-root", "--resume"],
    CLASSIFICATION: ["--output-dir", "--data-root", "--pretrained", "--resume", "--save-scores"],
    "ensemble.py": ["", "--output-dir"],
    RETRIEVAL: ["--output-dir", "--data-root", "--pretrained", "--save-features", "--gallery", "--tsne"],
    EXTRACTION: ["--input", "--output", "--pretrained", "--data-root"],
    "reproduce_tables.py": ["--runs", "--data-root"],
    "visual.clips": ["--out", "--data-root"],
    "visual.page": [""],
    "engine.report": [""],
    "benchmarks.real_data": ["--pretrained", "--data-root", "--runs"],
}


@pytest.mark.parametrize("script", COMMANDS)
def test_inaccessible_paths_are_one_line_and_exit_code_2(run, tmp_path, script):
    """Of every path flag: a name that is too long, and a loop of links."""
    (tmp_path / "loop").symlink_to("loop")
    for flag in COMMANDS[script]:
        for path in ("x" * 300, "loop"):
            assert "cannot be accessed" in run.fail(script, *([flag] if flag else []), path)


def test_unreadable_folder_of_results_is_an_error(run, tmp_path, monkeypatch):
    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", str(folder / "o")))
        return []

    monkeypatch.setattr(os, "walk", walk)
    err = run.fail("engine.report", tmp_path)
    assert f"cannot access {tmp_path / 'o'} (Permission denied): check the path" in err


def test_folders_whose_names_are_not_utf8(run, pretrain, small_store, tmp_path):
    folder = tmp_path / "caf\udce9"
    os.renames(small_store, folder / "data")
    pretrain.succeed(folder / "c", "--data-root", folder / "data", "--epochs", 1)
    flags = ["--data-root", folder / "data", "--pretrained", folder / "c" / "checkpoint_0000.pth.tar"]
    flags += ["--finetune-skeleton-representation", "seq-based", "--output-dir", folder / "r"]
    code, out, err = run(RETRIEVAL, *flags, "--gallery", folder / "g", "--tsne", folder / "t")
    assert code == 0 and err == "", err
    assert json.loads((folder / "r" / RESULTS).read_text())["flags"]["output_dir"] == str(folder / "r")
    code, _, err = run("visual.page", folder)
    assert code == 0 and err == "" and (folder / "index.html").read_text(encoding="utf-8"), err


# Environment


def test_only_processes_of_torchrun_are_a_group(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # of another launcher, or left over
    assert processes() == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert processes() == 2


def test_tensorboard_that_fails_later_does_not_end_the_run(pretrain, tmp_path, monkeypatch):
    def broken(self, *arguments, **settings):
        raise AttributeError("`np.float_` was removed")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", broken)
    out = pretrain.succeed(tmp_path / "c", "--epochs", 1)
    assert out.count("note: no further TensorBoard files (`np.float_` was removed)") == 1


# Names of weights


def test_checkpoints_of_wrapped_models_are_read(tmp_path):
    path = write_pretraining(tmp_path / "x.pth.tar", ["seq-based"])
    content, expected = torch.load(path, weights_only=True), load_checkpoint(path)["state_dict"]
    for old, new in (("encoders.", "module._orig_mod.encoders."), ("encoders.", "encoders.module.")):
        renamed = {name.replace(old, new): value for name, value in content["state_dict"].items()}
        torch.save({**content, "state_dict": renamed}, path)
        assert identical(load_checkpoint(path)["state_dict"], expected)
    state = {"module.a": 1, "a": 2}
    assert without_wrappers(state) is state, "names that would collide are kept"


def test_resume_names_the_weights_that_do_not_fit(pretrain, pretrained):
    path = pretrained / "checkpoint_0001.pth.tar"
    content = torch.load(path, weights_only=True)
    state = {name.replace("query", "student"): value for name, value in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, path)
    err = pretrain.fail(pretrained, "--resume", "auto")
    assert "Error(s) in loading state_dict for MoCo" in err
    assert 'Missing key(s) in state_dict: "encoders.query.' in err and "more" in err and len(err) < 1200
    assert 'Unexpected key(s) in state_dict: "encoders.student.' in err
