"""All stages joined, at the smallest size: raw files -> store -> pretraining -> results -> table."""

import sys

import numpy as np
import pytest

import action_classification
import action_retrieval
import engine.report
import main_moco_inter_skeleton
from conftest import TINY_FLAGS
from data_gen import ntu_gendata, synthetic_gendata
from dataset.clips import open_clips


@pytest.fixture
def call(monkeypatch):
    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", ["script", *map(str, flags)])
        return script.main() or 0

    return run


def test_from_raw_files_to_a_table(call, tmp_path, capsys):
    raw, data, runs = tmp_path / "raw", tmp_path / "data", tmp_path / "runs"
    assert call(synthetic_gendata, "--out-folder", raw, "--subjects", 4, "--actions", 9, 50, "--cameras", 3) == 0
    assert call(ntu_gendata, "--data-path", raw, "--out-folder", data / "ntu60") == 0
    for protocol, expected in (("cross_subject", (36, 12)), ("cross_view", (32, 16))):
        train, val = (open_clips(data, "ntu60", protocol, split) for split in ("train", "val"))
        assert (len(train), len(val)) == expected
        assert sorted(set(train.labels.tolist())) == sorted(set(val.labels.tolist())) == [8, 49]
    two_people = [i for i, name in enumerate(train.names) if name.endswith("A050")]
    assert np.abs(train.frames.numpy()[train.first_frame[two_people[0]], :, :, 1]).max() > 0.1

    common = ["--data-root", data, "--protocol", "cross_subject", "--seed", 1]
    assert call(main_moco_inter_skeleton, *common, *TINY_FLAGS, "--epochs", 2, "--batch-size", 6,
                "--moco-k", 12, "--checkpoint-path", runs / "inter") == 0
    checkpoint = runs / "inter" / "checkpoint_0001.pth.tar"
    for script, task, extra in ((action_retrieval, "retrieval", []), (action_classification, "linear", ["--epochs", 2])):
        for pretrained, sizes in ((checkpoint, []), ("random", TINY_FLAGS)):
            assert call(script, *common, "--pretrained", pretrained, *sizes, *extra, "--output-dir",
                        runs / f"{task}_{pretrained == checkpoint}", "--finetune-skeleton-representation", "seq-based") == 0
    capsys.readouterr()
    assert call(engine.report, runs) == 0
    table = [[c.strip() for c in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[1:]]
    assert sorted(row[0] for row in table[2:]) == ["inter-skeleton seq-based_and_graph-based, 2 epochs", "untrained"]
    assert all(0 <= float(cell) <= 100 for row in table[2:] for cell in row[5:])
