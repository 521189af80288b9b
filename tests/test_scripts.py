"""The scripts as a user runs them, with tiny encoders: official commands, every contrast, outputs."""

import json
import re
import shlex
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import (
    CLASSIFICATION,
    INTER,
    INTRA,
    PRETRAINING_FLAGS,
    RETRIEVAL,
    TINY_FLAGS,
    in_optimizer_step,
    kill,
    log_lines,
    same_state,
    saved_at_every_opportunity,
)
from processes import REPOSITORY

import engine.retrieve
from engine.checkpoint import LAST, load_checkpoint
from engine.encoders import load_encoders
from models.registry import REPRESENTATIONS, SEPARATOR, join_representations

# The commands in the README of the official code, without the choice of GPUs.
OFFICIAL_PRETRAINING = """main_moco_inter_skeleton.py --lr 0.01 --batch-size 64 --mlp --moco-t 0.07
  --moco-k 16384 --checkpoint-path ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based
  --schedule 351 --epochs 451 --pre-dataset ntu60 --skeleton-representation seq-based_and_graph-based
  --protocol cross_view"""
OFFICIAL_PROBE = """action_classification.py --lr 0.1 --batch-size 64 --pretrained
  ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar
  --finetune-dataset ntu60 --protocol cross_view --pretrain-skeleton-representation seq-based_and_graph-based
  --finetune-skeleton-representation seq-based"""
OFFICIAL_RETRIEVAL = """action_retrieval.py --lr 0.1 --batch-size 64 --knn-neighbours 1 --pretrained
  ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar
  --finetune-dataset ntu60 --protocol cross_view --pretrain-skeleton-representation seq-based_and_graph-based
  --finetune-skeleton-representation seq-based"""


def test_official_commands(run, tmp_path):
    """Flags appended to the official ones override them: argparse uses the last of a repeated flag."""
    script, *flags = shlex.split(OFFICIAL_PRETRAINING)
    code, out, err = run(script, *flags, "--epochs", 2, "--batch-size", 4, "--moco-k", 16, *TINY_FLAGS)
    assert code == 0, err
    assert "seed" in out and "epoch    2/2" in out and "seq->graph" in out
    folder = tmp_path / "checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based"
    saved = sorted(path.name for path in folder.glob("*.tar"))
    assert saved == ["checkpoint_0000.pth.tar", "checkpoint_0001.pth.tar"]
    assert list(folder.glob("events.out.tfevents*"))
    checkpoint = folder / "checkpoint_0001.pth.tar"
    for command, task in ((OFFICIAL_PROBE, "linear"), (OFFICIAL_RETRIEVAL, "retrieval")):
        script, *flags = shlex.split(command)
        code, out, err = run(script, *flags, "--epochs", 3, "--pretrained", checkpoint)
        assert code == 0, err
        (path,) = (folder / "checkpoint_0001").glob(f"{task}_ntu60_cross_view_seq-based_seed*/results.json")
        results = json.loads(path.read_text())
        assert results["task"] == task and results["clips"] == {"train": 20, "val": 10}
        assert results["encoder"] == "inter-skeleton seq-based_and_graph-based, 2 epochs"
    assert 0 <= results["numbers"]["knn"] <= 100


PAIRS = [join_representations(names[::-1]) for names in combinations(REPRESENTATIONS, 2)]


@pytest.mark.parametrize("names", [*PAIRS, join_representations(tuple(REPRESENTATIONS))])
def test_inter_skeleton_contrast(pretrain, tmp_path, names):
    code, out, err = pretrain(tmp_path / "c", "--skeleton-representation", names, "--epochs", 1)
    assert code == 0, err
    count = len(names.split(SEPARATOR))
    assert out.count("->") == count * (count - 1)


def test_all_pairs_include_own_keys(pretrain, tmp_path):
    code, out, err = pretrain(tmp_path / "c", "--pairs", "all", "--epochs", 1)
    assert code == 0, err
    assert "intra- and inter-skeleton contrast of seq-based_and_graph-based" in out
    encoders = load_encoders(str(tmp_path / "c" / "checkpoint_0000.pth.tar"), representations="seq-based")
    assert encoders.title == "intra- and inter-skeleton seq-based_and_graph-based, 1 epoch"
    for pair in ("seq->graph", "graph->seq", "seq->seq", "graph->graph"):
        assert f"{pair} " in out and f"contrastive_accuracy/{pair}" in log_lines(tmp_path / "c")[0]


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_intra_skeleton_contrast(pretrain, tmp_path, name):
    flags = ["--skeleton-representation", name, "--epochs", 1]
    code, out, err = pretrain(tmp_path / "c", *flags, script=INTRA)
    assert code == 0, err
    word = name.split("-")[0]
    assert f"{word}->{word}" in out


