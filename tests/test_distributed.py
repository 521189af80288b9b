"""Processes of torchrun, with gloo on the CPU: they equal one process, agree, and end together."""

import socket
import textwrap
import threading
import time
from contextlib import suppress

import pytest
import torch
from conftest import PRETRAINING_FLAGS, TINY_FLAGS, one_line, write_pretraining
from processes import REPOSITORY, finish, pretraining_script, start
from torch import nn

from engine.checkpoint import LAST, load_checkpoint, save_checkpoint
from engine.device import check_modes, pick_device
from engine.distributed import SINGLE_PROCESS, Group, check_shards, process_group
from engine.resume import ResumePoint, locked_run, resume_point
from engine.signals import EXIT_RESUMABLE
from options.flags import pretraining_parser
from utils.errors import UserError, run_script
from utils.files import exclusive_folder

FLAGS = [*TINY_FLAGS, *PRETRAINING_FLAGS, "--save-freq", 1]
FLAGS += ["--skeleton-representation", "seq-based_and_graph-based"]

# BatchNorm in evaluation mode, whose result does not depend on how a batch is split. The second process can
# send itself a signal at a given step.
WORKER = """
    import torch
    import engine.pretrain

    atexit.register(lambda: sys.stderr.write("finalized"))
    torch.set_num_threads(1)
    for norm in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
        norm.train = lambda self, mode=True: torch.nn.Module.train(self, False)
    seed = engine.pretrain.seed_globally

    def seeded(*position):
        seed(*position)
        if os.environ["RANK"] == "1" and os.environ.get("STOP_AT") == str(position[2:4]):
            os.kill(os.getpid(), signal.SIGTERM)

    engine.pretrain.seed_globally = seeded
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


def test_two_processes_stopped_and_resumed_equal_one(pretrain, training_store, tmp_path, monkeypatch):
    worker = pretraining_script(tmp_path / "worker.py", WORKER)
    two = [worker, *FLAGS, "--data-root", training_store, "--checkpoint-path", tmp_path / "two"]
    (code, out, err), (other_code, other_out, other_err) = run_ranks(2, *two, STOP_AT="(1, 2)")
    assert code == other_code == EXIT_RESUMABLE and "stopped in epoch 2, step 3" in out, err
    assert other_out == "", "only the first process prints"
    assert "finalized" not in err + other_err
    (code, _, err), _ = run_ranks(2, *two, "--resume", "auto")
    assert code == 0, err

    for norm in (nn.BatchNorm1d, nn.BatchNorm2d):
        monkeypatch.setattr(norm, "train", lambda module, mode=True: nn.Module.train(module, False))
    pretrain.succeed(tmp_path / "one", *FLAGS, "--data-root", training_store)
    for name in ("checkpoint_0000.pth.tar", "checkpoint_0001.pth.tar"):
        first, second = (load_checkpoint(tmp_path / folder / name) for folder in ("one", "two"))
        for key, tensor in first["state_dict"].items():  # weights, queues and their pointers
            torch.testing.assert_close(second["state_dict"][key], tensor, rtol=1e-4, atol=1e-5, msg=key)
        assert (first["epoch"], first["step"]) == (second["epoch"], second["step"])


# Prints what a group does, on stderr. At the end the second process fails while the first one waits for it.
GROUP = """
    import atexit, copy, sys
    sys.path.insert(0, {repository!r})
    import torch
    from torch import nn
    from engine.distributed import process_group
    from engine.sync_batch_norm import convert_sync_batch_norm
    from utils.errors import UserError, run_script

    def same_as_batch_norm(group, shape, layer, dtype):
        torch.manual_seed(0)
        whole = nn.Sequential(nn.Identity(), nn.Sequential(layer)).train()
        nn.init.uniform_(layer.weight), nn.init.uniform_(layer.bias)
        synchronized, shard = copy.deepcopy(whole), group.shard(len(x := torch.randn(shape) + 5))
        convert_sync_batch_norm(synchronized, group)
        x, weights = x.to(dtype), torch.randn(shape).to(dtype)
        a, b = x.clone().requires_grad_(), x[shard].clone().requires_grad_()
        for _ in range(2):  # running statistics are updated twice
            expected, found = whole(a), synchronized(b)
        (expected * weights).sum().backward(), (found * weights[shard]).sum().backward()
        pairs = [(found, expected[shard]), (b.grad, a.grad[shard])]
        pairs += [(group.sum(p.grad), q.grad) for p, q in zip(synchronized.parameters(), whole.parameters())]
        pairs += zip(synchronized.buffers(), whole.buffers())
        pairs += [(synchronized.eval()(b), whole.eval()(a)[shard])]
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=10 * tolerance)
        return list(whole.state_dict()) == list(synchronized.state_dict())

    def main():
        atexit.register(lambda: sys.stderr.write("finalized"))
        with process_group() as group:
            def report(text):
                sys.stderr.write(f"{{group.rank}} {{text}}\\n")  # at once, so that lines do not mix

            report(group.gather_objects({{"rank": group.rank}}))
            group.agree("equal", "never")
            try:
                group.agree(group.rank, "different")
            except UserError as error:
                report(error)
            for shape, layer in ((8, 3), nn.BatchNorm1d(3)), ((4, 3, 5, 6), nn.BatchNorm2d(3, momentum=0.3)):
                report(f"BatchNorm {{same_as_batch_norm(group, shape, layer, torch.float32)}}")
            report(f"BatchNorm {{same_as_batch_norm(group, (8, 3, 5), nn.BatchNorm1d(3), torch.bfloat16)}}")
            if group.rank == 1:
                raise UserError("the reason")
            group.any(True, torch.device("cpu"))

    run_script(main)
