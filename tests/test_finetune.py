"""Fine-tuning, supervised and semi-supervised training, transfer, and checkpoints side by side."""

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch

import action_classification
import engine.finetune
from conftest import TINY, TINY_FLAGS, write_store
from dataset.clips import open_clips
from models.representations import lay_out
from dataset.views import classifier_view
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.classifier import linear_head
from engine.finetune import FINETUNE_FILE
from engine.pretrained import load_encoders
from engine.randomness import DROPOUT, ORDER, VIEWS, generator, seed_globally
from engine.report import read_results, results_table
from engine.signals import EXIT_RESUMABLE
from models.representations import build_encoder
from options.errors import UserError
from options.defaults import check_mode, fill_classifier_defaults

SCRIPT = "action_classification.py"
SIZES = {**TINY, "graph_encoder": "agcn", "num_frames": 64}
NO_SIZES = dict.fromkeys(SIZES)
SUPERVISED = [SCRIPT, "--mode", "supervised", *TINY_FLAGS, "--batch-size", 8, "--seed", 1]


def write_checkpoint(path, names, **sizes):
    """A checkpoint of ours with tiny encoders of the representations ``names``."""
    torch.manual_seed(len(path.name) + len(names))
    sizes = {**SIZES, **sizes}
    state = {f"encoders.query.{name}.{k}": v for name in names
             for k, v in build_encoder(name, 8, **sizes).state_dict().items()}
    save_checkpoint(path, {"kind": "pretraining", "contrast": "inter" if len(names) > 1 else "intra", "epoch": 3,
                           "representations": list(names), "sizes": sizes, "state_dict": state, "step": 0,
                           "flags": {}, "seed": 0, "optimizer": {}})
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "inter.pth.tar", ("seq-based", "graph-based"))


def weights(folder):
    return load_checkpoint(folder / FINETUNE_FILE)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_what_is_trained_is_what_a_plain_loop_trains(run, tmp_path, small_store, checkpoint):
    """Adam on encoder and head, crops of at least half, BatchNorm and dropout in training mode."""
    code, _, err = run(SCRIPT, "--mode", "finetune", "--pretrained", checkpoint, "--finetune-skeleton-representation",
                       "graph-based", "--epochs", 2, "--batch-size", 8, "--schedule", 1, "--seed", 4, "--output-dir", "o")
    assert code == 0, err
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    encoder = build_encoder("graph-based", 8, **SIZES)
    before = load_checkpoint(checkpoint)["state_dict"]
    encoder.load_state_dict({k.removeprefix("encoders.query.graph-based."): v for k, v in before.items() if "graph" in k})
    encoder.fc = linear_head(16, 60, seed=4)
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-4, fused=True)
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = 1e-4 if epoch == 0 else 1e-5
        batches = torch.randperm(20, generator=generator(4, ORDER, epoch)).split(8)
        for step, index in enumerate(batches):
            view = classifier_view(clips, index, generator(4, VIEWS, epoch, step))
            x = lay_out(view, ("graph-based",))["graph-based"]
            seed_globally(4, DROPOUT, epoch, step)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(encoder(x), clips.labels[index]).backward()
            optimizer.step()
    trained, expected = weights(tmp_path / "o"), encoder.state_dict()
    for name, tensor in expected.items():
        found = trained[name.replace("fc.", "head.") if name.startswith("fc.") else f"encoders.encoders.graph-based.{name}"]
        torch.testing.assert_close(found, tensor, rtol=1e-6, atol=1e-7)
    tracked = [name for name in expected if name.endswith("num_batches_tracked")]
    assert tracked and all(expected[name] == before[f"encoders.query.graph-based.{name}"] + 6 for name in tracked)


def stop_at(monkeypatch, epoch, step, what):
    """Do ``what`` when that step begins."""
    seed = engine.finetune.seed_globally

    def seeded(*position):
        seed(*position)
        if position[2:] == (epoch, step):
            what()

    monkeypatch.setattr(engine.finetune, "seed_globally", seeded)


def killed():
    raise ZeroDivisionError("what the program does not expect, as a kill")


