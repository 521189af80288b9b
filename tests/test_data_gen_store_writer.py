"""A store is complete or absent: kills, full disks, concurrent runs, existing stores."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filelock import BaseFileLock

from data_gen.store_writer import Clip, StoreWriter
from dataset.store import open_store
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN_RAW = Path(__file__).parent / "golden" / "ntu_skeletons.zip"


def clip(name, frames=3, label=0, **splits):
    values = np.full((frames, 25, 3, 2), len(name), dtype=np.float32)
    return Clip(name, label, values, splits or {"cross_subject": "train"})


def writer(folder, **settings):
    return StoreWriter(folder, "mine", 4, ["cross_subject", "other"], **settings)


def write(folder, names=("a", "b"), **settings):
    with writer(folder, **settings) as store:
        for name in names:
            store.add(clip(name))


def assert_complete(folder):
    info = json.loads((folder / INFO_FILE).read_text())
    frames = np.load(folder / FRAMES_FILE, mmap_mode="r")
    rows = (folder / CLIPS_FILE).read_text().splitlines()
    assert frames.shape == (info["counts"]["frames"], 25, 3, 2)
    assert len(rows) == info["counts"]["clips"] + 1
    return info


def test_written_files(tmp_path):
    with writer(tmp_path / "store", provenance={"script": "x"}) as store:
        store.add(clip("a", 2, cross_subject="val"))
        store.add(clip("b", 5, label=3, other="train"))
    info = assert_complete(tmp_path / "store")
    assert (tmp_path / "store" / CLIPS_FILE).read_text() == (
        "name,label,first_frame,num_frames,cross_subject,other\na,0,0,2,val,\nb,3,2,5,,train\n"
    )
    assert info["counts"] == {
        "clips": 2,
        "frames": 7,
        "cross_subject": {"train": 0, "val": 1},
        "other": {"train": 1, "val": 0},
    }
    assert info["made_by"] == {"script": "x", "numpy": np.__version__}
    assert os.listdir(tmp_path) == ["store"]


def test_exception_in_the_block_or_no_clip_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        with writer(tmp_path / "store") as store:
            store.add(clip("a"))
            raise RuntimeError
    with pytest.raises(UserError, match="no valid clip"):
        write(tmp_path / "store", [])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "bad,message",
    [
        (clip("a", label=4), "label 4"),
        (clip("a", cross_view="train"), "cross_view=train"),
        (clip("a", cross_subject="test"), "cross_subject=test"),
        (clip("a", frames=0), "frames are"),
        (Clip("a", 0, np.zeros((3, 25, 3, 1), np.float32), {}), "frames are"),
        (Clip("a", 0, np.zeros((3, 25, 3, 2)), {}), "frames are float64"),
        (Clip("a", 0, np.full((3, 25, 3, 2), np.nan, np.float32), {}), "not finite"),
    ],
)
def test_invalid_clips_are_rejected(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        with writer(tmp_path / "store") as store:
            store.add(bad)


@pytest.mark.parametrize("protocols", [["label"], ["frames"], ["a", "a"], [""]])
def test_invalid_protocol_names_are_rejected(tmp_path, protocols):
    with pytest.raises(UserError, match="the names must differ"):
        StoreWriter(tmp_path / "store", "mine", 4, protocols)


def test_clips_are_sorted_and_have_different_names(tmp_path):
    write(tmp_path / "store", ("bbb", "a", "cc"))
    store = open_store(tmp_path / "store")
    assert store.names == ["a", "bbb", "cc"] and store.first_frame.tolist() == [0, 3, 6]
    assert store.frames[::3, 0, 0, 0].tolist() == [1, 3, 2]
    with pytest.raises(ValueError, match="clip a: the name occurs twice"):
        write(tmp_path / "other", ("a", "a"))


def test_existing_store_needs_overwrite(tmp_path):
    write(tmp_path / "store")
    before = (tmp_path / "store" / FRAMES_FILE).read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        write(tmp_path / "store", ["other"])
    assert (tmp_path / "store" / FRAMES_FILE).read_bytes() == before
    write(tmp_path / "store", ["other"], overwrite=True)
    assert assert_complete(tmp_path / "store")["counts"]["clips"] == 1
    assert os.listdir(tmp_path) == ["store"]


def test_other_folders_are_never_replaced(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "S001.skeleton").write_text("0")
    with pytest.raises(UserError, match="not a store"):
        write(tmp_path / "raw", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a store"):
        write(tmp_path / "file", overwrite=True)


def test_file_system_without_locks_is_a_note(tmp_path, monkeypatch, capsys):
    def acquire(self, *arguments, **settings):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(BaseFileLock, "acquire", acquire)
    write(tmp_path / "store")
    assert assert_complete(tmp_path / "store")["counts"]["clips"] == 2
    assert "cannot be locked (" in capsys.readouterr().out and os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("num_classes", [10_001, 10**30, 10**400])
def test_number_of_classes_has_a_limit(tmp_path, num_classes):
    with pytest.raises(UserError, match="at most 10,000 classes"):
        StoreWriter(tmp_path / "store", "mine", num_classes, ["mine"])


def test_concurrent_run_is_rejected(tmp_path):
    with writer(tmp_path / "store") as store:
        store.add(clip("a"))
        with pytest.raises(UserError, match="another run"):
            write(tmp_path / "store")
    assert assert_complete(tmp_path / "store")["counts"]["clips"] == 1


EXIT_AT_CALL = """
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from data_gen.store_writer import Clip, StoreWriter
left = int(sys.argv[3])
def counted(function):
    def call(*args):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*args)
    return call
