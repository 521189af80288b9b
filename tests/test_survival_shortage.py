"""Runs that are short of disk or memory: a sentence, and every file from before as it was."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from conftest import TINY_FLAGS
from engine.checkpoint import load_checkpoint
from test_scripts import PRETRAIN, pretrain
from test_survival import SCRIPT, finish, start, store  # noqa: F401, store is a fixture


@pytest.fixture
def file_size():
    """``file_size(n)``: no file can grow beyond ``n`` bytes, as on a disk that is full; no ``n``: as before."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=before[0]: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if "tfevents" not in path.name}


def test_no_room_for_a_checkpoint(run, tmp_path, file_size):
    assert pretrain(run, tmp_path / "c")[0] == 0
    before = contents(tmp_path / "c")
    for flags, name in ([], "checkpoint_0002"), (["--save-minutes", 1e-6], "checkpoint_last"):
        file_size(200_000)
        code, out, err = pretrain(run, tmp_path / "c", "--epochs", 3, "--resume", "auto", *flags)
        file_size()
        assert code == 2 and f"{name}.pth.tar could not be written ([Errno 27] File too large)" in err
        assert len(err.strip().splitlines()) == 1 and contents(tmp_path / "c") == before
    code, out, err = pretrain(run, tmp_path / "c", "--epochs", 3, "--resume", "auto")
    assert code == 0 and "epoch 2, step 0" in out, err


def test_no_room_for_results(run, tmp_path, file_size):
    retrieval = ["action_retrieval.py", "--pretrained", "random", *TINY_FLAGS, "--output-dir", tmp_path / "o", "--seed"]
    assert run(*retrieval, 1)[0] == 0
    before = contents(tmp_path / "o")
    file_size(300)
    code, _, err = run(*retrieval, 2)
    file_size()
    assert code == 2 and "results.json could not be written ([Errno 27] File too large): the earlier" in err
    assert contents(tmp_path / "o") == before and json.loads(before["results.json"])["seed"] == 1


def test_no_room_for_curves(run, tmp_path, file_size):
    """TensorBoard writes its events from a thread of its own; that is a sentence too."""
    file_size(50)
    code, _, err = run("action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 2,
                       "--output-dir", tmp_path / "o")
    file_size()
    assert code == 2 and "error: the disk is full ([Errno 27] File too large): make room" in err, err
    assert "Traceback" not in err


def test_a_disk_of_900_kilobytes(store, tmp_path):
    """A real file system with room for one checkpoint: the second is refused, the first intact."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir(), out.mkdir()
    mount = f"mount -t tmpfs -o size=900k none {disk}"
    if not shutil.which("unshare") or subprocess.run([*alone, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    flags = [*PRETRAIN, "--save-freq", 1, "--data-root", store, "--checkpoint-path", disk]
    script = f'{mount} && "$@"; code=$?; cp -a {disk}/. {out}; exit $code'
    ended = subprocess.run(
        [*alone, "sh", "-c", script, "sh", sys.executable, SCRIPT, *map(str, flags)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 2, ended.stderr
    assert "checkpoint_0001.pth.tar could not be written ([Errno 28] No space left on device)" in ended.stderr
    assert load_checkpoint(out / "checkpoint_0000.pth.tar")["epoch"] == 1
    assert [path.name for path in out.iterdir() if "tfevents" not in path.name] == ["checkpoint_0000.pth.tar"]


def test_host_memory_that_runs_out_is_a_sentence(store, tmp_path):
    """A real allocation that fails, of a queue of 40 million keys in 12 GB of address space."""
    limit = (12 << 30, 12 << 30)
    child = start(store, tmp_path / "c", "--moco-k", 40_000_000,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit))
    code, _, err = finish(child)
    assert code == 2 and "this machine ran out of memory" in err and len(err.strip().splitlines()) == 1, err
    assert "--batch-size, --amp, --data-device can lower what is needed" in err


@pytest.mark.parametrize("script", sorted(
    path.relative_to(SCRIPT.parent) for path in [*SCRIPT.parent.glob("*.py"), *SCRIPT.parent.glob("data_gen/*.py")]
    if "saves_memory=" in path.read_text(encoding="utf-8")))
def test_a_script_has_the_flags_that_it_names(run, script):
    named = re.search(r'saves_memory="(.*)"', (SCRIPT.parent / script).read_text(encoding="utf-8"))[1].split(", ")
    code, out, _ = run(str(script).replace("/", "."), "--help")
    assert code == 0 and named and all(f"{flag} " in out for flag in named)


@pytest.mark.parametrize("error, where", [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice"), "the GPU"),
    (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "the GPU"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "the GPU"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), "this machine"),
    (MemoryError(), "this machine"),
])
def test_memory_that_runs_out_in_a_step_is_a_sentence(run, tmp_path, monkeypatch, error, where):
    def out_of_memory(*arguments, **settings):
        raise error

    monkeypatch.setattr("moco.model.MoCo.forward", out_of_memory)
    code, _, err = pretrain(run, tmp_path / "c")
    assert code == 2 and f"error: {where} ran out of memory" in err and len(err.strip().splitlines()) == 1


def test_another_error_of_torch_keeps_its_traceback(run, tmp_path, monkeypatch):
    """What is the program's own fault must not look like the user's."""
    monkeypatch.setattr("moco.model.MoCo.forward", lambda *arguments, **settings: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        pretrain(run, tmp_path / "c")