@pytest.mark.parametrize("representation", ["image-based", "graph-based"])  # dropout; BatchNorm
def test_stopped_in_mid_epoch_and_resumed_is_the_uninterrupted_run(run, tmp_path, monkeypatch, representation):
    flags = [*SUPERVISED, "--finetune-skeleton-representation", representation, "--epochs", 3, "--resume", "auto", "--output-dir"]
    code, out, err = run(*flags, tmp_path / "whole")
    assert code == 0 and "begins anew" in out, err
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        folder = tmp_path / signal.Signals(number).name
        with monkeypatch.context() as patch:
            stop_at(patch, 1, 1, lambda: os.kill(os.getpid(), number))
            code, out, _ = run(*flags, folder)
        assert code == EXIT_RESUMABLE and "stopped in epoch 1, step 2" in out and not (folder / "results.json").exists()
        code, out, err = run(*flags, folder)
        assert code == 0 and "resumed" in out and "epoch 1, step 2" in out, err
        assert same(weights(tmp_path / "whole"), weights(folder))
        assert results(folder)["numbers"] == results(tmp_path / "whole")["numbers"]


def test_killed_and_resumed_from_the_rolling_checkpoint(run, tmp_path, monkeypatch):
    flags = [*SUPERVISED, "--epochs", 2, "--resume", "auto", "--output-dir"]
    assert run(*flags, tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(engine.finetune, "SAVE_MINUTES", 0.0)
        stop_at(patch, 1, 2, killed)
        with pytest.raises(ZeroDivisionError):
            run(*flags, tmp_path / "two")
    code, out, err = run(*flags, tmp_path / "two")
    assert code == 0 and "epoch 1, step 2" in out, err
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "two"))
    code, out, err = run(*flags, tmp_path / "two")
    assert code == 0 and results(tmp_path / "whole")["numbers"] == results(tmp_path / "two")["numbers"], "nothing left"
    code, _, err = run(*flags, tmp_path / "two", "--epochs", 3)
    assert code == 2 and "kept no optimizer" in err


def test_a_resume_that_contradicts_the_checkpoint(run, tmp_path, checkpoint):
    """The last epoch's file has no optimizer, so this looks at one that was stopped; flags are read first."""
    finetune = [SCRIPT, "--mode", "finetune", "--pretrained", checkpoint, "--finetune-skeleton-representation", "seq-based",
                "--label-fraction", "0.5", "--epochs", 1, "--seed", 1, "--output-dir", "o", "--resume", "auto"]
    assert run(*finetune)[0] == 0
    for flags, sentence in ((["--label-seed", 1], "--label-seed is 1"), (["--lr", 0.5], "--lr is 0.5"),
                            (["--label-fraction", 0.2], "--label-fraction is 0.2"), (["--seed", 2], "was trained with --seed 1"),
                            (["--label-sampling", "uniform"], "--label-sampling is uniform"),
                            (["--mode", "linear", "--resume", "o/finetune_last.pth.tar", "--output-dir", "p"], "not a checkpoint of a probe")):
        code, _, err = run(*finetune, *flags)
        assert code == 2 and sentence in err, err
    write_checkpoint(checkpoint, ("seq-based", "graph-based", "image-based"))
    code, _, err = run(*finetune)
    assert code == 2 and "of another encoder" in err


@pytest.mark.parametrize("mode, expected", [
    ("linear", {"optimizer": "sgd", "lr": 0.1, "epochs": 80, "schedule": [50, 70], "momentum": 0.9}),
    ("finetune", {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40], "momentum": None}),
    ("supervised", {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40], "momentum": None})])
def test_the_papers_settings_of_each_protocol(monkeypatch, mode, expected):
    flags = ["--mode", mode, *([] if mode == "supervised" else ["--pretrained", "a.pth.tar"])]
    monkeypatch.setattr("sys.argv", [SCRIPT, *flags])
    args = action_classification.parse_args()
    check_mode(args)
    lines = fill_classifier_defaults(args)
    assert {name: getattr(args, name) for name in expected} == expected
    assert (args.batch_size, args.weight_decay, args.cos) == (64, 0.0, False)
    assert f"--schedule {' '.join(map(str, expected['schedule']))} (default, --mode {mode})" in lines
    monkeypatch.setattr("sys.argv", [SCRIPT, *flags, "--optimizer", "sgd", "--lr", "2", "--cos"])
    args = action_classification.parse_args()
    check_mode(args)
    lines = " ".join(fill_classifier_defaults(args))
    assert (args.momentum, args.lr, args.schedule) == (0.9, 2.0, []) and "--lr" not in lines, "a flag wins"


