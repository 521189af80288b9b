"""The benchmarks run, agree with their references and cover every representation of the registry."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from conftest import write_pretraining

from benchmarks import few_labels, real_data, small_data_study, small_runs
from engine.report import RESULTS
from models.registry import REPRESENTATIONS, join_representations
from tables.run import RunSummary

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = {
    "feeder": ["--clips", 40, "--batch-size", 8, "--batches", 2, "--repeats", 1],
    "retrieval": ["--gallery", 200, "--queries", 50, "--features", 16, "--repeats", 1],
}
SMALL_PRESET = """\
--steps 10 --batch-size 4 --lr 0.1 --cos --moco-k 0 --no-mlp --num-frames 16
--gru-hidden-size 16 --gru-num-layers 1 --graph-width 4 --graph-num-blocks 1
"""


def run_benchmark(name, *flags):
    command = [sys.executable, REPOSITORY / "benchmarks" / f"{name}.py", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", TINY)
def test_benchmark_compares_with_its_reference(name):
    """The scripts exit with an error if the results of this repository and the reference differ."""
    rows = [line for line in run_benchmark(name, *TINY[name]).splitlines() if "this repo |" in line]
    assert rows and all(re.search(r"\| \d+\.\d+ \|$", row) for row in rows)


@pytest.mark.parametrize(
    "name", ["feeder", "step", "probe", "retrieval", "few_labels", "real_data", "small_data_study"]
)
def test_benchmark_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.{name}").main()
    assert end.value.code == 0 and f"python benchmarks/{name}.py" in capsys.readouterr().out


def test_real_data_covers_the_registry(monkeypatch):
    further = replace(REPRESENTATIONS["seq-based"], name="motion-based")
    monkeypatch.setitem(REPRESENTATIONS, further.name, further)
    names = [*REPRESENTATIONS]
    pairs = [join_representations(pair) for pair in real_data.PAIRS]
    assert set(REPRESENTATIONS) - {further.name} <= {name for pair in real_data.PAIRS for name in pair}
    for part in ("inter", "all"):
        encoders = real_data.table_encoders(part, 10)
        assert {encoder.title for encoder in encoders} == {f"{part} {pair}" for pair in pairs}
        assert len({(encoder.folder, encoder.representation) for encoder in encoders}) == 3 * len(pairs)
    intra = real_data.table_encoders("intra", 10)
    assert [encoder.representation for encoder in intra] == [*names, *pairs]
    assert {encoder.representation for encoder in real_data.table_encoders("reference", 10)} == {*names}


@pytest.fixture
def small_runs_in_process(run, monkeypatch, small_store):
    """Run jobs in this process, with a tiny preset; returns the names of the jobs that ran."""
    preset, ran = small_store.parent / "preset.txt", []
    preset.write_text(SMALL_PRESET)

    def run_jobs(jobs, slots, logs):
        for job in jobs:
            code, _, err = run(Path(job.command[0]).name, *job.command[1:])
            assert code == 0 and job.is_done, err
            ran.append(job.name)
        return RunSummary()

    monkeypatch.setattr(small_runs, "run_jobs", run_jobs)
    monkeypatch.setattr(small_runs, "PRESET", preset)
    monkeypatch.setattr(small_runs, "PROBE", {"epochs": 1})
    return ran


def start(monkeypatch, benchmark, *flags):
    """Run a benchmark in this process."""
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, *map(str, flags)])
    benchmark.main()


def cells(path):
    """The cells of a Markdown table, without its separator line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:1] + lines[2:]]


