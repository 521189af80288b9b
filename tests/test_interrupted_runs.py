"""Runs that are killed or stopped at any moment, and resumed.

Such a run must end with the checkpoint of an uninterrupted run, bit for bit.
"""

import signal

import pytest
from conftest import identical, in_optimizer_step, log_lines
from processes import EPOCHS, finish, pretraining_flags, pretraining_script, start

from engine.checkpoint import LAST, load_checkpoint
from engine.signals import StopRequest
from utils.files import LOCK_FILE

# A pretraining that kills itself in its n-th write, while the file still has its temporary name.
KILLED = """
    fsync, left = os.fsync, [int(sys.argv.pop(1))]

    def fsync_or_die(file):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    os.fsync = fsync_or_die
"""


@pytest.fixture
def killed_runs(pretrain, training_store, tmp_path):
    """``killed_runs(*writes)``: a run, killed in each of these writes, ends as an uninterrupted one."""
    script = pretraining_script(tmp_path / "killed.py", KILLED)

    def flags(folder, *more):
        return pretraining_flags(training_store, folder, "--resume", "auto", *more)

    whole = tmp_path / "uninterrupted"
    assert "starting a new run" in pretrain.succeed(whole, *flags(whole))

    def call(*writes):
        folder = tmp_path / "-".join(map(str, writes))
        for workers, write in enumerate(writes):
            code, out, err = finish(start(script, write, *flags(folder, "-j", workers)))
            assert code == -signal.SIGKILL, err
            assert ("resumed" in out) == (workers > 0) and [*folder.glob(".*.tmp")]
        pretrain.succeed(folder, *flags(folder))
        # The last checkpoints are equal, except for the flags of folder and workers; the log is complete.
        last = f"checkpoint_{EPOCHS - 1:04d}.pth.tar"
        ends = [load_checkpoint(path / last) for path in (whole, folder)]
        for end in ends:
            del end["flags"]["checkpoint_path"], end["flags"]["workers"]
        assert identical(*ends)
        assert [line["epoch"] for line in log_lines(folder)] == list(range(EPOCHS))
        assert not (folder / LAST).exists(), "a finished run needs no rolling checkpoint"
        assert [path.name for path in folder.glob(".*")] == [LOCK_FILE], "no half-written file is left"

    return call


def test_killed_run_matches_uninterrupted_run(killed_runs):
    """It is resumed with another number of workers each time."""
    killed_runs(9, 7)


@pytest.mark.slow
def test_run_killed_in_any_write_matches_uninterrupted_run(killed_runs):
    for write in range(1, 20):
        killed_runs(write)


def test_second_ctrl_c_aborts_without_saving(pretrain, tmp_path):
    def press_twice():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with in_optimizer_step(2, press_twice):
        code, out, err = pretrain(tmp_path / "c")
    assert code == 130 and err.strip().endswith("interrupted") and "stopped in epoch" not in out
    assert not (tmp_path / "c" / LAST).exists(), "nothing was saved"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
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
