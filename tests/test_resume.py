"""Resuming: it continues the same run bit for bit, or is rejected because something differs."""

import json
import signal

import numpy as np
import pytest
import torch
from conftest import (
    INTER,
    INTRA,
    PRETRAINING_FLAGS,
    RETRIEVAL,
    identical,
    in_optimizer_step,
    kill,
    log_lines,
    one_line,
    saved_at_every_opportunity,
    write_eight_clips,
)

from dataset.store_format import FRAMES_FILE
from engine.checkpoint import LAST, load_checkpoint, save_checkpoint
from engine.classifier import PROBE_FILE
from engine.signals import EXIT_RESUMABLE
from options.defaults import complete_pretraining

IMAGE = ["--skeleton-representation", "seq-based_and_image-based"]  # has dropout


def same_state(a, b):
    """Compare two checkpoints: the same weights, queues, optimizer state and position, bit for bit."""
    a, b = load_checkpoint(a), load_checkpoint(b)
    return all(identical(a[key], b[key]) for key in ("state_dict", "optimizer", "epoch", "step"))


def numbers(folder):
    """Return the numbers in ``results.json`` in the folder of an evaluation."""
    return json.loads((folder / "results.json").read_text())["numbers"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_stopped_pretraining_matches_uninterrupted_one(pretrain, tmp_path, name):
    flags = [*IMAGE, "--epochs", 3]
    assert pretrain(tmp_path / "whole", *flags)[0] == 0
    with in_optimizer_step(8, lambda: signal.raise_signal(signal.Signals[name])):
        code, out, _ = pretrain(tmp_path / "c", *flags)
    assert code == EXIT_RESUMABLE and "stopped in epoch 1, step 3" in out
    code, out, err = pretrain(tmp_path / "c", *flags, "--resume", "auto")
    assert code == 0 and "epoch 1, step 3" in out, err
    assert same_state(tmp_path / "whole/checkpoint_0002.pth.tar", tmp_path / "c/checkpoint_0002.pth.tar")
    assert [line["epoch"] for line in log_lines(tmp_path / "c")] == [0, 1, 2]


def test_stopped_probe_matches_uninterrupted_one(probe, tmp_path):
    flags = ["--epochs", 4, "--seed", 1]
    code, _, err = probe(tmp_path / "whole", *flags)
    assert code == 0, err
    with in_optimizer_step(2, lambda: signal.raise_signal(signal.SIGTERM)):  # one step per epoch
        assert probe(tmp_path / "stopped", *flags)[0] == EXIT_RESUMABLE
    assert not (tmp_path / "stopped/results.json").exists()
    code, out, err = probe(tmp_path / "stopped", *flags, "--resume", "auto")
    assert code == 0 and f"{PROBE_FILE}: epoch 2" in out, err
    assert same_state(tmp_path / "whole" / PROBE_FILE, tmp_path / "stopped" / PROBE_FILE)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "stopped")
    assert numbers(tmp_path / "stopped")["last"]["epoch"] == 3


def test_killed_probe_matches_uninterrupted_one(probe, tmp_path):
    flags = ["--epochs", 4, "--seed", 1]
    assert probe(tmp_path / "whole", *flags)[0] == 0
    with saved_at_every_opportunity(), in_optimizer_step(3, kill):
        assert probe(tmp_path / "killed", *flags)[0] == 130
    code, out, err = probe(tmp_path / "killed", *flags, "--resume", "auto")
    assert code == 0 and f"{PROBE_FILE}: epoch 2" in out, err
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "killed")


def test_auto_starts_a_run_or_continues_it(pretrain, tmp_path):
    code, out, err = pretrain(tmp_path / "c", "--epochs", 1, "--resume", "auto")
    assert code == 0 and f"no checkpoint in {tmp_path / 'c'} yet; starting a new run" in out, err
    code, out, err = pretrain(tmp_path / "c", "--resume", "auto")
    assert code == 0 and "checkpoint_0000.pth.tar: epoch 1, step 0" in out, err


def test_auto_skips_a_corrupted_rolling_checkpoint(pretrain, tmp_path):
    assert pretrain(tmp_path / "c", "--epochs", 1)[0] == 0
    for content in (b"", b"PK\x03\x04 and so on"):
        (tmp_path / "c" / LAST).write_bytes(content)
        code, out, err = pretrain(tmp_path / "c", "--epochs", 1, "--resume", "auto")
        assert code == 0 and f"{LAST} is corrupted or not a checkpoint" in out, err
        assert "falling back to the previous checkpoint" in out
        assert "resumed" in out and "checkpoint_0000.pth.tar: epoch 1, step 0" in out


