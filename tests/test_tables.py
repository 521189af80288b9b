"""The paper's tables: what each cell needs, with which hyperparameters, how it is run and written."""

import csv
import importlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dataset.augment import RandomCrop
from dataset.views import classifier_view
import reproduce_tables
from dataset.clips import open_clips
from engine.randomness import VIEWS, generator
from engine.setup import parse_pretraining_flags
from engine.signals import EXIT_RESUMABLE
from options.errors import UserError
from tables.data import claim_folder
from tables.job import Job, command, in_order
from tables.jobs import Place
from tables.paper import TITLES, PaperRow, read_paper
from tables.plan import evaluations_of
from tables.run import run_jobs
from tables.scale import PAPER, SMOKE
from tables.write import fill, table_text, write_tables

ROWS = read_paper()


def evaluations(row, seeds=(0,), label_seeds=(0, 1, 2, 3, 4)):
    return evaluations_of(row, seeds, label_seeds)


def test_the_paper_is_whole():
    counts = {table: sum(row.table == table for row in ROWS) for table in TITLES}
    assert counts == {"T1": 22, "T2": 34, "T3": 12, "T4": 6, "T5": 21, "T6": 12, "T7": 8, "T8": 5, "T9": 3, "T10": 12}
    assert sum(row.is_ours for row in ROWS) == 93 and sum(row.std is not None for row in ROWS) == 20
    assert {row.method.split(" et al.")[0] for row in ROWS if not row.is_ours} == {"Zheng", "Lin", "Su", "Si", "Nie"}


def test_every_cell_of_ours_has_its_evaluations_and_no_other():
    for row in ROWS:
        five = row.table == "T2"
        assert len(evaluations(row)) == (0 if not row.is_ours else 5 if five else 1), row
        supervised = row.method.startswith("supervised")
        assert len(evaluations(row, (0, 1))) == (0 if not row.is_ours else 5 * (2 - supervised) if five else 2), row
    every = {e for row in ROWS for e in evaluations(row)}
    pretrainings = {p for e in every for p in e.pretrained}
    assert len(every) == 161 and len(pretrainings) == 36
    assert sum(p.contrast == "intra" for p in pretrainings) == 21 + 4 + 2, "Table 5, and what 8 and 9 add"


def test_cells_that_share_an_evaluation_have_the_same_number_in_the_paper():
    shared = {}
    for row in ROWS:
        for evaluation in evaluations(row):
            shared.setdefault(evaluation, []).append(row)
    groups = [rows for rows in shared.values() if len(rows) > 1]
    assert len(groups) == 8  # three of T5, T6 and T10; T8's 15; T9's 0.1; T1, T6 and T10; two of T6 and T10
    for rows in groups:
        assert len({row.accuracy for row in rows}) == 1, rows


@pytest.mark.parametrize("table, method, column, representations, pretrained", [
    ("T4", "inter seq+graph, seq downstream", "ntu60 -> pku2/cross_subject", "seq", [("inter", "seq graph", "ntu60")]),
    ("T6", "inter seq+graph+image", "graph", "graph", [("inter", "seq graph image", "ntu60")]),
    ("T10", "downstream image", "inter", "image", [("inter", "seq image", "ntu60")]),
    ("T10", "downstream seq+graph", "intra", "seq graph", [("intra", "seq", "ntu60"), ("intra", "graph", "ntu60")]),
    ("T10", "downstream image+seq", "inter", "seq image", [("inter", "seq image", "ntu60")])])
def test_what_a_cell_is_measured_on(table, method, column, representations, pretrained):
    (row,) = [row for row in ROWS if (row.table, row.method, row.column) == (table, method, column)]
    (evaluation,) = evaluations(row)
    def short(names):
        return " ".join(name.removesuffix("-based") for name in names)
    assert short(evaluation.representations) == representations
    assert [(p.contrast, short(p.representations), p.dataset) for p in evaluation.pretrained] == pretrained


@pytest.fixture
def call(monkeypatch, capsys):
    """``call(*flags)``: exit code and output of reproduce_tables.py."""
    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *map(str, flags)])
        code = reproduce_tables.main()
        return code, capsys.readouterr().out
    return run


@pytest.fixture
def commands(call, monkeypatch, tmp_path):
    """Flags of every command of a dry run at the paper's scale, as the scripts themselves read them."""
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
            args = parse_pretraining_flags("", "", "") if "moco" in name else importlib.import_module(name).parse_args()
            parsed.append((name, args, flags))
    return parsed


