"""Child processes that are killed or stopped at any moment, and resumed.

Such a run must end with the checkpoint of an uninterrupted run, bit for bit.
"""

import random
import signal
import time

import pytest
from conftest import identical, log_lines
from processes import EPOCHS, finish, start, wait_for_checkpoint, wait_until

from engine.checkpoint import LAST, load_checkpoint, newest_checkpoint, position
from engine.signals import EXIT_RESUMABLE, StopRequest
from utils.files import LOCK_FILE


@pytest.fixture(scope="module")
def uninterrupted(training_store, tmp_path_factory):
    """The folder of an uninterrupted run, and the seconds that its training took."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    child = start(training_store, folder)
    wait_until(child, (folder / LOCK_FILE).exists)
    start_time = time.monotonic()
    code, out, err = finish(child)
    assert code == 0 and "starting a new run" in out, err
    return folder, time.monotonic() - start_time


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
    hidden = [path.name for path in folder.glob(".*")]
    assert hidden == [LOCK_FILE], "no half-written file is left"


def test_interrupted_run_matches_uninterrupted_run(training_store, uninterrupted, tmp_path):
    """It is killed or stopped four times and resumed with another number of workers each time."""
    moments = [
        (signal.SIGKILL, (0, 1)),
        (signal.SIGTERM, (1, 2)),
        (signal.SIGKILL, (3, 1)),
        (signal.SIGHUP, (5, 2)),
    ]
    for workers, (number, moment) in enumerate(moments):
        child = start(training_store, tmp_path, "-j", workers)
        wait_for_checkpoint(child, tmp_path, *moment)
        child.send_signal(number)
        code, out, err = finish(child)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else EXIT_RESUMABLE), err
        assert ("stopped in epoch" in out) == (number != signal.SIGKILL)
        assert "Traceback" not in err
        assert ("resumed" in out) == (workers > 0), "each run continues the previous one"
    code, out, err = finish(start(training_store, tmp_path))
    assert code == 0 and "resumed" in out, err
    assert_same_end(uninterrupted[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_interruptions_at_random_moments(training_store, uninterrupted, tmp_path, number):
    """20 runs are interrupted between the first step and the last save."""
    expected, duration = uninterrupted
    moments = random.Random(int(number))
    positions = []
    for i in range(20):
        folder = tmp_path / str(i)
        child = start(training_store, folder, "-j", i % 3)
        wait_until(child, (folder / LOCK_FILE).exists)
        time.sleep(moments.uniform(0.0, duration))
        child.send_signal(number)
        code, out, err = finish(child)
        assert code in (-number, EXIT_RESUMABLE, 0) and "Traceback" not in err, err
        newest = newest_checkpoint(folder)
        positions.append((code, newest and position(newest[1])))
        code, out, err = finish(start(training_store, folder))
        assert code == 0, err
        assert_same_end(expected, folder)
    print(f"\n{signal.Signals(number).name}: exit code and newest checkpoint (epoch, step): {positions}")


def test_second_ctrl_c_aborts_without_saving(training_store, tmp_path):
    # A step takes longer than both signals.
    flags = ["--gru-hidden-size", 384, "--batch-size", 16, "--save-minutes", 10]
    child = start(training_store, tmp_path, *flags)
    wait_for_checkpoint(child, tmp_path, 1, 0)
    child.send_signal(signal.SIGINT)
    while "finishing the step" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    code, out, err = finish(child)
    assert code == 130 and err.strip() == "interrupted" and "stopped in epoch" not in out
    assert not (tmp_path / LAST).exists(), "nothing was saved"


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_signals_request_a_stop_only_within_the_context(number):
    handlers = [signal.getsignal(each) for each in StopRequest.SIGNALS]
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert [signal.getsignal(each) for each in StopRequest.SIGNALS] == handlers


def test_sighup_stays_ignored_under_nohup():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
