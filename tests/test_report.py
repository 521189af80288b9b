"""Tables of results: aggregation over seeds and folds, formats, comparison of two runs."""

import csv
import json
import subprocess
import sys

import pytest

from engine.report import REPOSITORY, arrange, read_results, results_rows

ENCODER = "intra-skeleton seq-based, 40 epochs"


def write(folder, knn=None, best=None, **changes):
    """Write the results of retrieval (``knn``) or of a linear probe (``best``)."""
    result = {"pretrained": "runs/seq_seed0/checkpoint_0039.pth.tar", "encoder": ENCODER, "seed": 0}
    result |= {"representation": "seq-based", "dataset": "ucla", "protocol": "cross_view"}
    if knn is not None:
        result |= {"task": "retrieval", "numbers": {"knn": knn, "neighbours": 1}, "flags": {}}
    else:
        numbers = {"best": {"top1": best}, "last": {"top1": best - 1}}
        result |= {"task": "linear", "numbers": numbers, "flags": {"lr": 0.1, "output_dir": str(folder)}}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(result | changes))


def seed(number):
    return {"seed": number, "pretrained": f"runs/seq_seed{number}/checkpoint_0039.pth.tar"}


@pytest.fixture
def folder(tmp_path):
    """Three seeds of retrieval, two of a probe, and coordinates."""
    for i, knn in enumerate((80.0, 81.0, 85.0)):
        write(tmp_path / "r" / f"knn{i}", knn, **seed(i))
    for i, best in enumerate((70.0, 72.0)):
        write(tmp_path / "r" / f"probe{i}", best=best, **seed(i))
    write(tmp_path / "r" / "none", 84.0, pretrained="coordinates", encoder="normalized coordinates")
    return tmp_path / "r"


def table(out):
    """The cells of a Markdown table by row."""
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_mean_and_deviation_over_seeds(run, folder):
    code, out, _ = run("engine.report", folder, "--over", "seed", "--sort", "1-NN retrieval")
    header, *rows = table(out)
    assert code == 0 and "seed" not in header and "pretrained" not in header
    names = ["encoder", "1-NN retrieval", "linear best", "linear last", "results"]
    assert [[row[header.index(name)] for name in names] for row in rows] == [
        ["normalized coordinates", "**84.0**", "", "", "1"],
        [ENCODER, "82.0 ± 2.6", "**71.0 ± 1.4**", "**70.0 ± 1.4**", "2-3"],
    ]


@pytest.mark.parametrize(
    "number, changes",
    [(2, {"flags": {"lr": 0.3}}), (2, {"encoder": "other"}), (2, {"protocol": "view1"}), (1, {})],
)
def test_other_flags_and_repeated_results_are_not_averaged(folder, number, changes):
    """A third probe gets its own row if it differs in more than the seed, or has the same one."""
    write(folder / "probe3", best=10.0, **seed(number), **changes)
    values = [row.values.get("linear best") for row in arrange(read_results(folder), ["seed"])]
    assert sorted(filter(None, values)) == [[10.0], [70.0, 72.0]]


def test_mean_over_folds_of_different_lengths(tmp_path):
    """The paths contain the protocol; the number of epochs follows from the number of clips."""
    for fold, knn in (("fold1", 50.0), ("fold2", 60.0)):
        for i in (0, 1):
            epochs = 40 + int(fold[-1])
            path = f"runs/{fold}/seq_seed{i}/checkpoint_{epochs:04d}.pth.tar"
            changes = {"seed": i, "protocol": fold, "pretrained": path, "flags": {"protocol": fold}}
            write(tmp_path / fold / str(i), knn + i, **changes, encoder=f"intra-skeleton, {epochs} epochs")
    (row,) = arrange(read_results(tmp_path), ["seed", "protocol"])
    assert row.values == {"1-NN retrieval": [50.0, 51.0, 60.0, 61.0]}
    assert [row.values["1-NN retrieval"] for row in arrange(read_results(tmp_path), ["seed"])] == [
        [50.0, 51.0],
        [60.0, 61.0],
    ]


def test_formats(run, folder):
    out = {
        x: run("engine.report", folder, "--over", "seed", "--format", x)[1] for x in ("text", "csv", "latex")
    }
    rows = list(csv.DictReader(out["csv"].splitlines()))
    assert [row["1-NN retrieval"] for row in rows] == ["82", "84"]
    assert rows[0]["1-NN retrieval std"] == "2.646" and rows[1]["linear best std"] == ""
    assert r"82.0 $\pm$ 2.6 & \textbf{71.0 $\pm$ 1.4}" in out["latex"] and r"cross\_view" in out["latex"]
    assert "82.0 ± 2.6" in out["text"] and "84.0 *" in out["text"] and "|" not in out["text"]


def test_single_results_are_not_marked_or_merged(folder):
    header, *rows = results_rows(read_results(folder))
    assert len(rows) == 4 and [row[header.index("1-NN retrieval")] for row in rows] == [
        "80.0",
        "81.0",
        "85.0",
        "84.0",
    ]


def test_sort_names_the_columns(run, folder):
    code, _, err = run("engine.report", folder, "--sort", "accuracy")
    assert code == 2 and "linear best" in err


def test_compare_lists_what_differs(run, folder, tmp_path):
    code, out, _ = run("engine.report", "--compare", folder / "probe0", folder / "probe1" / "results.json")
    rows = {row[0]: row[1:] for row in table(out)}
    assert code == 0 and rows["numbers.best.top1"] == ["70.0", "72.0"] and rows["seed"] == ["0", "1"]
    assert "flags.lr" not in rows and "dataset" not in rows
    for name, lr in (("a", 0.1), ("b", 0.2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"lr": lr, "epochs": 3}))
    _, out, _ = run("engine.report", "--compare", tmp_path / "a", tmp_path / "b")
    assert table(out)[1:] == [["flags.lr", "0.1", "0.2"]]
    code, _, err = run("engine.report", "--compare", tmp_path, folder)
    assert code == 2 and "config.json" in err


SCRIPTS = ["ensemble.py", "reproduce_tables.py", "engine/report.py"]
SCRIPTS += [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("data_gen/*_gendata.py")]
HELP = """
import runpy, sys
sys.path.insert(0, ".")
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code and "torch" not in sys.modules, script
"""


def test_help_does_not_import_torch():
    command = [sys.executable, "-c", HELP, *SCRIPTS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("usage: ") == len(SCRIPTS), done.stderr
