"""Damaged, foreign and hostile files: one line, or the content that was written; no file is made.

A share of each kind in the suite; 500 checkpoints and 200 label pickles with ``-m slow``.
"""

import gzip
import io
import json
import os
import pickle
import subprocess
import tempfile
import zipfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TINY_FLAGS
from dataset.clips import open_clips
from engine.checkpoint import load_checkpoint
from engine.probe import PROBE_FILE
from options.errors import UserError
from test_clips import write_released
from test_scripts import pretrain
from test_survival import identical


class Calls:
    """Whoever unpickles this calls ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_objects(marker):
    """Objects of which each makes the file or folder ``marker`` when it is unpickled."""
    path, touch = str(marker), f"open({str(marker)!r}, 'w').close()"
    return [
        Calls(open, path, "w"), Calls(os.system, f"touch {path}"), Calls(os.mkdir, path), Calls(exec, touch),
        Calls(eval, touch), Calls(Path.touch, marker), Calls(subprocess.call, ["touch", path]),
        Calls(np.savetxt, path, [0]), Calls(torch.save, 0, path), Calls(os.makedirs, path),
        Calls(Calls, Calls(open, path, "w")),
    ]


def test_the_hostile_objects_are_hostile(tmp_path):
    for i, hostile in enumerate(hostile_objects(tmp_path / "made")):
        pickle.loads(pickle.dumps(hostile))
        assert (tmp_path / "made").exists()
        (tmp_path / "made").rename(tmp_path / f"made{i}")


def torch_bytes(content, **settings):
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def cut(good, rng):
    at = int(rng.integers(len(good)))
    return [good[:at], good[at:], good[: at // 2] + good[at:]][int(rng.integers(3))]


def flipped(good, rng):
    damaged = bytearray(good)
    for at in rng.integers(len(good), size=rng.integers(1, 9)):
        damaged[at] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def zeroed(good, rng):
    at, size = int(rng.integers(len(good))), int(rng.integers(1, 5000))
    return (good[:at] + bytes(size) + good[at + size :])[: len(good)]


def other_formats(content):
    """The same content by other versions of this program or of torch, or by other programs."""
    for version in (0, 2, 99, -1, 10**30, 1.5, "1", "two\nlines", None, True, [1], {}, torch.tensor([1, 1])):
        yield torch_bytes({**content, "format_version": version})
    weights = io.BytesIO()
    np.savez(weights, *[tensor.numpy() for tensor in content["state_dict"].values()])
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    good = torch_bytes(content)
    yield from (torch_bytes(content, _use_new_zipfile_serialization=False), weights.getvalue(),
                empty.getvalue(), gzip.compress(good), good + good, b"", b"\n", b"PK\x03\x04", json.dumps(["a"]).encode(),
                torch_bytes(content["state_dict"]), torch_bytes([content]), torch_bytes({"state_dict": [1]}), torch_bytes(None))
    yield from (pickle.dumps({"state_dict": {}}, protocol) for protocol in range(6))


def hostile_files(content, marker):
    """Every hostile object at several places of a checkpoint, in every format of torch and of pickle."""
    content = {**content, "state_dict": {"weight": torch.zeros(3)}, "optimizer": {}}  # as much as it takes
    for hostile in hostile_objects(marker):
        for bad in (hostile, {**content, "state_dict": {"weight": hostile}}, {**content, "format_version": hostile},
                    {**content, "optimizer": [hostile]}):
            yield torch_bytes(bad)
            yield torch_bytes(bad, pickle_protocol=4)
            yield torch_bytes(bad, _use_new_zipfile_serialization=False)
            yield pickle.dumps(bad)


def damaged_files(good, content, marker, rng, count):
    """``count`` files, of each of the five kinds in turn."""
    foreign, hostile = cycle(other_formats(content)), list(hostile_files(content, marker))
    hostile = cycle([hostile[i] for i in rng.permutation(len(hostile))])
    kinds = (lambda: cut(good, rng), lambda: flipped(good, rng), lambda: zeroed(good, rng),
             lambda: next(foreign), lambda: next(hostile))
    return [kind() for kind in islice(cycle(kinds), count)]


def everything_below(folder):
    return sorted(path for path in folder.rglob("*"))


@pytest.mark.parametrize("count", [165, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_checkpoints(run, tmp_path, monkeypatch, capsys, count):
    assert pretrain(run, tmp_path / "c", "--epochs", 1)[0] == 0
    path = tmp_path / "c" / "checkpoint_0000.pth.tar"
    content, good = load_checkpoint(path), path.read_bytes()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # nor in the place for temporary files
    before, refused = everything_below(tmp_path), []
    for damaged in damaged_files(good, content, tmp_path / "made", np.random.default_rng(count), count):
        path.write_bytes(damaged)
        try:
            assert identical(load_checkpoint(path), content)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 500
            refused.append(str(error))
    assert everything_below(tmp_path) == before
    assert capsys.readouterr() == ("", ""), "nothing is printed beside the sentence"
    assert 0.8 * count < len(refused) < count
    hostile = [sentence for sentence in refused if "it asks for" in sentence]
    assert len(hostile) > 0.05 * count and not any("Weights only" in sentence for sentence in refused)
    print(f"\n{count} damaged checkpoints: {len(refused)} refused, the others gave what was written")


@pytest.mark.parametrize("count", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_label_pickles(tmp_path, monkeypatch, count):
    """A pickle has no checksum, but a label that changed no longer fits its clip's name."""
    monkeypatch.chdir(tmp_path)
    folder, labels = tmp_path / "ntu60" / "xview", [3, 59, 0, 11, 3]
    names = [f"S001C002P00{i}R001A{label + 1:03d}" for i, label in enumerate(labels)]
    write_released(folder, [f"{name}.skeleton" for name in names], labels, [5] * 5)
    path, rng = folder / "train_label.pkl", np.random.default_rng(count)
    contents = [pickle.dumps((names, labels), protocol) for protocol in range(6)]
    hostile = hostile_objects(tmp_path / "made")
    bad = [pickle.dumps(part) for h in hostile for part in (h, (names, [h] * 5), ([h] * 5, labels), [h, names, labels])]
    before, refused = everything_below(tmp_path), 0
    for i in range(count):
        good = contents[i % 6]
        kinds = (cut, flipped, zeroed, lambda good, rng: bad[int(rng.integers(len(bad)))])
        path.write_bytes(kinds[i % 4](good, rng))
        try:
            clips = open_clips(tmp_path, "ntu60", "cross_view", "train")
            assert clips.labels.tolist() == labels and [name[-4:] for name in clips.names] == [name[-4:] for name in names]
        except UserError as error:
            assert str(path.parent) in str(error) and "\n" not in str(error)
            refused += 1
    assert everything_below(tmp_path) == before
    assert 0.8 * count < refused
    print(f"\n{count} damaged label pickles: {refused} refused, the others gave the labels that were written")