os.fsync, os.rename = counted(os.fsync), counted(os.rename)
with StoreWriter(sys.argv[2], "mine", 4, ["cross_subject"], overwrite=True) as store:
    store.add(Clip("new", 0, np.ones((3, 25, 3, 2), np.float32), {}))
"""


@pytest.mark.parametrize("exists", [False, True])
def test_store_is_complete_if_killed_at_any_step(tmp_path, exists):
    for calls in range(10):
        folder = tmp_path / str(calls)
        folder.mkdir()
        if exists:
            write(folder / "store")
        run = subprocess.run(
            [sys.executable, "-c", EXIT_AT_CALL, str(REPOSITORY), str(folder / "store"), str(calls)]
        )
        if (folder / "store").exists():
            assert_complete(folder / "store")
        if run.returncode == 0:
            break
        assert run.returncode == 9
        write(folder / "store", overwrite=True)
        assert os.listdir(folder) == ["store"]
    assert 4 <= calls < 9


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """An archive of 300 small skeleton files, which takes a second or two to prepare."""
    path = tmp_path_factory.mktemp("raw") / "raw.zip"
    with zipfile.ZipFile(GOLDEN_RAW) as golden:
        data = golden.read("S002C001P003R002A003.skeleton")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(300):
            name = f"S001C001P{1 + i // 60:03d}R001A{1 + i % 60:03d}.skeleton"
            archive.writestr(name, data)
    return path


def command(raw, out, *flags):
    script = str(REPOSITORY / "data_gen" / "ntu_gendata.py")
    return [sys.executable, script, f"--data_path={raw}", f"--out_folder={out}", "--workers", "2", *flags]


def kill_at_random_moments(raw, tmp_path, moments: int, seed: int) -> None:
    complete = tmp_path / "complete"
    start = time.perf_counter()
    subprocess.run(command(raw, complete), check=True, capture_output=True)
    duration = time.perf_counter() - start
    rng = random.Random(seed)
    target = tmp_path / "store"
    for _ in range(moments):
        run = subprocess.Popen(
            command(raw, target, "--overwrite"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0, 1.1 * duration))
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        if target.exists():
            assert_complete(target)
    subprocess.run(command(raw, target, "--overwrite"), check=True, capture_output=True)
    for file in (FRAMES_FILE, CLIPS_FILE, INFO_FILE):
        assert (target / file).read_bytes() == (complete / file).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["complete", "store"]  # nothing is left of the killed runs


def test_store_is_complete_if_killed(raw, tmp_path):
    kill_at_random_moments(raw, tmp_path, moments=2, seed=0)


@pytest.mark.slow
def test_store_is_complete_if_killed_at_20_moments(raw, tmp_path):
    kill_at_random_moments(raw, tmp_path, moments=20, seed=1)


def test_full_disk_is_a_one_line_error(raw, tmp_path):
    """A limit on the file size has the same effect as a full disk."""
    run = subprocess.run(
        command(raw, tmp_path / "store"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in run.stderr
    assert os.listdir(tmp_path) == []