def test_labels_of_a_part(run, tmp_path):
    """The subset is what is trained on, is written down, and is the same for the same --label-seed."""
    def subset(folder, *flags):
        code, out, err = run(*SUPERVISED, "--epochs", 1, "--output-dir", folder, *flags)
        assert code == 0, err
        with open(tmp_path / folder / "label_subset.csv", newline="") as file:
            return out, list(csv.DictReader(file))

    out, rows = subset("a", "--label-fraction", 0.4, "--label-seed", 3)
    assert "labels of 8 of 20 train clips (0.4, balanced, --label-seed 3)" in out
    assert sorted(row["label"] for row in rows) == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert results(tmp_path / "a")["clips"] == {"train": 8, "val": 10}
    store = [row.split(",") for row in (tmp_path / "data/ntu60/clips.csv").read_text().splitlines()[1:]]
    assert {(row["name"], row["label"]) for row in rows} <= {(row[0], row[1]) for row in store if row[4] == "train"}
    assert subset("b", "--label-fraction", 0.4, "--label-seed", 3, "--seed", 9)[1] == rows
    assert subset("c", "--label-fraction", 0.4, "--label-seed", 4)[1] != rows
    out, rows = subset("d", "--label-fraction", 0.05, "--label-sampling", "uniform")
    assert len(rows) == 1 and "3 classes of the val clips have no train clip and cannot be recognised" in out
    assert not (set("0123") - {rows[0]["label"]}) - set(out.split("recognised: ")[1])
    table = results_table(read_results(tmp_path))
    assert "supervised, 40% of labels best" in table and "supervised, 5% of labels last" in table
    code, out, err = run(SCRIPT, "--pretrained", "random", *TINY_FLAGS, "--label-fraction", 0.2, "--epochs", 1, "--seed", 1)
    assert code == 0 and (tmp_path / "runs/random/linear_ntu60_cross_view_balanced0.2_0_seed1/label_subset.csv").is_file(), err


def test_it_learns(run, tmp_path):
    """Clips of a class stand where those of no other class do: training soon tells them apart."""
    labels = [i % 4 for i in range(48)]
    store = write_store(tmp_path / "places/mine", [f"c{i:02d}" for i in range(48)], labels, [20] * 48,
                        {"split": ["train"] * 32 + ["val"] * 16}, "mine", 4)
    frames = 0.1 * np.load(store / "frames.npy")
    frames[:, :, 0] += np.repeat(labels, 20)[:, None, None]
    np.save(store / "frames.npy", frames)
    code, _, err = run(*SUPERVISED, "--data-root", "places", "--finetune-dataset", "mine", "--protocol", "split",
                       "--epochs", 12, "--lr", 0.01, "--output-dir", "o")
    assert code == 0 and results(tmp_path / "o")["numbers"]["last"]["top1"] == 100.0, err


def test_transfer_to_another_data_set(run, tmp_path, checkpoint):
    write_store(tmp_path / "data/mine", [f"c{i}" for i in range(12)], [i % 3 for i in range(12)], [9] * 12,
                {"split": ["train", "val"] * 6}, "mine", 3)
    code, out, err = run(SCRIPT, "--mode", "finetune", "--pretrained", checkpoint, "--finetune-skeleton-representation",
                         "seq-based", "--finetune-dataset", "mine", "--protocol", "split", "--epochs", 1, "--output-dir", "o")
    assert code == 0, err
    assert weights(tmp_path / "o")["head.weight"].shape == (3, 32)


