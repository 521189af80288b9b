"""Runs as child processes, for tests that kill them, limit their resources or start several."""

import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import INTER, PRETRAINING_FLAGS, TINY_FLAGS

from engine.checkpoint import newest_checkpoint, position

REPOSITORY = Path(__file__).resolve().parents[1]
EPOCHS = 8  # of five steps


def pretraining_flags(store, folder, *flags):
    """The flags of a pretraining of some seconds that has dropout and often saves."""
    settings = [
        *PRETRAINING_FLAGS,
        *TINY_FLAGS,
        "--num-frames",
        64,
        "--save-freq",
        3,
        "--save-minutes",
        0.002,
    ]
    settings += ["--skeleton-representation", "seq-based_and_image-based", "--epochs", EPOCHS]
    return [*map(str, [*settings, "--data-root", store, "--checkpoint-path", folder, *flags])]


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


def start_pretraining(store, folder, *flags, **settings):
    """Start a pretraining, or resume the one in ``folder``."""
    script = REPOSITORY / INTER
    return start(script, *pretraining_flags(store, folder, "--resume", "auto", *flags), **settings)


def finish(child):
    """Wait for the end of a process; return the exit code, stdout and stderr."""
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def wait_for_checkpoint(child, folder, epoch, step):
    """Wait until a checkpoint in ``folder`` is at ``(epoch, step)`` or later; fails if the process ends."""
    end = time.monotonic() + 120
    while not (newest := newest_checkpoint(folder)) or position(newest[1]) < (epoch, step):
        assert time.monotonic() < end and child.poll() is None, child.communicate()
        time.sleep(0.02)
