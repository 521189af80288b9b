"""Tables: the evaluations of each cell, their hyperparameters, the job runner and the written tables."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS, TINY_SIZES

import reproduce_tables
from engine.signals import EXIT_RESUMABLE
from models.registry import REPRESENTATIONS, build_encoder
from tables import estimate
from tables.estimate import Cost
from tables.jobs import JobBuilder
from tables.paper import TITLES, PaperRow, read_paper
from tables.plan import EvaluationSpec, PretrainingSpec, evaluations_of
from tables.run import Job, run_jobs, sort_jobs
from tables.settings import PAPER
from tables.write import read_cell, table_text, write_tables
from utils.errors import UserError

ROWS = read_paper()
SEQ, GRAPH = "seq-based", "graph-based"
PRETRAINING = PretrainingSpec((SEQ, GRAPH), "ntu60", "cross_view")
PROBE = EvaluationSpec("linear", (SEQ,), "ntu60", "cross_view", (PRETRAINING,))


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


def test_cells_with_the_same_evaluation_have_the_same_number_in_the_paper():
    shared = {}
    for row in ROWS:
        for evaluation in evaluations(row):
            shared.setdefault(evaluation, []).append(row)
    groups = [rows for rows in shared.values() if len(rows) > 1]
    assert len(groups) == 8  # three of T5, T6 and T10; T8's 15; T9's 0.1; T1, T6 and T10; two of T6 and T10
    for rows in groups:
        assert len({row.accuracy for row in rows}) == 1, rows


CELLS = {
    "T4: inter seq+graph, seq downstream: ntu60 -> pku2/cross_subject": ("seq", "inter seq graph"),
    "T6: inter seq+graph+image: graph": ("graph", "inter seq graph image"),
    "T10: downstream image: inter": ("image", "inter seq image"),
    "T10: downstream seq+graph: intra": ("seq graph", "intra seq, intra graph"),
    "T10: downstream image+seq: inter": ("seq image", "inter seq image"),
}


@pytest.mark.parametrize("cell", CELLS)
def test_encoder_and_pretraining_of_a_cell(cell):
    (row,) = [row for row in ROWS if f"{row.table}: {row.method}: {row.column}" == cell]
    (evaluation,) = evaluations(row)
    pretrained = [" ".join([p.contrast, *p.representations]) for p in evaluation.pretrained]
    names = " ".join(evaluation.representations), ", ".join(pretrained)
    assert tuple(x.replace("-based", "") for x in names) == CELLS[cell]
    assert {p.dataset for p in evaluation.pretrained} == {"ntu60"}


def test_further_representations_do_not_change_the_plan(monkeypatch):
    expected = [evaluations(row) for row in ROWS]
    monkeypatch.setitem(REPRESENTATIONS, "motion-based", REPRESENTATIONS["seq-based"])
    assert [evaluations(row) for row in ROWS] == expected


@pytest.fixture
def call(monkeypatch, capsys):
    """``call(*flags)``: run reproduce_tables.py; returns its exit code and output."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *map(str, flags)])
        code = reproduce_tables.main()
        return code, capsys.readouterr().out

    return run


def by_name(flags):
    """Flags of a command, name -> values."""
    values = {}
    for part in flags:
        if part.startswith("--"):
            values[part] = current = []
        else:
            current.append(part)
    return values


@pytest.fixture
def commands(call, monkeypatch, tmp_path):
    """Kind and flags by name of every command of a dry run at the paper's scale."""
    monkeypatch.chdir(tmp_path)
    code, out = call("--dry-run")
    assert code == 0 and not list(tmp_path.iterdir()), "a dry run writes nothing"
    lines = [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]
    assert all(python == "python" and Path(script).is_file() for python, script, *_ in lines)
    scripts = {"action_retrieval.py": "retrieval", "action_classification.py": "classifier"}
    kinds = [(scripts.get(Path(script).name, "moco"), by_name(flags)) for _, script, *flags in lines]
    return [(flags["--mode"][0] if kind == "classifier" else kind, flags) for kind, flags in kinds]


