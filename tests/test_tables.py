"""Tables: the evaluations of each cell, their hyperparameters, the job runner and the written tables."""

import csv
import importlib
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import reproduce_tables
from dataset.augment import RandomCrop
from dataset.views import classifier_view
from engine.signals import EXIT_RESUMABLE
from models.registry import REPRESENTATIONS
from options.flags import pretraining_parser
from tables.jobs import JobBuilder, mark_synthetic
from tables.paper import TITLES, PaperRow, read_paper
from tables.plan import evaluations_of
from tables.run import Job, run_jobs, script_command, sort_jobs
from tables.settings import PAPER, SMOKE
from tables.write import read_cell, table_text, write_tables
from utils.errors import UserError

ROWS = read_paper()


def evaluations(row, seeds=(0,), label_seeds=(0, 1, 2, 3, 4)):
    return evaluations_of(row, seeds, label_seeds)


def test_all_cells_of_the_paper_are_present():
    counts = {table: sum(row.table == table for row in ROWS) for table in TITLES}
    assert counts == dict(zip(TITLES, (22, 34, 12, 6, 21, 12, 8, 5, 3, 12), strict=True))
    assert sum(row.is_runnable for row in ROWS) == 93 and sum(row.std is not None for row in ROWS) == 20
    others = {row.method for row in ROWS if not row.is_runnable}
    assert others == {f"{name} et al." for name in ("Zheng", "Lin", "Su", "Si", "Nie")}


def test_number_of_evaluations_per_cell():
    """Five label seeds in Table 2; a supervised baseline there does not depend on the pretraining seed."""
    for row in ROWS:
        one_seed = 5 if row.table == "T2" else 1
        two_seeds = 5 if row.table == "T2" and row.method.startswith("supervised") else 2 * one_seed
        expected = (one_seed, two_seeds) if row.is_runnable else (0, 0)
        assert (len(evaluations(row)), len(evaluations(row, (0, 1)))) == expected, row
    every = {e for row in ROWS for e in evaluations(row)}
    pretrainings = {p for e in every for p in e.pretrained}
    assert len(every) == 161 and len(pretrainings) == 36
    assert sum(p.contrast == "intra" for p in pretrainings) == 21 + 4 + 2  # Tables 5, 8 and 9


def test_cells_with_the_same_evaluation_have_the_same_number_in_the_paper():
    shared = {}
    for row in ROWS:
        for evaluation in evaluations(row):
            shared.setdefault(evaluation, []).append(row)
    groups = [rows for rows in shared.values() if len(rows) > 1]
    assert len(groups) == 8  # three of T5, T6 and T10; T8's 15; T9's 0.1; T1, T6 and T10; two of T6 and T10
    for rows in groups:
        assert len({row.accuracy for row in rows}) == 1, rows


@pytest.mark.parametrize(
    "cell, representations, pretrained",
    [
        ("T4: inter seq+graph, seq downstream: ntu60 -> pku2/cross_subject", "seq", ["inter seq graph"]),
        ("T6: inter seq+graph+image: graph", "graph", ["inter seq graph image"]),
        ("T10: downstream image: inter", "image", ["inter seq image"]),
        ("T10: downstream seq+graph: intra", "seq graph", ["intra seq", "intra graph"]),
        ("T10: downstream image+seq: inter", "seq image", ["inter seq image"]),
    ],
)
def test_encoder_and_pretraining_of_a_cell(cell, representations, pretrained):
    (row,) = [row for row in ROWS if f"{row.table}: {row.method}: {row.column}" == cell]
    (evaluation,) = evaluations(row)

    def short(names):
        return " ".join(name.removesuffix("-based") for name in names)

    assert short(evaluation.representations) == representations
    assert [f"{p.contrast} {short(p.representations)}" for p in evaluation.pretrained] == pretrained
    assert {p.dataset for p in evaluation.pretrained} == {"ntu60"}


def test_further_representations_do_not_change_the_plan(monkeypatch):
    expected = [evaluations(row) for row in ROWS]
    further = replace(REPRESENTATIONS["seq-based"], name="motion-based")
    monkeypatch.setitem(REPRESENTATIONS, further.name, further)
    assert [evaluations(row) for row in ROWS] == expected


@pytest.fixture
def call(monkeypatch, capsys):
    """``call(*flags)``: run reproduce_tables.py; returns its exit code and output."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *map(str, flags)])
        code = reproduce_tables.main()
        return code, capsys.readouterr().out

    return run


def parse_pretraining():
    return pretraining_parser("", "inter").parse_args()


@pytest.fixture
def commands(call, monkeypatch, tmp_path):
    """Script name, parsed flags and raw flags of every command of a dry run at the paper's scale."""
    monkeypatch.chdir(tmp_path)
    code, out = call("--dry-run")
    assert code == 0 and not list(tmp_path.iterdir()), "a dry run writes nothing"
    parsed = []
    for line in out.splitlines():
        if not line.startswith("#"):
            python, script, *flags = shlex.split(line)
            assert python == "python" and Path(script).is_file()
            monkeypatch.setattr(sys, "argv", [script, *flags])
            name = Path(script).stem
            parse = importlib.import_module(name).parse_args if "moco" not in name else parse_pretraining
            parsed.append((name, parse(), flags))
    return parsed