BY_DATASET = {  # queue, epochs, schedule (section 4.2; NTU-120's epochs from the released scripts)
    "ntu60": (16384, 451, [351]), "ntu120": (16384, 351, [251]), "pku1": (8192, 600, []), "pku2": (2048, 600, []),
}
OF_PRETRAINING = {  # sections 3.4 and 4.2
    "lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9, "batch_size": 64, "moco_t": 0.07, "moco_m": 0.999, "moco_dim": 128,
    "mlp": True, "cos": False, "min_crop_frames": 64, "jitter_zero_prob": 0.5,
}
OF_ENCODERS = {"gru_hidden_size": 1024, "gru_num_layers": 3, "graph_encoder": "agcn", "graph_width": 64,
               "graph_num_blocks": 10, "image_width": 64, "num_frames": 64}
OF_CLASSIFIERS = {
    "linear": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "epochs": 80, "schedule": [50, 70]},
    **dict.fromkeys(("finetune", "supervised"), {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40]}),
}


def test_the_papers_hyperparameters(commands):
    """One by one, and every one of them written out in the command."""
    tables = {"moco": 0, "linear": 0, "finetune": 0, "supervised": 0, "retrieval": 0}
    for name, args, flags in commands:
        expected = {"data_root": "data"}
        if "moco" in name:
            kind = "moco"
            queue, epochs, schedule = BY_DATASET[args.dataset]
            expected |= {**OF_PRETRAINING, **OF_ENCODERS, "moco_k": queue, "epochs": epochs, "schedule": schedule}
        elif name == "action_retrieval":
            kind = "retrieval"
            expected |= {"knn_neighbours": 1}
        else:
            kind = args.mode
            expected |= {**OF_CLASSIFIERS[kind], "batch_size": 64, "weight_decay": 0.0, "cos": False}
            expected |= OF_ENCODERS if kind == "supervised" else {}
            assert (args.pretrained is None) == (kind == "supervised")
        tables[kind] += 1
        for flag, value in expected.items():
            assert getattr(args, flag) == value, (flag, flags)
            spelled = {"weight_decay": "--wd"}.get(flag, "--" + flag.replace("_", "-"))
            assert spelled in flags or value is False, flag
    assert tables == {"moco": 36, "linear": 47, "finetune": 56, "supervised": 54, "retrieval": 4}


def test_augmentations_of_the_ablations(commands):
    """Tables 5, 8 and 9; everywhere else crop, pose and jitter, 15 joints, a crop of at least 0.1."""
    found = [(args.skeleton_representation, tuple(args.augmentations), args.jitter_joints, args.min_crop_ratio)
             for name, args, _ in commands if "moco" in name]
    usual = ("crop", "pose", "jitter"), 15, 0.1
    ablated = [x for x in found if x[1:] != usual]
    kinds = [(), ("crop",), ("pose",), ("jitter",), ("crop", "pose"), ("crop", "jitter")]
    table5 = [(f"{name}-based", kind, 15, 0.1) for kind in kinds for name in ("image", "graph", "seq")]
    table8 = [("image-based", ("jitter",), count, 0.1) for count in (2, 5, 10, 20)]
    table9 = [("image-based", ("crop",), 15, ratio) for ratio in (0.3, 0.5)]
    assert sorted(ablated) == sorted(table5 + table8 + table9)


def test_a_classifier_is_trained_on_crops_of_at_least_half():
    assert classifier_view().crop == RandomCrop(0.5, 64)