def test_order_of_representations_does_not_matter(pretrain, tmp_path):
    for folder, names in (("a", "seq-based_and_graph-based"), ("b", "graph-based_and_seq-based")):
        assert pretrain(tmp_path / folder, "--skeleton-representation", names)[0] == 0
    assert same_state(tmp_path / "a/checkpoint_0001.pth.tar", tmp_path / "b/checkpoint_0001.pth.tar")


def test_results_depend_on_seed_not_on_workers(pretrain, tmp_path):
    for folder, flags in (("a", ["-j", 0]), ("b", ["-j", 2]), ("c", ["--seed", 6])):
        assert pretrain(tmp_path / folder, *flags)[0] == 0
    assert same_state(tmp_path / "a/checkpoint_0001.pth.tar", tmp_path / "b/checkpoint_0001.pth.tar")
    assert not same_state(tmp_path / "a/checkpoint_0001.pth.tar", tmp_path / "c/checkpoint_0001.pth.tar")


def test_random_seed_is_printed_and_saved(run, tmp_path):
    flags = [flag for flag in PRETRAINING_FLAGS if flag not in ("--seed", "5")]
    flags += [*TINY_FLAGS, "--epochs", 1, "--checkpoint-path", tmp_path / "c"]
    code, out, err = run(INTER, *flags)
    assert code == 0, err
    checkpoint = load_checkpoint(tmp_path / "c" / "checkpoint_0000.pth.tar")
    assert re.search(rf"^seed {checkpoint['seed']} \(", out, re.MULTILINE)
    assert checkpoint["flags"]["seed"] == checkpoint["seed"]
    code, out, err = run(RETRIEVAL, "--pretrained", "random", *TINY_FLAGS, "--output-dir", tmp_path / "o")
    assert code == 0, err
    seed = json.loads((tmp_path / "o/results.json").read_text())["seed"]
    assert re.search(rf"^seed {seed} \(", out, re.MULTILINE)


def heads(folder):
    """The shapes of the weights of each query encoder's projection head, in order."""
    state = load_checkpoint(folder / "checkpoint_0000.pth.tar")["state_dict"]
    found = {}
    for name, weight in state.items():
        if match := re.fullmatch(r"encoders\.query\.([^.]+)\.fc\.(?:\d\.)?weight", name):
            found.setdefault(match[1], []).append(tuple(weight.shape))
    return found


def test_mlp_head_is_the_default(pretrain, tmp_path):
    default = pretrain(tmp_path / "default", "--epochs", 1)
    assert "; MLP head, embedding dimension 128" in default[1], default
    given = pretrain(tmp_path / "given", "--epochs", 1, "--mlp")
    assert "; MLP head, embedding dimension 128" in given[1], given
    assert same_state(*(tmp_path / name / "checkpoint_0000.pth.tar" for name in ("default", "given")))
    assert heads(tmp_path / "default") == {
        "seq-based": [(32, 32), (128, 32)],
        "graph-based": [(16, 16), (128, 16)],
    }


def test_no_mlp_trains_a_linear_head(pretrain, tmp_path):
    code, out, err = pretrain(tmp_path, "--epochs", 1, "--no-mlp", "--moco-dim", 24)
    assert code == 0 and "; linear head, embedding dimension 24" in out, err
    assert heads(tmp_path) == {"seq-based": [(24, 32)], "graph-based": [(24, 16)]}


