"""What people do to runs in the field: outputs, paths, launchers and checkpoints of all kinds."""

import json
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, INTER, RETRIEVAL, TINY_FLAGS, one_line

import engine.evaluation
import engine.log
from engine.checkpoint import load_checkpoint, without_wrappers
from engine.distributed import processes
from engine.report import RESULTS
from options.parser import expanded_path as path_flag
from utils.errors import UserError
from utils.files import atomic_write, check_output_file, check_output_folder, ensure_folder, find_files

EXTRACTION = "extract_features.py"
RANDOM = ["--pretrained", "random", *TINY_FLAGS]


@pytest.fixture
def raw_clip(tmp_path):
    """The path of a raw clip, the input of ``extract_features.py``."""
    path = tmp_path / "clip.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 25, 3, 2)).astype(np.float32))
    return path


@pytest.fixture
def write_features(run, raw_clip):
    """``write_features(script, path)``: run a script whose output file is ``path``."""
    flags = {
        EXTRACTION: ["--input", raw_clip, *RANDOM, "--output"],
        RETRIEVAL: [*RANDOM, "--output-dir", raw_clip.parent / "o", "--save-features"],
        CLASSIFICATION: [*RANDOM, "--epochs", 1, "--output-dir", raw_clip.parent / "p", "--save-scores"],
    }
    return lambda script, path: run(script, *flags[script], path)


def device(path, minor):
    """A copy of ``/dev/null`` (3) or ``/dev/full`` (7); skips the test without permission."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        with open(path, "wb"):
            return path
    except PermissionError:
        pytest.skip("this user or file system has no devices")


# Output files


@pytest.mark.parametrize("script", [EXTRACTION, RETRIEVAL, CLASSIFICATION])
def test_output_files_of_every_kind(write_features, tmp_path, script):
    """A device and a FIFO receive the bytes, a link is followed, a folder is an error before the work."""
    null = device(tmp_path / "null", 3)
    assert write_features(script, null)[0] == 0 and stat.S_ISCHR(null.stat().st_mode)

    fifo, received = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    assert write_features(script, fifo)[0] == 0 and stat.S_ISFIFO(fifo.stat().st_mode)
    reader.join(30)
    assert received[0][:2] == b"PK"

    target, link = tmp_path / "target.npz", tmp_path / "link.npz"
    link.symlink_to(target)
    for content in (None, b"old"):  # a dangling link first
        if content:
            target.write_bytes(content)
        assert write_features(script, link)[0] == 0 and link.is_symlink()
        assert np.load(target)

    (tmp_path / "folder").mkdir()
    link.unlink()
    link.symlink_to(tmp_path / "folder")
    code, out, err = write_features(script, link)
    assert code == 2 and one_line(err) and "is a folder; give a file" in err and "features" not in out


def test_full_device_does_not_lose_the_numbers(write_features, tmp_path):
    full = device(tmp_path / "full", 7)
    code, out, err = write_features(RETRIEVAL, full)
    assert code == 2 and one_line(err) and f"cannot write {full} (No space left on device)" in err
    assert "1-nearest-neighbor retrieval" in out and (tmp_path / "o" / RESULTS).is_file()
    code, out, err = write_features(CLASSIFICATION, full)
    assert code == 2 and one_line(err) and "best (epoch 0): top-1" in out
    assert (tmp_path / "p" / RESULTS).is_file()
    code, out, err = write_features(EXTRACTION, full)
    assert code == 2 and one_line(err)


def test_results_are_in_the_error_if_they_cannot_be_written(run, tmp_path, monkeypatch):
    def full(path, write):
        if path.name == RESULTS:
            raise UserError(f"cannot write {path} (No space left on device)")
        atomic_write(path, write)

    monkeypatch.setattr("utils.files.atomic_write", full)
    for script, number in ((RETRIEVAL, '"knn"'), (CLASSIFICATION, '"top1"')):
        epochs = ["--epochs", 1] if script == CLASSIFICATION else []
        code, _, err = run(script, *RANDOM, *epochs, "--output-dir", tmp_path / script)
        assert code == 2 and one_line(err) and "the results are {" in err and number in err


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
def test_folder_flags_reject_devices_fifos_and_files_before_the_work(run, tmp_path, script, flags, flag):
    null, fifo, file = device(tmp_path / "null", 3), tmp_path / "fifo", tmp_path / "file"
    os.mkfifo(fifo)
    file.write_text("mine")
    for path in (null, fifo, file):
        before = path.lstat()
        code, out, err = run(script, *flags, flag, path)
        assert code == 2 and one_line(err) and f"{path} is not a folder" in err, err
        assert out == "" or "features" not in out
        assert path.lstat() == before
    assert not (tmp_path / "o").exists()


def test_output_folder_may_be_a_dangling_link(run, tmp_path):
    """As a link to a folder on a scratch disk that was emptied."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "scratch" / "o")
    assert run(RETRIEVAL, *RANDOM, "--output-dir", link)[0] == 0
    assert link.is_symlink() and (tmp_path / "scratch" / "o" / RESULTS).is_file()
    ensure_folder(link)