BY_DATASET = {  # queue, epochs, schedule (section 4.2; epochs of NTU-120 from the official code)
    "ntu60": (16384, 451, [351]),
    "ntu120": (16384, 351, [251]),
    "pku1": (8192, 600, []),
    "pku2": (2048, 600, []),
}
PRETRAINING_FLAGS = {  # sections 3.4 and 4.2
    "lr": 0.01,
    "weight_decay": 1e-4,
    "momentum": 0.9,
    "batch_size": 64,
    "moco_t": 0.07,
    "moco_m": 0.999,
    "moco_dim": 128,
    "mlp": True,
    "cos": False,
    "min_crop_frames": 64,
    "jitter_zero_prob": 0.5,
}
SIZES = {
    "gru_hidden_size": 1024,
    "gru_num_layers": 3,
    "graph_encoder": "agcn",
    "graph_width": 64,
    "graph_num_blocks": 10,
    "image_width": 64,
    "num_frames": 64,
}
CLASSIFIER_FLAGS = {
    "linear": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "epochs": 80, "schedule": [50, 70]},
    **dict.fromkeys(
        ("finetune", "supervised"), {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40]}
    ),
}


def test_commands_contain_the_papers_hyperparameters(commands):
    """Every hyperparameter has the paper's value and is written out in the command."""
    counts = {"moco": 0, "linear": 0, "finetune": 0, "supervised": 0, "retrieval": 0}
    for name, args, flags in commands:
        expected = {"data_root": "data"}
        if "moco" in name:
            kind = "moco"
            queue, epochs, schedule = BY_DATASET[args.dataset]
            expected |= {
                **PRETRAINING_FLAGS,
                **SIZES,
                "moco_k": queue,
                "epochs": epochs,
                "schedule": schedule,
            }
        elif name == "action_retrieval":
            kind = "retrieval"
            expected |= {"knn_neighbours": 1}
        else:
            kind = args.mode
            expected |= {**CLASSIFIER_FLAGS[kind], "batch_size": 64, "weight_decay": 0.0, "cos": False}
            expected |= SIZES if kind == "supervised" else {}
            assert (args.pretrained is None) == (kind == "supervised")
        counts[kind] += 1
        for flag, value in expected.items():
            assert getattr(args, flag) == value, (flag, flags)
            spelled = {"weight_decay": "--wd"}.get(flag, "--" + flag.replace("_", "-"))
            assert spelled in flags or value is False, flag
    assert counts == {"moco": 36, "linear": 47, "finetune": 56, "supervised": 54, "retrieval": 4}


def test_ablations_change_augmentations_of_tables_5_8_and_9_only(commands):
    """All other pretraining runs use crop, pose and jitter, 15 joints and a crop of at least 0.1."""
    found = [
        (args.skeleton_representation, tuple(args.augmentations), args.jitter_joints, args.min_crop_ratio)
        for name, args, _ in commands
        if "moco" in name
    ]
    usual = ("crop", "pose", "jitter"), 15, 0.1
    ablated = [x for x in found if x[1:] != usual]
    kinds = [(), ("crop",), ("pose",), ("jitter",), ("crop", "pose"), ("crop", "jitter")]
    table5 = [(f"{name}-based", kind, 15, 0.1) for kind in kinds for name in ("image", "graph", "seq")]
    table8 = [("image-based", ("jitter",), count, 0.1) for count in (2, 5, 10, 20)]
    table9 = [("image-based", ("crop",), 15, ratio) for ratio in (0.3, 0.5)]
    assert sorted(ablated) == sorted(table5 + table8 + table9)


def test_classifiers_are_trained_on_crops_of_at_least_half():
    assert classifier_view().crop == RandomCrop(0.5, 64)


