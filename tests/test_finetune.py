"""Fine-tuning, supervised and semi-supervised training, transfer, and concatenated encoders."""

import csv

import numpy as np
import pytest
import torch
from conftest import (
    TINY,
    TINY_FLAGS,
    TINY_SIZES,
    in_optimizer_step,
    kill,
    results,
    saved_at_every_opportunity,
    terminate,
    write_pretraining,
)

import action_classification
from dataset.clips import open_clips
from dataset.views import classifier_view
from engine.checkpoint import load_checkpoint
from engine.classifier import FINETUNE_FILE, linear_head
from engine.encoders import load_encoders
from engine.randomness import DROPOUT, ORDER, VIEWS, generator, seed_globally
from engine.report import read_results, results_table
from engine.signals import EXIT_RESUMABLE
from models.registry import build_encoder, lay_out
from utils.errors import UserError

SCRIPT = "action_classification.py"
SUPERVISED = [SCRIPT, "--mode", "supervised", *TINY_FLAGS, "--batch-size", 8, "--seed", 1]


@pytest.fixture
def checkpoint(tmp_path):
    return write_pretraining(tmp_path / "inter.pth.tar", ("seq-based", "graph-based"))


def weights(folder):
    return load_checkpoint(folder / FINETUNE_FILE)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_weights_match_plain_training_loop(run, tmp_path, small_store, checkpoint):
    """Adam on encoder and head, crops of at least half, BatchNorm and dropout in training mode."""
    flags = f"--mode finetune --pretrained {checkpoint} --finetune-skeleton-representation graph-based"
    flags += " --epochs 2 --batch-size 8 --schedule 1 --seed 4 --output-dir o"
    run.succeed(SCRIPT, *flags.split())
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    encoder = build_encoder("graph-based", 8, **TINY_SIZES)
    before = load_checkpoint(checkpoint)["state_dict"]
    encoder.load_state_dict(
        {k.removeprefix("encoders.query.graph-based."): v for k, v in before.items() if "graph" in k}
    )
    encoder.fc = linear_head(16, 60, seed=4)
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-4, fused=True)
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = 1e-4 if epoch == 0 else 1e-5
        batches = torch.randperm(20, generator=generator(4, ORDER, epoch)).split(8)
        for step, index in enumerate(batches):
            view = classifier_view(TINY["num_frames"]).of(clips, index, generator(4, VIEWS, epoch, step))
            x = lay_out(view, ("graph-based",))["graph-based"]
            seed_globally(4, DROPOUT, epoch, step)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(encoder(x), clips.labels[index]).backward()
            optimizer.step()
    trained, expected = weights(tmp_path / "o"), encoder.state_dict()
    for name, tensor in expected.items():
        prefix = "" if name.startswith("fc.") else "encoders.encoders.graph-based."
        found = trained[prefix + name.replace("fc.", "head.")]
        torch.testing.assert_close(found, tensor, rtol=1e-6, atol=1e-7)
    tracked = [name for name in expected if name.endswith("num_batches_tracked")]
    counts = [(expected[name], before[f"encoders.query.graph-based.{name}"]) for name in tracked]
    assert counts and all(after == count + 6 for after, count in counts)


@pytest.mark.parametrize(
    "representation, end, ended, step",
    [("image-based", terminate, EXIT_RESUMABLE, 2), ("graph-based", kill, 130, 1)],  # dropout; BatchNorm
)
def test_run_interrupted_within_an_epoch_resumes_exactly(run, tmp_path, representation, end, ended, step):
    flags = ["--finetune-skeleton-representation", representation, "--epochs", 2, "--resume", "auto"]
    flags = [*SUPERVISED, *flags, "--output-dir"]
    assert "starting a new run" in run.succeed(*flags, tmp_path / "whole")
    folder = tmp_path / "interrupted"
    with saved_at_every_opportunity(), in_optimizer_step(5, end):
        assert run(*flags, folder)[0] == ended
    assert not (folder / "results.json").exists()
    assert f"epoch 2, step {step}" in run.succeed(*flags, folder)
    run.succeed(*flags, folder)  # no epoch is left to train
    assert same(weights(tmp_path / "whole"), weights(folder))
    assert results(folder)["numbers"] == results(tmp_path / "whole")["numbers"]
    assert "has no optimizer state" in run.fail(*flags, folder, "--epochs", 3)