BY_DATASET = {  # queue, epochs, schedule (section 4.2; epochs of NTU-120 from the official code)
    "ntu60": "--moco-k 16384 --epochs 451 --schedule 351",
    "ntu120": "--moco-k 16384 --epochs 351 --schedule 251",
    "pku1": "--moco-k 8192 --epochs 600 --schedule",
    "pku2": "--moco-k 2048 --epochs 600 --schedule",
}
SIZES = "--gru-hidden-size 1024 --gru-num-layers 3 --graph-encoder agcn --graph-width 64"
SIZES += " --graph-num-blocks 10 --image-width 64 --num-frames 64"
PAPER_FLAGS = {  # sections 3.4, 4.2 and 4.3
    "moco": f"{SIZES} --lr 0.01 --wd 0.0001 --momentum 0.9 --batch-size 64 --moco-t 0.07 --moco-m 0.999 "
    "--moco-dim 128 --mlp --min-crop-frames 64 --jitter-zero-prob 0.5",
    "linear": "--optimizer sgd --lr 0.1 --momentum 0.9 --epochs 80 --schedule 50 70 --batch-size 64 --wd 0.0",
    "finetune": "--optimizer adam --lr 0.0001 --epochs 50 --schedule 30 40 --batch-size 64 --wd 0.0",
    "retrieval": "--knn-neighbours 1",
}
PAPER_FLAGS["supervised"] = f"{PAPER_FLAGS['finetune']} {SIZES}"


def test_commands_contain_the_papers_hyperparameters(commands):
    """Every hyperparameter has the paper's value and is written out in the command."""
    for kind, flags in commands:
        expected = f"--data-root data {PAPER_FLAGS[kind]}"
        expected += f" {BY_DATASET[flags['--pre-dataset'][0]]}" if kind == "moco" else ""
        assert by_name(expected.split()).items() <= flags.items(), flags
        assert "--cos" not in flags and ("--pretrained" in flags) == (kind not in ("moco", "supervised"))
    counts = Counter(kind for kind, _ in commands)
    assert counts == {"moco": 36, "linear": 47, "finetune": 56, "retrieval": 4, "supervised": 54}


def test_ablations_change_augmentations_of_tables_5_8_and_9_only(commands):
    """All other pretraining runs use crop, pose and jitter, 15 joints and a crop of at least 0.1."""
    names = ("--skeleton-representation", "--augmentations", "--jitter-joints", "--min-crop-ratio")
    found = [" ".join(sum((flags[x] for x in names), [])) for kind, flags in commands if kind == "moco"]
    ablated = [x for x in found if not x.endswith("-based crop pose jitter 15 0.1")]
    kinds = ["", "crop ", "pose ", "jitter ", "crop pose ", "crop jitter "]
    expected = [f"{name}-based {kind}15 0.1" for kind in kinds for name in ("image", "graph", "seq")]
    expected += [f"image-based jitter {count} 0.1" for count in (2, 5, 10, 20)]
    expected += [f"image-based crop 15 {ratio}" for ratio in (0.3, 0.5)]
    assert sorted(ablated) == sorted(expected)


def test_commands_come_after_the_checkpoints_that_they_read(commands):
    written = set()
    for kind, flags in commands:
        if kind == "moco":
            (folder,), (epochs,) = flags["--checkpoint-path"], flags["--epochs"]
            written.add(f"{folder}/checkpoint_{int(epochs) - 1:04d}.pth.tar")
        assert set(flags.get("--pretrained", [])) <= written
    folders = [flags["--output-dir"][0] for kind, flags in commands if kind != "moco"]
    assert len(written) == 36 and len(set(folders)) == len(folders) == 161


def test_only_cells_that_need_no_other_dataset(call):
    _, out = call("--dry-run", "--datasets", "ntu60", "pku2", "--runs", "none")
    assert set(re.findall(r"--(?:pre|finetune)-dataset (\w+)", out)) == {"ntu60", "pku2"}
    _, out = call("--dry-run", "--datasets", "pku2", "--runs", "none")
    assert set(re.findall(r"--(?:pre|finetune)-dataset (\w+)", out)) == {"pku2"}


