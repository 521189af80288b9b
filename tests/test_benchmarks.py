"""The benchmarks run, agree with their references and cover every representation of the registry."""

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from conftest import write_pretraining

from benchmarks import real_data
from engine.report import RESULTS
from models.registry import REPRESENTATIONS, join_representations
from tables.run import RunSummary

SMALL_PRESET = """\
--steps 10 --batch-size 4 --lr 0.1 --cos --moco-k 0 --no-mlp --num-frames 16
--gru-hidden-size 16 --gru-num-layers 1 --graph-width 4 --graph-num-blocks 1
"""
TINY = {
    "feeder": ["--clips", 40, "--batch-size", 8, "--batches", 2, "--repeats", 1],
    "retrieval": ["--gallery", 400, "--queries", 50, "--features", 16, "--repeats", 1],
}


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("name", TINY)
def test_benchmark_compares_with_its_reference(run, name):
    """The scripts exit with an error if the results of this repository and the reference differ."""
    code, out, err = run(f"benchmarks.{name}", *TINY[name])
    rows = [line for line in out.splitlines() if re.match(r"\|.*this repo ", line)]
    assert code == 0 and rows and all(re.search(r"\| \d+\.\d+ +\|$", row) for row in rows), err


@pytest.mark.parametrize("name", ["data_gen", "feeder", "step", "probe", "retrieval", "real_data"])
def test_benchmark_has_help(run, name):
    code, out, _ = run(f"benchmarks.{name}", "--help")
    assert code == 0 and f"python benchmarks/{name}.py" in out


def test_table_covers_the_registry_and_runs_have_folders_of_their_own():
    pairs = [join_representations(pair) for pair in real_data.PAIRS]
    assert {*REPRESENTATIONS} == {name for pair in real_data.PAIRS for name in pair}
    encoders = {part: real_data.encoders_of(part, 10) for part in (*real_data.PARTS, *real_data.STUDY)}
    for part in ("inter", "all"):
        recipes = {recipe for encoder in encoders[part] for recipe in encoder.recipes}
        assert {recipe.title for recipe in recipes} == {f"{part} {pair}" for pair in pairs}
        assert len({(encoder.folder, encoder.representation) for encoder in encoders[part]}) == 3 * len(pairs)
    assert [x.representation for x in encoders["intra"]] == [*REPRESENTATIONS, *pairs]
    assert {x.representation for x in encoders["reference"]} == {*REPRESENTATIONS}
    recipes = {recipe for part in encoders.values() for encoder in part for recipe in encoder.recipes}
    assert len({recipe.name for recipe in recipes}) == len(recipes) > 30


@pytest.fixture
def start(run, monkeypatch, small_store):
    """``start(command, *flags)`` with jobs in this process and a tiny preset; returns the jobs that ran."""
    preset, ran = small_store.parent / "preset.txt", []
    preset.write_text(SMALL_PRESET)

    def run_jobs(jobs, slots, logs):
        for job in jobs:
            code, _, err = run(Path(job.command[0]).name, *job.command[1:])
            assert code == 0 and job.is_done, err
            ran.append(job.name)
        return RunSummary()

    monkeypatch.setattr(real_data, "run_jobs", run_jobs)
    monkeypatch.setattr(real_data, "PRESET", preset)
    monkeypatch.setattr(real_data, "PROBE", {"epochs": 1})

    def call(*flags):
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["real_data.py", *map(str, flags)])
        importlib.import_module("benchmarks.real_data").main()
        return list(ran)

    return call