def test_full_disk_is_found_before_the_work(tmp_path, monkeypatch):
    def no_space(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.files.TemporaryFile", no_space)
    for check, path in ((check_output_folder, tmp_path / "o"), (check_output_file, tmp_path / "o.npz")):
        with pytest.raises(UserError, match="No space left on device"):
            check(path, "--output")


def test_pseudo_file_system_is_found_before_the_work():
    """Root has the permission to write there, but no file can be created."""
    with pytest.raises(UserError, match="choose another folder"):
        check_output_folder(Path("/proc/self/x"), "--output")


def test_long_names_that_the_file_system_allows_are_written(tmp_path):
    """The temporary name must not be longer than the file system allows, in bytes."""
    for name in ("x" * 251 + ".npz", "é" * 125 + ".npz", "骨" * 83 + ".npz"):
        atomic_write(tmp_path / name, lambda file: file.write(b"x"))
        assert (tmp_path / name).read_bytes() == b"x"
    assert len(list(tmp_path.iterdir())) == 3


def test_reader_of_a_fifo_that_ends_is_an_error_in_one_line(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: open(fifo, "rb").close())
    reader.start()
    with pytest.raises(UserError, match="Broken pipe"):
        atomic_write(fifo, lambda file: file.write(bytes(10_000_000)))
    reader.join(30)


# Paths


def test_home_folder_that_is_unknown_is_an_error():
    with pytest.raises(Exception, match="cannot be expanded"):
        path_flag("~nobody-with-this-name/x")


def test_unreadable_folder_of_results_is_an_error(tmp_path, monkeypatch):
    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", str(folder / "o")))
        return []

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(UserError, match="o cannot be read .Permission denied"):
        find_files(tmp_path, RESULTS)


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
        for path in ("x" * 300, "loop/x", "loop"):
            code, _, err = run(script, *([flag] if flag else []), path)
            assert code == 2 and one_line(err) and "cannot be accessed" in err, (flag, path, err)


@pytest.mark.parametrize("name", ["caf\udce9", "\udcb9\udcc7\udcbc\udcdc"], ids=["latin-1", "gbk"])
def test_folders_whose_names_are_not_utf8(run, pretrain, small_store, tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    os.rename(small_store, folder / "data")
    data = ["--data-root", folder / "data"]
    assert pretrain(folder / "c", *data, "--epochs", 1)[0] == 0
    assert pretrain(folder / "c", *data, "--resume", "auto")[0] == 0
    checkpoint = ["--pretrained", folder / "c" / "checkpoint_0001.pth.tar"]
    checkpoint += ["--finetune-skeleton-representation", "seq-based"]
    pictures = ["--gallery", folder / "g", "--tsne", folder / "t"]
    code, out, err = run(RETRIEVAL, *data, *checkpoint, "--output-dir", folder / "r", *pictures)
    assert code == 0 and err == "", err
    assert json.loads((folder / "r" / RESULTS).read_text())["flags"]["output_dir"] == str(folder / "r")
    code, out, err = run(CLASSIFICATION, *data, *checkpoint, "--epochs", 1, "--output-dir", folder / "p")
    assert code == 0, err
    (folder / "commands.txt").write_bytes(os.fsencode(f"python x.py --output-dir {folder / 'p'}\n"))
    for script in ("visual.page", "engine.report"):
        code, out, err = run(script, folder)
        assert code == 0 and err == "", err
    (folder / "index.html").read_text(encoding="utf-8")


# Launchers


@pytest.fixture
def launched(monkeypatch):
    """``launched(NAME=value, ...)``: the number of processes with these environment variables only."""

    def call(**variables):
        for name in list(os.environ):
            if name.startswith(("SLURM_", "OMPI_", "PMI_", "MASTER_")) or name.endswith(
                ("RANK", "WORLD_SIZE")
            ):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return processes()

    return call


TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "variables, count, notes",
    [
        ({}, 1, 0),
        ({"WORLD_SIZE": "2", **TORCHRUN}, 2, 0),
        ({"WORLD_SIZE": "2", **TORCHRUN, "SLURM_STEP_NUM_TASKS": "2"}, 2, 0),  # srun torchrun
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, 1, 0),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 1, 0),  # a Kubernetes job with one replica
        ({"WORLD_SIZE": ""}, 1, 1),
        ({"LOCAL_RANK": "0"}, 1, 1),
        ({"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": ""}, 1, 1),
        ({"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": "0"}, 1, 1),
        ({"WORLD_SIZE": "many"}, 1, 1),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 1, 1),  # in a batch script, without srun
        ({"OMPI_COMM_WORLD_SIZE": "1", "SLURM_NTASKS": "1"}, 1, 0),
    ],
)
def test_variables_of_launchers(launched, capsys, variables, count, notes):
    assert launched(**variables) == count
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == notes and all("single process" in line for line in lines)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"WORLD_SIZE": "2"}, "not started by torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "not started by torchrun"),  # Kubernetes
        ({"RANK": "1"}, "not started by torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "not possible"),
        ({"WORLD_SIZE": "0", "RANK": "0", "LOCAL_RANK": "0"}, "not possible"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "not MASTER_ADDR and MASTER_PORT"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, "srun started 2 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun started 4 processes"),
        ({"PMI_SIZE": "4"}, "torchrun --nproc-per-node"),
    ],
)
def test_processes_that_cannot_be_joined_are_an_error(launched, variables, message):
    with pytest.raises(UserError, match=message):
        launched(**variables)