def test_official_checkpoints_are_evaluated_without_pretraining(
    call, monkeypatch, small_store, jobs_in_process
):
    """Linear probe and retrieval of the checkpoints that exist, in the folders of the official code."""
    monkeypatch.setattr(
        reproduce_tables, "read_paper", lambda: [row for row in ROWS if "ntu60" in row.column]
    )
    monkeypatch.chdir(small_store.parent)
    path = Path(
        "official", "ntu_60_cross_view", "interskeleton_seq_based_graph_based", "checkpoint_0450.pth.tar"
    )
    flags = ["--checkpoints", "official", "--tables", "T1", "T2", "T3", "T4"]
    with pytest.raises(UserError, match=str(path)):
        call(*flags)
    state = {
        f"module.{encoder}.{name}": weights
        for encoder, representation in (("encoder_q", SEQ), ("encoder_r", GRAPH))
        for name, weights in build_encoder(representation, 128, **TINY_SIZES).state_dict().items()
    }
    path.parent.mkdir(parents=True)
    torch.save({"epoch": 451, "arch": "moco", "state_dict": state}, path)
    ran = jobs_in_process(reproduce_tables)
    code, out = call(*flags, f"--flags={' '.join(TINY_FLAGS)} --epochs 1 --schedule")
    assert code == 0 and [name.split()[0] for name in ran] == ["linear", "retrieval"], out
    assert "2 cells filled" in out


def test_extra_flags_are_appended_to_every_command(call):
    _, out = call("--dry-run", "--tables", "T3", "T9", "--runs", "none", "--flags=--amp bf16 --workers 4")
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    assert len(lines) == 14 and all(line.endswith(" --amp bf16 --workers 4") for line in lines)


def job(tmp_path, name, code="", dependencies=()):
    """Return a job that runs ``code`` and then writes its output."""
    path = tmp_path / name
    return Job(name, ("-c", f"{code}\nopen({str(path)!r}, 'w').write('{name}')"), path, tuple(dependencies))


def test_failed_job_blocks_only_its_dependents(tmp_path):
    bad = job(tmp_path, "bad", "raise ValueError('broken')")
    silent = Job("silent", ("-c", ""), tmp_path / "never")
    killed = job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)")
    after = job(tmp_path, "after", dependencies=[bad])
    last = job(tmp_path, "last", dependencies=[after])
    good = job(tmp_path, "good", dependencies=[job(tmp_path, "first")])
    summary = run_jobs(sort_jobs([last, silent, killed, good]), [{}, {}], tmp_path / "logs")
    assert sorted(summary.done) == ["first", "good"] and not summary.stopped
    assert re.match(r"ValueError: broken \(.*logs/bad.txt\)$", summary.failed["bad"])
    assert summary.failed["after"] == "depends on bad, which failed"
    assert summary.failed["last"] == "depends on after, which failed"
    assert "did not write" in summary.failed["silent"]
    assert summary.failed["killed"].startswith("terminated by SIGKILL (")
    assert sort_jobs([last, silent, good], skip_done=True) == [bad, after, last, silent]


def test_each_slot_has_its_own_devices_and_jobs_run_in_parallel(tmp_path):
    """Every job waits until another one has started."""
    code = (
        f"import os, pathlib, time; folder = pathlib.Path({str(tmp_path)!r}); "
        "(folder / (os.environ['CUDA_VISIBLE_DEVICES'] + '_' + str(os.getpid()))).touch()\n"
        "while len(list(folder.glob('*_*'))) < 2: time.sleep(0.01)"
    )
    slots = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert len(run_jobs([job(tmp_path, name, code) for name in "ab"], slots, tmp_path).done) == 2
    assert sorted(path.name.split("_")[0] for path in tmp_path.glob("*_*")) == ["0", "2,3"]


SAVE_AND_EXIT = f"lambda *a: sys.exit({EXIT_RESUMABLE})"


@pytest.mark.parametrize(
    "handler, asked", [(SAVE_AND_EXIT, "run"), ("signal.SIG_DFL", "run"), (SAVE_AND_EXIT, "job")]
)
def test_stop_request_stops_running_jobs_and_starts_no_other(tmp_path, handler, asked):
    """A stopped job has not failed; the run or only the job is asked to stop."""
    code = (
        f"import os, signal, sys, time; signal.signal(signal.SIGTERM, {handler}); "
        f"os.kill({os.getpid() if asked == 'run' else 'os.getpid()'}, signal.SIGTERM); time.sleep(20)"
    )
    summary = run_jobs([job(tmp_path, "one", code), job(tmp_path, "two")], [{}], tmp_path / "logs")
    assert summary.stopped and not summary.failed and not summary.done and not (tmp_path / "two").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is specific to Linux")
