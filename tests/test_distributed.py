"""Two processes of torchrun, with gloo on the CPU, equal one process with the same batch."""

import socket
import textwrap

import pytest
import torch
from conftest import PRETRAINING_FLAGS, TINY_FLAGS
from processes import REPOSITORY, finish, start

from engine.checkpoint import load_checkpoint
from engine.distributed import Group, check_shards
from engine.signals import EXIT_RESUMABLE
from utils.errors import UserError

FLAGS = [*TINY_FLAGS, *PRETRAINING_FLAGS, "--epochs", 3, "--save-freq", 1]
FLAGS += ["--skeleton-representation", "seq-based_and_graph-based"]

# The script with BatchNorm in evaluation mode, whose result does not depend on how a batch is split. It can
# send itself a signal at a given step.
WORKER = """
    import os, signal, sys
    sys.path.insert(0, {repository!r})
    import torch
    torch.set_num_threads(1)
    for norm in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
        norm.train = lambda self, mode=True: torch.nn.Module.train(self, False)
    import engine.pretrain
    from main_moco_inter_skeleton import main
    from utils.errors import run_script

    seed = engine.pretrain.seed_globally

    def seeded(*position):
        seed(*position)
        if os.environ["RANK"] == "1" and os.environ.get("STOP_AT") == str(position[2:4]):
            os.kill(os.getpid(), signal.SIGTERM)

    engine.pretrain.seed_globally = seeded
    run_script(main)
"""


def run_ranks(size, *command, **environment):
    """Run the processes that torchrun would start on one machine; returns code, stdout, stderr of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "x"}
    ranks = [{**environment, **group, "RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
    children = [start(*command, environment={k: str(v) for k, v in rank.items()}) for rank in ranks]
    return [finish(child) for child in children]


@pytest.fixture
def train(tmp_path, training_store):
    """``train(folder, size, ...)``: three epochs of five steps of four clips in ``size`` processes."""
    worker = tmp_path / "worker.py"
    worker.write_text(textwrap.dedent(WORKER.format(repository=str(REPOSITORY))))

    def run(folder, size, *flags, **environment):
        paths = ["--data-root", training_store, "--checkpoint-path", tmp_path / folder]
        return run_ranks(size, worker, *FLAGS, *paths, *flags, **environment)

    return run


def test_two_processes_stopped_and_resumed_equal_one_process(train, tmp_path):
    ((code, _, err),) = train("one", 1)
    assert code == 0, err
    (code, out, err), (other_code, other_out, _) = train("two", 2, STOP_AT="(1, 2)")
    assert code == other_code == EXIT_RESUMABLE and "stopped in epoch 1, step 3" in out, err
    assert other_out == "", "only the first process prints"
    (code, _, err), _ = train("two", 2, "--resume", "auto")
    assert code == 0, err
    for epoch in range(3):
        first, second = (
            load_checkpoint(tmp_path / folder / f"checkpoint_{epoch:04d}.pth.tar")
            for folder in ("one", "two")
        )
        for name, tensor in first["state_dict"].items():  # weights, queues and their pointers
            torch.testing.assert_close(second["state_dict"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        assert (first["epoch"], first["step"]) == (second["epoch"], second["step"])


def test_shards_make_up_the_batch():
    shards = [Group(rank, 4).shard(8) for rank in range(4)]
    assert sum((list(range(8))[shard] for shard in shards), []) == list(range(8))
    check_shards(Group(0, 2), 64)
    with pytest.raises(UserError, match="a multiple of the number of processes, 3"):
        check_shards(Group(0, 3), 64)


def test_evaluation_rejects_torchrun(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr("os._exit", lambda code: None)  # of run_script, for processes of a group
    assert "start it without torchrun" in run.fail("action_retrieval.py", "--pretrained", "random")
