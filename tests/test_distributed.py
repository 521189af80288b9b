"""Two processes under torchrun, with gloo on the CPU, equal one process with the same batch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_FLAGS

import engine.evaluation
from engine.checkpoint import load_checkpoint
from engine.distributed import Group, check_shards
from engine.signals import EXIT_RESUMABLE
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]

# The script with BatchNorm in evaluation mode, whose result does not depend on how a batch is split.
# It logs the clips whose views it makes, and can send itself a signal at a given step.
WORKER = """
import json, os, signal, sys
import torch
sys.path.insert(0, {repository!r})
torch.set_num_threads(1)
for norm in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
    norm.train = lambda self, mode=True: torch.nn.Module.train(self, False)
import engine.pretrain
from dataset.views import View
from main_moco_inter_skeleton import main
from utils.errors import run_script

rank, stop_at = os.environ.get("RANK", "0"), os.environ.get("STOP_AT")
make_view, seed = View.of, engine.pretrain.seed_globally
seen = open(os.environ["SEEN"] + rank, "a", buffering=1)

def view(self, clips, index, source=None, shard=None):
    if shard is None:  # sample views for the log
        return make_view(self, clips, index, source)
    seen.write(json.dumps(index[shard].tolist()) + "\\n")
    return make_view(self, clips, index, source, shard)

def seeded(*position):
    seed(*position)
    if rank == "1" and stop_at == str(position[2:4]):
        os.kill(os.getpid(), signal.SIGTERM)

View.of, engine.pretrain.seed_globally = view, seeded
run_script(main)
"""


@pytest.fixture
def train(tmp_path, small_store):
    """``train(folder, processes, ...)``: three epochs of five steps of four clips."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.format(repository=str(REPOSITORY)))

    def run(folder, processes, *flags, **environment):
        launcher = (
            ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
        )
        command = [sys.executable, *launcher, worker]
        command += ["--data-root", small_store, "--checkpoint-path", tmp_path / folder, "--save-freq", "1"]
        command += ["--skeleton-representation", "seq-based_and_graph-based", *TINY_FLAGS, "--moco-dim", "8"]
        command += ["--epochs", "3", "--batch-size", "4", "--moco-k", "16", "--seed", "1", *flags]
        seen = str(tmp_path / f"{folder}_seen")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SEEN": seen, **environment}
        return subprocess.run(map(str, command), env=environment, capture_output=True, text=True, timeout=240)

    return run


def clips_seen(path):
    """The clips of each batch; the second view, which is of the same clips, is left out."""
    return [json.loads(line) for line in path.read_text().splitlines()][::2]


def test_two_processes_stopped_and_resumed_equal_one_process(train, tmp_path):
    one = train("one", 1)
    assert one.returncode == 0, one.stderr
    stopped = train("two", 2, STOP_AT="(1, 2)")
    assert stopped.returncode == 1  # of torchrun, which reports that of the processes
    assert re.search(rf"exitcode *: {EXIT_RESUMABLE}\b", stopped.stderr), stopped.stderr
    assert stopped.stdout.count("stopped in epoch 1, step 3") == 1  # only the first process prints
    resumed = train("two", 2, "--resume", "auto")
    assert resumed.returncode == 0, resumed.stderr

    for epoch in range(3):
        first, second = (
            load_checkpoint(tmp_path / folder / f"checkpoint_{epoch:04d}.pth.tar")
            for folder in ("one", "two")
        )
        for name, tensor in first["state_dict"].items():  # weights, queues and their pointers
            torch.testing.assert_close(second["state_dict"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        assert (first["epoch"], first["step"]) == (second["epoch"], second["step"])
    one_run, two_runs = (
        re.findall(r"loss (\d\S*) ", "".join(run.stdout for run in runs))
        for runs in ([one], [stopped, resumed])
    )
    assert len(one_run) == 3
    # The loss of the second epoch is a mean over the steps that were left after the stop.
    assert [one_run[0], one_run[2]] == [two_runs[0], two_runs[2]]

    batches = clips_seen(tmp_path / "one_seen0")
    halves = [clips_seen(tmp_path / f"two_seen{rank}") for rank in (0, 1)]
    assert batches == [[*a, *b] for a, b in zip(*halves, strict=True)] and len(batches) == 15
    for epoch in range(3):  # every clip once per epoch
        assert sorted(sum(batches[5 * epoch : 5 * epoch + 5], [])) == list(range(20))


def test_batch_size_must_be_divisible_by_the_number_of_processes():
    check_shards(Group(0, 2), 64)
    with pytest.raises(UserError, match="a multiple of the number of processes, 3"):
        check_shards(Group(0, 3), 64)


def test_shards_make_up_the_batch():
    shards = [Group(rank, 4).shard(8) for rank in range(4)]
    assert sum((list(range(8))[shard] for shard in shards), []) == list(range(8))


def test_evaluation_rejects_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        engine.evaluation.prepare_evaluation(None, "linear")