def test_jobs_stop_when_the_run_is_killed(tmp_path):
    began, asked = tmp_path / "began", tmp_path / "asked"
    code = (
        "import signal, time, sys; from pathlib import Path; signal.signal(signal.SIGTERM, lambda *a: "
        f"(Path({str(asked)!r}).touch(), sys.exit(75))); Path({str(began)!r}).touch(); time.sleep(60)"
    )
    runner = (
        "from pathlib import Path; from tables.run import Job, run_jobs; "
        f"run_jobs([Job('one', ('-c', {code!r}), Path('never'))], [{{}}], Path({str(tmp_path)!r}))"
    )
    process, end = subprocess.Popen([sys.executable, "-c", runner]), time.monotonic() + 60
    while not asked.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
        if began.exists():
            process.kill()
    process.wait()


def test_tables_contain_mean_std_difference_and_seeds(tmp_path):
    """Cells without results are empty."""
    builder = JobBuilder(PAPER, Path("data"), tmp_path, tmp_path)
    rows = [
        PaperRow("T1", "Su et al.", "ntu60/cross_view", 59.3, None),
        PaperRow("T1", "inter seq+graph, seq downstream", "ntu60/cross_view", 85.2, None),
        PaperRow("T2", "inter seq+graph, seq downstream", "ntu60/cross_view 10%", 72.5, 0.4),
        PaperRow("T3", "inter seq+graph, seq downstream", "ntu60/cross_view", 82.6, None),
    ]
    jobs = [[builder.evaluation(e).output for e in evaluations(row)] for row in rows]
    probe = {"best": {"top1": 70.0}, "last": {"top1": 69.0}}
    later = {"best": {"top1": 71.0}, "last": {"top1": 70.0}}
    for path, numbers in ((jobs[2][0], probe), (jobs[2][3], later), (jobs[3][0], {"knn": 83.1})):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"task": "x", "numbers": numbers, "commit": "abc"}))
    cells = [read_cell(row, builder, [0]) for row in rows]
    text = write_tables(cells, builder).read_text()
    assert table_text("T3", cells) in text
    lines = [line.strip("|").split("|")[2:] for line in text.splitlines() if "/cross" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["", "", "59.3", "", "", ""],
        ["", "", "85.2", "", "", ""],
        ["70.5 ± 0.7", "69.5 ± 0.7", "72.5 ± 0.4", "-2.0", "0/0 0/3", "abc"],
        ["83.1", "", "82.6", "+0.5", "0", "abc"],
    ]
    with open(tmp_path / "tables.csv", newline="") as file:
        first, _, third, _ = csv.DictReader(file)
    assert [first[x] for x in ("method", "accuracy", "paper", "paper_std")] == ["Su et al.", "", "59.3", ""]
    assert [third[x] for x in ("accuracy", "accuracy_std", "difference")] == ["70.5", "0.7071", "-2"]


def test_smoke_scale_resumes_and_reports_failures(call, jobs_in_process, monkeypatch, small_store):
    """One table, then all with a job that cannot run; finished jobs are not run again."""
    methods = ("minimum crop ratio: 0.5", "minimum crop ratio: 0.3", "supervised only, seq", "Si et al.")
    columns = ("intra image, crop only", "ntu60/cross_view 10%")
    some = [row for row in ROWS if row.method in methods and row.column in columns and row.table != "T8"]
    monkeypatch.setattr(reproduce_tables, "read_paper", lambda: some)
    ran = jobs_in_process(reproduce_tables)
    folder = small_store.parent / "out" / "smoke"
    shutil.copytree(small_store, folder / "data")
    flags = ("--scale", "smoke", "--runs", folder.parent)
    assert call(*flags, "--tables", "T2")[0] == 0
    assert len(ran) == 2 and all(name.startswith("supervised") for name in ran)
    code, out = call(*flags, "--dry-run")
    assert code == 0 and out.count("# pretraining") == out.count("# linear") == 2 and "supervised" not in out
    blocked = Path(out.split("--checkpoint-path ")[1].split()[0])
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    code, out = call(*flags)
    assert code == 1 and out.count("failed: ") == 2 and len(ran) == 6, out
    assert out.count("not filled: T9, minimum crop ratio: 0.3") == 1 and "2 cells filled" in out
    assert "not filled: T9, minimum crop ratio: 0.5" not in out
    with open(folder / "tables.csv", newline="") as file:
        cells = {row["method"]: (row["seeds"], bool(row["accuracy"])) for row in csv.DictReader(file)}
    assert cells == {
        "Si et al.": ("", False),
        "supervised only, seq": ("0 1", True),
        "minimum crop ratio: 0.3": ("", False),
        "minimum crop ratio: 0.5": ("0", True),
    }
    assert call("--list", *flags)[1].strip().endswith("6 of 8 jobs done")


