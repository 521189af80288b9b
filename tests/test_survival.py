"""Real runs that are killed, stopped or crowded; what is left is whole.

A run that was killed at any moment and resumed must end with the checkpoint of the run that nobody
touched, bit for bit. The children are processes of their own.
"""

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import engine.classifier
import engine.setup
from conftest import TINY_FLAGS, write_store
from engine.checkpoint import LAST, load_checkpoint, newest_checkpoint, position, save_checkpoint
from options.files import LOCK_FILE, exclusive_folder
from engine.signals import EXIT_RESUMABLE
from test_scripts import PRETRAIN, pretrain

SCRIPT = Path(__file__).resolve().parents[1] / "main_moco_inter_skeleton.py"
IMAGE = ["--skeleton-representation", "seq-based_and_image-based"]  # quick, and has dropout
EPOCHS = 12  # of five steps


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """20 training clips, written once: the children only read them."""
    names = [f"S001C002P{i + 1:03d}R001A{i % 4 + 1:03d}" for i in range(20)]
    root = tmp_path_factory.mktemp("survival") / "data"
    lengths = list(range(20, 120, 5))
    write_store(root / "ntu60", names, [i % 4 for i in range(20)], lengths, {"cross_view": ["train"] * 20})
    return root


def start(store, folder, *flags, **settings):
    """A pretraining as a process, which writes its rolling checkpoint several times in an epoch."""
    usual = [*PRETRAIN, *IMAGE, "--epochs", EPOCHS, "--save-freq", 3, "--save-minutes", 0.002, "--resume", "auto",
             "--data-root", store, "--checkpoint-path", folder]
    return subprocess.Popen(
        [sys.executable, "-u", SCRIPT, *map(str, [*usual, *flags])], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **settings,
    )


def finish(child):
    """Exit code, and what was printed."""
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """The folder of the run that nobody touched, and the seconds that its training took."""
    folder = tmp_path_factory.mktemp("whole")
    child = start(store, folder)
    wait_until(child, (folder / LOCK_FILE).exists)
    began = time.monotonic()
    code, out, err = finish(child)
    assert code == 0 and "begins anew" in out, err
    return folder, time.monotonic() - began


