"""Runs that are killed or stopped at any moment, and resumed.

Such a run must end with the checkpoint of an uninterrupted run, bit for bit.
"""

import random
import signal
import time

import pytest
from conftest import INTER, identical, in_optimizer_step, log_lines
from processes import EPOCHS, finish, pretraining_flags, start_pretraining, wait_for_checkpoint

from engine.checkpoint import LAST, load_checkpoint, newest_checkpoint, position
from engine.signals import EXIT_RESUMABLE, StopRequest
from utils.files import LOCK_FILE


@pytest.fixture
def run_to_end(run, training_store):
    """``run_to_end(folder)``: start or resume a run in this process."""

    def call(folder):
        out = run.succeed(INTER, *pretraining_flags(training_store, folder, "--resume", "auto"))
        return out

    return call


def assert_same_end(uninterrupted, folder):
    """The last checkpoints are equal, except for the flags of folder and workers; the log is complete."""
    ends = [
        load_checkpoint(path / f"checkpoint_{EPOCHS - 1:04d}.pth.tar") for path in (uninterrupted, folder)
    ]
    for end in ends:
        del end["flags"]["checkpoint_path"], end["flags"]["workers"]
    assert identical(*ends)
    assert [line["epoch"] for line in log_lines(folder)] == list(range(EPOCHS))
    assert not (folder / LAST).exists(), "a finished run needs no rolling checkpoint"
    assert [path.name for path in folder.glob(".*")] == [LOCK_FILE], "no half-written file is left"


def test_interrupted_run_matches_uninterrupted_run(training_store, run_to_end, tmp_path):
    """It is killed or stopped and resumed with another number of workers each time."""
    assert "starting a new run" in run_to_end(tmp_path / "uninterrupted")
    for workers, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        newest = newest_checkpoint(tmp_path / "c")
        epoch, step = position(newest[1]) if newest else (0, 0)
        child = start_pretraining(training_store, tmp_path / "c", "-j", workers)
        wait_for_checkpoint(child, tmp_path / "c", epoch, step + 1)
        child.send_signal(number)
        code, out, err = finish(child)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else EXIT_RESUMABLE), err
        assert ("stopped in epoch" in out) == (number != signal.SIGKILL)
        assert ("resumed" in out) == (workers > 0) and "Traceback" not in err
    assert "resumed" in run_to_end(tmp_path / "c")
    assert_same_end(tmp_path / "uninterrupted", tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_interruptions_at_random_moments(training_store, run_to_end, tmp_path, number):
    """20 runs are interrupted between the first step and the last save."""
    start_time, moments = time.monotonic(), random.Random(int(number))
    run_to_end(tmp_path / "uninterrupted")
    duration = time.monotonic() - start_time
    for i in range(20):
        child = start_pretraining(training_store, tmp_path / str(i), "-j", i % 3)
        wait_for_checkpoint(child, tmp_path / str(i), 0, 1)
        time.sleep(moments.uniform(0.0, duration))
        child.send_signal(number)
        code, _, err = finish(child)
        assert code in (-number, EXIT_RESUMABLE, 0) and "Traceback" not in err, err
        run_to_end(tmp_path / str(i))
        assert_same_end(tmp_path / "uninterrupted", tmp_path / str(i))


def test_second_ctrl_c_aborts_without_saving(pretrain, tmp_path):
    def press_twice():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with in_optimizer_step(2, press_twice):
        code, out, err = pretrain(tmp_path / "c")
    assert code == 130 and err.strip().endswith("interrupted") and "stopped in epoch" not in out
    assert not (tmp_path / "c" / LAST).exists(), "nothing was saved"


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_signals_request_a_stop_only_within_the_context(number):
    handlers = [signal.getsignal(each) for each in StopRequest.SIGNALS]
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert [signal.getsignal(each) for each in StopRequest.SIGNALS] == handlers


@pytest.mark.parametrize("number, stops", [(signal.SIGHUP, False), (signal.SIGINT, True)])
def test_ignored_signals(number, stops):
    """SIGHUP stays ignored under nohup; SIGINT is ignored in a background job of a script, but recorded."""
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
            assert stop.requested == stops
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, previous)
