"""Fusing the scores of several classifiers."""

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, TINY_FLAGS, results

from engine.scores import Scores, fuse, load_scores, save_scores


def scores(seed, count=40, classes=5, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "logits": rng.normal(size=(count, classes)).astype(np.float32),
        "labels": np.arange(count) % classes,
        "names": np.array([f"clip{i}" for i in range(count)]),
        "class_names": np.array([f"action {i}" for i in range(classes)]),
        "encoder": f"encoder {seed}",
        "representation": "seq-based",
        "dataset": "mine",
        "protocol": "cross_view",
        "seed": seed,
    }
    return Scores(**{**fields, **changes})


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{name}.npz" for name in "abc"]
    for seed, path in enumerate(paths):
        save_scores(path, scores(seed))
    return paths


@pytest.mark.parametrize("on", ["softmax", "logits"])
def test_fusion_is_the_weighted_sum(on):
    logits, weights = [scores(seed).logits for seed in range(3)], [1.0, 0.5, 2.0]
    expected = np.zeros((40, 5))
    for weight, x in zip(weights, logits):
        x = x.astype(np.float64)
        if on == "softmax":
            x = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        expected += weight * x
    np.testing.assert_allclose(fuse(logits, weights, on).numpy(), expected, rtol=1e-6)


def test_ensemble_prints_and_writes_single_and_fused_accuracies(run, files, tmp_path):
    out = run.succeed("ensemble.py", *files, "--weights", 1, 1, 2, "--output-dir", tmp_path / "o")
    found = results(tmp_path / "o")
    labels = torch.from_numpy(scores(0).labels)
    fused = fuse([scores(seed).logits for seed in range(3)], [1, 1, 2], "softmax").argmax(dim=1)
    top1 = 100.0 * (fused == labels).float().mean().item()
    assert found["task"] == "ensemble" and found["numbers"]["fusion"]["top1"] == pytest.approx(top1)
    for entry, seed in zip(found["numbers"]["single"], range(3)):
        single = (scores(seed).logits.argmax(axis=1) == scores(seed).labels).mean()
        assert entry["top1"] == pytest.approx(100 * single) and f"{entry['top1']:.2f}%" in out
    assert f"fusion of softmax: top-1 {top1:.2f}%" in out and (tmp_path / "o/confusion.csv").is_file()
    out = run.succeed("engine.report.py", tmp_path / "o")
    assert f"{top1:.1f}" in out and "fusion" in out


OTHER_NAMES = np.array([f"clip{i}" for i in range(39)] + ["other"])
SIX = {"logits": np.zeros((40, 6), dtype=np.float32), "class_names": np.array(list("abcdef"))}


def test_scores_that_cannot_be_fused_are_one_line_errors(run, files, tmp_path):
    """Flags, damaged files and scores of other clips, classes or datasets; nothing is written."""
    (tmp_path / "text.npz").write_text("no archive")
    for name, change in {
        "names": {"names": OTHER_NAMES},
        "labels": {"labels": np.zeros(40, dtype=np.int64)},
        "dataset": {"dataset": "ntu60"},
        "six": SIX,
        "nan": {"logits": np.full((40, 5), np.nan, dtype=np.float32)},
        "few": {"class_names": np.array(["a"] * 4)},
        "scalar": {"class_names": np.array("a")},
    }.items():
        save_scores(tmp_path / f"{name}.npz", scores(1, **change))
    for flags, message in (
        (["a.npz", "names.npz"], "file 2 differs from file 1 in its names: other instead of clip39"),
        (["a.npz", "b.npz", "labels.npz"], "file 3 differs from file 1 in its labels: 0 instead of 1"),
        (["a.npz", "dataset.npz"], "in its dataset: ntu60 instead of mine"),
        (["a.npz", "six.npz"], "in its class_names: a instead of action 0"),
        (["a.npz", "nan.npz"], "non-finite"),
        (["a.npz", "few.npz"], "do not match"),
        (["a.npz", "scalar.npz"], "scalar.npz is not a file of"),
        (["a.npz"], "at least two"),
        (["a.npz", "b.npz", "--weights", "1"], "give 2 numbers"),
        (["a.npz", "b.npz", "--weights", "0", "0"], "above 0"),
        (["a.npz", "missing.npz"], "missing.npz is not a file of"),
        (["a.npz", "text.npz"], "text.npz is not a file of"),
    ):
        assert message in run.fail("ensemble.py", *flags, "--output-dir", "o")
    assert not (tmp_path / "o").exists()


def test_scores_of_a_classifier_are_those_of_its_results(run, tmp_path):
    flags = ["--pretrained", "random", *TINY_FLAGS, "--epochs", 2, "--output-dir", tmp_path / "o"]
    run.succeed(CLASSIFICATION, *flags, "--save-scores", tmp_path / "scores.npz")
    saved = load_scores(tmp_path / "scores.npz")
    accuracy = 100 * (saved.logits.argmax(axis=1) == saved.labels).mean()
    assert accuracy == pytest.approx(results(tmp_path / "o")["numbers"]["last"]["top1"])
    assert saved.names[0].startswith("S001C001") and saved.class_names[0] == "drink water"


def contents(folder):
    """The content of each file in a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_of_another_run_is_not_overwritten(run, files, tmp_path, pretrained, probe):
    probe.succeed(tmp_path / "probe", "--epochs", 1)
    for folder in (pretrained, tmp_path / "probe"):
        before = contents(folder)
        assert "choose another --output-dir" in run.fail("ensemble.py", *files, "--output-dir", folder)
        assert contents(folder) == before
