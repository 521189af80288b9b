"""Presets, the length of a pretraining in steps, and the folder of a pretraining as --pretrained."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from conftest import INTER, INTRA, RETRIEVAL, in_optimizer_step, log_lines

PRESET = Path(__file__).resolve().parents[1] / "presets" / "small_dataset.txt"
STREAMS = PRESET.with_name("streams.txt")
TINY = ("--batch-size", "8", "--num-frames", "4", "--gru-hidden-size", "4", "--gru-num-layers", "1")


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_flags_after_a_preset_override_it(run, tmp_path):
    preset = tmp_path / "own.txt"
    preset.write_text("\ufeff# a comment\r\n--moco-k 0 --moco-m 0.5  # why\n\n--cos --steps 3\n")
    code, out, error = run(
        INTRA, f"@{preset}", *TINY, "--moco-m", "0.25", "--checkpoint-path", tmp_path / "a"
    )
    assert code == 0, error
    flags = config(tmp_path / "a")
    assert (flags["moco_k"], flags["moco_m"], flags["cos"]) == (0, 0.25, True)


@pytest.mark.parametrize("script, others", [(INTRA, []), (INTER, []), (INTER, [STREAMS])])
def test_preset_of_small_datasets_trains(run, tmp_path, script, others):
    size = ("--batch-size", "8", "--gru-hidden-size", "4", "--graph-width", "4", "--graph-num-blocks", "1")
    presets = [f"@{preset}" for preset in (PRESET, *others)]
    code, out, error = run(script, *presets, *size, "--steps", "3", "--checkpoint-path", tmp_path / "a")
    assert code == 0, error
    (name,) = [p.name for p in (tmp_path / "a").glob("*_0*.tar")][-1:]
    state = torch.load(tmp_path / "a" / name, weights_only=True)["state_dict"]
    assert all(x.isfinite().all() for x in state.values())


def test_distillation_that_would_never_start_is_an_error(run, tmp_path):
    """The preset has a start for its 32,000 steps; these 3 are two epochs of two steps."""
    flags = [f"@{PRESET}", f"@{STREAMS}", *TINY, "--distill", "inter", "--steps", 3]
    code, _, error = run(INTER, *flags, "--checkpoint-path", tmp_path / "a")
    assert code == 2 and "--distill-start 3200: the run has only 4 steps" in error
    code, out, error = run(INTER, *flags, "--distill-start", 1, "--checkpoint-path", tmp_path / "a")
    assert code == 0 and "distillation" in out, error


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"--cos '\n", "No closing quotation"), (b"\xff\xfe\x00", "not a text file"), (None, "No such file")],
)
def test_preset_that_cannot_be_read_is_a_one_line_error(run, tmp_path, content, message):
    preset = tmp_path / "bad.txt"
    if content is not None:
        preset.write_bytes(content)
    code, out, error = run(INTRA, f"@{preset}")
    assert code == 2 and message in error and error.count("\n") == 1


def test_steps_set_the_number_of_epochs_and_the_last_flag_counts(run, tmp_path):
    steps = ("--moco-k", "0", "--cos", "--steps", "5")
    assert run(INTRA, *TINY, *steps, "--checkpoint-path", tmp_path / "a")[0] == 0
    run_config = config(tmp_path / "a")
    lines = (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    assert run_config["epochs"] == len(lines) and run_config["steps"] == 5
    code, _, error = run(INTRA, *TINY, *steps, "--epochs", "1", "--checkpoint-path", tmp_path / "b")
    assert code == 0, error
    assert config(tmp_path / "b")["epochs"] == 1 and config(tmp_path / "b")["steps"] is None
    code, _, error = run(INTRA, *TINY, "--steps", "5", "--checkpoint-path", tmp_path / "c")
    assert code == 2 and "--cos or --schedule" in error


def test_folder_of_a_pretraining_is_its_last_checkpoint(run, pretrain, tmp_path):
    folder = tmp_path / "run"
    pretrain(folder, "--epochs", "2", "--save-freq", "1")
    for pretrained in (folder, folder / "checkpoint_0001.pth.tar"):
        code, _, error = run(
            RETRIEVAL,
            "--pretrained",
            pretrained,
            "--finetune-skeleton-representation",
            "seq-based",
            "--output-dir",
            tmp_path / "results" / pretrained.name,
        )
        assert code == 0, error
    results = [
        json.loads((tmp_path / "results" / name / "results.json").read_text())
        for name in ("run", "checkpoint_0001.pth.tar")
    ]
    assert results[0]["numbers"] == results[1]["numbers"]
    assert results[0]["pretrained"] == str(folder / "checkpoint_0001.pth.tar")
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, error = run(RETRIEVAL, "--pretrained", empty)
    assert code == 2 and "contains no checkpoint that can be used" in error


def test_folder_of_a_stopped_pretraining_is_the_checkpoint_of_the_stop(run, pretrain, tmp_path):
    folder = tmp_path / "run"
    with in_optimizer_step(8, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert pretrain(folder, "--epochs", 3)[0] == 75
    flags = ["--finetune-skeleton-representation", "seq-based", "--output-dir", tmp_path / "results"]
    code, out, error = run(RETRIEVAL, "--pretrained", folder, *flags)
    assert code == 0 and "1 epoch and 3 steps" in out, error


def test_schedule_after_a_preset_replaces_the_cosine(run, tmp_path):
    preset = tmp_path / "own.txt"
    preset.write_text("--cos --steps 6 --moco-k 0 --lr 0.1")
    code, _, error = run(INTRA, f"@{preset}", *TINY, "--schedule", "1", "--checkpoint-path", tmp_path / "a")
    assert code == 0, error
    assert config(tmp_path / "a")["cos"] is False
    rates = [entry["learning_rate"] for entry in log_lines(tmp_path / "a")]
    assert rates == pytest.approx([0.1] + [0.01] * (len(rates) - 1)) and len(rates) > 1
    code, _, error = run(INTRA, *TINY, "--schedule", "1", f"@{preset}", "--checkpoint-path", tmp_path / "b")
    assert code == 0 and config(tmp_path / "b")["cos"] is True, error


def test_number_of_checkpoints_does_not_depend_on_the_size_of_the_dataset(run, tmp_path):
    code, _, error = run(
        INTRA, *TINY, "--moco-k", "0", "--cos", "--steps", "120", "--checkpoint-path", tmp_path / "a"
    )
    assert code == 0, error
    flags = config(tmp_path / "a")
    assert flags["save_freq"] == 3 and flags["monitor_freq"] == 2  # of 60 epochs
    assert len([*(tmp_path / "a").glob("checkpoint_*.tar")]) == 21
