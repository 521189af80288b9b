"""A representation is added by one module and one registry line, and old checkpoints stay loadable."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY_FLAGS

from engine.checkpoint import load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]

# Runs the commands in sys.argv[1], a JSON list, in one process. The first line that reads REGISTER adds
# the representation; commands before it run without it.
DRIVER = """
import importlib, json, sys
sys.path[:0] = [{repository!r}, {repository!r} + "/tests"]
from models.registry import REPRESENTATIONS
from transformer_representation import TRANSFORMER
from utils.errors import run_script

for command in json.loads(sys.argv[1]):
    if command == "REGISTER":
        REPRESENTATIONS[TRANSFORMER.name] = TRANSFORMER
        continue
    sys.argv = command
    try:
        run_script(importlib.import_module(command[0].removesuffix(".py")).main)
    except SystemExit as end:
        if end.code:
            sys.exit(f"{{' '.join(command)}}: exit code {{end.code}}")
"""


@pytest.fixture
def run_all(small_store, tmp_path):
    """``run_all(*commands)``: output of a process that runs scripts of the repository in turn."""

    def run(*commands):
        driver = tmp_path / "driver.py"
        driver.write_text(DRIVER.format(repository=str(REPOSITORY)))
        shown = [
            command if isinstance(command, str) else [str(part) for part in command] for command in commands
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}  # help without line breaks
        done = subprocess.run(
            [sys.executable, driver, json.dumps(shown)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def pretrain(script, names, folder, *flags):
    command = [
        f"main_moco_{script}_skeleton.py",
        "--skeleton-representation",
        names,
        "--checkpoint-path",
        folder,
    ]
    return [*command, "--moco-k", 16, "--batch-size", 4, "--epochs", 1, "--seed", 5, *TINY_FLAGS, *flags]


def test_fourth_representation_runs_in_every_script(run_all, tmp_path):
    everything = "seq-based_and_graph-based_and_image-based_and_transformer-based"
    intra, inter = (tmp_path / name / "checkpoint_0000.pth.tar" for name in ("intra", "inter"))
    probe = ["action_classification.py", "--epochs", 1, "--seed", 1]
    retrieval = ["action_retrieval.py", "--knn-neighbours", 1, "--seed", 1]
    evaluated = ["--finetune-skeleton-representation", "seq-based_and_transformer-based"]
    out = run_all(
        "REGISTER",
        pretrain("intra", "transformer-based", intra.parent, "--transformer-width", 8),
        pretrain("inter", everything, inter.parent),
        [*probe, "--pretrained", intra],
        [*retrieval, "--pretrained", inter, *evaluated],
        ["reproduce_tables.py", "--list"],
    )
    assert "transformer->transformer" in out and out.count("transformer->") == 4 and "T10" in out
    assert load_checkpoint(intra)["sizes"]["transformer_width"] == 8
    assert load_checkpoint(inter)["sizes"]["transformer_width"] == 16


def test_fourth_representation_appears_in_the_help(run_all):
    scripts = ["main_moco_intra_skeleton.py", "main_moco_inter_skeleton.py", "action_classification.py"]
    out = run_all("REGISTER", *([script, "--help"] for script in scripts))
    assert out.count("width of the transformer (paper: 16)") == len(scripts)
    assert out.count("transformer-based") >= 2  # --skeleton-representation of both pretraining scripts


def test_checkpoint_from_before_a_size_flag_existed_is_evaluated_and_resumed(run_all, tmp_path):
    checkpoint = tmp_path / "old" / "checkpoint_0000.pth.tar"
    probe = ["action_classification.py", "--epochs", 1, "--seed", 1, "--pretrained", checkpoint]
    run_all(
        pretrain("intra", "seq-based", checkpoint.parent),
        "REGISTER",
        probe,
        pretrain("intra", "seq-based", checkpoint.parent, "--epochs", 2, "--resume", "auto"),
    )
    assert "transformer_width" not in load_checkpoint(checkpoint)["sizes"]
    resumed = load_checkpoint(checkpoint.with_name("checkpoint_0001.pth.tar"))
    assert resumed["sizes"]["transformer_width"] == 16