"""


def test_group_of_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(GROUP.format(repository=str(REPOSITORY))))
    start_time = time.monotonic()
    code, _, err = finish(start("-m", "torch.distributed.run", "--nproc-per-node", 2, script))
    assert code != 0 and time.monotonic() - start_time < 120
    for rank in (0, 1):
        assert f"{rank} [{{'rank': 0}}, {{'rank': 1}}]\n" in err, err
        assert f"{rank} different: 0 in process 0, but 1 in process 1\n" in err
        assert err.count(f"{rank} BatchNorm True\n") == 3
    assert err.count("error: the reason") == 1, "printed although the first process waits"
    script_lines = err.split("error: the reason")[1].split("torch/distributed")[0]
    assert 'script.py", line' not in script_lines, "the first process ends without a traceback"
    assert "finalized" not in err, "threads of the group that release a tensor then would abort the process"


def test_bug_in_a_group_has_its_traceback_and_exit_code(monkeypatch, capsys):
    ended = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr("os._exit", ended.append)
    with suppress(SystemExit):
        run_script(lambda: [][0])
    assert ended == [1] and "IndexError" in capsys.readouterr().err


@pytest.mark.parametrize("fails", [False, True])
def test_failed_process_leaves_its_group_without_destroying_it(monkeypatch, fails):
    """With NCCL, destroying waits for the other processes, and the error is printed afterwards."""
    calls = []
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"init_process_group": None, "get_rank": 0, "get_world_size": 2}.items():
        monkeypatch.setattr(f"torch.distributed.{name}", lambda *a, value=value, **k: value)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: calls.append("destroyed"))
    with suppress(UserError), process_group():
        if fails:
            raise UserError("the reason")
    assert calls == ([] if fails else ["destroyed"])


def in_two_processes(action):
    """Call ``action(group)`` in two threads that stand for processes; return the result or error of each."""
    shared, results, barrier = [None, None], [None, None], threading.Barrier(2, timeout=30)

    class ThreadGroup(Group):
        def gather_objects(self, value):
            shared[self.rank] = value
            barrier.wait()
            values = list(shared)
            barrier.wait()
            return values

    def work(rank):
        try:
            results[rank] = action(ThreadGroup(rank, 2))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_different_checkpoints_are_an_error_in_all_processes(tmp_path):
    """As on two machines with a relative --checkpoint-path on their own disks."""
    folders = [tmp_path / "a", tmp_path / "b"]
    content = load_checkpoint(write_pretraining(tmp_path / "x.pth.tar", ["seq-based"]))

    def resume(group, flag="auto"):
        return resume_point(flag, folders[group.rank], group)

    for folder in folders:
        folder.mkdir()
    assert in_two_processes(resume) == [ResumePoint(), ResumePoint()]
    save_checkpoint(folders[0] / LAST, content)
    for flag in ("auto", None):
        errors = in_two_processes(lambda group: resume(group, flag))  # noqa: B023
        assert all(isinstance(error, UserError) and one_line(str(error)) for error in errors), errors
    save_checkpoint(folders[1] / LAST, {**content, "step": 1})
    for error in in_two_processes(resume):
        assert "must be the same folder on all machines: ('checkpoint_last.pth.tar', 3, 0)" in str(error)
    save_checkpoint(folders[1] / LAST, content)
    assert [point.path for point in in_two_processes(resume)] == [folder / LAST for folder in folders]


def test_locked_folder_is_an_error_in_all_processes(tmp_path):
    def lock(group):
        with locked_run(tmp_path, ResumePoint(), group):
            return "locked"

    assert in_two_processes(lock) == ["locked", "locked"]
    with exclusive_folder(tmp_path, "--checkpoint-path"):
        for error in in_two_processes(lock):
            assert isinstance(error, UserError) and "another run is writing" in str(error)


# Devices of one process


def test_chosen_gpu_becomes_the_current_one(monkeypatch):
    """Otherwise Adam opens a context on GPU 0."""
    chosen = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("torch.cuda.current_device", lambda: chosen[-1])
    assert pick_device(1) == torch.device("cuda", 1) and chosen == [1]


@pytest.mark.parametrize("gpu, notes", [([], 1), (["--gpu", "0"], 0)])
def test_several_gpus_in_one_process_recommend_torchrun(monkeypatch, capsys, gpu, notes):
    flags = ["--skeleton-representation", "seq-based", "--checkpoint-path", "a b", *gpu]
    monkeypatch.setattr("sys.argv", ["main_moco_intra_skeleton.py", *flags])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "some GPU")
    args = pretraining_parser("", "intra").parse_args()
    check_modes(args, torch.device("cuda", 0), SINGLE_PROCESS)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(lines) == notes
    command = "python -m torch.distributed.run --nproc-per-node 4 main_moco_intra_skeleton.py"
    assert all(f"{command} {' '.join(flags[:3])} 'a b'" in line and "--gpu 0" in line for line in lines)


def test_synchronized_batch_norm_needs_several_processes(pretrain, tmp_path):
    err = pretrain.fail(tmp_path / "c", "--sync-bn")
    assert "--sync-bn needs several processes: start with torchrun" in err


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
    for flags in (["action_retrieval.py"], ["extract_features.py", "--input", "data"]):
        assert "start it without torchrun" in run.fail(*flags, "--pretrained", "random")


# Systems without POSIX

WINDOWS = """
import os, signal, sys
del signal.SIGHUP, signal.SIGUSR1, os.sysconf
sys.modules["fcntl"] = None
sys.path.insert(0, {repository!r})
import importlib
for name in {names!r}:
    importlib.import_module(name)
from utils.errors import run_script
importlib.import_module("main_moco_inter_skeleton").log_views = lambda *_: None
run_script(importlib.import_module("main_moco_intra_skeleton").main)
"""


def test_scripts_run_without_posix(training_store, tmp_path):
    """Windows lacks these signals, ``os.sysconf`` and ``fcntl``."""
    scripts = [path.stem for path in REPOSITORY.glob("*.py")]
    for folder in ("data_gen", "data_gen/synthetic", "engine", "visual"):
        for path in sorted((REPOSITORY / folder).glob("*.py")):
            if "run_script(" in path.read_text(encoding="utf-8"):
                scripts.append(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    assert len(scripts) >= 16
    (tmp_path / "windows.py").write_text(WINDOWS.format(repository=str(REPOSITORY), names=scripts))
    flags = [*TINY_FLAGS, *PRETRAINING_FLAGS, "--skeleton-representation", "seq-based", "--epochs", 1]
    flags += ["--data-root", training_store, "--checkpoint-path", tmp_path / "c"]
    code, out, err = finish(start(tmp_path / "windows.py", *flags))
    assert code == 0 and "done: " in out, err
