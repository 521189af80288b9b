"""Diagnostics of pretraining: the measures, their independence of the training, and the warnings."""

import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from conftest import INTER, INTRA, TINY, log_lines, write_store

from dataset.clips import open_clips
from dataset.store_format import FRAMES_FILE
from dataset.views import pretraining_view
from engine.diagnostics import (
    Monitor,
    Warnings,
    alignment,
    effective_rank,
    identical_views_note,
    leave_one_out_accuracy,
    problems,
    uniformity,
)
from moco.model import MomentumEncoders, unit
from models.registry import REPRESENTATIONS, build_encoder

HEALTHY = {
    "relative_loss/seq->graph": 0.6,
    "contrastive_accuracy/seq->graph": 40.0,
    "feature_rank/seq": 30.0,
    "uniformity/seq": -2.0,
}
AT_CHANCE = {"relative_loss/seq->graph": 1.0, "contrastive_accuracy/seq->graph": 0.4}


def test_effective_rank_counts_the_directions():
    assert effective_rank(torch.eye(8)) == pytest.approx(8.0, rel=1e-4)
    assert effective_rank(torch.ones(8, 5)) == pytest.approx(1.0, rel=1e-4)
    two = torch.tensor([[1.0, 0.0, 0.0]] * 4 + [[0.0, 1.0, 0.0]] * 4)
    assert effective_rank(two) == pytest.approx(2.0, rel=1e-4)
    assert math.isnan(effective_rank(torch.tensor([[1.0, float("nan")]])))


def test_alignment_and_uniformity_of_known_vectors():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert alignment(x, x) == 0.0 and alignment(x, -x) == pytest.approx(4.0)
    assert uniformity(x) == pytest.approx(-4.0)  # one pair, squared distance 2
    assert uniformity(torch.ones(5, 2)) == 0.0


def test_leave_one_out_accuracy_excludes_the_query():
    x = unit(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]))
    assert leave_one_out_accuracy(x, torch.tensor([0, 0, 1, 1])) == 100.0
    assert leave_one_out_accuracy(x, torch.tensor([0, 1, 0, 1])) == 0.0


def test_monitor_measures_all_representations_and_leaves_no_trace(small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    torch.manual_seed(0)
    encoders = MomentumEncoders({name: build_encoder(name, 16, **TINY) for name in REPRESENTATIONS})
    before = {name: x.clone() for name, x in encoders.state_dict().items()}
    state = torch.get_rng_state()
    view, cpu = pretraining_view(num_frames=TINY["num_frames"]), torch.device("cpu")
    monitor = Monitor(encoders.train(), clips, view, 3, cpu, knn=True)
    metrics = monitor.measure()
    assert encoders.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in encoders.state_dict().items())
    assert metrics == monitor.measure()  # the same clips and views every time
    short = [name.split("-")[0] for name in REPRESENTATIONS]
    kinds = ("feature_rank", "embedding_rank", "alignment", "uniformity", "knn")
    assert metrics.pop("monitored_clips") == 20
    assert metrics.keys() == {f"{kind}/{name}" for kind in kinds for name in short}
    assert all(1 <= metrics[f"embedding_rank/{name}"] <= 16 for name in short)


def test_monitoring_does_not_change_the_training(pretrain, tmp_path):
    losses = []
    for folder, freq in (("a", 1), ("b", 100)):
        pretrain.succeed(tmp_path / folder, "--epochs", 3, "--monitor-freq", freq, "--monitor-knn")
        lines = log_lines(tmp_path / folder)
        losses.append([line["loss"] for line in lines])
        measured = ["knn/seq" in line for line in lines]
        assert measured == ([True] * 3 if freq == 1 else [True, False, True])
        chance = math.log(17)
        for line in lines:
            relative = [v for k, v in line.items() if k.startswith("relative_loss/")]
            assert sum(relative) * chance == pytest.approx(line["loss"], rel=1e-4)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "changes, found",
    [
        ({}, set()),
        ({**AT_CHANCE}, {"chance"}),
        ({"relative_loss/seq->graph": 1.0, "contrastive_accuracy/seq->graph": 93.0}, {"shortcut"}),
        ({"feature_rank/seq": 1.2}, {"collapse"}),
        ({"uniformity/seq": -0.1}, {"collapse"}),
        ({**AT_CHANCE, "uniformity/seq": -0.1}, {"collapse"}),
    ],
)
def test_problems(changes, found):
    assert problems({**HEALTHY, **changes}).keys() == found
    queueless = problems({**HEALTHY, **changes}, has_queue=False)
    assert "shortcut" not in queueless, "the keys of a batch have the same age"


def test_collapse_names_the_terms_of_the_loss():
    terms = {"feature_rank/seq": 1.2, "loss/info_nce": 3.4, "loss/distillation": 0.001}
    text = problems({**HEALTHY, **terms})["collapse"]
    assert "info_nce 3.4, distillation 0.001" in text and "raise --distill-start" in text


