"""``ordered_map``: order, bounded lead, killed workers, exceptions; worker processes never import torch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_gen.parallel import TASKS_AHEAD, THREADS, ordered_map
from utils.errors import UserError


def square(x):
    return x * x


def die_at_seven(x):
    if x == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def fail_at_seven(x):
    if x == 7:
        raise ValueError("seven")
    return x


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_ordered_with_a_bounded_lead(workers):
    consumed = []

    def tasks():
        for i in range(60):
            consumed.append(i)
            yield i

    for i, result in enumerate(ordered_map(square, tasks(), workers)):
        assert result == i * i
        assert len(consumed) <= i + 2 + workers * TASKS_AHEAD
    assert i == 59


def test_environment_is_restored(monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    assert list(ordered_map(square, [3], 2)) == [9]
    assert THREADS not in os.environ


def test_killed_worker_raises_user_error():
    with pytest.raises(UserError, match="worker process was killed"):
        list(ordered_map(die_at_seven, range(50), 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_exception_of_a_task_is_raised(workers):
    with pytest.raises(ValueError, match="seven"):
        list(ordered_map(fail_at_seven, range(50), workers))


IMPORT_ALL = """
import importlib, pkgutil, sys
import data_gen
for module in pkgutil.walk_packages(data_gen.__path__, "data_gen."):
    importlib.import_module(module.name)
    assert "torch" not in sys.modules, module.name
"""


def test_data_gen_does_not_import_torch():
    """Each worker process would otherwise need more memory and seconds to start."""
    repository = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=repository, check=True)
