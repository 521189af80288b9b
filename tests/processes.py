"""Runs as child processes, for tests that kill them, limit their resources or start several."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from conftest import PRETRAINING_FLAGS, TINY_FLAGS

REPOSITORY = Path(__file__).resolve().parents[1]
EPOCHS = 3  # of five steps


def pretraining_flags(store, folder, *flags):
    """The flags of a pretraining that has dropout and saves in every step."""
    settings = [*PRETRAINING_FLAGS, *TINY_FLAGS, "--num-frames", 64, "--save-freq", 3, "--save-minutes", 1e-6]
    settings += ["--skeleton-representation", "seq-based_and_image-based", "--epochs", EPOCHS]
    return [*map(str, [*settings, "--data-root", store, "--checkpoint-path", folder, *flags])]


def pretraining_script(path, changes=""):
    """Write a script that pretrains after the statements ``changes``, and return ``path``.

    It makes no sample views, which take as long as the training.
    """
    lines = [
        "import atexit, os, signal, sys",
        f"sys.path.insert(0, {str(REPOSITORY)!r})",
        "import main_moco_inter_skeleton as script",
        "from utils.errors import run_script",
        "script.log_views = lambda *_: None",
        textwrap.dedent(changes),
        "run_script(script.main)",
    ]
    path.write_text("\n".join(lines))
    return path


def start(*command, environment=(), **settings):
    """Start Python with a command line; ``settings`` are arguments of ``Popen``."""
    return subprocess.Popen(
        [sys.executable, "-u", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **dict(environment)},
        **settings,
    )


def finish(child):
    """Wait for the end of a process; return the exit code, stdout and stderr."""
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err