def test_a_loss_that_is_no_number_stops_before_the_step(run, tmp_path, small_store):
    path = small_store / "ntu60" / "frames.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    code, _, err = run(*SUPERVISED, "--epochs", 1, "--output-dir", "o")
    assert code == 2 and "the loss is not finite in epoch 0, step 0 (clips S001C" in err
    kept = load_checkpoint(tmp_path / "o/checkpoint_nonfinite.pth.tar")["state_dict"]
    assert all(torch.isfinite(x).all() for x in kept.values())


@pytest.mark.parametrize("flags, sentence", [
    (["--mode", "supervised", "--pretrained", "random"], "leave --pretrained out"),
    (["--mode", "finetune"], "--mode finetune needs --pretrained"),
    (["--mode", "finetune", "--pretrained", "coordinates"], "nothing pretrained to train on"),
    (["--mode", "finetune", "--pretrained", "random"], "nothing pretrained to train on"),
    (["--mode", "supervised", "--cached-crops", 2], "--cached-crops is of frozen features"),
    (["--mode", "supervised", "--momentum", 0.5], "--momentum is of SGD"),
    (["--mode", "supervised", "--label-seed", 1], "give it too"),
    (["--mode", "supervised", "--label-fraction", 0], "must be above 0"),
    (["--mode", "supervised", "--label-fraction", 10], "at most 1"),
    (["--pretrained", "random", "a.pth.tar"], "random stands alone"),
    (["--pretrained", "a", "b", "--pretrain-skeleton-representation", "seq-based"], "names 1 checkpoints, --pretrained 2"),
])
def test_refusals(run, tmp_path, flags, sentence):
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(SCRIPT, *TINY_FLAGS, *flags)
    assert code == 2 and sentence in err and len(err.strip().splitlines()) == 1, err
    assert sorted(tmp_path.rglob("*")) == before


def test_two_checkpoints_side_by_side(run, tmp_path):
    """Their features are those of each alone, in the program's order; one head is trained on both."""
    image = write_checkpoint(tmp_path / "image.pth.tar", ("image-based",))
    seq = write_checkpoint(tmp_path / "seq.pth.tar", ("seq-based",), gru_hidden_size=24)
    views = {"seq-based": torch.randn(3, 64, 150), "image-based": torch.randn(3, 3, 64, 25, 2)}
    alone = [load_encoders(str(path), None, None, NO_SIZES)(views) for path in (seq, image)]
    for both in ([str(image), str(seq)], [str(seq), str(image)]):
        assert torch.equal(load_encoders(both, None, "image-based_and_seq-based", NO_SIZES)(views), torch.cat(alone, dim=1))
        assert torch.equal(load_encoders(both, None, None, NO_SIZES)(views), torch.cat(alone, dim=1))
    code, out, err = run(SCRIPT, "--pretrained", seq, image, "--epochs", 1, "--seed", 1)
    folder = tmp_path / f"seq_and_{tmp_path.name}_image" / "linear_ntu60_cross_view_seed1"
    assert code == 0 and results(folder)["representation"] == "seq-based_and_image-based", err
    assert results(folder)["encoder"] == "intra-skeleton seq-based, 3 epochs beside intra-skeleton image-based, 3 epochs"
    frozen = load_encoders([str(seq), str(image)], None, None, NO_SIZES)
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    trainable = load_encoders([str(seq), str(image)], None, None, NO_SIZES, frozen=False)
    assert trainable.training and all(p.requires_grad for p in trainable.parameters())


@pytest.mark.parametrize("finetune, sentence", [
    ("seq-based_and_graph-based", "both hold a seq-based encoder"),
    ("graph-based", "seq.pth.tar holds nothing of"),
    ("image-based", "no image-based encoder"),
    (None, "say which to evaluate"),
])
def test_checkpoints_that_do_not_go_side_by_side(tmp_path, checkpoint, finetune, sentence):
    seq = write_checkpoint(tmp_path / "seq.pth.tar", ("seq-based",))
    with pytest.raises(UserError, match=sentence):
        load_encoders([str(checkpoint), str(seq)], None, finetune, NO_SIZES)
    other = write_checkpoint(tmp_path / "image.pth.tar", ("image-based",), num_frames=32)
    with pytest.raises(UserError, match="views of 32 and 64 frames"):
        load_encoders([str(seq), str(other)], None, None, NO_SIZES)