def test_evaluation_names_its_own_way_to_start(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="mpirun started 2 processes .* start it without torchrun"):
        engine.evaluation.prepare_evaluation(None, "linear")


# Optional packages


def test_tensorboard_that_fails_later_does_not_end_the_run(pretrain, tmp_path, monkeypatch):
    def broken(self, *arguments, **settings):
        raise AttributeError("`np.float_` was removed")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", broken)
    code, out, err = pretrain(tmp_path / "c", "--epochs", 1)
    assert code == 0 and out.count("note: no further TensorBoard files (`np.float_` was removed)") == 1, err


# Checkpoints of wrapped models


def rename_weights(path, rename):
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {rename(name): value for name, value in content["state_dict"].items()}
    torch.save(content, path)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("encoders.", "encoders.module."),
    ],
)
def test_checkpoints_of_wrapped_models_are_read(run, pretrain, tmp_path, rename):
    assert pretrain(tmp_path / "c", "--epochs", 1)[0] == 0
    path = tmp_path / "c" / "checkpoint_0000.pth.tar"
    before = load_checkpoint(path)["state_dict"]
    rename_weights(path, rename)
    after = load_checkpoint(path)["state_dict"]
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    code, out, err = pretrain(tmp_path / "c", "--resume", "auto")
    assert code == 0 and "resumed" in out, err
    flags = ["--pretrained", path, "--finetune-skeleton-representation", "seq-based"]
    assert run(RETRIEVAL, *flags, "--output-dir", tmp_path / "o")[0] == 0


def test_names_that_would_collide_are_kept():
    state = {"module.a": 1, "a": 2}
    assert without_wrappers(state) is state


def test_resume_names_the_weights_that_do_not_fit(pretrain, tmp_path):
    assert pretrain(tmp_path / "c", "--epochs", 1)[0] == 0
    path = tmp_path / "c" / "checkpoint_0000.pth.tar"
    rename_weights(path, lambda name: name.replace("query", "student"))
    code, _, err = pretrain(tmp_path / "c", "--resume", "auto")
    assert code == 2 and one_line(err) and "Error(s) in loading state_dict for MoCo" in err
    assert 'Missing key(s) in state_dict: "encoders.query.' in err and "more" in err and len(err) < 1200
    assert 'Unexpected key(s) in state_dict: "encoders.student.' in err