def test_real_data_summarizes_seeds_and_skips_finished_runs(small_runs_in_process, monkeypatch, tmp_path):
    """The store in ``tmp_path/data`` is used as it is."""
    monkeypatch.delitem(REPRESENTATIONS, "image-based")
    monkeypatch.setattr(real_data, "PAIRS", (("seq-based", "graph-based"),))
    flags = ["--raw", tmp_path, "--runs", tmp_path, "--seeds", 0, 1, "--steps", 10, "--stream-steps", 10]
    flags += ["--only", "all", "streams"]
    start(monkeypatch, real_data, *flags)
    table, streams = cells(tmp_path / "table.md"), cells(tmp_path / "streams.md")
    both = join_representations([*REPRESENTATIONS])
    rows = [(row[0], row[1], row[2]) for row in table[1:]]
    assert len(table) == len(rows) + 1
    intra = [("intra seq-based", "seq-based", "10")]  # the preset, the table and the streams share the run
    assert rows[-3:] == [(f"all {both}", name, "10") for name in (*REPRESENTATIONS, both)]
    assert rows[:-3] == 2 * intra
    runs = [tmp_path / f"all_{both}_10steps_seed{seed}" for seed in (0, 1)]
    knn = [json.loads((run / f"retrieval_{both}" / RESULTS).read_text())["numbers"]["knn"] for run in runs]
    assert table[-1][4] == f"{mean(knn):.1f} ± {stdev(knn):.1f}"
    assert [row[0] for row in streams[1:]] == ["joint", "bone", "motion", "fusion"]
    assert streams[-1][1] and streams[-1][3]
    for run, name in zip(runs, REPRESENTATIONS):
        curve = json.loads((run / "learning_curves.json").read_text())[name]
        result = json.loads((run / f"retrieval_{name}" / RESULTS).read_text())["numbers"]["knn"]
        assert curve[-1] == [10, pytest.approx(result)]
    assert "all with graph" in (tmp_path / "curves.svg").read_text()
    small_runs_in_process.clear()
    start(monkeypatch, real_data, *flags)
    assert small_runs_in_process == []


def test_study_shares_the_run_of_rows_that_equal_the_preset(small_runs_in_process, monkeypatch, tmp_path):
    study = {"momentum": [("intra", ("seq-based",), f"--moco-m {m}") for m in (0.99, 0.999)]}
    monkeypatch.setattr(small_data_study, "STUDY", study)
    start(monkeypatch, small_data_study, "--raw", tmp_path, "--runs", tmp_path, "--seeds", 0)
    assert [row[2] for row in cells(tmp_path / "study.md")[1:]] == ["--moco-m 0.99", "--moco-m 0.999"]
    pretrainings = [name for name in small_runs_in_process if name.startswith("pretraining")]
    assert pretrainings == [
        "pretraining intra_seq-based_10steps_moco-m_0.99_seed0",
        "pretraining intra_seq-based_10steps_seed0",
    ]


def test_all_contrasts_of_the_study_have_folders_of_their_own():
    contrasts = {
        small_data_study.study_contrast(*row, 10) for rows in small_data_study.STUDY.values() for row in rows
    }
    assert len({contrast.name for contrast in contrasts}) == len(contrasts) > 20


def test_few_labels_chooses_learning_rates_by_the_mean_and_plots_several_folders(
    small_runs_in_process, monkeypatch, tmp_path
):
    checkpoints = [tmp_path / f"checkpoint_000{seed}.pth.tar" for seed in (0, 1)]
    for path in checkpoints:
        write_pretraining(path, ["seq-based"])
    flags = ["--pretrained", *checkpoints, "--data-root", tmp_path / "data", "--epochs", 1]
    flags += ["--fractions", 0.2, "--label-seeds"]
    start(monkeypatch, few_labels, *flags, 0, 1, 2, "--lr", 0.001, 0.1, "--runs", tmp_path / "a")
    start(monkeypatch, few_labels, *flags, 0, "--lr", 0.01, "--runs", tmp_path / "b")
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("a/*/results.json")}
    assert len(results) == 2 * 2 * 3
    rows = json.loads((tmp_path / "a" / "few_labels.json").read_text())["rows"]
    for row in rows:
        for mode in ("finetune", "supervised"):
            last = [
                [
                    results[f"{mode}_{row['fraction']}_lr{lr}_labels{subset}"]["numbers"]["last"]["top1"]
                    for subset in range(3)
                ]
                for lr in (0.001, 0.1)
            ]
            assert row[mode]["last"] == max(last, key=mean)
    used = [results[f"finetune_0.2_lr0.1_labels{subset}"]["pretrained"] for subset in range(3)]
    assert used == [str(checkpoints[i]) for i in (0, 1, 0)]
    start(monkeypatch, few_labels, "--plot", tmp_path / "a", tmp_path / "b", "--runs", tmp_path / "c")
    figure = (tmp_path / "c" / "few_labels.svg").read_text()
    assert figure.count("supervised only") == 2 and "labels (%)" in figure
