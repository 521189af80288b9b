"""Resuming: it continues the same run bit for bit, or is rejected because something differs."""

import json

import numpy as np
import pytest
from conftest import (
    INTRA,
    PRETRAINING_FLAGS,
    in_optimizer_step,
    kill,
    log_lines,
    results,
    same_state,
    saved_at_every_opportunity,
    terminate,
    write_eight_clips,
)

from dataset.store_format import FRAMES_FILE
from engine.checkpoint import LAST, load_checkpoint, save_checkpoint
from engine.classifier import PROBE_FILE
from engine.signals import EXIT_RESUMABLE
from options.defaults import complete_pretraining

FIRST, SECOND, THIRD = (f"checkpoint_{epoch:04d}.pth.tar" for epoch in range(3))
RESUME = ["--resume", "auto"]


def test_stopped_pretraining_matches_uninterrupted_one(pretrain, tmp_path):
    """Also in its log, whose line of the interrupted epoch covers all of it."""
    flags = ["--skeleton-representation", "seq-based_and_image-based"]  # has dropout
    pretrain.succeed(tmp_path / "whole", *flags)
    with in_optimizer_step(8, terminate):
        code, out, _ = pretrain(tmp_path / "c", *flags)
    assert code == EXIT_RESUMABLE and "stopped in epoch 2, step 3" in out
    assert "epoch 2, step 3" in pretrain.succeed(tmp_path / "c", *flags, *RESUME)
    assert same_state(tmp_path / "whole" / SECOND, tmp_path / "c" / SECOND)
    whole, resumed = (log_lines(tmp_path / name) for name in ("whole", "c"))
    names = [name for name in whole[1] if name == "loss" or "/" in name]
    assert len(names) > 8 and [resumed[1][name] for name in names] == [whole[1][name] for name in names]
    assert [line["epoch"] for line in resumed] == [0, 1]


def test_stopped_or_killed_probe_matches_uninterrupted_one(probe, tmp_path):
    flags = ["--epochs", 4, "--seed", 1]
    probe.succeed(tmp_path / "whole", *flags)
    with in_optimizer_step(2, terminate):  # one step per epoch
        assert probe(tmp_path / "stopped", *flags)[0] == EXIT_RESUMABLE
    with saved_at_every_opportunity(), in_optimizer_step(3, kill):
        assert probe(tmp_path / "killed", *flags)[0] == 130
    for folder in (tmp_path / "stopped", tmp_path / "killed"):
        assert not (folder / "results.json").exists()
        assert f"{PROBE_FILE}: epoch 3" in probe.succeed(folder, *flags, *RESUME)
        assert same_state(tmp_path / "whole" / PROBE_FILE, folder / PROBE_FILE)
        assert results(tmp_path / "whole")["numbers"] == results(folder)["numbers"]


def test_more_epochs_of_a_cosine_schedule_have_a_note(pretrain, probe, tmp_path):
    for run, flags, rate in ((pretrain, ["--lr", 0.02], 0.01), (probe, ["--seed", 1], 0.05)):
        folder, flags = tmp_path / str(rate), [*flags, "--cos"]
        run.succeed(folder, *flags, "--epochs", 2)
        note = f"changes the cosine schedule: the learning rate of epoch 3 is {rate} instead of 0\n"
        assert note in run.succeed(folder, *flags, "--epochs", 4, *RESUME)
        assert "cosine schedule" not in run.succeed(folder, *flags, "--epochs", 4, *RESUME)


def test_unreadable_checkpoints_are_skipped_but_not_overwritten(run, pretrain, pretrained):
    """Sizes and representations come from the checkpoint that can be read."""
    flags = [*PRETRAINING_FLAGS, "--checkpoint-path", pretrained, *RESUME]
    for damaged, content, resumed in (
        (LAST, b"", f"{SECOND}: epoch 3, step 0"),
        (LAST, b"PK\x03\x04 and so on", f"{SECOND}: epoch 3, step 0"),
        (SECOND, (pretrained / SECOND).read_bytes()[:-2000], f"{FIRST}: epoch 2, step 0"),
    ):
        (pretrained / damaged).write_bytes(content)
        out = run.succeed("main_moco_inter_skeleton.py", *flags)
        assert f"{damaged} is corrupted or not a checkpoint" in out and resumed in out
        assert "falling back to the previous checkpoint" in out
        assert json.loads((pretrained / "config.json").read_text())["gru_hidden_size"] == 16
        (pretrained / LAST).unlink(missing_ok=True)
    for path in (pretrained / FIRST, pretrained / SECOND):
        path.write_bytes(path.read_bytes()[:5000])
    err = pretrain.fail(pretrained, *RESUME)
    assert f"none of the 2 checkpoints in {pretrained} can be read; move them away" in err
    assert all((pretrained / name).stat().st_size == 5000 for name in (FIRST, SECOND))


def test_new_run_does_not_overwrite_an_earlier_one(pretrain, pretrained):
    before = (pretrained / FIRST).read_bytes()
    assert "--resume auto" in pretrain.fail(pretrained)
    assert (pretrained / FIRST).read_bytes() == before