@pytest.mark.parametrize("clips, rank, collapsed", [(2, 1.6, 0), (2, 1.05, 1), (10, 2.0, 0), (256, 2.0, 1)])
def test_rank_of_few_clips_is_compared_with_their_number(clips, rank, collapsed):
    few = {"monitored_clips": clips, "feature_rank/seq": rank, "uniformity/seq": -0.4 if clips < 20 else -2}
    assert ("collapse" in problems({**HEALTHY, **few})) == collapsed


@pytest.mark.parametrize(
    "augmentations, frames, ratio, share",
    [("crop", 64, 0.1, ["60%"]), ("crop", 4, 0.1, []), ("crop", 4, 1.0, ["100%"]), ("", 4, 0.1, ["100%"])]
    + [("crop pose", 64, 0.1, [])],
)
def test_identical_views_are_noted_with_their_share(small_store, augmentations, frames, ratio, share):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    args = Namespace(augmentations=augmentations.split(), min_crop_frames=frames, min_crop_ratio=ratio)
    view = pretraining_view(vars(args))
    batch = torch.arange(len(clips))
    first, second = (view.of(clips, batch, torch.Generator().manual_seed(i)) for i in range(2))
    same = (first == second).flatten(1).all(dim=1).float().mean().item()
    assert [line.split("of ")[1].split()[0] for line in identical_views_note(clips, args)] == share
    assert 100 * same == pytest.approx(float((share or ["0%"])[0][:-1]), abs=6), "others may agree by chance"


def test_each_warning_is_given_once_and_not_at_the_start():
    warnings = Warnings(epochs=100)
    lines = [line for epoch in range(100) for line in warnings.check(epoch, {**HEALTHY, "uniformity/seq": 0})]
    assert len(lines) == 1 and lines[0].startswith("warning, epoch 26: seq: the features have collapsed")


def test_single_epochs_are_not_reported():
    """In a small dataset an epoch is one step, whose loss can be at chance in a healthy run."""
    warnings = Warnings(epochs=1000)
    for epoch in range(1000):
        assert warnings.check(epoch, {**HEALTHY, **AT_CHANCE} if epoch % 2 else HEALTHY) == []
    lines = [line for epoch in range(1000, 1020) for line in warnings.check(epoch, {**HEALTHY, **AT_CHANCE})]
    assert len(lines) == 1 and "the loss is still at chance" in lines[0]


def test_values_that_are_not_measured_in_every_epoch_are_remembered():
    warnings = Warnings(epochs=16)
    losses = {name: value for name, value in HEALTHY.items() if "rank" not in name and "uniform" not in name}
    lines = [warnings.check(e, losses if e else {**HEALTHY, "feature_rank/seq": 1.0}) for e in range(16)]
    assert sum(map(len, lines)) == 1 and "collapsed" in lines[4][0]


@pytest.mark.parametrize(
    "settings, warned",
    [
        ("--moco-k 0 --moco-m 0.99 --lr 0.1", False),
        # The key encoder moves so far per step that the keys of a batch differ by their age.
        ("--moco-k 32 --moco-m 0.9 --lr 1", True),
    ],
)
def test_collapsing_run_has_a_warning_and_a_healthy_one_none(run, tmp_path, settings, warned):
    """64 clips of one random pose each, plus noise: easy to tell apart."""
    names, lengths = [f"S001C002P{i + 1:03d}R001A{i % 4 + 1:03d}" for i in range(64)], [20] * 64
    splits = {"cross_view": ["train"] * 64}
    store = write_store(tmp_path / "still/ntu60", names, [i % 4 for i in range(64)], lengths, splits)
    noise = np.load(store / FRAMES_FILE)
    poses = np.random.default_rng(0).normal(size=(64, *noise.shape[1:]))
    np.save(store / FRAMES_FILE, (0.5 * np.repeat(poses, 20, axis=0) + 0.1 * noise).astype(np.float32))
    flags = f"{settings} --num-frames 4 --gru-hidden-size 16 --gru-num-layers 1 --augmentations crop"
    flags += " --batch-size 16 --min-crop-frames 5 --no-mlp --cos --moco-t 0.2 --seed 0 --epochs 12"
    flags += " --monitor-freq 2"
    script, sizes = (INTER, ["--graph-width", 4, "--graph-num-blocks", 2]) if warned else (INTRA, [])
    place = ["--data-root", tmp_path / "still", "--checkpoint-path", tmp_path / "run"]
    code, output, error = run(script, *flags.split(), *sizes, *place)
    assert code == 0 and "epoch   12/12" in output, error
    assert ("warning, epoch" in output) == warned
    assert ("distinguished by their age" in output or "features have collapsed" in output) == warned
