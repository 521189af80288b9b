"""Shared by the test files: small stores, golden data, tiny encoder sizes, and ways to run a script."""

import csv
import importlib
import json
import pickle
import shutil
import signal
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.synthetic import make_ntu
from dataset.store_format import CLIPS_FILE, FORMAT_VERSION, FRAMES_FILE, INFO_FILE
from engine.checkpoint import RollingCheckpoint, load_checkpoint, save_checkpoint
from engine.optimization import GuardedOptimizer
from facts.skeletons import KINECT_V2
from models.registry import build_encoder, complete_sizes
from tables.run import RunSummary
from utils.errors import run_script

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which tests may run, ignores it
signal.signal(signal.SIGINT, signal.default_int_handler)  # and so does a background job of a script SIGINT
torch.set_num_threads(1)  # most tests are tiny: several threads would only wait for each other

GOLDEN = Path(__file__).parent / "golden"

INTER, INTRA = "main_moco_inter_skeleton.py", "main_moco_intra_skeleton.py"
CLASSIFICATION, RETRIEVAL = "action_classification.py", "action_retrieval.py"

TINY = {
    "gru_hidden_size": 16,
    "gru_num_layers": 2,
    "graph_width": 4,
    "graph_num_blocks": 2,
    "image_width": 16,
    "num_frames": 16,
}
TINY_SIZES = complete_sizes(TINY)
TINY_FLAGS = [part for name, value in TINY.items() for part in ("--" + name.replace("_", "-"), str(value))]
PRETRAINING_FLAGS = ["--moco-k", "16", "--batch-size", "4", "--epochs", "2", "--seed", "5"]


# The joints of Kinect v2 from which clips of other skeletons are derived, in their order.
FROM_KINECT_V2 = {
    "kinect_v2": list(range(25)),
    "kinect_v1": [0, 1, 20, *range(3, 20)],
    "coco": [3, 3, 3, 3, 3, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18],
}


def golden(name: str) -> dict:
    """Arrays computed by the official code, from ``tests/golden/<name>.npz``."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def tensors(arrays: dict, prefix: str) -> dict:
    """The arrays whose name starts with ``prefix``, without it, as tensors."""
    return {k.removeprefix(prefix): torch.tensor(v) for k, v in arrays.items() if k.startswith(prefix)}


def convert(frames, skeleton):
    """Frames (T, V, 3, M) of another skeleton from those of Kinect v2; z is zero if it is 2D."""
    frames = frames[:, FROM_KINECT_V2[skeleton.name]].copy()
    frames[:, :, skeleton.dimensions :] = 0
    return frames


def write_store(
    folder,
    names,
    labels,
    lengths,
    splits,
    dataset="ntu60",
    num_classes=60,
    seed=0,
    version=FORMAT_VERSION,
    skeleton=KINECT_V2,
):
    """Write a store of random clips by hand, so that readers are tested against the format."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(sum(lengths), 25, 3, 2)).astype(np.float32)
    np.save(folder / FRAMES_FILE, convert(frames, skeleton))
    first = np.cumsum([0, *lengths[:-1]])
    with open(folder / CLIPS_FILE, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "label", "first_frame", "num_frames", *splits])
        for i, row in enumerate(zip(names, labels, first, lengths)):
            writer.writerow([*row, *(cells[i] for cells in splits.values())])
    info = {"format_version": version, "dataset": dataset, "num_classes": num_classes}
    if skeleton is not KINECT_V2:  # the default
        info["skeleton"] = skeleton.name
    (folder / INFO_FILE).write_text(json.dumps(info))
    return folder


def write_eight_clips(root, dataset="ntu60", length=9, val=2, labels=None, version=FORMAT_VERSION):
    """Write a store of eight clips to ``root/dataset``, the last ``val`` of them for validation."""
    names = [f"S001C002P00{i}R001A00{1 + i % 3}" for i in range(1, 9)]
    splits = {"cross_view": ["train"] * (8 - val) + ["val"] * val}
    labels = labels or [i % 3 for i in range(8)]
    return write_store(root / dataset, names, labels, [length] * 8, splits, dataset, version=version)


