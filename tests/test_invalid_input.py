"""Flags and data that no run can use: a one-line error with exit code 2 before anything is written."""

import json

import pytest
from conftest import CLASSIFICATION, INTER, INTRA, RETRIEVAL, TINY_FLAGS, one_line, write_eight_clips

SMALL = "--moco-k 16 --batch-size 4 --epochs 2 --seed 5"
CASES = [
    (INTER, "--data-root nowhere", "nowhere is not a folder"),
    (INTER, "--pre-dataset ntu120", "no dataset 'ntu120'"),
    (INTER, "--protocol cross_setup", "choose from cross_subject, cross_view"),
    (INTER, "--batch-size 5", "--batch-size 5 does not divide --moco-k 16"),
    (INTER, "--batch-size 32 --moco-k 32", "fewer than --batch-size 32"),
    (INTER, "--skeleton-representation seq-based", "needs at least two representations"),
    (INTER, "--skeleton-representation seq-based_and_x", "'x' is not a skeleton representation"),
    (INTRA, "--skeleton-representation seq-based_and_graph-based", "takes one representation"),
    (INTER, "--graph-width 6", "--graph-width 6: must be a multiple of 4"),
    (INTRA, "--skeleton-representation image-based --num-frames 20", "multiples of 16"),
    (INTER, "--augmentations mirror", "--augmentations mirror: choose from crop, pose, jitter"),
    (INTER, "--resume missing.pth.tar", "checkpoint missing.pth.tar does not exist"),
    (INTER, "--gpu 93", "--gpu 93"),
    (INTER, "--start-epoch 2", "leaves no epoch of --epochs 2"),
    (INTER, "--lr -1", "must be above 0"),
    (INTER, "--epoch 3", "unrecognized arguments"),
    (CLASSIFICATION, "--pretrained random --start-epoch 80", "leaves no epoch of --epochs 80"),
    (CLASSIFICATION, "--pretrained missing.pth.tar", "checkpoint missing.pth.tar does not exist"),
    (CLASSIFICATION, "", "--mode linear needs --pretrained"),
    (RETRIEVAL, "--pretrained random --knn-neighbours 21", "20 training clips"),
    (RETRIEVAL, "--pretrained random --protocol sideways", "choose from"),
]


@pytest.mark.parametrize("script, flags, message", CASES)
def test_invalid_flags(run, tmp_path, script, flags, message):
    usual = [*(SMALL.split() if script in (INTER, INTRA) else []), *TINY_FLAGS]
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(script, *usual, *flags.split())
    assert code == 2 and message in err and one_line(err)
    assert sorted(tmp_path.rglob("*")) == before


def test_unusable_data(run, tmp_path):
    pretraining, evaluation = [*SMALL.split(), *TINY_FLAGS], ["--pretrained", "random", *TINY_FLAGS]
    for i, (script, flags, change, message) in enumerate(
        [
            (
                INTER,
                pretraining,
                {"version": 99},
                "store.json has format version 99, but this version reads 1",
            ),
            (INTER, pretraining, {"val": 8}, "has no clip in the 'train' split of cross_view"),
            (INTER, pretraining, {"val": 6}, "the training split has 2 clips, fewer than --batch-size 4"),
            (RETRIEVAL, evaluation, {"val": 0}, "has no clip in the 'val' split of cross_view"),
            (CLASSIFICATION, evaluation, {"val": 0}, "has no clip in the 'val' split of cross_view"),
        ]
    ):
        write_eight_clips(tmp_path / str(i), **change)
        before = sorted(tmp_path.rglob("*"))
        code, _, err = run(script, *flags, "--data-root", tmp_path / str(i))
        assert code == 2 and message in err and one_line(err)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("script", [RETRIEVAL, CLASSIFICATION])
def test_classes_without_training_clip_are_noted(run, tmp_path, script):
    """A note, not an error: small datasets have such classes, and the others can still be measured."""
    write_eight_clips(tmp_path / "d", labels=[0, 1, 0, 1, 0, 1, 5, 2], val=3)
    flags = ["--epochs", 1, "--data-root", tmp_path / "d", "--output-dir", tmp_path / "o"]
    code, out, err = run(script, "--pretrained", "random", *TINY_FLAGS, *flags)
    assert code == 0, err
    assert "note: 2 validation classes have no training clips and cannot be predicted: 2 5 (counted" in out
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    assert results["classes_without_train_clip"] == [2, 5]