def cells(path):
    """The cells of a Markdown table, without its separator line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:1] + lines[2:]]


def test_table_summarizes_seeds_and_skips_finished_runs(start, monkeypatch, tmp_path):
    monkeypatch.delitem(REPRESENTATIONS, "image-based")
    monkeypatch.setattr(real_data, "PAIRS", (("seq-based", "graph-based"),))
    flags = ["table", "--runs", tmp_path / "a", "--steps", 10]
    start(*flags, "--seeds", 0, "--only", "reference")
    flags += ["--seeds", 0, 1, "--only", "all"]
    assert [name for name in start(*flags) if name.startswith("pretraining")] == [
        f"pretraining all_seq-based_and_graph-based_10steps_seed{seed}" for seed in (0, 1)
    ]
    header, *rows = cells(tmp_path / "a" / "table.md")
    both = "seq-based_and_graph-based"
    assert [row[:2] + row[3:5] for row in rows] == [
        ["reference", "coordinates", "seq-based", ""],
        *(["reference", "random", name, ""] for name in ("seq-based", "graph-based")),
        *(["all", f"all {both}", name, "10"] for name in ("seq-based", "graph-based", both)),
    ]
    runs = [tmp_path / "a" / f"all_{both}_10steps_seed{seed}" for seed in (0, 1)]
    for task, column, path in (("retrieval", "1-NN", ["knn"]), ("linear", "linear last", ["last", "top1"])):
        values = [json.loads((run / f"{task}_{both}" / RESULTS).read_text())["numbers"] for run in runs]
        for key in path:
            values = [value[key] for value in values]
        assert rows[-1][header.index(column)] == f"{mean(values):.1f} ± {stdev(values):.1f}"
    assert start(*flags) == []


def test_study_shares_the_run_of_rows_that_equal_the_preset(start, monkeypatch, tmp_path):
    flags = ["--moco-k 0", "--moco-k 8"]
    monkeypatch.setattr(real_data, "STUDY", {"negatives": ("intra", ("seq-based",), flags)})
    monkeypatch.setitem(real_data.COMMANDS, "study", ["negatives"])
    ran = start("study", "--runs", tmp_path / "a", "--steps", 10, "--seeds", 0)
    assert [row[2] for row in cells(tmp_path / "a" / "study.md")[1:]] == ["", "--moco-k 8"]
    assert [name for name in ran if name.startswith("pretraining")] == [
        "pretraining intra_seq-based_10steps_seed0",
        "pretraining intra_seq-based_10steps_moco-k_8_seed0",
    ]


def test_few_labels_start_from_the_pretrainings_in_turn_and_share_a_figure(start, tmp_path):
    checkpoints = [tmp_path / f"checkpoint_000{seed}.pth.tar" for seed in (0, 1)]
    for path in checkpoints:
        write_pretraining(path, ["seq-based"])
    flags = ["labels", "--pretrained", *checkpoints, "--epochs", 1, "--fractions", 0.2, "--label-seeds"]
    start(*flags, 0, 1, 2, "--runs", tmp_path / "a")
    start(*flags, 0, "--runs", tmp_path / "b")
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("a/*/results.json")}
    used = [results[f"finetune_0.2_labels{subset}"]["pretrained"] for subset in range(3)]
    assert len(results) == 2 * 3 and used == [str(checkpoints[i]) for i in (0, 1, 0)]
    last = [results[f"supervised_0.2_labels{subset}"]["numbers"]["last"]["top1"] for subset in range(3)]
    (row,) = cells(tmp_path / "a" / "labels.md")[1:]
    assert row[0] == "20%" and row[3].endswith(f"({mean(last):.1f} ± {stdev(last):.1f})")
    start("labels", "--plot", tmp_path / "a", tmp_path / "b", "--runs", tmp_path / "c")
    figure = (tmp_path / "c" / "few_labels.svg").read_text()
    assert figure.count("supervised only") == 2 and "labels (%)" in figure


def test_further_representation_becomes_a_row_of_the_table(monkeypatch):
    further = replace(REPRESENTATIONS["seq-based"], name="motion-based")
    monkeypatch.setitem(REPRESENTATIONS, further.name, further)
    assert "motion-based" in {x.representation for x in real_data.encoders_of("intra", 10)}