def test_auto_skips_a_corrupted_numbered_checkpoint_and_needs_no_sizes(run, pretrain, tmp_path):
    assert pretrain(tmp_path / "c", "--save-freq", 1)[0] == 0
    last = tmp_path / "c/checkpoint_0001.pth.tar"
    last.write_bytes(last.read_bytes()[:-2000])
    flags = [*PRETRAINING_FLAGS, "--checkpoint-path", tmp_path / "c", "--resume", "auto"]
    code, out, err = run(INTER, *flags)
    assert code == 0 and "falling back" in out and "epoch 1, step 0" in out, (out, err)


def test_unreadable_checkpoints_are_not_overwritten(pretrain, tmp_path):
    assert pretrain(tmp_path / "c", "--save-freq", 1)[0] == 0
    files = sorted((tmp_path / "c").glob("*.tar"))
    for path in files:
        path.write_bytes(path.read_bytes()[:5000])
    code, out, err = pretrain(tmp_path / "c", "--resume", "auto")
    assert code == 2 and f"none of the 2 checkpoints in {tmp_path / 'c'} can be read; move them away" in err
    assert out.count("falling back to the previous checkpoint") == 2
    assert all(path.stat().st_size == 5000 for path in files)


def test_new_run_does_not_overwrite_an_earlier_one(pretrain, tmp_path):
    assert pretrain(tmp_path / "c", "--epochs", 1)[0] == 0
    before = (tmp_path / "c/checkpoint_0000.pth.tar").read_bytes()
    code, _, err = pretrain(tmp_path / "c", "--epochs", 1)
    assert code == 2 and "--resume auto" in err
    assert (tmp_path / "c/checkpoint_0000.pth.tar").read_bytes() == before


def test_checkpoints_written_during_setup_are_not_overwritten(pretrain, tmp_path, monkeypatch):
    def complete_while_another_run_saves(*arguments):
        save_checkpoint(tmp_path / "c" / "checkpoint_0000.pth.tar", {"state_dict": {}})
        return complete_pretraining(*arguments)

    monkeypatch.setattr("main_moco_inter_skeleton.complete_pretraining", complete_while_another_run_saves)
    code, _, err = pretrain(tmp_path / "c")
    assert code == 2 and "another run has just written checkpoints" in err


def test_resume_rejects_other_flags(pretrain, tmp_path):
    assert pretrain(tmp_path / "c")[0] == 0
    for flags, message in (
        (["--moco-k", "32"], "--moco-k 32, but "),
        (["--moco-dim", "64"], "--moco-dim 64, but "),
        (["--moco-t", "0.5"], "--moco-t 0.5, but "),
        (["--augmentations", "pose"], "--augmentations pose, but "),
        (["--wd", "0.3"], "--weight-decay 0.3, but "),
        (["--epochs", "1"], "has finished 2 epochs"),
        (["--gru-hidden-size", "17"], "--gru-hidden-size 17, but "),
        (["--protocol", "cross_subject"], "--protocol cross_subject, but "),
        (
            ["--skeleton-representation", "seq-based_and_image-based"],
            "--skeleton-representation seq-based_and_",
        ),
        (["--batch-size", "8"], "--batch-size 8, but "),
        (["--seed", "6"], "--seed 6, but "),
        (["--pairs", "all"], "--pairs all, but "),
    ):
        code, _, err = pretrain(tmp_path / "c", "--resume", "auto", *flags)
        assert code == 2 and message in err and one_line(err), flags


def test_resume_names_both_values_of_a_flag(pretrain, tmp_path):
    assert pretrain(tmp_path / "c")[0] == 0
    code, _, err = pretrain(tmp_path / "c", "--resume", "auto", "--seed", 6)
    path = tmp_path / "c" / "checkpoint_0001.pth.tar"
    assert code == 2 and err == (
        f"error: --seed 6, but {path} was trained with --seed 5: use the same value, or choose another "
        "--checkpoint-path to start over\n"
    )