def test_commands_come_after_the_checkpoints_that_they_read(commands):
    written = set()
    for name, args, _ in commands:
        if "moco" in name:
            written.add(f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar")
        assert set(getattr(args, "pretrained", None) or []) <= written
    assert len(written) == 36
    folders = [args.output_dir for name, args, _ in commands if "moco" not in name]
    assert len(set(folders)) == len(folders) == 161


def test_extra_flags_are_appended_to_every_command(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, out = call("--dry-run", "--tables", "T3", "T9", "--flags=--amp bf16 --workers 4")
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    assert len(lines) == 14 and all(line.endswith(" --amp bf16 --workers 4") for line in lines)


def test_script_command_omits_false_and_none():
    script, *flags = script_command(
        "a.py", {"schedule": (), "mlp": True, "cos": False, "wd": None, "x_y": ("a", 1)}
    )
    assert flags == ["--schedule", "--mlp", "--x-y", "a", "1"]


def job(tmp_path, name, code="", dependencies=()):
    """Return a job that runs ``code`` and then writes its output."""
    path = tmp_path / name
    return Job(name, ("-c", f"{code}\nopen({str(path)!r}, 'w').write('{name}')"), path, tuple(dependencies))


def test_failed_job_blocks_only_its_dependents(tmp_path):
    bad = job(tmp_path, "bad", "raise ValueError('broken')")
    silent = Job("silent", ("-c", ""), tmp_path / "never")
    after = job(tmp_path, "after", dependencies=[bad])
    last = job(tmp_path, "last", dependencies=[after])
    good = job(tmp_path, "good", dependencies=[job(tmp_path, "first")])
    summary = run_jobs(sort_jobs([last, silent, good]), [{}, {}], tmp_path / "logs")
    assert sorted(summary.done) == ["first", "good"] and not summary.stopped
    assert summary.failed["bad"].startswith("ValueError: broken (")
    assert "logs/bad.txt" in summary.failed["bad"]
    assert summary.failed["after"] == "depends on bad, which failed"
    assert summary.failed["last"] == "depends on after, which failed"
    assert "did not write" in summary.failed["silent"]
    assert sort_jobs([last, silent, good], skip_done=True) == [bad, after, last, silent]


def test_each_slot_has_its_own_devices(tmp_path):
    code = (
        f"import os, time; os.chdir({str(tmp_path)!r}); "
        "open(os.environ['CUDA_VISIBLE_DEVICES'] + '_' + str(os.getpid()), 'w'); time.sleep(0.3)"
    )
    jobs = [job(tmp_path, name, code) for name in "abcd"]
    slots = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    began = time.monotonic()
    assert len(run_jobs(jobs, slots, tmp_path).done) == 4
    assert time.monotonic() - began > 0.6, "two jobs at a time"
    names = sorted(path.name.split("_")[0] for path in tmp_path.glob("*_*"))
    assert names == ["0", "0", "2,3", "2,3"]


@pytest.mark.parametrize("handler", [f"lambda *a: sys.exit({EXIT_RESUMABLE})", "signal.SIG_DFL"])
def test_stop_request_stops_running_jobs_and_starts_no_other(tmp_path, handler):
    """A stopped job does not count as failed, even if it was stopped before it could save."""
    code = (
        f"import os, signal, sys, time; signal.signal(signal.SIGTERM, {handler}); "
        f"os.kill({os.getpid()}, signal.SIGTERM); time.sleep(20)"
    )
    summary = run_jobs([job(tmp_path, "one", code), job(tmp_path, "two")], [{}], tmp_path / "logs")
    assert summary.stopped and not summary.failed and not summary.done and not (tmp_path / "two").exists()


def test_stopped_job_stops_the_run_and_killed_job_fails(tmp_path):
    stop, kill = f"import sys; sys.exit({EXIT_RESUMABLE})", "import os; os.kill(os.getpid(), 9)"
    summary = run_jobs([job(tmp_path, "stopped", stop)], [{}], tmp_path / "logs")
    assert summary.stopped and not summary.failed
    summary = run_jobs([job(tmp_path, "killed", kill)], [{}], tmp_path / "logs")
    assert not summary.stopped and summary.failed["killed"].startswith("terminated by SIGKILL (")


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is specific to Linux")
def test_jobs_stop_when_the_run_is_killed(tmp_path):
    code = (
        "import signal, time, sys; from pathlib import Path; signal.signal(signal.SIGTERM, lambda *a: "
        f"(Path({str(tmp_path / 'asked')!r}).touch(), sys.exit(75))); "
        f"Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)"
    )
    runner = (
        "from pathlib import Path; from tables.run import Job, run_jobs; "
        f"run_jobs([Job('one', ('-c', {code!r}), Path('never'))], [{{}}], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", runner], cwd=Path(__file__).parents[1])
    wait_for(tmp_path / "began")
    process.kill()
    process.wait()
    wait_for(tmp_path / "asked")


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.05)


def result(path, **numbers):
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"task": "x", "numbers": numbers, "commit": "abc"}))