def write_official(folder, names, labels, counts, split="train", frames=None):
    """Write a split in the official layout, by default with random frames, and return the frames."""
    folder.mkdir(parents=True, exist_ok=True)
    if frames is None:
        frames = np.random.default_rng(0).normal(size=(len(counts), 3, 300, 25, 2)).astype(np.float32)
    np.save(folder / f"{split}_data_joint.npy", frames)
    np.save(folder / f"{split}_num_frame.npy", np.array(counts))
    (folder / f"{split}_label.pkl").write_bytes(pickle.dumps((names, labels)))
    return frames


def write_pretraining(path, names, **sizes):
    """A pretraining checkpoint with tiny, untrained encoders of the representations ``names``."""
    torch.manual_seed(len(path.name) + len(names))
    sizes = {**TINY_SIZES, **sizes}
    encoders = {name: build_encoder(name, 8, **sizes).state_dict() for name in names}
    content = {
        "kind": "pretraining",
        "contrast": "inter" if len(names) > 1 else "intra",
        "epoch": 3,
        "step": 0,
        "representations": list(names),
        "sizes": sizes,
        "state_dict": {
            f"encoders.query.{n}.{k}": v for n, state in encoders.items() for k, v in state.items()
        },
        "flags": {},
        "seed": 0,
        "optimizer": {},
    }
    save_checkpoint(path, content)
    return path


def clusters(count, seed):
    """Features around one direction per class; some nearest neighbors are of another class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, count)
    centers = np.random.default_rng(0).normal(size=(6, 20))
    features = centers[labels] + rng.normal(scale=2.0, size=(count, 20))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def identical(a, b):
    """Whether two values are equal, and tensors in them bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and a == b


def same_state(a: Path, b: Path) -> bool:
    """Whether two checkpoints have the same weights, queues, optimizer state and position, bit for bit."""
    first, second = load_checkpoint(a), load_checkpoint(b)
    return all(identical(first[key], second[key]) for key in ("state_dict", "optimizer", "epoch", "step"))


def one_line(text: str) -> bool:
    """Whether ``text`` is a single line."""
    return len(text.strip().splitlines()) == 1


