"""Training crops of the linear probe: new ones in every epoch, or K per clip that are computed once."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS, in_optimizer_step, log_lines, results, same_state, terminate

import engine.features
from dataset.clips import open_clips
from engine.classifier import PROBE_FILE
from engine.encoders import load_encoders
from engine.features import FeatureExtractor, TrainingFeatures
from engine.signals import EXIT_RESUMABLE

CPU = torch.device("cpu")
PROBE = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--seed", 1]


@pytest.fixture
def features_of(small_store):
    """``features_of(cached_crops)(epoch)`` returns features of a small untrained encoder."""
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    torch.manual_seed(0)
    encoders = load_encoders("random", None, "seq-based", {"gru_hidden_size": 8, "gru_num_layers": 1})

    def call(cached_crops, device=CPU):
        return TrainingFeatures(FeatureExtractor(encoders.to(device), device), clips, 3, cached_crops)

    return call


def rows(features):
    """The rows sorted by their first value."""
    return features[features[:, 0].argsort()]


def test_cached_crops_are_encoded_once_and_reshuffled(features_of, monkeypatch):
    encoded, encode = [], FeatureExtractor.features
    monkeypatch.setattr(FeatureExtractor, "features", lambda *a: encoded.append(len(a[1])) or encode(*a))
    fresh, cached = features_of(None), features_of(2)
    new, old = [fresh(epoch) for epoch in range(5)], [cached(epoch) for epoch in range(5)]
    assert sum(encoded) == 20 * (5 + 2)
    assert not torch.equal(rows(new[1][0]), rows(new[3][0])), "new crops differ in every epoch"
    for epoch in range(5):  # the first two epochs are equal, later ones repeat them in another order
        assert torch.equal(rows(old[epoch][0]), rows(new[epoch % 2][0]))
        assert torch.equal(old[epoch][0], new[epoch % 2][0]) == (epoch < 2)
    assert not torch.equal(old[2][0], old[4][0])
    label_of = {row[0].item(): label.item() for row, label in zip(*old[1])}
    assert [label_of[row[0].item()] for row in old[3][0]] == old[3][1].tolist(), "each clip keeps its label"
    assert all(torch.equal(a, b) for a, b in zip(features_of(2)(3), old[3])), "independent of earlier calls"


def test_cached_probe_resumes_exactly(probe, tmp_path):
    flags = ["--seed", 1, "--epochs", 5, "--cached-crops"]
    out = probe.succeed(tmp_path / "whole", *flags, 2)
    assert "2 cached crops per clip: 0.0 MB of features on cpu" in out
    with in_optimizer_step(2, terminate):  # one step per epoch
        assert probe(tmp_path / "two", *flags, 2)[0] == EXIT_RESUMABLE
    resume = [tmp_path / "two", "--resume", "auto", *flags]
    for other, spelled in (([*resume, 3], "--cached-crops 3"), (resume[:-1], "no --cached-crops")):
        err = probe.fail(*other)
        assert "was trained with --cached-crops 2" in err and f"error: {spelled}, but" in err
    probe.succeed(*resume, 2)
    numbers = [results(tmp_path / name)["numbers"] for name in ("whole", "two")]
    assert numbers[0] == numbers[1] and numbers[0]["cached_crops"] == 2
    assert same_state(tmp_path / "whole" / PROBE_FILE, tmp_path / "two" / PROBE_FILE)


def test_log_has_one_line_per_epoch_and_the_configuration(run, tmp_path):
    command = [*PROBE, "--schedule", 2, "--output-dir", tmp_path / "o"]
    assert "config: " in run.succeed(*command, "--epochs", 2)
    run.succeed(*command, "--epochs", 3, "--resume", "auto")
    lines = log_lines(tmp_path / "o")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.1, 0.1, 0.01])
    best = results(tmp_path / "o")["numbers"]["best"]
    assert max(line["top1"] for line in lines) == best["top1"] and all(line["loss"] > 0 for line in lines)
    config = json.loads((tmp_path / "o/config.json").read_text())
    assert (config["epochs"], config["seed"], config["optimizer"]) == (3, 1, "sgd")
    assert config["output_dir"] == str(tmp_path / "o") and config["workers"] == 0


def test_non_finite_features_stop_the_probe(run, tmp_path, small_store):
    path = small_store / "ntu60" / "frames.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    err = run.fail(*PROBE, "--epochs", 2, "--output-dir", "o")
    assert "non-finite loss of the linear probe in epoch 1, step 0" in err
    assert not (tmp_path / "o" / PROBE_FILE).exists() and not (tmp_path / "o/results.json").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cached_crops_are_stored_on_gpu_or_host_and_used_on_gpu(features_of, monkeypatch):
    gpu = torch.device("cuda", 0)
    epochs = []
    for reserve, storage in ((0, gpu), (2**60, CPU)):
        monkeypatch.setattr(engine.features, "GPU_RESERVE", reserve)
        crops = features_of(2, gpu)
        assert crops.storage == storage
        epochs.append([crops(epoch) for epoch in range(4)])
    for (features, labels), (others, other_labels) in zip(*epochs):
        assert features.device == others.device == gpu
        torch.testing.assert_close(features, others)
        assert torch.equal(labels, other_labels)
