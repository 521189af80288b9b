"""The scripts as a user runs them, at tiny sizes: the released commands, resume, and every refusal."""

import json
import os
import shlex
import signal

import numpy as np
import pytest
import torch

import engine.autoencoder
import engine.pretrain
import engine.classifier
from conftest import TINY_FLAGS
from engine.checkpoint import load_checkpoint
from engine.probe import PROBE_FILE
from engine.signals import EXIT_RESUMABLE

PRETRAIN = ["--moco-k", "16", "--batch-size", "4", "--epochs", "2", "--seed", "5", "--mlp", *TINY_FLAGS]

# The commands of the authors' README, without the choice of GPUs; shortened runs follow below.
RELEASED_PRETRAIN = """main_moco_inter_skeleton.py --lr 0.01 --batch-size 64 --mlp --moco-t 0.07 --moco-k 16384
  --checkpoint-path ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based --schedule 351
  --epochs 451 --pre-dataset ntu60 --skeleton-representation seq-based_and_graph-based --protocol cross_view"""
RELEASED_PROBE = """action_classification.py --lr 0.1 --batch-size 64 --pretrained
  ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar
  --finetune-dataset ntu60 --protocol cross_view --pretrain-skeleton-representation seq-based_and_graph-based
  --finetune-skeleton-representation seq-based"""
RELEASED_RETRIEVAL = """action_retrieval.py --lr 0.1 --batch-size 64 --knn-neighbours 1 --pretrained
  ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar
  --finetune-dataset ntu60 --protocol cross_view --pretrain-skeleton-representation seq-based_and_graph-based
  --finetune-skeleton-representation seq-based"""


def pretrain(run, folder, *flags, script="main_moco_inter_skeleton.py"):
    return run(script, *PRETRAIN, "--checkpoint-path", folder, *flags)


def same(a, b):
    """Whether two checkpoints hold the same weights, queues, optimizer state and position, bit for bit."""
    a, b = load_checkpoint(a), load_checkpoint(b)
    assert a["state_dict"].keys() == b["state_dict"].keys() and (a["epoch"], a.get("step")) == (b["epoch"], b.get("step"))
    moments = [x["momentum_buffer"] for c in (a, b) for x in c["optimizer"]["state"].values()]
    half = len(moments) // 2
    return all(torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in a["state_dict"]) and all(
        torch.equal(x, y) for x, y in zip(moments[:half], moments[half:]))


def test_the_released_commands(run, tmp_path):
    """As printed, but for epochs and sizes: argparse takes the last of a repeated flag."""
    script, *flags = shlex.split(RELEASED_PRETRAIN)
    code, out, err = run(script, *flags, "--epochs", 2, "--batch-size", 4, "--moco-k", 16, *TINY_FLAGS)
    assert code == 0, err
    assert "seed" in out and "epoch    1/2" in out and "seq->graph" in out
    folder = tmp_path / "checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based"
    assert sorted(p.name for p in folder.glob("*.tar")) == ["checkpoint_0000.pth.tar", "checkpoint_0001.pth.tar"]
    assert list(folder.glob("events.out.tfevents*"))
    checkpoint = folder / "checkpoint_0001.pth.tar"
    for command, task in ((RELEASED_PROBE, "linear"), (RELEASED_RETRIEVAL, "retrieval")):
        script, *flags = shlex.split(command)
        code, out, err = run(script, *flags, "--epochs", 3, "--pretrained", checkpoint)
        assert code == 0, err
        path = folder / "checkpoint_0001" / f"{task}_ntu60_cross_view_seq-based" / "results.json"
        results = json.loads(path.read_text())
        assert results["task"] == task and results["clips"] == {"train": 20, "val": 10}
        assert results["encoder"] == "inter-skeleton seq-based_and_graph-based, 2 epochs"
    assert 0 <= results["numbers"]["knn"] <= 100


@pytest.mark.parametrize("names", [
    "graph-based_and_seq-based", "seq-based_and_image-based", "graph-based_and_image-based",
    "seq-based_and_graph-based_and_image-based"])
def test_every_inter_skeleton_pair(run, tmp_path, names):
    code, out, err = pretrain(run, tmp_path / "c", "--skeleton-representation", names, "--epochs", 1)
    assert code == 0, err
    count = len(names.split("_and_"))
    assert out.count("->") == count * (count - 1)


