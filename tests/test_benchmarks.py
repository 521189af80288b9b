"""The benchmarks run, agree with their references and cover every representation of the registry."""

import json
import re
import sys
from statistics import mean, stdev

import pytest
from conftest import write_pretraining

from benchmarks import real_data, results
from engine.report import RESULTS
from models.registry import REPRESENTATIONS, join_representations
from utils.errors import UserError

TINY_ENCODERS = "--gru-hidden-size 16 --gru-num-layers 1 --graph-width 4 --graph-num-blocks 1".split()
SMALL_PRESET = f"""\
--steps 10 --batch-size 4 --lr 0.1 --cos --moco-k 0 --no-mlp --num-frames 16
{" ".join(TINY_ENCODERS)}
"""


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize(
    "name, flags",
    [
        ("feeder", ["--clips", 40, "--batch-size", 8, "--batches", 2]),
        ("step", ["--batch-size", 2, "--threads", 1, *TINY_ENCODERS]),
        ("retrieval", ["--gallery", 400, "--queries", 50, "--features", 16]),
    ],
)
def test_benchmark_compares_with_its_reference(run, name, flags):
    """The scripts exit with an error if the results of this repository and the reference differ."""
    code, out, err = run(f"benchmarks.{name}", "--repeats", 1, *flags)
    rows = [line for line in out.splitlines() if re.match(r"\|.*this repo\b", line)]
    assert code == 0 and rows and all(re.search(r"\| \d+\.\d+ +\|$", row) for row in rows), err


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


def test_rows_of_the_study_that_equal_the_preset_share_its_run():
    assert real_data.encoders_of("jitter", 10)[0] == real_data.encoders_of("intra", 10)[0]
    assert real_data.encoders_of("head", 10)[1].recipes[0].given == ("--mlp",)


@pytest.fixture
def start(jobs_in_process, monkeypatch, small_store):
    """``start(command, *flags)`` with a tiny preset; returns the jobs that ran."""
    preset, ran = small_store.parent / "preset.txt", jobs_in_process(real_data)
    preset.write_text(SMALL_PRESET)
    monkeypatch.setattr(real_data, "PRESET", preset)
    monkeypatch.setattr(real_data, "PROBE", {"epochs": 1})

    def call(*flags):
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["real_data.py", *map(str, flags)])
        real_data.main()
        return list(ran)

    return call


def cells(path):
    """The cells of a Markdown table, without its separator line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:1] + lines[2:]]


def test_table_summarizes_seeds_and_skips_finished_runs(run, start, monkeypatch, tmp_path):
    monkeypatch.setattr(real_data, "REPRESENTATIONS", ["seq-based"])
    monkeypatch.setattr(real_data, "PAIRS", (("seq-based", "graph-based"),))
    monkeypatch.setitem(real_data.COMMANDS, "table", ("reference", "all"))
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
        ["reference", "untrained", "seq-based", ""],
        *(["all", f"all {both}", name, "10"] for name in ("seq-based", "graph-based", both)),
    ]
    runs = [tmp_path / "a" / f"all_{both}_10steps_seed{seed}" for seed in (0, 1)]
    results = [json.loads((run / f"retrieval_{both}" / RESULTS).read_text())["numbers"] for run in runs]
    knn = [numbers["knn"] for numbers in results]
    assert rows[-1][header.index("1-NN")] == f"{mean(knn):.1f} ± {stdev(knn):.1f}" and rows[-1][-1]
    assert start(*flags) == []
    report = run("engine.report", tmp_path / "a", "--over", "seed")[1]
    assert rows[-1][header.index("1-NN")] in report.split(both)[-1]


def test_page_has_the_results_of_all_runs(start, tmp_path, monkeypatch):
    """Results of two seeds, added one after the other, one of them twice."""
    table, page = tmp_path / "results.csv", tmp_path / "page.md"
    page.write_text("# Title\n<!-- results: transfer, reference -->\nold\n<!-- end -->\nText\n")
    checkpoints = [tmp_path / "mine/run" / f"checkpoint_000{seed}.pth.tar" for seed in (0, 1)]
    for path in checkpoints:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pretraining(path, ["seq-based"])
    values = {}
    for seed in (0, 1, 1):
        start("transfer", "--pretrained", checkpoints[seed], "--seeds", seed, "--runs", tmp_path / "runs")
        rows = results.read_results(tmp_path / "runs" / results.RUN_RESULTS)
        values[seed] = float(rows[-1]["1-NN"])
        given = [
            "results.py",
            "--add",
            f"Mine={tmp_path / 'runs'}",
            "--table",
            str(table),
            "--page",
            str(page),
        ]
        monkeypatch.setattr(sys, "argv", given)
        results.main()
    assert len(results.read_results(table)) == 2
    text = page.read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| Mine | on mine ")]
    assert f"| 2    |         | {mean(values.values()):.1f} ± {stdev(values.values()):.1f} |" in row
    assert text.startswith("# Title\n") and text.endswith("\n<!-- end -->\nText\n") and "old" not in text
    page.write_text("<!-- results: preset -->\n<!-- end -->\n")
    with pytest.raises(UserError, match="no results of preset"):
        results.main()


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