def test_resume_rejects_other_training(run, tmp_path, checkpoint):
    """Each flag that determines the training must have the same value, and the encoder the same weights."""
    flags = f"--mode finetune --pretrained {checkpoint} --finetune-skeleton-representation seq-based"
    flags += " --label-fraction 0.5 --epochs 1 --seed 1 --output-dir o --resume auto"
    finetune = [SCRIPT, *flags.split()]
    run.succeed(*finetune)
    for flags, message in (
        (["--label-seed", 1], "--label-seed 1, but"),
        (["--lr", 0.5], "--lr 0.5, but"),
        (["--label-fraction", 0.2], "--label-fraction 0.2, but"),
        (["--seed", 2], "was trained with --seed 1"),
        (["--label-sampling", "uniform"], "--label-sampling uniform, but"),
        (["--mode", "linear", "--resume", "o/finetune_last.pth.tar", "--output-dir", "p"], "not a probe"),
    ):
        assert message in run.fail(*finetune, *flags)
    write_pretraining(checkpoint, ("seq-based", "graph-based", "image-based"))
    assert "was trained on a different encoder" in run.fail(*finetune)


SGD = {"optimizer": "sgd", "lr": 0.1, "epochs": 80, "schedule": [50, 70], "momentum": 0.9}
ADAM = {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40], "momentum": None}


@pytest.mark.parametrize("mode, expected", [("linear", SGD), ("finetune", ADAM), ("supervised", ADAM)])
def test_default_settings_of_each_mode(monkeypatch, capsys, mode, expected):
    flags = ["--mode", mode, *([] if mode == "supervised" else ["--pretrained", "a.pth.tar"])]
    monkeypatch.setattr("sys.argv", [SCRIPT, *flags])
    args = action_classification.parse_args()
    assert {name: getattr(args, name) for name in expected} == expected
    assert (args.batch_size, args.weight_decay, args.cos) == (64, 0.0, False)
    line = f"--schedule {' '.join(map(str, expected['schedule']))} (default for --mode {mode})\n"
    assert line in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [SCRIPT, *flags, "--optimizer", "sgd", "--lr", "2", "--cos"])
    args = action_classification.parse_args()
    assert (args.momentum, args.lr, args.schedule) == (0.9, 2.0, []), "a flag overrides the default"
    assert "--lr" not in capsys.readouterr().out


def test_label_subset(run, tmp_path):
    """Only the subset is trained on, and it is saved."""

    def subset(folder, *flags):
        out = run.succeed(*SUPERVISED, "--epochs", 1, "--output-dir", folder, *flags)
        with open(tmp_path / folder / "label_subset.csv", newline="") as file:
            return out, list(csv.DictReader(file))

    out, rows = subset("a", "--label-fraction", 0.4, "--label-seed", 3)
    assert "labels of 8 of 20 training clips (0.4, balanced, --label-seed 3)" in out
    assert sorted(row["label"] for row in rows) == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert results(tmp_path / "a")["clips"] == {"train": 8, "val": 10}
    store = [row.split(",") for row in (tmp_path / "data/ntu60/clips.csv").read_text().splitlines()[1:]]
    training = {(row[0], row[1]) for row in store if row[4] == "train"}
    assert {(row["name"], row["label"]) for row in rows} <= training
    out, rows = subset("b", "--label-fraction", 0.05, "--label-sampling", "uniform")
    assert len(rows) == 1 and "3 validation classes have no training clips and cannot be predicted" in out
    assert not (set("0123") - {rows[0]["label"]}) - set(out.split("predicted: ")[1].splitlines()[0])
    table = results_table(read_results(tmp_path))
    assert "supervised, 40% of labels best" in table and "supervised, 5% of labels last" in table


