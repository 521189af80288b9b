"""Pretraining runs as child processes, for tests that kill them or limit their resources."""

import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import INTER, PRETRAINING_FLAGS, TINY_FLAGS

from engine.checkpoint import newest_checkpoint, position

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / INTER
EPOCHS = 12  # of five steps
FREQUENT_SAVES = ["--save-freq", 3, "--save-minutes", 0.002]


def command(store, folder, *flags):
    """The command of a pretraining that is fast and has dropout."""
    representations = ["--skeleton-representation", "seq-based_and_image-based"]
    paths = ["--data-root", store, "--checkpoint-path", folder]
    settings = [*PRETRAINING_FLAGS, *TINY_FLAGS, *representations, *FREQUENT_SAVES, "--epochs", EPOCHS]
    return [sys.executable, "-u", *map(str, [SCRIPT, *settings, *paths, *flags])]


def start(store, folder, *flags, **settings):
    """Start a pretraining, or resume the one in ``folder``; ``settings`` are arguments of ``Popen``."""
    return subprocess.Popen(
        command(store, folder, "--resume", "auto", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **settings,
    )


def finish(child):
    """Wait for the end of a process; return the exit code, stdout and stderr."""
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def wait_until(child, condition):
    """Wait until ``condition()`` is true; fails if the process ends first."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end and child.poll() is None, child.communicate()
        time.sleep(0.02)


def wait_for_checkpoint(child, folder, epoch, step):
    """Wait until a checkpoint in ``folder`` is at the position ``(epoch, step)`` or later."""

    def is_saved():
        newest = newest_checkpoint(folder)
        return newest is not None and position(newest[1]) >= (epoch, step)

    wait_until(child, is_saved)