def test_evaluations_leave_other_files_alone(run, pretrain, tmp_path):
    assert pretrain(tmp_path / "c")[0] == 0
    checkpoint = tmp_path / "c/checkpoint_0001.pth.tar"
    flags = ["--pretrained", checkpoint, "--finetune-skeleton-representation", "seq-based"]
    code, _, err = run(CLASSIFICATION, *flags, "--epochs", 1, "--output-dir", tmp_path / "c")
    assert code == 2 and "contains the checkpoints of a pretraining" in err
    assert run(CLASSIFICATION, *flags, "--epochs", 1, "--output-dir", tmp_path / "o")[0] == 0
    code, _, err = run(RETRIEVAL, *flags, "--output-dir", tmp_path / "o")
    assert code == 2 and "belongs to another task" in err
    code, out, err = pretrain(tmp_path / "c", "--epochs", 3, "--resume", "auto")
    assert code == 0 and "epoch 3, step 0" in out, err
    code, _, err = run(RETRIEVAL, "--pretrained", tmp_path / "o/probe_last.pth.tar")
    assert code == 2 and "is a checkpoint of a probe" in err
    (tmp_path / "file").write_text("")
    for script in (RETRIEVAL, CLASSIFICATION):
        code, _, err = run(script, *flags, "--output-dir", tmp_path / "file")
        assert code == 2 and "file is not a folder" in err
    code, _, err = pretrain(tmp_path / "file" / "below")
    assert code == 2 and "file is not a folder" in err


def test_probe_does_not_change_the_encoder(probe, tmp_path):
    flags = ["--epochs", 2, "--finetune-skeleton-representation", "graph-based"]
    code, out, err = probe(tmp_path / "o", *flags)
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("frozen weights"))
    before, after = line.split("sha256 ")[1].replace(" before, ", " ").split()[:2]
    assert before == after and len(before) == 16


def test_probe_concatenates_representations(probe, tmp_path):
    both = "seq-based_and_graph-based"
    code, out, err = probe(tmp_path / "o", "--epochs", 1, "--finetune-skeleton-representation", both)
    assert code == 0 and f"linear of {both}" in out, err


def test_retrieval_by_coordinates_finds_copies(run, tmp_path, small_store):
    """If the validation clips are copies of training clips, 1-nearest-neighbor retrieval is perfect."""
    store = small_store / "ntu60"
    rows = (store / "clips.csv").read_text().splitlines()
    copies = [row.replace("train", "val").replace(",", "_copy,", 1) for row in rows[1:21]]
    (store / "clips.csv").write_text("\n".join(rows[:21] + copies) + "\n")
    code, out, err = run(RETRIEVAL, "--pretrained", "coordinates", "--output-dir", tmp_path / "o")
    assert code == 0 and "retrieval: 100.00%" in out, err


def test_features_are_saved_in_the_order_of_the_store(run, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.retrieve, "EPOCHS", 3)
    path = tmp_path / "out" / "features.npz"
    flags = ["--output-dir", tmp_path / "o", "--save-features", path, "--autoencoder", "--seed", 1]
    code, out, err = run(RETRIEVAL, "--pretrained", "random", *TINY_FLAGS, *flags)
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


def test_results_contain_the_step_of_a_checkpoint_within_an_epoch(run, pretrain, tmp_path):
    with saved_at_every_opportunity(), in_optimizer_step(5, kill):
        assert pretrain(tmp_path / "c")[0] == 130
    flags = ["--finetune-skeleton-representation", "seq-based", "--output-dir", tmp_path / "o"]
    code, out, err = run(RETRIEVAL, "--pretrained", tmp_path / "c" / LAST, *flags)
    assert code == 0, err
    assert json.loads((tmp_path / "o/results.json").read_text())["encoder"].endswith("0 epochs and 4 steps")


def test_non_finite_loss_stops_the_run(pretrain, tmp_path, small_store):
    path = small_store / "ntu60" / "frames.npy"
    frames = np.load(path)
    np.save(path, np.full_like(frames, np.nan))
    code, _, err = pretrain(tmp_path / "c")
    assert code == 2 and "non-finite loss in epoch 1, step 0 (clips S001C" in err
    saved = load_checkpoint(tmp_path / "c" / "checkpoint_nonfinite.pth.tar")["state_dict"]
    weights = [x for name, x in saved.items() if name.startswith("encoders.query") and "running" not in name]
    assert all(torch.isfinite(x).all() for x in weights)


MEMORY_FLAGS = re.compile(r'memory_flags="(.*)"')


@pytest.mark.parametrize(
    "script",
    sorted(
        path.relative_to(REPOSITORY)
        for path in [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("data_gen/**/*.py")]
        if MEMORY_FLAGS.search(path.read_text(encoding="utf-8"))
    ),
    ids=str,
)
def test_flags_named_in_out_of_memory_messages_exist(run, script):
    flags = MEMORY_FLAGS.search((REPOSITORY / script).read_text(encoding="utf-8"))[1].split(", ")
    code, out, _ = run(str(script).replace("/", "."), "--help")
    assert code == 0 and flags and all(f"{flag} " in out for flag in flags)
