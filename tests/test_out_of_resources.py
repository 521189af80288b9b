"""Full disks and exhausted memory: a one-line error, and every earlier file stays intact."""

import json
import resource
from functools import partial

import pytest
import torch
from conftest import INTER, RETRIEVAL, TINY_FLAGS, log_lines, one_line
from processes import REPOSITORY, finish, pretraining_flags, start

from visual.clips import log_views


@pytest.fixture
def limit_file_size():
    """``limit_file_size(n)``: files cannot exceed ``n`` bytes, as on a full disk; without ``n``: no limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=before[0]: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def checkpoints_and_results(folder):
    """The content of the files in a folder, except for the log of the current run."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and "tfevents" not in path.name and path.name not in ("config.json", "log.jsonl")
    }


def test_full_disk_keeps_earlier_checkpoints(pretrain, pretrained, limit_file_size):
    before, log = checkpoints_and_results(pretrained), log_lines(pretrained)
    flags = [pretrained, "--epochs", 3, "--resume", "auto"]
    for more, name in ([], "checkpoint_0002"), (["--save-minutes", 1e-6], "checkpoint_last"):
        limit_file_size(200_000)
        code, _, err = pretrain(*flags, *more)
        limit_file_size()
        assert code == 2 and one_line(err)
        assert f"cannot write {pretrained / name}.pth.tar ([Errno 27] File too large)" in err
        assert checkpoints_and_results(pretrained) == before
        assert log_lines(pretrained)[:2] == log
    assert "epoch 3, step 0" in pretrain.succeed(*flags)
    assert [line["epoch"] for line in log_lines(pretrained)] == [0, 1, 2]


def test_full_disk_keeps_earlier_results(run, tmp_path, limit_file_size):
    flags = ["--pretrained", "random", *TINY_FLAGS, "--output-dir", tmp_path / "o", "--seed", 1]
    run.succeed(RETRIEVAL, *flags)
    before = checkpoints_and_results(tmp_path / "o")
    limit_file_size((tmp_path / "o" / "config.json").stat().st_size)  # results.json is larger
    code, _, err = run(RETRIEVAL, *flags)
    limit_file_size()
    assert code == 2 and f"cannot write {tmp_path / 'o' / 'results.json'} ([Errno 27] File too large)" in err
    assert "the previous file is unchanged" in err
    assert checkpoints_and_results(tmp_path / "o") == before
    assert json.loads(before["results.json"])["seed"] == 1


def test_full_disk_in_the_thread_of_tensorboard(pretrain, tmp_path, limit_file_size, monkeypatch):
    """TensorBoard writes its events in another thread, whose errors are reported in one line, too."""
    monkeypatch.setattr("main_moco_inter_skeleton.log_views", log_views)
    limit_file_size(5000)  # enough for config.json and log.jsonl, but not for the sample views
    code, _, err = pretrain(tmp_path / "o")
    limit_file_size()
    assert "note: the disk is full" in err and json.loads((tmp_path / "o" / "config.json").read_text())
    assert code == 2 and "error: the disk is full ([Errno 27] File too large): free some space" in err, err
    assert "Traceback" not in err


def test_out_of_host_memory(training_store, tmp_path):
    """A queue of 40 million keys does not fit into 12 GiB of address space."""
    limit = (12 << 30, 12 << 30)
    flags = pretraining_flags(training_store, tmp_path / "c", "--moco-k", 40_000_000)
    set_limit = partial(resource.setrlimit, resource.RLIMIT_AS, limit)
    code, _, err = finish(start(REPOSITORY / INTER, *flags, preexec_fn=set_limit))
    assert code == 2 and "out of memory" in err and one_line(err), err
    assert "use --batch-size, --amp, --data-device to reduce memory" in err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_in_a_step(pretrain, tmp_path, monkeypatch, error):
    def out_of_memory(*arguments, **settings):
        raise error

    monkeypatch.setattr("moco.model.MoCo.forward", out_of_memory)
    assert "error: out of memory (" in pretrain.fail(tmp_path / "c")


def test_other_runtime_errors_keep_their_traceback(pretrain, tmp_path, monkeypatch):
    """A bug of the program must not look like a mistake of the user."""
    monkeypatch.setattr("moco.model.MoCo.forward", lambda *a, **k: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        pretrain(tmp_path / "c")