def test_resume_rejects_another_head(pretrain, tmp_path):
    assert pretrain(tmp_path / "linear", "--no-mlp")[0] == 0
    code, _, err = pretrain(tmp_path / "linear", "--resume", "auto")
    assert code == 2 and err.startswith("error: --mlp, but ") and "was trained with --no-mlp: use the" in err
    code, out, err = pretrain(tmp_path / "linear", "--resume", "auto", "--no-mlp", "--epochs", 3)
    assert code == 0 and "epoch 2, step 0" in out and "linear head" in out, err


def test_probe_resumes_with_its_random_seed(probe, tmp_path):
    assert probe(tmp_path / "o", "--epochs", 2)[0] == 0
    code, out, err = probe(tmp_path / "o", "--epochs", 3, "--resume", "auto")
    assert code == 0 and "epoch 2" in out, err
    for flags, message in (
        (["--protocol", "cross_subject"], "--protocol cross_subject, but"),
        (["--lr", "0.5"], "--lr 0.5, but"),
        (["--seed", "1"], "was trained with --seed"),
        (["--epochs", "2"], "has finished 3 epochs"),
        (["--gru-hidden-size", "17"], "--gru-hidden-size 17, but"),
    ):
        code, _, err = probe(tmp_path / "o", "--epochs", 4, "--resume", "auto", *flags)
        assert code == 2 and message in err


@pytest.mark.parametrize(
    "change, message",
    [
        ({"length": 10}, "the 6 training clips in {} are not those that"),
        ({"val": 3}, "the 5 training clips in {} are not those that"),
    ],
)
def test_resume_rejects_other_clips(pretrain, tmp_path, change, message):
    write_eight_clips(tmp_path / "one")
    write_eight_clips(tmp_path / "two", **change)
    assert pretrain(tmp_path / "c", "--data-root", tmp_path / "one")[0] == 0
    flags = ["--resume", "auto", "--epochs", 3]
    code, _, err = pretrain(tmp_path / "c", "--data-root", tmp_path / "two", *flags)
    assert code == 2 and message.format(tmp_path / "two/ntu60") in err
    assert "was trained on: use the same --data-root" in err
    assert pretrain(tmp_path / "c", "--data-root", tmp_path / "one", *flags)[0] == 0


def test_resume_rejects_clips_in_another_unit(pretrain, tmp_path):
    """The clips have the same names and lengths."""
    store = write_eight_clips(tmp_path / "one")
    flags = ["--data-root", tmp_path / "one"]
    assert pretrain(tmp_path / "c", *flags, "--epochs", 1)[0] == 0
    frames = np.load(store / FRAMES_FILE)
    np.save(store / FRAMES_FILE, 1000 * frames)
    code, _, err = pretrain(tmp_path / "c", *flags, "--resume", "auto")
    assert code == 2 and "are not those that" in err
    np.save(store / FRAMES_FILE, frames * np.float32(1 + 1e-6))  # prepared on another machine
    assert pretrain(tmp_path / "c", *flags, "--resume", "auto")[0] == 0


def test_resume_rejects_another_dataset(pretrain, tmp_path):
    write_eight_clips(tmp_path / "one")
    write_eight_clips(tmp_path / "one", "mine")
    flags = ["--data-root", tmp_path / "one"]
    assert pretrain(tmp_path / "c", *flags)[0] == 0
    code, _, err = pretrain(tmp_path / "c", *flags, "--pre-dataset", "mine", "--resume", "auto")
    assert code == 2 and "--pre-dataset mine, but " in err and "was trained with --pre-dataset ntu60" in err


def test_resume_rejects_the_folder_of_another_run(pretrain, tmp_path):
    for name in "ab":
        assert pretrain(tmp_path / name, "--epochs", 1)[0] == 0
    code, _, err = pretrain(tmp_path / "a", "--resume", tmp_path / "b" / "checkpoint_0000.pth.tar")
    assert code == 2
    assert f"{tmp_path / 'a'} contains checkpoints of another run; choose another --checkpoint-path" in err


def test_resume_rejects_checkpoints_of_another_kind(pretrain, probe, tmp_path):
    assert pretrain(tmp_path / "c", "--epochs", 1)[0] == 0
    assert probe(tmp_path / "o", "--epochs", 1)[0] == 0
    code, _, err = pretrain(tmp_path / "d", "--resume", tmp_path / "o" / PROBE_FILE)
    assert code == 2 and "not a pretraining checkpoint" in err
    code, _, err = probe(
        tmp_path / "o", "--epochs", 1, "--resume", tmp_path / "c" / "checkpoint_0000.pth.tar"
    )
    assert code == 2 and "not a probe checkpoint" in err
    code, _, err = pretrain(tmp_path / "c", "--resume", "auto", script=INTRA)
    assert code == 2 and "--skeleton-representation seq-based, but " in err


