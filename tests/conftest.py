"""What several test files share: small stores, small golden files, tiny encoder sizes."""

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.checkpoint import save_checkpoint
from models.representations import build_encoder
from dataset.store_format import CLIPS_FILE, FORMAT_VERSION, FRAMES_FILE, INFO_FILE
from options.errors import run_script

torch.set_num_threads(1)  # most tests are tiny: threads that wait for each other only cost time

GOLDEN = Path(__file__).parent / "golden"

TINY = {"gru_hidden_size": 16, "gru_num_layers": 2, "graph_width": 4, "graph_num_blocks": 2, "image_width": 16}
TINY_SIZES = {**TINY, "graph_encoder": "agcn", "num_frames": 64}  # all sizes
TINY_FLAGS = [part for name, value in TINY.items() for part in ("--" + name.replace("_", "-"), str(value))]


def golden(name: str) -> dict:
    """Arrays of the authors' program, ``tests/golden/<name>.npz``."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def tensors(arrays: dict, prefix: str) -> dict:
    return {k.removeprefix(prefix): torch.tensor(v) for k, v in arrays.items() if k.startswith(prefix)}


def write_store(folder, names, labels, lengths, splits, dataset="ntu60", num_classes=60, seed=0, version=FORMAT_VERSION):
    """A store of random clips, written by hand so that the reader is tested against the format."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    np.save(folder / FRAMES_FILE, rng.normal(size=(sum(lengths), 25, 3, 2)).astype(np.float32))
    first = np.cumsum([0, *lengths[:-1]])
    with open(folder / CLIPS_FILE, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "label", "first_frame", "num_frames", *splits])
        for i, row in enumerate(zip(names, labels, first, lengths)):
            writer.writerow([*row, *(cells[i] for cells in splits.values())])
    info = {"format_version": version, "dataset": dataset, "num_classes": num_classes}
    (folder / INFO_FILE).write_text(json.dumps(info))
    return folder


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
        "state_dict": {f"encoders.query.{n}.{k}": v for n, state in encoders.items() for k, v in state.items()},
        "flags": {},
        "seed": 0,
        "optimizer": {},
    }
    save_checkpoint(path, content)
    return path


def clusters(count, seed):
    """Features around one direction per class, so that neighbours are neither all right nor all wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, count)
    centres = np.random.default_rng(0).normal(size=(6, 20))
    features = centres[labels] + rng.normal(scale=2.0, size=(count, 20))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


@pytest.fixture
def small_store(tmp_path):
    """20 training and 10 validation clips of four classes in ``tmp_path/data/ntu60``."""
    rng = np.random.default_rng(1)
    names = [f"S001C00{2 if i < 20 else 1}P{i + 1:03d}R001A{i % 4 + 1:03d}" for i in range(30)]
    cells = ["train"] * 20 + ["val"] * 10
    lengths = rng.integers(5, 120, 30).tolist()
    write_store(
        tmp_path / "data" / "ntu60", names, [i % 4 for i in range(30)], lengths,
        {"cross_subject": cells, "cross_view": cells},
    )
    return tmp_path / "data"


@pytest.fixture
def run(monkeypatch, capsys, small_store):
    """``run(script, *flags)`` in the folder above the store: exit code and what was printed."""
    monkeypatch.chdir(small_store.parent)

    def call(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            run_script(importlib.import_module(script.removesuffix(".py")).main)
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call
