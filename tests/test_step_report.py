"""Between the ends of epochs, a pretraining reports its loss and the remaining time."""

import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.log import FIRST_LINE, NEXT_LINES, STEPS_FOLDER, RemainingTime, RunLog, StepReport, step_bar


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, as the only element of a list."""
    now = [100.0]
    monkeypatch.setattr("engine.log.time.monotonic", lambda: now[0])
    return now


def test_remaining_time_leaves_out_the_first_steps(clock):
    estimate = RemainingTime(steps=10)
    clock[0] += 500
    assert math.isnan(estimate.after(2))
    for done in (3, 5, 10):
        clock[0] = 600.0 + 3 * (done - 2)
        assert estimate.after(done) == 3 * (10 - done)


def step_losses(folder):
    """Return the losses in TensorBoard by step."""
    events = EventAccumulator(str(folder / STEPS_FOLDER)).Reload()
    return {event.step: event.value for event in events.Scalars("pretrain/loss")}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_mean_loss_and_remaining_time_are_shown(tmp_path, clock, capsys, is_terminal):
    """A synchronization every 2 steps of a second each, a report every 3: after 4, 8, 12, ... steps."""
    total = 2000
    with (
        RunLog(tmp_path, type("Flags", (), {})(), 0) as log,
        step_bar(0, total, 0, disable=not is_terminal) as bar,
    ):
        report = StepReport(log, 3, RemainingTime(total))
        for done in range(2, total + 1, 2):
            clock[0] += 2
            report.add(bar, loss=done, steps=2, done=done)
    losses = step_losses(tmp_path)
    assert [*losses] == [*range(4, total + 1, 4)] and losses[4] == 1.5 and losses[8] == 3.5
    out, err = capsys.readouterr()
    lines = out.splitlines()
    if is_terminal:
        assert not lines and "left" in err
    else:
        assert len(lines) == 1 + (total - FIRST_LINE) // NEXT_LINES and not err
        assert lines[0] == f"step {FIRST_LINE}/{total}  loss {FIRST_LINE / 2 - 0.5:.4f}  32.3 min left"
        assert lines[-1].endswith("left") and "step 1860/" in lines[-1]


def test_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    for first in (0, 6):
        with RunLog(tmp_path, type("Flags", (), {})(), 0) as log:
            for step in range(first + 2, 11, 2):
                log.step(step, first + step)
    assert step_losses(tmp_path) == {2: 2, 4: 4, 6: 6, 8: 14, 10: 16}