@pytest.mark.parametrize("name", ["seq-based", "graph-based", "image-based"])
def test_every_intra_skeleton_contrast(run, tmp_path, name):
    code, out, err = pretrain(run, tmp_path / "c", "--skeleton-representation", name, "--epochs", 1,
                              script="main_moco_intra_skeleton.py")
    assert code == 0, err
    word = name.split("-")[0]
    assert f"{word}->{word}" in out


def test_any_order_of_names_is_the_same_model(run, tmp_path):
    for folder, names in (("a", "seq-based_and_graph-based"), ("b", "graph-based_and_seq-based")):
        assert pretrain(run, tmp_path / folder, "--skeleton-representation", names)[0] == 0
    assert same(tmp_path / "a/checkpoint_0001.pth.tar", tmp_path / "b/checkpoint_0001.pth.tar")


def test_workers_change_nothing_and_the_seed_everything(run, tmp_path):
    for folder, flags in (("a", ["-j", 0]), ("b", ["-j", 2]), ("c", ["--seed", 6])):
        assert pretrain(run, tmp_path / folder, *flags)[0] == 0
    assert same(tmp_path / "a/checkpoint_0001.pth.tar", tmp_path / "b/checkpoint_0001.pth.tar")
    assert not same(tmp_path / "a/checkpoint_0001.pth.tar", tmp_path / "c/checkpoint_0001.pth.tar")


def test_stopped_in_mid_epoch_and_resumed_is_the_uninterrupted_run(run, tmp_path, monkeypatch):
    image = ["--skeleton-representation", "seq-based_and_image-based", "--epochs", 3]  # has dropout
    assert pretrain(run, tmp_path / "whole", *image)[0] == 0
    seed = engine.pretrain.seed_globally

    def stop_at(number):
        def seeded(*position):
            seed(*position)
            if position[2:] == (1, 2):
                os.kill(os.getpid(), number)
        return seeded

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        folder = tmp_path / signal.Signals(number).name
        monkeypatch.setattr(engine.pretrain, "seed_globally", stop_at(number))
        code, out, _ = pretrain(run, folder, *image)
        assert code == EXIT_RESUMABLE and "stopped in epoch 1, step 3" in out
        monkeypatch.setattr(engine.pretrain, "seed_globally", seed)
        code, out, err = pretrain(run, folder, *image, "--resume", "auto")
        assert code == 0 and "epoch 1, step 3" in out, err
        assert same(tmp_path / "whole/checkpoint_0002.pth.tar", folder / "checkpoint_0002.pth.tar")


def test_the_probe_stopped_and_resumed_is_the_uninterrupted_probe(run, tmp_path, monkeypatch):
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 4, "--seed", 1]
    code, _, err = run(*probe, "--output-dir", tmp_path / "whole")
    assert code == 0, err
    report = engine.classifier.report_epoch

    def stop_after_epoch_1(state, *rest):
        report(state, *rest)
        if state.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(engine.classifier, "report_epoch", stop_after_epoch_1)
    assert run(*probe, "--output-dir", tmp_path / "two")[0] == EXIT_RESUMABLE
    assert not (tmp_path / "two/results.json").exists()
    monkeypatch.setattr(engine.classifier, "report_epoch", report)
    assert run(*probe, "--output-dir", tmp_path / "two", "--resume", "auto")[0] == 0
    assert same(tmp_path / "whole" / PROBE_FILE, tmp_path / "two" / PROBE_FILE)
    numbers = [json.loads((tmp_path / n / "results.json").read_text())["numbers"] for n in ("whole", "two")]
    assert numbers[0] == numbers[1] and numbers[0]["last"]["epoch"] == 3


def test_the_probe_resumes_with_the_seed_that_was_drawn(run, tmp_path):
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--output-dir", tmp_path / "o"]
    assert run(*probe, "--epochs", 2)[0] == 0
    code, out, err = run(*probe, "--epochs", 3, "--resume", "auto")
    assert code == 0 and "epoch 2" in out, err
    for flags, sentence in ((["--protocol", "cross_subject"], "--protocol cross_subject, but"),
                            (["--lr", "0.5"], "--lr 0.5, but"), (["--seed", "1"], "was trained with --seed"),
                            (["--epochs", "2"], "has finished 3 epochs"),
                            (["--gru-hidden-size", "17"], "a different encoder")):
        code, _, err = run(*probe, "--epochs", 4, "--resume", "auto", *flags)
        assert code == 2 and sentence in err