def test_tables_contain_mean_std_difference_and_seeds(tmp_path):
    """Cells without results are empty."""
    builder = JobBuilder(PAPER, Path("data"), tmp_path)
    rows = [
        PaperRow("T1", "Su et al.", "ntu60/cross_view", 59.3, None),
        PaperRow("T1", "inter seq+graph, seq downstream", "ntu60/cross_view", 85.2, None),
        PaperRow("T2", "inter seq+graph, seq downstream", "ntu60/cross_view 10%", 72.5, 0.4),
        PaperRow("T2", "supervised only, seq", "ntu60/cross_view 10%", 59.8, 0.5),
        PaperRow("T3", "inter seq+graph, seq downstream", "ntu60/cross_view", 82.6, None),
    ]
    jobs = [[builder.evaluation(e).output for e in evaluations(row)] for row in rows]
    for seed, value in ((0, 70.0), (3, 71.0)):
        result(jobs[2][seed], best={"top1": value}, last={"top1": value - 1})
    result(jobs[4][0], knn=83.1)
    cells = [read_cell(row, builder, [0]) for row in rows]
    assert [len(cell.best) for cell in cells] == [0, 0, 2, 0, 1]
    path = write_tables(cells, builder)
    text = path.read_text()
    assert path == tmp_path / "tables.md" and table_text("T3", cells) in text
    lines = [line.strip("|").split("|")[2:] for line in text.splitlines() if "/cross" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["", "", "59.3", "", "", ""],
        ["", "", "85.2", "", "", ""],
        ["70.5 ± 0.7", "69.5 ± 0.7", "72.5 ± 0.4", "-2.0", "0/0 0/3", "abc"],
        ["", "", "59.8 ± 0.5", "", "", ""],
        ["83.1", "", "82.6", "+0.5", "0", "abc"],
    ]
    smoke_text = write_tables(cells, JobBuilder(SMOKE, Path("d"), tmp_path / "s")).read_text()
    assert "smoke" not in text and "smoke" in smoke_text
    with open(tmp_path / "tables.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[0] == {
        **dict.fromkeys(lines[0], ""),
        "table": "T1",
        "method": "Su et al.",
        "column": "ntu60/cross_view",
        "paper": "59.3",
    }
    assert lines[2]["accuracy"] == "70.5" and lines[2]["accuracy_std"] == "0.7071"
    assert lines[2]["paper_std"] == "0.4" and lines[2]["difference"] == "-2"


def test_synthetic_data_is_not_mixed_with_other_data(tmp_path):
    (tmp_path / "ntu60").mkdir()
    with pytest.raises(UserError, match="must not be mixed with it"):
        mark_synthetic(tmp_path)
    for _ in range(2):
        mark_synthetic(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["synthetic.txt"]


def test_smoke_scale_resumes_and_reports_failures(call, monkeypatch, small_store, tmp_path):
    """Real commands: one table, then all with a job that cannot run; finished jobs are not run again."""
    monkeypatch.chdir(tmp_path)
    chosen = [
        ("T9", "minimum crop ratio: 0.5"),
        ("T9", "minimum crop ratio: 0.3"),
        ("T2", "supervised only, seq"),
        ("T2", "Si et al."),
    ]
    columns = ("intra image, crop only", "ntu60/cross_view 10%")
    some = [
        row for row in ROWS if any((row.table, row.method) == c for c in chosen) and row.column in columns
    ]
    monkeypatch.setattr(reproduce_tables, "read_paper", lambda: some)
    flags = ("--scale", "smoke", "--data-root", "data", "--runs", "out", "--jobs", 2)
    code, out = call(*flags, "--tables", "T2")
    assert code == 0 and "[2/2]" in out and out.count("done: supervised") == 2, out
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("results.json")}
    code, out = call(*flags, "--dry-run")
    assert code == 0 and "supervised" not in out
    assert out.count("# pretraining") == 2 and out.count("# linear") == 2
    blocked = tmp_path / "out/smoke/pretrained" / Path(out.split("--checkpoint-path ")[1].split()[0]).name
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    code, out = call(*flags)
    assert code == 1 and out.count("failed: ") == 2, out
    assert out.count("not filled: T9, minimum crop ratio: 0.3") == 1
    assert "not filled: T9, minimum crop ratio: 0.5" not in out and "2 cells filled" in out
    with open(tmp_path / "out/smoke/tables.csv", newline="") as file:
        cells = {(row["table"], row["method"]): row for row in csv.DictReader(file)}
    supervised = cells["T2", "supervised only, seq"]
    assert (
        supervised["seeds"] == "0 1"
        and supervised["accuracy_std"]
        and 0 <= float(supervised["accuracy"]) <= 100
    )
    assert cells["T9", "minimum crop ratio: 0.5"]["accuracy"]
    assert not cells["T9", "minimum crop ratio: 0.3"]["accuracy"]
    code, out = call("--list", *flags)
    assert code == 0 and "all tables (shared jobs counted once): 6 of 8 jobs done" in out, out
    assert all(path.stat().st_mtime_ns == then for path, then in written.items()), "no finished job ran again"