def test_smoke_scale_generates_its_data(call):
    _, out = call("--scale", "smoke", "--tables", "T4", "--dry-run", "--runs", "none")
    stores = re.findall(r"^# store of (\w+)\n.*--out-folder none/smoke/data/\1$", out, re.MULTILINE)
    assert sorted(stores) == ["ntu60", "pku1", "pku2"]
    with pytest.raises(SystemExit):
        call("--scale", "smoke", "--data-root", "data")


# The estimate


def test_estimate_times_real_steps_and_writes_nothing(call, jobs_in_process, tmp_path):
    ran = jobs_in_process(estimate)
    flags = [
        "--estimate",
        "--runs",
        tmp_path / "runs",
        "--data-root",
        tmp_path / "none",
        "--tables",
        "T3",
        "T7",
    ]
    code, out = call(*flags, f"--flags={' '.join(TINY_FLAGS)} --num-frames 16 --batch-size 4")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line[:1] == "|"]
    t3, t7, both = rows[-3:]
    assert code == 0 and ran == [f"inter {SEQ}_and_{GRAPH}", f"linear {SEQ}", f"supervised {SEQ}"]
    assert [row[:2] for row in (t3, t7, both)] == [["T3", "8"], ["T7", "12"], ["all", "16"]]  # 4 are shared
    hours = [float(row[2].replace(",", "")) for row in (t3, t7, both)]
    assert 0 < hours[0] < hours[1] <= hours[2] < hours[0] + hours[1]
    assert not (tmp_path / "runs").exists()


def test_timed_run_that_fails_is_a_one_line_error(call, jobs_in_process, tmp_path):
    jobs_in_process(estimate)
    with pytest.raises(UserError, match="timing inter .* failed: error: .*--gru-hidden-sise"):
        call("--estimate", "--tables", "T3", "--runs", tmp_path, "--flags=--gru-hidden-sise 8")


@pytest.mark.parametrize(
    "spec, seconds",
    [
        (PRETRAINING, 451 * 192 * 1.0),  # whole batches
        (replace(PROBE, task="retrieval"), (200 + 10) * 0.1),
        (PROBE, (80 * 200 + 10) * 0.1),  # validation features are computed once
        (replace(PROBE, task="finetune", label_fraction=0.05), 50 * (10 * 0.5 + 10 * 0.1)),
    ],
)
def test_cost_of_a_job(monkeypatch, tmp_path, spec, seconds):
    per_clip = {f"inter {SEQ}_and_{GRAPH}": 1.0, f"linear {SEQ}": 0.1, f"supervised {SEQ}": 0.5}
    costs = {name: Cost(value, disk=10, memory=7) for name, value in per_clip.items()}
    monkeypatch.setattr(estimate, "count_clips", lambda *of: (200, 10, 1000))
    builder = JobBuilder(PAPER, tmp_path, tmp_path, tmp_path)
    job = builder.pretraining(spec) if spec is PRETRAINING else builder.evaluation(spec)
    cost = estimate.cost_of(spec, job, costs, tmp_path)
    assert cost.seconds == pytest.approx(seconds) and (cost.disk, cost.memory) == (10, 1007)


def test_clips_are_counted_in_the_store_or_as_published(small_store, tmp_path):
    frames = np.load(small_store / "ntu60" / "frames.npy", mmap_mode="r")
    assert estimate.count_clips(small_store, "ntu60", "cross_view") == (20, 10, frames.nbytes)
    assert estimate.count_clips(tmp_path / "none", "ntu60", "cross_view")[:2] == (37646, 18932)


def test_hours_of_parallel_jobs_respect_slots_and_dependencies():
    a = Job("a", (), Path("none"))
    jobs = [a, Job("b", (), Path("none")), *(Job(f"a{i}", (), Path("none"), (a,)) for i in range(2))]
    seconds = {"a": 3600 * 5, "b": 3600, "a0": 3600, "a1": 3600}
    assert [estimate.hours_in_parallel(jobs, seconds, slots) for slots in (1, 2, 9)] == [8, 6, 6]