def test_an_evaluation_leaves_other_files_alone(run, tmp_path):
    assert pretrain(run, tmp_path / "c")[0] == 0
    checkpoint = ["--pretrained", tmp_path / "c/checkpoint_0001.pth.tar", "--finetune-skeleton-representation", "seq-based"]
    code, _, err = run("action_classification.py", *checkpoint, "--epochs", 1, "--output-dir", tmp_path / "c")
    assert code == 2 and "contains the checkpoints of a pretraining" in err
    assert run("action_classification.py", *checkpoint, "--epochs", 1, "--output-dir", tmp_path / "o")[0] == 0
    code, _, err = run("action_retrieval.py", *checkpoint, "--output-dir", tmp_path / "o")
    assert code == 2 and "belongs to another task" in err
    code, out, err = pretrain(run, tmp_path / "c", "--epochs", 3, "--resume", "auto")
    assert code == 0 and "epoch 2, step 0" in out, err
    code, _, err = run("action_retrieval.py", "--pretrained", tmp_path / "o/probe_last.pth.tar")
    assert code == 2 and "is a checkpoint of a probe" in err
    (tmp_path / "file").write_text("")
    for script, flag in (("action_retrieval.py", "--output-dir"), ("action_classification.py", "--output-dir")):
        code, _, err = run(script, *checkpoint, flag, tmp_path / "file")
        assert code == 2 and "file is not a folder" in err
    code, _, err = pretrain(run, tmp_path / "file" / "below")
    assert code == 2 and "file is not a folder" in err


def test_resume_without_the_sizes_and_beside_a_damaged_checkpoint(run, tmp_path):
    assert pretrain(run, tmp_path / "c", "--save-freq", 1)[0] == 0
    last = tmp_path / "c/checkpoint_0001.pth.tar"
    last.write_bytes(last.read_bytes()[:-2000])
    short = PRETRAIN[: -len(TINY_FLAGS)]
    code, out, err = run("main_moco_inter_skeleton.py", *short, "--checkpoint-path", tmp_path / "c", "--resume", "auto")
    assert code == 0 and "falling back" in out and "epoch 1, step 0" in out, (out, err)


def test_the_probe_leaves_the_encoder_alone(run, tmp_path):
    code, out, err = run("action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 2,
                         "--finetune-skeleton-representation", "graph-based", "--output-dir", tmp_path / "o")
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("frozen weights"))
    before, after = line.split("sha256 ")[1].replace(" before, ", " ").split()[:2]
    assert before == after and len(before) == 16


def test_coordinates_find_copies(run, tmp_path, small_store):
    """Where the val clips are copies of training clips, 1-nearest-neighbour is always right."""
    store = small_store / "ntu60"
    rows = (store / "clips.csv").read_text().splitlines()
    copies = [row.replace("train", "val").replace(",", "_copy,", 1) for row in rows[1:21]]
    (store / "clips.csv").write_text("\n".join(rows[:21] + copies) + "\n")
    code, out, err = run("action_retrieval.py", "--pretrained", "coordinates", "--output-dir", tmp_path / "o")
    assert code == 0 and "retrieval: 100.00%" in out, err


def test_a_loss_that_is_no_number_stops_the_run(run, tmp_path, small_store):
    path = small_store / "ntu60" / "frames.npy"
    frames = np.load(path)
    np.save(path, np.full_like(frames, np.nan))
    code, _, err = pretrain(run, tmp_path / "c")
    assert code == 2 and "the loss is not finite in epoch 0, step 0 (clips S001C" in err
    kept = load_checkpoint(tmp_path / "c" / "checkpoint_nonfinite.pth.tar")["state_dict"]
    weights = [x for name, x in kept.items() if name.startswith("encoders.query") and "running" not in name]
    assert all(torch.isfinite(x).all() for x in weights)


INTER, INTRA = "main_moco_inter_skeleton.py", "main_moco_intra_skeleton.py"
PROBE, RETRIEVAL = "action_classification.py", "action_retrieval.py"