def test_checkpoints_written_during_setup_are_not_overwritten(pretrain, tmp_path, monkeypatch):
    def complete_while_another_run_saves(*arguments):
        save_checkpoint(tmp_path / "c" / FIRST, {"state_dict": {}})
        return complete_pretraining(*arguments)

    monkeypatch.setattr("main_moco_inter_skeleton.complete_pretraining", complete_while_another_run_saves)
    assert "another run has just written checkpoints" in pretrain.fail(tmp_path / "c")


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--moco-k 32", "--moco-k 32, but "),
        ("--moco-dim 64", "--moco-dim 64, but "),
        ("--moco-t 0.5", "--moco-t 0.5, but "),
        ("--augmentations pose", "--augmentations pose, but "),
        ("--wd 0.3", "--weight-decay 0.3, but "),
        ("--epochs 1", "has finished 2 epochs"),
        ("--gru-hidden-size 17", "--gru-hidden-size 17, but "),
        ("--protocol cross_subject", "--protocol cross_subject, but "),
        ("--skeleton-representation seq-based", "--skeleton-representation seq-based, but "),
        ("--batch-size 8", "--batch-size 8, but "),
        ("--pairs all", "--pairs all, but "),
        ("--no-mlp", "error: --no-mlp, but "),
        (
            "--seed 6",
            "error: --seed 6, but {} was trained with --seed 5: use the same value, or choose another "
            "--checkpoint-path to start over\n",
        ),
    ],
)
def test_resume_rejects_other_flags(pretrain, pretrained, flags, message):
    script = {"script": INTRA} if "representation" in flags else {}
    err = pretrain.fail(pretrained, *RESUME, *flags.split(), **script)
    assert message.format(pretrained / SECOND) in err


def test_probe_resumes_with_its_random_seed(probe, tmp_path):
    probe.succeed(tmp_path / "o", "--epochs", 2)
    assert "epoch 3" in probe.succeed(tmp_path / "o", "--epochs", 3, *RESUME)
    for flags, message in (
        (["--protocol", "cross_subject"], "--protocol cross_subject, but"),
        (["--lr", "0.5"], "--lr 0.5, but"),
        (["--seed", "1"], "was trained with --seed"),
        (["--epochs", "2"], "has finished 3 epochs"),
        (["--gru-hidden-size", "17"], "--gru-hidden-size 17, but"),
    ):
        assert message in probe.fail(tmp_path / "o", "--epochs", 4, *RESUME, *flags)


def test_resume_rejects_other_clips(pretrain, tmp_path):
    """Also those of the same names and lengths in another unit, or in a store of another dataset."""
    store = write_eight_clips(tmp_path / "one")
    write_eight_clips(tmp_path / "one", "mine")
    write_eight_clips(tmp_path / "longer", length=10)
    write_eight_clips(tmp_path / "fewer", val=3)
    data, resume = ["--data-root", tmp_path / "one"], [*RESUME, "--epochs", 2]
    pretrain.succeed(tmp_path / "c", *data, "--epochs", 1)
    for root, count in ((tmp_path / "longer", 6), (tmp_path / "fewer", 5)):
        err = pretrain.fail(tmp_path / "c", "--data-root", root, *resume)
        assert f"the {count} training clips in {root / 'ntu60'} are not those that" in err
        assert "was trained on: use the same --data-root" in err
    err = pretrain.fail(tmp_path / "c", *data, *resume, "--pre-dataset", "mine")
    assert "--pre-dataset mine, but " in err and "was trained with --pre-dataset ntu60" in err
    frames = np.load(store / FRAMES_FILE)
    np.save(store / FRAMES_FILE, 1000 * frames)
    assert "are not those that" in pretrain.fail(tmp_path / "c", *data, *resume)
    np.save(store / FRAMES_FILE, frames * np.float32(1 + 1e-6))  # prepared on another machine
    pretrain.succeed(tmp_path / "c", *data, *resume)


def test_resume_rejects_checkpoints_of_another_run_or_kind(pretrain, pretrained, probe, tmp_path):
    probe.succeed(tmp_path / "o", "--epochs", 1)
    save_checkpoint(tmp_path / "other" / FIRST, load_checkpoint(pretrained / FIRST))
    err = pretrain.fail(pretrained, "--resume", tmp_path / "other" / FIRST)
    assert f"{pretrained} contains checkpoints of another run; choose another --checkpoint-path" in err
    err = pretrain.fail(tmp_path / "d", "--resume", tmp_path / "o" / PROBE_FILE)
    assert "not a pretraining checkpoint" in err
    assert "not a probe checkpoint" in probe.fail(tmp_path / "o", "--resume", pretrained / FIRST)


def test_flag_that_an_older_checkpoint_lacks_has_its_default(pretrain, pretrained, tmp_path):
    older = load_checkpoint(pretrained / SECOND)
    del older["flags"]["pairs"], older["metrics"], older["best_knn"], older["sizes"]["graph_encoder"]
    save_checkpoint(tmp_path / "old" / SECOND, older)
    flags = ["--epochs", 3, *RESUME]
    assert "was trained with --pairs inter" in pretrain.fail(tmp_path / "old", *flags, "--pairs", "all")
    err = pretrain.fail(tmp_path / "old", *flags, "--graph-encoder", "stgcn")
    assert "--graph-encoder stgcn, but " in err
    for folder in (pretrained, tmp_path / "old"):
        assert "epoch 3, step 0" in pretrain.succeed(folder, *flags)
    assert same_state(pretrained / THIRD, tmp_path / "old" / THIRD)
    assert load_checkpoint(tmp_path / "old" / THIRD)["sizes"]["graph_encoder"] == "agcn"