def test_non_finite_loss_stops_before_update(run, tmp_path, small_store):
    path = small_store / "ntu60" / "frames.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    err = run.fail(*SUPERVISED, "--epochs", 1, "--output-dir", "o")
    assert "non-finite loss in epoch 1, step 0 (clips S001C" in err
    kept = load_checkpoint(tmp_path / "o/checkpoint_nonfinite.pth.tar")["state_dict"]
    assert all(torch.isfinite(x).all() for x in kept.values())


def test_invalid_flags_are_one_line_errors(run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    supervised = ["--mode", "supervised"]
    for flags, message in (
        ([*supervised, "--pretrained", "random"], "omit --pretrained"),
        (["--mode", "finetune"], "--mode finetune needs --pretrained"),
        (["--mode", "finetune", "--pretrained", "coordinates"], "finetune needs a pretrained encoder"),
        (["--mode", "finetune", "--pretrained", "random"], "finetune needs a pretrained encoder"),
        ([*supervised, "--cached-crops", 2], "--cached-crops needs a frozen encoder"),
        ([*supervised, "--momentum", 0.5], "--momentum applies to SGD"),
        ([*supervised, "--label-seed", 1], "without --label-fraction: add it"),
        ([*supervised, "--label-fraction", 0], "must be above 0"),
        ([*supervised, "--label-fraction", 10], "at most 1"),
        (["--pretrained", "random", "a.pth.tar"], "random does not exist"),
        (
            ["--pretrained", "a", "b", "--pretrain-skeleton-representation", "seq-based"],
            "has 1 entries for 2",
        ),
    ):
        assert message in run.fail(SCRIPT, *TINY_FLAGS, *flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_features_of_two_checkpoints_are_concatenated(run, tmp_path):
    """The features of each checkpoint, in the order of the registry; one classifier is trained on both."""
    image = write_pretraining(tmp_path / "image.pth.tar", ("image-based",))
    seq = write_pretraining(tmp_path / "seq.pth.tar", ("seq-based",), gru_hidden_size=24)
    views = {"seq-based": torch.randn(3, 16, 150), "image-based": torch.randn(3, 3, 16, 25, 2)}
    alone = [load_encoders(str(path))(views) for path in (seq, image)]
    for both in ([str(image), str(seq)], [str(seq), str(image)]):
        for finetune in ("image-based_and_seq-based", None):
            encoders = load_encoders(both, None, finetune)
            assert torch.equal(encoders(views), torch.cat(alone, dim=1))
    run.succeed(SCRIPT, "--pretrained", seq, image, "--epochs", 1, "--seed", 1)
    folder = tmp_path / f"seq_and_{tmp_path.name}_image" / "linear_ntu60_cross_view_seed1"
    assert results(folder)["representation"] == "seq-based_and_image-based"
    title = "intra-skeleton seq-based, 3 epochs + intra-skeleton image-based, 3 epochs"
    assert results(folder)["encoder"] == title
    frozen = load_encoders([str(seq), str(image)])
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    trainable = load_encoders([str(seq), str(image)], frozen=False)
    assert trainable.training and all(p.requires_grad for p in trainable.parameters())


def test_checkpoints_that_cannot_be_concatenated(tmp_path, checkpoint):
    seq = write_pretraining(tmp_path / "seq.pth.tar", ("seq-based",))
    for finetune in ("seq-based_and_graph-based", "graph-based", "image-based"):  # twice, unused, in none
        with pytest.raises(UserError, match=f"{finetune}: each encoder must be .* and each .* used"):
            load_encoders([str(checkpoint), str(seq)], None, finetune)
    with pytest.raises(UserError, match="seq.pth.tar contains seq-based: choose what to evaluate"):
        load_encoders([str(checkpoint), str(seq)])
    other = write_pretraining(tmp_path / "image.pth.tar", ("image-based",), num_frames=32)
    with pytest.raises(UserError, match="views of 16 and 32 frames"):
        load_encoders([str(seq), str(other)])