@pytest.mark.parametrize("script, flags, sentence", [
    (INTER, ["--data-root", "nowhere"], "nowhere is not a folder"),
    (INTER, ["--pre-dataset", "ntu120"], "no dataset 'ntu120'"),
    (INTER, ["--protocol", "cross_setup"], "choose from cross_subject, cross_view"),
    (INTER, ["--batch-size", "5"], "--batch-size 5 does not divide --moco-k 16"),
    (INTER, ["--batch-size", "32", "--moco-k", "32"], "fewer than --batch-size 32"),
    (INTER, ["--skeleton-representation", "seq-based"], "needs two or three"),
    (INTER, ["--skeleton-representation", "seq-based_and_video-based"], "'video-based' is no skeleton"),
    (INTRA, ["--skeleton-representation", "seq-based_and_graph-based"], "takes one"),
    (INTER, ["--graph-width", "6"], "graph_width 6 must be a multiple of 4"),
    (INTER, ["--skeleton-representation", "seq-based_and_image-based", "--num-frames", "20"], "multiples of 16"),
    (INTER, ["--augmentations", "mirror"], "--augmentations mirror"),
    (INTER, ["--resume", "missing.pth.tar"], "there is no checkpoint missing.pth.tar"),
    (INTER, ["--gpu", "93"], "--gpu 93"),
    (INTER, ["--start-epoch", "2"], "leaves nothing of --epochs 2"),
    (PROBE, ["--pretrained", "random", "--start-epoch", "80"], "leaves nothing of --epochs 80"),
    (INTER, ["--lr", "-1"], "must be above 0"),
    (INTER, ["--epoch", "3"], "unrecognized arguments"),
    (PROBE, ["--pretrained", "missing.pth.tar"], "there is no checkpoint missing.pth.tar"),
    (PROBE, [], "--mode linear needs --pretrained"),
    (RETRIEVAL, ["--pretrained", "random", "--knn-neighbours", "21"], "there are only 20 training clips"),
    (RETRIEVAL, ["--pretrained", "random", "--protocol", "sideways"], "choose from"),
])
def test_refusals(run, tmp_path, script, flags, sentence):
    """One sentence, exit code 2, nothing written."""
    usual = PRETRAIN if script in (INTER, INTRA) else TINY_FLAGS
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(script, *usual, *flags)
    assert code == 2 and sentence in err and len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("flags, sentence", [
    (["--moco-k", "32"], "--moco-k is 32"), (["--moco-dim", "64"], "--moco-dim"),
    (["--moco-t", "0.5"], "--moco-t is 0.5"), (["--augmentations", "pose"], "--augmentations"),
    (["--wd", "0.3"], "--weight-decay is 0.3"), (["--epochs", "1"], "has 2 epochs behind it"),
    (["--gru-hidden-size", "17"], "--gru-hidden-size 17 contradicts"), (["--protocol", "cross_subject"], "--protocol"),
    (["--skeleton-representation", "seq-based_and_image-based"], "--skeleton-representation"),
    (["--batch-size", "8"], "--batch-size"), (["--seed", "6"], "--seed is 6"),
])
def test_a_resume_that_contradicts_the_checkpoint(run, tmp_path, flags, sentence):
    assert pretrain(run, tmp_path / "c")[0] == 0
    code, _, err = pretrain(run, tmp_path / "c", "--resume", "auto", *flags)
    assert code == 2 and sentence in err


def test_an_earlier_run_is_not_written_over(run, tmp_path):
    assert pretrain(run, tmp_path / "c", "--epochs", 1)[0] == 0
    before = (tmp_path / "c/checkpoint_0000.pth.tar").read_bytes()
    code, _, err = pretrain(run, tmp_path / "c", "--epochs", 1)
    assert code == 2 and "--resume auto" in err
    assert (tmp_path / "c/checkpoint_0000.pth.tar").read_bytes() == before


def test_features_are_saved_in_the_stores_order(run, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.autoencoder, "EPOCHS", 3)
    path = tmp_path / "out" / "features.npz"
    code, out, err = run("action_retrieval.py", "--pretrained", "random", *TINY_FLAGS, "--seed", 1,
                         "--output-dir", tmp_path / "o", "--save-features", path, "--autoencoder")
    assert code == 0 and "on autoencoder codes" in out, err
    clips = [row.split(",") for row in (tmp_path / "data/ntu60/clips.csv").read_text().splitlines()[1:]]
    with np.load(path) as saved:
        for split, rows in (("train", clips[:20]), ("val", clips[20:])):
            assert saved[f"{split}_names"].tolist() == [row[0] for row in rows]
            assert saved[f"{split}_labels"].tolist() == [int(row[1]) for row in rows]
            features = saved[f"{split}_features"]
            assert features.dtype == np.float32 and features.shape == (len(rows), 32)
    numbers = json.loads((tmp_path / "o/results.json").read_text())["numbers"]
    assert 0 <= numbers["autoencoder_knn"] <= 100


def test_two_representations_under_one_head(run, tmp_path):
    both = "seq-based_and_graph-based"
    code, out, err = run("action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 1,
                         "--finetune-skeleton-representation", both, "--output-dir", tmp_path / "o")
    assert code == 0 and f"linear of {both}" in out, err
