"""The benchmarks run, agree with their references and cover every representation of the registry."""

import importlib
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks import real_data
from models.representations import REPRESENTATIONS, join_representations

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = {
    "feeder": ["--clips", 40, "--batch-size", 8, "--batches", 2, "--repeats", 1],
    "retrieval": ["--gallery", 200, "--queries", 50, "--features", 16, "--repeats", 1],
}


def run(name, *flags):
    command = [sys.executable, REPOSITORY / "benchmarks" / f"{name}.py", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", TINY)
def test_benchmark_compares_with_its_reference(name):
    """The scripts exit with an error if the results of this repository and the reference differ."""
    rows = [line for line in run(name, *TINY[name]).splitlines() if "this repo |" in line]
    assert rows and all(re.search(r"\| \d+\.\d+ \|$", row) for row in rows)


@pytest.mark.parametrize("name", ["feeder", "step", "probe", "retrieval", "few_labels", "real_data"])
def test_benchmark_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.{name}").main()
    assert end.value.code == 0 and f"python benchmarks/{name}.py" in capsys.readouterr().out


def test_real_data_covers_all_combinations_of_the_registry(monkeypatch, tmp_path):
    further = replace(REPRESENTATIONS["seq-based"], name="motion-based")
    monkeypatch.setitem(REPRESENTATIONS, further.name, further)
    rows = list(real_data.Experiment(tmp_path, tmp_path, seed=0, epochs=1).rows())
    assert len({job.name for row in rows for job in (row.retrieval, row.linear)}) == 2 * len(rows)
    titles = {row.pretraining for row in rows}
    names = [join_representations(x) for n in (2, 3, 4) for x in combinations(REPRESENTATIONS, n)]
    assert titles == {
        "none",
        "untrained",
        *(f"intra {x}" for x in REPRESENTATIONS),
        *(f"inter {x}" for x in names),
    }