def test_what_needs_what(commands):
    """In the order in which they are printed, every checkpoint is there before it is read."""
    written = set()
    for name, args, _ in commands:
        if "moco" in name:
            written.add(f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar")
        assert set(getattr(args, "pretrained", None) or []) <= written
    assert len(written) == 36
    folders = [args.output_dir for name, args, _ in commands if "moco" not in name]
    assert len(set(folders)) == len(folders) == 161


def test_flags_for_every_run(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, out = call("--dry-run", "--tables", "T3", "T9", "--flags=--amp bf16 --workers 4")
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    assert len(lines) == 14 and all(line.endswith(" --amp bf16 --workers 4") for line in lines)


def test_the_shortest_commands():
    assert command("a.py", {"schedule": (), "mlp": True, "cos": False, "wd": None, "x_y": ("a", 1)})[1:] == (
        "--schedule", "--mlp", "--x-y", "a", "1")


def job(tmp_path, name, code="", needs=()):
    """A job that runs ``code`` and writes its name to a file."""
    path = tmp_path / name
    return Job(name, ("-c", f"{code}\nopen({str(path)!r}, 'w').write('{name}')"), path, tuple(needs))


def test_a_job_that_fails_stops_only_what_needs_it(tmp_path):
    bad = job(tmp_path, "bad", "raise ValueError('broken')")
    silent = Job("silent", ("-c", ""), tmp_path / "never")
    after = job(tmp_path, "after", needs=[bad])
    last = job(tmp_path, "last", needs=[after])
    good = job(tmp_path, "good", needs=[job(tmp_path, "first")])
    outcome = run_jobs(in_order([last, silent, good]), [{}, {}], tmp_path / "logs")
    assert sorted(outcome.done) == ["first", "good"] and not outcome.stopped
    assert outcome.failed["bad"].startswith("ValueError: broken (") and "logs/bad.txt" in outcome.failed["bad"]
    assert outcome.failed["after"] == "it needs bad, which failed" and outcome.failed["last"] == "it needs after, which failed"
    assert "did not write" in outcome.failed["silent"]
    assert in_order([last, silent, good], only_left=True) == [bad, after, last, silent]


def test_each_slot_has_its_devices(tmp_path):
    code = "import os, time; open(os.environ['CUDA_VISIBLE_DEVICES'] + '_' + str(os.getpid()), 'w'); time.sleep(0.3)"
    jobs = [job(tmp_path, name, f"import os; os.chdir({str(tmp_path)!r}); {code}") for name in "abcd"]
    began = time.monotonic()
    assert len(run_jobs(jobs, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2,3"}], tmp_path).done) == 4
    assert time.monotonic() - began > 0.6, "two at a time"
    names = sorted(path.name.split("_")[0] for path in tmp_path.glob("*_*"))
    assert names == ["0", "0", "2,3", "2,3"]


@pytest.mark.parametrize("handler", [f"lambda *a: sys.exit({EXIT_RESUMABLE})", "signal.SIG_DFL"])
def test_asked_to_stop(tmp_path, handler):
    """The running job is asked to stop too, and no other begins; that is no failure, even before it can save."""
    code = (f"import os, signal, sys, time; signal.signal(signal.SIGTERM, {handler}); "
            f"os.kill({os.getpid()}, signal.SIGTERM); time.sleep(20)")
    outcome = run_jobs([job(tmp_path, "one", code), job(tmp_path, "two")], [{}], tmp_path / "logs")
    assert outcome.stopped and not outcome.failed and not outcome.done and not (tmp_path / "two").exists()


def test_a_job_that_was_stopped_or_killed_by_itself(tmp_path):
    stop, kill = f"import sys; sys.exit({EXIT_RESUMABLE})", "import os; os.kill(os.getpid(), 9)"
    outcome = run_jobs([job(tmp_path, "stopped", stop)], [{}], tmp_path / "logs")
    assert outcome.stopped and not outcome.failed
    outcome = run_jobs([job(tmp_path, "killed", kill)], [{}], tmp_path / "logs")
    assert not outcome.stopped and outcome.failed["killed"].startswith("ended by SIGKILL (")


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at the parent's death is Linux's")
def test_no_job_is_left_behind_a_killed_run(tmp_path):
    code = (f"import signal, time, sys; from pathlib import Path; signal.signal(signal.SIGTERM, lambda *a: "
            f"(Path({str(tmp_path / 'asked')!r}).touch(), sys.exit(75))); Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)")
    runner = ("from pathlib import Path; from tables.job import Job; from tables.run import run_jobs; "
              f"run_jobs([Job('one', ('-c', {code!r}), Path('never'))], [{{}}], Path({str(tmp_path)!r}))")
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


def test_the_tables(tmp_path):
    """Mean, deviation, difference and seeds of what is there; nothing for what is not."""
    place = Place(PAPER, Path("data"), tmp_path)
    rows = [PaperRow("T1", "Su et al.", "ntu60/cross_view", 59.3, None),
            PaperRow("T1", "inter seq+graph, seq downstream", "ntu60/cross_view", 85.2, None),
            PaperRow("T2", "inter seq+graph, seq downstream", "ntu60/cross_view 10%", 72.5, 0.4),
            PaperRow("T2", "supervised only, seq", "ntu60/cross_view 10%", 59.8, 0.5),
            PaperRow("T3", "inter seq+graph, seq downstream", "ntu60/cross_view", 82.6, None)]
    jobs = [[place.evaluation(e).result for e in evaluations(row)] for row in rows]
    for seed, value in ((0, 70.0), (3, 71.0)):
        result(jobs[2][seed], best={"top1": value}, last={"top1": value - 1})
    result(jobs[4][0], knn=83.1)
    cells = [fill(row, place, [0]) for row in rows]
    assert [len(cell.best) for cell in cells] == [0, 0, 2, 0, 1]
    path = write_tables(cells, place)
    text = path.read_text()
    assert path == tmp_path / "tables.md" and table_text("T3", cells) in text
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "/cross" in line]
    assert lines[0][2:] == ["", "", "59.3", "", "", ""] and lines[1][2:] == ["", "", "85.2", "", "", ""]
    assert lines[2][2:] == ["70.5 ± 0.7", "69.5 ± 0.7", "72.5 ± 0.4", "-2.0", "0/0 0/3", "abc"]
    assert lines[3][2:] == ["", "", "59.8 ± 0.5", "", "", ""] and lines[4][2:] == ["83.1", "", "82.6", "+0.5", "0", "abc"]
    assert "smoke" not in text and "smoke" in write_tables(cells, Place(SMOKE, Path("d"), tmp_path / "s")).read_text()
    with open(tmp_path / "tables.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[0] == {**dict.fromkeys(lines[0], ""), "table": "T1", "method": "Su et al.", "column": "ntu60/cross_view", "paper": "59.3"}
    assert [lines[2][name] for name in ("ours", "ours_std", "paper_std", "difference")] == ["70.5", "0.7071", "0.4", "-2"]


def test_synthetic_data_do_not_lie_among_others(tmp_path):
    (tmp_path / "ntu60").mkdir()
    with pytest.raises(UserError, match="must not lie among them"):
        claim_folder(tmp_path)
    for _ in range(2):
        claim_folder(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["synthetic.txt"]


def test_a_slice_of_the_smallest_scale(call, monkeypatch, small_store, tmp_path):
    """Real commands: stopped after the first, gone on, a cell that cannot be filled, nothing left."""
    monkeypatch.chdir(tmp_path)
    chosen = [("T9", "minimum crop ratio: 0.5"), ("T9", "minimum crop ratio: 0.3"), ("T2", "supervised only, seq"), ("T2", "Si et al.")]
    columns = ("intra image, crop only", "ntu60/cross_view 10%")
    some = [row for row in ROWS if any((row.table, row.method) == c for c in chosen) and row.column in columns]
    monkeypatch.setattr(reproduce_tables, "read_paper", lambda: some)
    flags = ("--scale", "smoke", "--data-root", "data", "--runs", "out", "--jobs", 2)
    code, out = call(*flags, "--tables", "T2")
    assert code == 0 and "[2/2]" in out and out.count("done: supervised") == 2, out
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("results.json")}
    code, out = call(*flags, "--dry-run")
    assert code == 0 and out.count("# pretraining") == 2 and out.count("# linear") == 2 and "supervised" not in out
    blocked = tmp_path / "out/smoke/pretrained" / Path(out.split("--checkpoint-path ")[1].split()[0]).name
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    code, out = call(*flags)
    assert code == 1 and out.count("failed: ") == 2 and out.count("not filled: T9, minimum crop ratio: 0.3") == 1, out
    assert "not filled: T9, minimum crop ratio: 0.5" not in out and "2 cells of ours filled" in out
    with open(tmp_path / "out/smoke/tables.csv", newline="") as file:
        cells = {(row["table"], row["method"]): row for row in csv.DictReader(file)}
    supervised = cells["T2", "supervised only, seq"]
    assert supervised["seeds"] == "0 1" and supervised["ours_std"] and 0 <= float(supervised["ours"]) <= 100
    assert cells["T9", "minimum crop ratio: 0.5"]["ours"] and not cells["T9", "minimum crop ratio: 0.3"]["ours"]
    code, out = call("--list", *flags)
    assert code == 0 and "together, each once: 6 of 8 jobs done" in out, out
    assert all(path.stat().st_mtime_ns == then for path, then in written.items()), "nothing was run again"