def altered_contents(content):
    """Files without a flaw that are not what a pretraining writes: what is changed, and the content."""
    for name in ("optimizer", "sizes", "flags", "seed", "epoch", "step", "contrast"):
        yield f"no {name}", {key: value for key, value in content.items() if key != name}
        yield f"{name} of text", {**content, name: "text\nof two lines"}
    weights = content["state_dict"]
    name = next(iter(weights))
    yield "no weights", {**content, "state_dict": {}}
    yield "a weight of another shape", {**content, "state_dict": {**weights, name: torch.zeros(3)}}
    yield "an unknown size", {**content, "sizes": {**content["sizes"], "depth": 3}}
    yield "a flag that is gone", {**content, "flags": {**content["flags"], "gone": 1}}


def test_a_checkpoint_with_other_content_is_refused(run, tmp_path):
    assert pretrain(run, tmp_path / "c", "--epochs", 1)[0] == 0
    path = tmp_path / "c" / "checkpoint_0000.pth.tar"
    for change, content in list(altered_contents(load_checkpoint(path))):
        torch.save(content, path)
        code, out, err = pretrain(run, tmp_path / "c", "--resume", path)
        assert code == 2 and str(path) in err and len(err.strip().splitlines()) == 1, (change, err)


def test_an_evaluation_refuses_other_content(run, tmp_path):
    assert pretrain(run, tmp_path / "c", "--epochs", 1)[0] == 0
    path = tmp_path / "c" / "checkpoint_0000.pth.tar"
    good = load_checkpoint(path)
    names = {key: torch.zeros(1) for key in good["state_dict"]}
    changes = ({"sizes": {"depth": 3}}, {"sizes": "large"}, {"representations": None}, {"contrast": None, "epoch": None},
               {"state_dict": {}}, {"state_dict": names})
    for change in changes:
        torch.save({**good, **change}, path)
        code, _, err = run("action_retrieval.py", "--pretrained", path, "--finetune-skeleton-representation", "seq-based")
        assert code == 2 and str(path) in err and len(err.strip().splitlines()) == 1, (change, err)


def test_a_probe_with_other_content_is_refused(run, tmp_path):
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--output-dir", tmp_path]
    assert run(*probe, "--epochs", 1)[0] == 0
    path = tmp_path / PROBE_FILE
    good = load_checkpoint(path)
    for name in ("seed", "epoch", "optimizer", "flags", "encoder_sha256", "history"):
        torch.save({key: value for key, value in good.items() if key != name}, path)
        code, _, err = run(*probe, "--epochs", 2, "--resume", "auto")
        assert code == 2 and str(path) in err and len(err.strip().splitlines()) == 1, (name, err)


def test_checkpoints_of_which_none_can_be_read_are_left_alone(run, tmp_path):
    assert pretrain(run, tmp_path / "c", "--save-freq", 1)[0] == 0
    files = sorted((tmp_path / "c").glob("*.tar"))
    for path in files:
        path.write_bytes(path.read_bytes()[:5000])
    code, out, err = pretrain(run, tmp_path / "c", "--resume", "auto")
    assert code == 2 and "has 2 checkpoints and none can be read; move them away" in err
    assert out.count("falling back to the one before") == 2
    assert all(path.stat().st_size == 5000 for path in files)
