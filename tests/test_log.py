"""The log of a run: ``config.json`` with its flags, and one line per epoch in ``log.jsonl``."""

import argparse
import json
import math

from conftest import log_lines

import engine.pretrain
from engine.checkpoint import RollingCheckpoint, load_checkpoint, save_checkpoint
from engine.classifier import PROBE_FILE
from engine.log import RunLog


def logged_epochs(folder):
    """The epochs in ``log.jsonl``, in the order of the lines."""
    return [line["epoch"] for line in log_lines(folder)]


def without_speed(lines):
    """Log lines without the number that depends on the machine."""
    return [{k: v for k, v in line.items() if k != "clips_per_second"} for line in lines]


def with_prefixes(prefixes, names):
    """``prefix/name`` for all combinations."""
    return {f"{prefix}/{name}" for prefix in prefixes for name in names}


def test_config_has_all_flags_and_the_log_one_line_per_epoch(pretrain, tmp_path):
    """The diagnostics are in the lines of the first and the last epoch."""
    flags = ["--no-mlp", "--augmentations", "crop", "jitter", "--epochs", 3, "--schedule", 1]
    out = pretrain.succeed(tmp_path / "c", *flags)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config == load_checkpoint(tmp_path / "c" / "checkpoint_0002.pth.tar")["flags"]
    assert config["mlp"] is False and config["augmentations"] == ["crop", "jitter"] and config["seed"] == 5
    printed = " ".join(out.split())
    for name, value in config.items():
        assert f" {name}={value}" in printed
    lines = log_lines(tmp_path / "c")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    per_pair = ("relative_loss", "contrastive_accuracy", "positive_logit", "negative_logit")
    every_epoch = {"epoch", "loss", "loss/info_nce", "learning_rate", "clips_per_second"}
    every_epoch |= with_prefixes(per_pair, ("seq->graph", "graph->seq"))
    per_encoder = ("feature_rank", "embedding_rank", "alignment", "uniformity")
    diagnostics = {"monitored_clips"} | with_prefixes(per_encoder, ("seq", "graph"))
    assert lines[1].keys() == every_epoch
    assert lines[0].keys() == lines[2].keys() == every_epoch | diagnostics
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert [line["learning_rate"] for line in lines] == [0.01, 0.001, 0.001]


def test_resumed_run_repeats_and_continues_the_log(pretrain, tmp_path):
    """As if killed while it wrote the line of the last epoch: it repeats the epochs after the checkpoint."""
    flags = ["--monitor-freq", 1, "--epochs", 3]
    pretrain.succeed(tmp_path / "c", *flags)
    before, path = log_lines(tmp_path / "c"), tmp_path / "c" / "log.jsonl"
    (tmp_path / "c" / "checkpoint_0002.pth.tar").unlink()
    path.write_bytes(path.read_bytes()[:-40])
    out = pretrain.succeed(tmp_path / "c", *flags, "--resume", "auto")
    assert "checkpoint_0000.pth.tar: epoch 2, step 0" in out
    assert without_speed(log_lines(tmp_path / "c")) == without_speed(before)
    assert log_lines(tmp_path / "c")[0] == before[0]


def test_epoch_is_logged_before_its_checkpoint(pretrain, tmp_path, monkeypatch):
    """So a run that is killed in between, and resumes from the checkpoint, has the line of every epoch."""

    def killed_after(path, state):
        save(path, state)
        raise KeyboardInterrupt

    save = engine.pretrain.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(engine.pretrain, "save_checkpoint", killed_after)
        assert pretrain(tmp_path / "c")[0] == 130
    assert logged_epochs(tmp_path / "c") == [0]
    pretrain.succeed(tmp_path / "c", "--resume", "auto")
    assert logged_epochs(tmp_path / "c") == [0, 1]


def test_probe_logs_an_epoch_before_its_checkpoint(probe, tmp_path, monkeypatch):
    def killed_after_save(rolling, state):
        save_checkpoint(rolling.path, state())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RollingCheckpoint, "save_if_due", killed_after_save)
        assert probe(tmp_path / "o", "--epochs", 2, "--seed", 1)[0] == 130
    assert logged_epochs(tmp_path / "o") == [0]
    out = probe.succeed(tmp_path / "o", "--epochs", 2, "--seed", 1, "--resume", "auto")
    assert f"{PROBE_FILE}: epoch 2" in out
    assert logged_epochs(tmp_path / "o") == [0, 1]


def test_lines_of_later_epochs_and_unreadable_ones_are_removed(tmp_path):
    unreadable = ['{"epoch": 1, "lo', "[]", '{"loss": 3}', '{"epoch": null}', "\x00"]
    lines = ['{"epoch": 0, "loss": 1.0}', *unreadable, '{"epoch": 2, "loss": 3.0}']
    for first_epoch, kept in ((2, [{"epoch": 0, "loss": 1.0}]), (0, [])):
        (tmp_path / "log.jsonl").write_text("\n".join(lines))
        with RunLog(tmp_path, argparse.Namespace(), first_epoch) as log:
            log.epoch("test", first_epoch, {"loss": 4.0})
        assert log_lines(tmp_path) == [*kept, {"epoch": first_epoch, "loss": 4.0}]
