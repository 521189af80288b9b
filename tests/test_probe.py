"""Training crops of the linear probe: new ones in every epoch, or K per clip that are computed once."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS

import engine.classifier
import engine.features
from dataset.clips import open_clips
from engine.checkpoint import load_checkpoint
from engine.encoders import load_encoders
from engine.features import CachedCrops, FeatureExtractor, cache_device, training_features
from engine.probe import PROBE_FILE
from engine.report import read_results, results_table
from engine.signals import EXIT_RESUMABLE
from utils.errors import UserError

CPU = torch.device("cpu")
PROBE = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--seed", 1]


@pytest.fixture
def features_of(small_store):
    """``features_of(cached_crops)(epoch)`` returns features of a small untrained encoder."""
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    torch.manual_seed(0)
    encoders = load_encoders("random", None, "seq-based", {"gru_hidden_size": 8, "gru_num_layers": 1})
    extractor = FeatureExtractor(encoders, CPU)
    return lambda cached_crops: training_features(extractor, clips, 3, cached_crops)


def rows(features):
    """The rows sorted by their first value."""
    return features[features[:, 0].argsort()]


def test_first_k_epochs_match_new_crops(features_of):
    fresh, cached = features_of(None), features_of(3)
    for epoch in range(3):
        for a, b in zip(fresh(epoch), cached(epoch)):
            assert torch.equal(a, b)


def test_later_epochs_repeat_crops_in_another_order(features_of):
    fresh, cached = features_of(None), features_of(2)
    first, later, last = cached(1), cached(3), cached(5)
    assert torch.equal(rows(first[0]), rows(later[0])) and torch.equal(rows(later[0]), rows(last[0]))
    assert not torch.equal(first[0], later[0]) and not torch.equal(later[0], last[0])
    assert not torch.equal(rows(fresh(1)[0]), rows(fresh(3)[0])), "new crops differ in every epoch"
    label_of = {row[0].item(): label.item() for row, label in zip(*first)}
    assert [label_of[row[0].item()] for row in later[0]] == later[1].tolist(), "each clip keeps its label"
    again = features_of(2)(3)
    assert all(torch.equal(a, b) for a, b in zip(again, later)), "independent of earlier calls"


def test_each_crop_is_encoded_once(features_of, monkeypatch):
    encoded, extract = [], FeatureExtractor.features

    def counted(extractor, view):
        encoded.append(len(view))
        return extract(extractor, view)

    monkeypatch.setattr(FeatureExtractor, "features", counted)
    for cached_crops, passes in ((2, 2), (None, 5)):
        encoded.clear()
        epoch_features = features_of(cached_crops)
        for epoch in range(5):
            epoch_features(epoch)
        assert sum(encoded) == 20 * passes


def test_cache_larger_than_memory_is_rejected():
    with pytest.raises(UserError, match="--cached-crops needs 1000000.0 GB for features"):
        cache_device(10**15, CPU)
    assert cache_device(10**6, CPU) == CPU


def test_cached_and_new_crops_have_separate_folders(run, tmp_path):
    for flags, folder in (
        ([], "linear_ntu60_cross_view_seed1"),
        (["--cached-crops", 2], "linear_ntu60_cross_view_crops2_seed1"),
    ):
        code, _, err = run(*PROBE, "--epochs", 1, *flags)
        assert code == 0 and (tmp_path / "runs/random" / folder / "results.json").is_file(), err


def test_cached_probe_resumes_exactly(run, tmp_path, monkeypatch):
    probe = [*PROBE, "--epochs", 5, "--cached-crops", 2]
    code, out, err = run(*probe, "--output-dir", tmp_path / "whole")
    assert code == 0 and "2 cached crops per clip: 0.0 MB of features on cpu" in out, err
    report = engine.classifier.report_epoch

    def stop_after_two_epochs(training, *rest):
        report(training, *rest)
        if training.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(engine.classifier, "report_epoch", stop_after_two_epochs)
    assert run(*probe, "--output-dir", tmp_path / "two")[0] == EXIT_RESUMABLE
    monkeypatch.setattr(engine.classifier, "report_epoch", report)
    for other, spelled in ((["--cached-crops", 3], "--cached-crops 3"), ([], "no --cached-crops")):
        code, _, err = run(*probe[:-2], *other, "--output-dir", tmp_path / "two", "--resume", "auto")
        assert code == 2 and "was trained with --cached-crops 2" in err and f"error: {spelled}, but" in err
    assert run(*probe, "--output-dir", tmp_path / "two", "--resume", "auto")[0] == 0
    numbers = [json.loads((tmp_path / n / "results.json").read_text())["numbers"] for n in ("whole", "two")]
    assert numbers[0] == numbers[1] and numbers[0]["cached_crops"] == 2
    heads = [load_checkpoint(tmp_path / n / PROBE_FILE)["state_dict"] for n in ("whole", "two")]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_log_has_one_line_per_epoch_and_the_configuration(run, tmp_path):
    command = [*PROBE, "--schedule", 2, "--output-dir", tmp_path / "o"]
    code, out, err = run(*command, "--epochs", 2)
    assert code == 0 and "config: " in out, err
    code, _, err = run(*command, "--epochs", 3, "--resume", "auto")
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "o/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.1, 0.1, 0.01])
    best = json.loads((tmp_path / "o/results.json").read_text())["numbers"]["best"]
    assert max(line["top1"] for line in lines) == best["top1"] and all(line["loss"] > 0 for line in lines)
    config = json.loads((tmp_path / "o/config.json").read_text())
    assert (config["epochs"], config["seed"], config["optimizer"]) == (3, 1, "sgd")
    assert config["output_dir"] == str(tmp_path / "o") and config["workers"] == 0


def test_non_finite_features_stop_the_probe(run, tmp_path, small_store):
    path = small_store / "ntu60" / "frames.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    code, _, err = run(*PROBE, "--epochs", 2, "--output-dir", "o")
    assert code == 2 and "non-finite loss of the linear probe in epoch 0, step 0" in err
    assert not (tmp_path / "o" / PROBE_FILE).exists() and not (tmp_path / "o/results.json").exists()


def test_table_distinguishes_cached_crops(run, tmp_path, capsys):
    probe = [*PROBE, "--epochs", 1, "--output-dir"]
    assert run(*probe, tmp_path / "runs/new")[0] == 0
    assert run(*probe, tmp_path / "runs/cached", "--cached-crops", 2)[0] == 0
    header, _, row = results_table(read_results(tmp_path / "runs")).splitlines()
    assert "linear best" in header and "linear, 2 cached crops best" in header and row.count("untrained") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cached_crops_are_stored_on_gpu_or_host_and_used_on_gpu(monkeypatch):
    gpu = torch.device("cuda", 0)

    def extract(epoch):
        source = torch.Generator().manual_seed(epoch)
        return torch.rand(50, 3, generator=source).to(gpu), torch.arange(50, device=gpu)

    epochs = []
    for reserve, storage in ((0, gpu), (2**60, CPU)):
        monkeypatch.setattr(engine.features, "GPU_RESERVE", reserve)
        assert cache_device(4 * 2 * 50 * 3, gpu) == storage
        crops = CachedCrops(2, extract, seed=1, device=gpu, storage=storage)
        epochs.append([crops(epoch) for epoch in range(4)])
    for (features, labels), (others, other_labels) in zip(*epochs):
        assert features.device == others.device == gpu
        assert torch.equal(features, others) and torch.equal(labels, other_labels)
