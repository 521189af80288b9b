"""All stages at the smallest size: raw files -> store -> pretraining -> results -> table."""

import sys

import numpy as np
import pytest
from conftest import TINY_FLAGS

import action_classification
import action_retrieval
import engine.report
import main_moco_inter_skeleton
from data_gen import ntu_gendata
from data_gen.synthetic import make_ntu
from dataset.clips import open_clips

TASKS = ((action_retrieval, "retrieval", []), (action_classification, "linear", ["--epochs", 2]))


@pytest.fixture
def call(monkeypatch):
    """``call(script, *flags)``: run a script; returns its exit code."""

    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", ["script", *map(str, flags)])
        return script.main() or 0

    return run


def test_raw_files_to_table(call, tmp_path, capsys):
    raw, data, runs = tmp_path / "raw", tmp_path / "data", tmp_path / "runs"
    generate = ("--out-folder", raw, "--subjects", 4, "--actions", 9, 50, "--cameras", 3)
    assert call(make_ntu, *generate) == 0
    assert call(ntu_gendata, "--data-path", raw, "--out-folder", data / "ntu60") == 0
    for protocol, expected in (("cross_subject", (36, 12)), ("cross_view", (32, 16))):
        train, val = (open_clips(data, "ntu60", protocol, split) for split in ("train", "val"))
        assert (len(train), len(val)) == expected
        assert sorted(set(train.labels.tolist())) == sorted(set(val.labels.tolist())) == [8, 49]
    two_people = [i for i, name in enumerate(train.names) if name.endswith("A050")]
    assert np.abs(train.frames.numpy()[train.first_frame[two_people[0]], :, :, 1]).max() > 0.1

    common = ["--data-root", data, "--protocol", "cross_subject", "--seed", 1]
    pretraining = ["--epochs", 2, "--batch-size", 6, "--moco-k", 12, "--checkpoint-path", runs / "inter"]
    assert call(main_moco_inter_skeleton, *common, *TINY_FLAGS, *pretraining) == 0
    checkpoint = runs / "inter" / "checkpoint_0001.pth.tar"
    common += ["--finetune-skeleton-representation", "seq-based"]
    for script, task, extra in TASKS:
        for pretrained, sizes in ((checkpoint, []), ("random", TINY_FLAGS)):
            output = ["--output-dir", runs / f"{task}_{pretrained == checkpoint}"]
            assert call(script, *common, "--pretrained", pretrained, *sizes, *extra, *output) == 0
    capsys.readouterr()
    assert call(engine.report, runs) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]
    assert sorted(row[0] for row in rows) == [
        "inter-skeleton seq-based_and_graph-based, 2 epochs",
        "untrained",
    ]
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[5:])