def test_flag_that_an_older_checkpoint_lacks_has_its_default(pretrain, tmp_path):
    assert pretrain(tmp_path / "whole", "--epochs", 3, "--save-freq", 1)[0] == 0
    path = tmp_path / "old" / "checkpoint_0001.pth.tar"
    older = load_checkpoint(tmp_path / "whole" / path.name)
    del older["flags"]["pairs"], older["metrics"], older["best_knn"]
    save_checkpoint(path, older)
    code, _, err = pretrain(tmp_path / "old", "--epochs", 3, "--resume", "auto", "--pairs", "all")
    assert code == 2 and "was trained with --pairs inter" in err
    code, out, err = pretrain(tmp_path / "old", "--epochs", 3, "--resume", "auto")
    assert code == 0 and "epoch 2, step 0" in out, err
    assert same_state(tmp_path / "whole/checkpoint_0002.pth.tar", tmp_path / "old/checkpoint_0002.pth.tar")


def test_log_of_an_epoch_resumed_in_the_middle_covers_all_of_it(pretrain, tmp_path):
    assert pretrain(tmp_path / "whole")[0] == 0
    with in_optimizer_step(8, lambda: signal.raise_signal(signal.SIGTERM)):
        assert pretrain(tmp_path / "c")[0] == EXIT_RESUMABLE
    assert pretrain(tmp_path / "c", "--resume", "auto")[0] == 0
    whole, resumed = (log_lines(tmp_path / name)[1] for name in ("whole", "c"))
    names = [name for name in whole if name == "loss" or "/" in name]
    assert len(names) > 8 and [resumed[name] for name in names] == [whole[name] for name in names]


def test_more_epochs_of_a_cosine_schedule_have_a_note(pretrain, tmp_path):
    flags = ["--cos", "--lr", 0.02]
    assert pretrain(tmp_path / "c", *flags)[0] == 0
    code, out, err = pretrain(tmp_path / "c", *flags, "--epochs", 4, "--resume", "auto")
    assert code == 0 and "the learning rate of epoch 2 is 0.01 instead of 0\n" in out, err
    code, out, err = pretrain(tmp_path / "c", *flags, "--epochs", 4, "--resume", "auto")
    assert code == 0 and "cosine schedule" not in out, err


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state[0].update(momentum_buffer=torch.zeros(1)),
        lambda state: state[0].update(momentum_buffer=state[0]["momentum_buffer"].double()),
        lambda state: state.pop(0),
    ],
)
def test_resume_rejects_an_optimizer_state_that_does_not_fit(pretrain, tmp_path, change):
    """The fused step on a smaller buffer would read outside of it."""
    assert pretrain(tmp_path / "c", "--epochs", 1)[0] == 0
    path = tmp_path / "c" / "checkpoint_0000.pth.tar"
    content = load_checkpoint(path)
    change(content["optimizer"]["state"])
    save_checkpoint(path, content)
    code, _, err = pretrain(tmp_path / "c", "--resume", "auto")
    assert code == 2 and "does not have the expected content" in err and one_line(err)


def test_checkpoint_without_a_newer_size_flag_has_its_default(run, pretrain, tmp_path):
    assert pretrain(tmp_path / "c", "--epochs", 1)[0] == 0
    path = tmp_path / "c" / "checkpoint_0000.pth.tar"
    content = load_checkpoint(path)
    assert content["sizes"].pop("graph_encoder") == "agcn"
    torch.save(content, path)
    flags = ["--finetune-skeleton-representation", "graph-based", "--output-dir", tmp_path / "o"]
    code, _, err = run(RETRIEVAL, "--pretrained", path, *flags)
    assert code == 0, err
    code, _, err = pretrain(tmp_path / "c", "--resume", "auto", "--graph-encoder", "stgcn")
    assert code == 2 and "--graph-encoder stgcn, but " in err
    code, out, err = pretrain(tmp_path / "c", "--resume", "auto")
    assert code == 0 and "epoch 1, step 0" in out, err
    assert load_checkpoint(tmp_path / "c" / "checkpoint_0001.pth.tar")["sizes"]["graph_encoder"] == "agcn"