def log_lines(folder: Path) -> list[dict]:
    """The lines of ``log.jsonl`` in the folder of a run."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def results(folder: Path) -> dict:
    """The content of ``results.json`` in the folder of an evaluation."""
    return json.loads((folder / "results.json").read_text())


@contextmanager
def in_optimizer_step(number, action):
    """Call ``action()`` in optimizer step ``number``, counted from 1 over the runs in a ``with`` block."""
    step, calls = GuardedOptimizer.step, count(1)

    def step_and_act(self, *arguments):
        step(self, *arguments)
        if next(calls) == number:
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuardedOptimizer, "step", step_and_act)
        yield


@contextmanager
def saved_at_every_opportunity():
    """Save the rolling checkpoint of the runs in a ``with`` block whenever it could be saved."""

    def save(self, state):
        save_checkpoint(self.path, state())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RollingCheckpoint, "save_if_due", save)
        yield


def terminate():
    """Ask a run to save and stop."""
    signal.raise_signal(signal.SIGTERM)


def kill():
    """End a run without giving it the chance to save."""
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def ntu_raw(tmp_path_factory):
    """A folder with 24 synthetic skeleton files of two actions."""
    folder = tmp_path_factory.mktemp("raw")
    flags = "--subjects 3 --actions 9 50 --cameras 2 --difficulty 0 --workers 1".split()
    make_ntu.main([*flags, "--out-folder", str(folder / "raw")])
    return folder / "raw"


@pytest.fixture
def small_store(tmp_path):
    """``tmp_path/data`` with 20 training and 10 validation clips of four classes as ``ntu60``."""
    rng = np.random.default_rng(1)
    names = [f"S001C00{2 if i < 20 else 1}P{i + 1:03d}R001A{i % 4 + 1:03d}" for i in range(30)]
    cells = ["train"] * 20 + ["val"] * 10
    lengths = rng.integers(5, 120, 30).tolist()
    splits = {"cross_subject": cells, "cross_view": cells}
    write_store(tmp_path / "data" / "ntu60", names, [i % 4 for i in range(30)], lengths, splits)
    return tmp_path / "data"


@pytest.fixture(scope="session")
def training_store(tmp_path_factory):
    """A data root with 20 training clips, for child processes, which only read it."""
    names = [f"S001C002P{i + 1:03d}R001A{i % 4 + 1:03d}" for i in range(20)]
    root = tmp_path_factory.mktemp("training") / "data"
    lengths = list(range(20, 120, 5))
    write_store(root / "ntu60", names, [i % 4 for i in range(20)], lengths, {"cross_view": ["train"] * 20})
    return root


class Runner:
    """A way to run a script; a call returns the exit code, stdout and stderr."""

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments, **settings):
        return self.call(*arguments, **settings)

    def succeed(self, *arguments, **settings):
        """Run a script that must succeed; return stdout."""
        code, out, err = self.call(*arguments, **settings)
        assert code == 0, err
        return out

    def fail(self, *arguments, **settings):
        """Run a script that must end with a one-line error; return this line."""
        code, _, err = self.call(*arguments, **settings)
        assert code == 2 and one_line(err), err
        return err


@pytest.fixture
def run(monkeypatch, capsys, small_store):
    """``run(script, *flags)`` next to the store; see ``Runner``.

    Pretraining makes no sample views for TensorBoard, which take as long as its steps here.
    """
    monkeypatch.setattr("main_moco_inter_skeleton.log_views", lambda *_: None)
    monkeypatch.chdir(small_store.parent)

    def call(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            run_script(importlib.import_module(script.removesuffix(".py")).main)
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return Runner(call)


@pytest.fixture
def pretrain(run):
    """``pretrain(folder, *flags)``: two epochs of five steps with tiny encoders; returns as ``run``."""

    def call(folder, *flags, script=INTER):
        return run(script, *PRETRAINING_FLAGS, *TINY_FLAGS, "--checkpoint-path", folder, *flags)

    return Runner(call)


@pytest.fixture
def pretrained(pretrain, tmp_path, tmp_path_factory):
    """``tmp_path/c``: a copy of a pretraining of two epochs, whose checkpoints are both kept."""
    original = tmp_path_factory.getbasetemp() / "pretrained"
    if not original.exists():
        pretrain.succeed(original, "--save-freq", 1)
    return Path(shutil.copytree(original, tmp_path / "c"))


@pytest.fixture
def probe(run):
    """``probe(folder, *flags)``: a linear probe of untrained tiny encoders; returns as ``run``."""

    def call(folder, *flags):
        return run(CLASSIFICATION, "--pretrained", "random", *TINY_FLAGS, "--output-dir", folder, *flags)

    return Runner(call)


@pytest.fixture
def jobs_in_process(run, monkeypatch):
    """``jobs_in_process(module)``: its ``run_jobs`` runs here; returns the growing list of jobs that ran."""

    def patch(module):
        ran = []

        def run_jobs(jobs, slots, logs):
            summary = RunSummary()
            for job in jobs:
                code, _, err = run(Path(job.command[0]).name, *job.command[1:])
                ran.append(job.name)
                if code == 0 and job.is_done:
                    summary.done.append(job.name)
                else:
                    summary.failed[job.name] = f"{err.strip()} (log)"
            return summary

        monkeypatch.setattr(module, "run_jobs", run_jobs)
        return ran

    return patch
