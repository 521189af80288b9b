"""The linear probe's training crops: fresh every epoch, or K a clip that are computed once."""

import json
import os
import signal

import numpy as np
import pytest
import torch

import engine.features
import engine.probe
from conftest import TINY_FLAGS
from dataset.clips import open_clips
from engine.checkpoint import load_checkpoint
from engine.features import storage_for, training_features
from engine.pretrained import load_encoders
from engine.probe import PROBE_FILE
from engine.report import read_results, results_table
from engine.signals import EXIT_RESUMABLE
from options.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def features_of(small_store):
    """``features_of(cached_crops)``: the features of any epoch of a small untrained encoder."""
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    torch.manual_seed(0)
    encoders = load_encoders("random", None, "seq-based", {"gru_hidden_size": 8, "gru_num_layers": 1})
    return lambda cached_crops: training_features(encoders, encoders, clips, 3, CPU, 0, cached_crops)


def rows(features):
    """The rows in an order that does not depend on theirs."""
    return features[features[:, 0].argsort()]


def test_the_first_k_epochs_are_those_of_fresh_crops(features_of):
    fresh, cached = features_of(None), features_of(3)
    for epoch in range(3):
        for a, b in zip(fresh(epoch), cached(epoch)):
            assert torch.equal(a, b)


def test_later_epochs_repeat_the_crops_in_another_order(features_of):
    fresh, cached = features_of(None), features_of(2)
    first, later, last = cached(1), cached(3), cached(5)
    assert torch.equal(rows(first[0]), rows(later[0])) and torch.equal(rows(later[0]), rows(last[0]))
    assert not torch.equal(first[0], later[0]) and not torch.equal(later[0], last[0])
    assert not torch.equal(rows(fresh(1)[0]), rows(fresh(3)[0])), "fresh crops differ in every epoch"
    label_of = {row[0].item(): label.item() for row, label in zip(*first)}
    assert [label_of[row[0].item()] for row in later[0]] == later[1].tolist(), "labels stay with their clips"
    assert all(torch.equal(a, b) for a, b in zip(features_of(2)(3), later)), "whatever was computed before"


def test_each_crop_is_encoded_once(features_of, monkeypatch):
    drawn, draw = [], engine.features.classifier_view
    monkeypatch.setattr(engine.features, "classifier_view", lambda *a: drawn.append(len(a[1])) or draw(*a))
    for cached_crops, passes in ((2, 2), (None, 5)):
        drawn.clear()
        epoch_features = features_of(cached_crops)
        for epoch in range(5):
            epoch_features(epoch)
        assert sum(drawn) == 20 * passes


def test_more_crops_than_memory_are_refused():
    with pytest.raises(UserError, match="1000000.0 GB of features"):
        storage_for(10**15, CPU)
    assert storage_for(10**6, CPU) == CPU


def test_cached_and_fresh_crops_have_folders_of_their_own(run, tmp_path):
    for flags, folder in (([], "linear_ntu60_cross_view_seed1"), (["--cached-crops", 2], "linear_ntu60_cross_view_crops2_seed1")):
        code, _, err = run("action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 1, "--seed", 1, *flags)
        assert code == 0 and (tmp_path / "runs/random" / folder / "results.json").is_file(), err


def test_a_cached_probe_resumes_exactly_and_says_what_it_is(run, tmp_path, monkeypatch):
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 5, "--seed", 1,
             "--cached-crops", 2]
    code, out, err = run(*probe, "--output-dir", tmp_path / "whole")
    assert code == 0 and "2 cached crops a clip: 0.0 MB of features on cpu" in out, err
    report = engine.probe.report_epoch

    def stop_after_epoch_2(state, *rest):
        report(state, *rest)
        if state.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(engine.probe, "report_epoch", stop_after_epoch_2)
    assert run(*probe, "--output-dir", tmp_path / "two")[0] == EXIT_RESUMABLE
    monkeypatch.setattr(engine.probe, "report_epoch", report)
    for other in (["--cached-crops", 3], []):
        code, _, err = run(*probe[:-2], *other, "--output-dir", tmp_path / "two", "--resume", "auto")
        assert code == 2 and "was trained with 2" in err and "--cached-crops is" in err
    assert run(*probe, "--output-dir", tmp_path / "two", "--resume", "auto")[0] == 0
    numbers = [json.loads((tmp_path / n / "results.json").read_text())["numbers"] for n in ("whole", "two")]
    assert numbers[0] == numbers[1] and numbers[0]["cached_crops"] == 2
    heads = [load_checkpoint(tmp_path / n / PROBE_FILE)["state_dict"] for n in ("whole", "two")]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_features_that_are_no_numbers_stop_the_probe(run, tmp_path, small_store):
    path = small_store / "ntu60" / "frames.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    code, _, err = run("action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 2, "--output-dir", "o")
    assert code == 2 and "the probe's loss is not finite in epoch 0, step 0" in err
    assert not (tmp_path / "o" / PROBE_FILE).exists() and not (tmp_path / "o/results.json").exists()


def test_the_table_tells_cached_crops_from_fresh_ones(run, tmp_path, capsys):
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 1, "--seed", 1, "--output-dir"]
    assert run(*probe, tmp_path / "runs/fresh")[0] == run(*probe, tmp_path / "runs/kept", "--cached-crops", 2)[0] == 0
    header, _, row = results_table(read_results(tmp_path / "runs")).splitlines()
    assert "linear best" in header and "linear, 2 cached crops best" in header and row.count("untrained") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crops_are_kept_on_the_gpu_or_the_host_and_used_on_the_gpu(monkeypatch):
    gpu = torch.device("cuda", 0)

    def extract(epoch):
        source = torch.Generator().manual_seed(epoch)
        return torch.rand(50, 3, generator=source).to(gpu), torch.arange(50, device=gpu)

    epochs = []
    for spare, storage in ((0, gpu), (2**60, CPU)):
        monkeypatch.setattr(engine.features, "SPARE", spare)
        crops = engine.features.CachedCrops(2, extract, 50, 3, seed=1, device=gpu)
        assert crops.storage == storage
        epochs.append([crops(epoch) for epoch in range(4)])
    for (features, labels), (others, other_labels) in zip(*epochs):
        assert features.device == others.device == gpu
        assert torch.equal(features, others) and torch.equal(labels, other_labels)
