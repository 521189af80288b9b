"""All stages at the smallest size: raw files -> store -> pretraining -> results -> table."""

import numpy as np
from conftest import CLASSIFICATION, INTER, RETRIEVAL, TINY_FLAGS

from dataset.clips import open_clips


def test_raw_files_to_table(run, tmp_path):
    def call(script, *flags):
        code, out, err = run(script, *flags)
        assert code == 0, err
        return out

    raw, data, runs = tmp_path / "raw", tmp_path / "data2", tmp_path / "runs"
    generate = ("--out-folder", raw, "--subjects", 4, "--actions", 9, 50, "--cameras", 3)
    call("data_gen.synthetic.make_ntu", *generate)
    call("data_gen.ntu_gendata", "--data-path", raw, "--out-folder", data / "ntu60")
    for protocol, expected in (("cross_subject", (36, 12)), ("cross_view", (32, 16))):
        train, val = (open_clips(data, "ntu60", protocol, split) for split in ("train", "val"))
        assert (len(train), len(val)) == expected
        assert sorted(set(train.labels.tolist())) == sorted(set(val.labels.tolist())) == [8, 49]
    two_people = [i for i, name in enumerate(train.names) if name.endswith("A050")]
    assert np.abs(train.frames.numpy()[train.first_frame[two_people[0]], :, :, 1]).max() > 0.1

    common = ["--data-root", data, "--protocol", "cross_subject", "--seed", 1]
    pretraining = ["--epochs", 2, "--batch-size", 6, "--moco-k", 12, "--checkpoint-path", runs / "inter"]
    call(INTER, *common, *TINY_FLAGS, *pretraining)
    common += ["--finetune-skeleton-representation", "seq-based", "--output-dir"]
    for pretrained, *sizes in ((runs / "inter" / "checkpoint_0001.pth.tar",), ("random", *TINY_FLAGS)):
        encoder = ["--pretrained", pretrained, *sizes]
        call(RETRIEVAL, *common, runs / f"retrieval_{len(sizes)}", *encoder)
        call(CLASSIFICATION, *common, runs / f"linear_{len(sizes)}", *encoder, "--epochs", 2)
    lines = call("engine.report", runs).splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]
    assert sorted(row[0] for row in rows) == [
        "inter-skeleton seq-based_and_graph-based, 2 epochs",
        "untrained",
    ]
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[5:])
