"""The estimate of hours, disk space and memory of the tables."""

import re
import sys
from pathlib import Path

import pytest
from conftest import write_store

import reproduce_tables
from tables.estimate import Cost, Speed, Stopwatch, count_clips, finishing_time
from tables.jobs import JobBuilder
from tables.plan import EvaluationSpec, PretrainingSpec
from tables.run import Job
from tables.settings import PAPER
from utils.errors import UserError

SEQ, GRAPH = "seq-based", "graph-based"
TINY = "--gru-hidden-size 8 --gru-num-layers 1 --graph-width 4 --graph-num-blocks 1 --image-width 16"
PRETRAINING = PretrainingSpec((SEQ, GRAPH), "ntu60", "cross_view")


@pytest.fixture
def estimate(monkeypatch, capsys, tmp_path):
    """``estimate(*flags)``: the rows of the printed table by name, and the output."""

    def run(*flags):
        command = ["reproduce_tables.py", "--estimate", "--runs", tmp_path / "runs", *flags]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        assert reproduce_tables.main() == 0
        out = capsys.readouterr().out
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line[:1] == "|"
        ]
        return {row[0]: row[1:] for row in rows}, out

    return run


def test_estimate_times_real_steps_and_writes_nothing(estimate, tmp_path):
    flags = f"{TINY} --num-frames 16 --batch-size 4"
    rows, out = estimate("--tables", "T3", "T7", "--data-root", tmp_path / "none", f"--flags={flags}")
    speeds = dict(re.findall(r"^timing: (\S+, \S+): ([\d,.]+) clips/s, \d+\.\d\d GB$", out, re.MULTILINE))
    assert list(speeds) == [f"inter, {SEQ}_and_{GRAPH}", f"linear, {SEQ}", f"supervised, {SEQ}"]
    assert [*rows][-3:] == ["T3", "T7", "all"]
    t3, t7, both = (rows[name] for name in ("T3", "T7", "all"))
    assert [row[0] for row in (t3, t7, both)] == ["8", "12", "16"]  # four pretrainings are shared
    hours = [float(row[1].replace(",", "")) for row in (t3, t7, both)]
    # Epochs and published clips of the four pretrainings, which all tables need.
    clips = 451 * (37644 + 40088) + 351 * (54468 + 63024)
    pretraining = clips / float(speeds[f"inter, {SEQ}_and_{GRAPH}"].replace(",", "")) / 3600
    assert hours[0] == pytest.approx(pretraining, rel=0.05)  # retrieval adds little; speeds are rounded
    assert hours[0] < hours[1] <= hours[2] < hours[0] + hours[1]
    assert "Timed on CPU" in out or "Timed on 1 x" in out
    assert not (tmp_path / "runs").exists()


def test_timed_run_that_fails_is_a_one_line_error(estimate, tmp_path):
    with pytest.raises(UserError, match="a timed run failed: error: .*--gru-hidden-sise"):
        estimate("--tables", "T3", "--data-root", tmp_path / "none", "--flags=--gru-hidden-sise 8")
    with pytest.raises(UserError, match="does not support --scale smoke"):
        estimate("--scale", "smoke")


@pytest.fixture
def watch(monkeypatch, tmp_path):
    """A stopwatch that has timed, per clip, 1 s of pretraining, 0.1 s of a probe, 0.5 s of supervision."""
    seconds = {"inter": 1.0, "linear": 0.1, "supervised": 0.5}

    def speed(watch, spec):
        kind = spec.contrast if isinstance(spec, PretrainingSpec) else spec.task
        assert kind != "supervised" or (spec.pretrained, spec.label_fraction) == ((), None)
        return Speed(seconds[kind], disk=10, memory=7)

    monkeypatch.setattr(Stopwatch, "speed", speed)
    write_store(
        tmp_path / "data" / "ntu60",
        [f"clip{i}" for i in range(210)],
        [0] * 210,
        [2] * 210,
        {"cross_view": ["train"] * 200 + ["val"] * 10},
    )
    return Stopwatch(JobBuilder(PAPER, tmp_path / "data", tmp_path / "runs"), {})


@pytest.mark.parametrize(
    "task, fraction, seconds",
    [
        ("linear", None, (80 * 200 + 10) * 0.1),  # validation features are computed once
        ("retrieval", None, (200 + 10) * 0.1),
        ("finetune", None, 50 * (200 * 0.5 + 10 * 0.1)),
        ("finetune", 0.05, 50 * (10 * 0.5 + 10 * 0.1)),
        ("supervised", 0.05, 50 * (10 * 0.5 + 10 * 0.1)),
    ],
)
def test_cost_of_an_evaluation(watch, task, fraction, seconds):
    pretrained = () if task == "supervised" else (PRETRAINING,)
    spec = EvaluationSpec(task, (SEQ,), "ntu60", "cross_view", pretrained, fraction)
    cost = watch.cost(spec, watch.builder.evaluation(spec))
    assert cost.seconds == pytest.approx(seconds) and cost.disk == 10


def test_cost_of_a_pretraining_counts_whole_batches(watch):
    cost = watch.cost(PRETRAINING, watch.builder.pretraining(PRETRAINING))
    assert cost.seconds == 451 * 192 * 1.0


def test_clips_are_counted_in_the_store_or_as_published(watch, tmp_path):
    assert count_clips(watch.builder.data_root, "ntu60", "cross_view") == (200, 10, 420 * 25 * 3 * 2 * 4)
    assert count_clips(tmp_path / "none", "ntu60", "cross_view")[:2] == (37646, 18932)
    with pytest.raises(UserError, match="number of clips is not known"):
        count_clips(tmp_path / "none", "pku1", "cross_view")


def test_costs_add_up():
    total = sum((Cost(1.0, 2, 3), Cost(10.0, 20, 1)), Cost())
    assert total == Cost(11.0, 22, 3)


def test_finishing_time_respects_slots_and_dependencies():
    def job(name, *dependencies):
        return Job(name, (), Path("missing") / name, dependencies)

    a, b = job("a"), job("b")
    jobs = [a, b, job("a1", a), job("a2", a), job("b1", b), job("done", job("not in the list"))]
    seconds = {"a": 5, "b": 1, "a1": 1, "a2": 1, "b1": 1, "done": 1}
    assert finishing_time(jobs, seconds, slots=1) == 10
    assert finishing_time(jobs, seconds, slots=2) == 6  # b, b1 and done run next to a
    assert finishing_time(jobs, seconds, slots=9) == 6
    assert finishing_time([], {}, slots=2) == 0