def identical(a, b):
    """Whether two values are the same, tensors in every bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and a == b


def assert_same_end(whole, folder):
    """The last checkpoints agree in all but where they lie and how many threads drew the views."""
    ends = [load_checkpoint(path / f"checkpoint_{EPOCHS - 1:04d}.pth.tar") for path in (whole[0], folder)]
    for end in ends:
        del end["flags"]["checkpoint_path"], end["flags"]["workers"]
    assert identical(*ends)
    assert not (folder / LAST).exists(), "a finished run needs no rolling checkpoint"
    assert not list(folder.glob(".*")), "neither lock nor half-written file stays"


def wait_until(child, condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end and child.poll() is None, child.communicate()
        time.sleep(0.02)


def wait_until_at(child, folder, epoch, step):
    """Wait until a checkpoint in ``folder`` has that position behind it."""
    def is_there():
        found = newest_checkpoint(folder)
        return found is not None and position(found[1]) >= (epoch, step)

    wait_until(child, is_there)


def test_a_run_killed_twice_and_stopped_twice_ends_as_the_one_that_was_not(store, whole, tmp_path):
    """With other numbers of workers each time; nobody says from which checkpoint to go on."""
    moments = [(signal.SIGKILL, (0, 1)), (signal.SIGTERM, (1, 2)), (signal.SIGKILL, (3, 1)), (signal.SIGTERM, (5, 2))]
    for workers, (number, at) in enumerate(moments):
        child = start(store, tmp_path, "-j", workers)
        wait_until_at(child, tmp_path, *at)
        child.send_signal(number)
        code, out, err = finish(child)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else EXIT_RESUMABLE), err
        assert ("stopped in epoch" in out) == (number == signal.SIGTERM)
        assert "Traceback" not in err
        assert ("resumed" in out) == (workers > 0), "each goes on from the one before"
    code, out, err = finish(start(store, tmp_path))
    assert code == 0 and "resumed" in out, err
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_twenty_random_moments(store, whole, tmp_path, number):
    """Each killed or stopped at a moment of its own, from the first step to the last save."""
    moments = random.Random(int(number))
    ended = []
    for i in range(20):
        folder = tmp_path / str(i)
        child = start(store, folder, "-j", i % 3)
        wait_until(child, (folder / LOCK_FILE).exists)
        time.sleep(moments.uniform(0.0, whole[1]))
        child.send_signal(number)
        code, out, err = finish(child)
        assert code in (-number, EXIT_RESUMABLE, 0) and "Traceback" not in err, err
        found = newest_checkpoint(folder)
        ended.append((code, found and position(found[1])))
        code, out, err = finish(start(store, folder))
        assert code == 0, err
        assert_same_end(whole, folder)
    print(f"\n{signal.Signals(number).name}: exit code and newest checkpoint (epoch, step): {ended}")


def test_a_second_ctrl_c_leaves_at_once(store, tmp_path):
    slow = ["--gru-hidden-size", 384, "--batch-size", 16, "--save-minutes", 10]  # a step outlasts both signals
    child = start(store, tmp_path, *slow)
    wait_until_at(child, tmp_path, 1, 0)
    child.send_signal(signal.SIGINT)
    while "finishing the step" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    code, out, err = finish(child)
    assert code == 130 and err.strip() == "interrupted" and "stopped in epoch" not in out
    assert not (tmp_path / LAST).exists(), "nothing was saved"


def test_a_second_run_in_the_same_folder_is_refused(run, tmp_path):
    folder = tmp_path / "c"
    with exclusive_folder(folder, "--checkpoint-path"):
        code, _, err = pretrain(run, folder)
        assert code == 2 and f"another run is writing to {folder} (process {os.getpid()} on " in err
        assert "name another --checkpoint-path" in err and len(err.strip().splitlines()) == 1
        assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    assert pretrain(run, folder)[0] == 0
    assert not (folder / LOCK_FILE).exists()


def test_a_lock_left_by_a_killed_run_is_no_lock(tmp_path):
    (tmp_path / LOCK_FILE).write_text("process 1 on elsewhere")
    (tmp_path / ".checkpoint_last.pth.tar.1234.tmp").write_text("half")
    (tmp_path / ".hidden").write_text("not ours")
    with exclusive_folder(tmp_path, "--checkpoint-path"):
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_a_file_system_without_locks_is_a_note(tmp_path, monkeypatch, capsys):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with exclusive_folder(tmp_path, "--checkpoint-path"):
        pass
    assert "cannot be locked (No locks available); start no second run there" in capsys.readouterr().out


def test_a_folder_that_cannot_be_locked_is_refused(run, tmp_path):
    (tmp_path / "c" / LOCK_FILE).mkdir(parents=True)
    code, _, err = pretrain(run, tmp_path / "c")
    assert code == 2 and f"{tmp_path / 'c'} cannot be written to (Is a directory); name another" in err


def test_a_run_that_another_one_overtook_is_refused(run, tmp_path, monkeypatch):
    def overtaken(*arguments):
        save_checkpoint(tmp_path / "c" / "checkpoint_0000.pth.tar", {"state_dict": {}})
        return new_run(*arguments)

    new_run = engine.setup.new_run
    monkeypatch.setattr(engine.setup, "new_run", overtaken)
    code, _, err = pretrain(run, tmp_path / "c")
    assert code == 2 and "another run wrote checkpoints" in err


def test_a_second_evaluation_in_the_same_folder_is_refused(run, tmp_path):
    flags = ["--pretrained", "random", *TINY_FLAGS, "--epochs", 1, "--output-dir", tmp_path / "o"]
    with exclusive_folder(tmp_path / "o", "--output-dir"):
        code, _, err = run("action_classification.py", *flags)
    assert code == 2 and f"another run is writing to {tmp_path / 'o'}" in err and "name another --output-dir" in err


def test_a_probe_that_was_killed_goes_on(run, tmp_path, monkeypatch):
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 4, "--seed", 1]
    assert run(*probe, "--output-dir", tmp_path / "whole")[0] == 0

    def killed(training, *rest):
        if training.epoch == 2:
            raise KeyboardInterrupt
        report(training, *rest)

    report = engine.classifier.report_epoch
    monkeypatch.setattr(engine.classifier, "SAVE_MINUTES", 0.0)
    monkeypatch.setattr(engine.classifier, "report_epoch", killed)
    assert run(*probe, "--output-dir", tmp_path / "killed")[0] == 130
    monkeypatch.setattr(engine.classifier, "report_epoch", report)
    code, out, err = run(*probe, "--output-dir", tmp_path / "killed", "--resume", "auto")
    assert code == 0 and "probe_last.pth.tar: epoch 2" in out, err
    numbers = [json.loads((tmp_path / name / "results.json").read_text())["numbers"] for name in ("whole", "killed")]
    assert numbers[0] == numbers[1]


def test_the_drawn_seed_is_printed_and_saved(run, tmp_path):
    flags = [flag for flag in PRETRAIN if flag not in ("--seed", "5")]
    code, out, err = run("main_moco_inter_skeleton.py", *flags, "--epochs", 1, "--checkpoint-path", tmp_path / "c")
    assert code == 0, err
    checkpoint = load_checkpoint(tmp_path / "c" / "checkpoint_0000.pth.tar")
    assert f"seed {checkpoint['seed']} (drawn" in out and checkpoint["flags"]["seed"] == checkpoint["seed"]
    code, out, err = run("action_retrieval.py", "--pretrained", "random", *TINY_FLAGS, "--output-dir", tmp_path / "o")
    assert code == 0, err
    assert f"seed {json.loads((tmp_path / 'o/results.json').read_text())['seed']} (drawn" in out
