"""Corrupted, foreign and malicious files: a one-line error or the original content; no code is executed."""

import gzip
import io
import json
import os
import pickle
import subprocess
import tempfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from conftest import RETRIEVAL, identical, write_official

from dataset.clips import open_clips
from engine.checkpoint import load_checkpoint
from engine.classifier import PROBE_FILE
from utils.errors import UserError


class Call:
    """Unpickling this object calls ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def malicious_objects(marker):
    """Objects that create the file or folder ``marker`` when they are unpickled."""
    path, touch = str(marker), f"open({str(marker)!r}, 'w').close()"
    return [
        Call(open, path, "w"),
        Call(os.system, f"touch {path}"),
        Call(os.mkdir, path),
        Call(exec, touch),
        Call(eval, touch),
        Call(Path.touch, marker),
        Call(subprocess.call, ["touch", path]),
        Call(np.savetxt, path, [0]),
        Call(torch.save, 0, path),
        Call(os.makedirs, path),
        Call(Call, Call(open, path, "w")),
    ]


def torch_bytes(content, **settings):
    """The bytes that ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def cut(good, rng):
    """``good`` without its end, its beginning or a part in between."""
    at = int(rng.integers(len(good)))
    return [good[:at], good[at:], good[: at // 2] + good[at:]][int(rng.integers(3))]


def flipped(good, rng):
    """``good`` with one to eight bits flipped."""
    corrupted = bytearray(good)
    for at in rng.integers(len(good), size=rng.integers(1, 9)):
        corrupted[at] ^= 1 << int(rng.integers(8))
    return bytes(corrupted)


def zeroed(good, rng):
    """``good`` with up to 5000 consecutive bytes set to zero."""
    at, size = int(rng.integers(len(good))), int(rng.integers(1, 5000))
    return (good[:at] + bytes(size) + good[at + size :])[: len(good)]


def foreign_files(content):
    """Files of other versions of this code or of torch, and of other programs."""
    for version in (0, 2, 99, 10**30, 1.5, "1", "two\nlines", None, [1]):
        yield torch_bytes({**content, "format_version": version})
    good = torch_bytes(content)
    yield torch_bytes(content, _use_new_zipfile_serialization=False)
    yield from (gzip.compress(good), good + good, b"", b"PK\x03\x04", json.dumps(["a"]).encode())
    yield from map(torch_bytes, (content["state_dict"], [content], {"state_dict": [1]}, None))
    yield from (pickle.dumps({"state_dict": {}}, protocol) for protocol in (0, 2, 5))


def malicious_files(content, marker):
    """Every malicious object at several places of a checkpoint, in every format of torch and of pickle."""
    content = {**content, "state_dict": {"weight": torch.zeros(3)}, "optimizer": {}}  # small
    for malicious in malicious_objects(marker):
        for bad in (malicious, {**content, "state_dict": {"weight": malicious}}):
            yield torch_bytes(bad)
            yield torch_bytes(bad, _use_new_zipfile_serialization=False)
            yield pickle.dumps(bad)


def bad_files(good, content, marker, rng, count):
    """``count`` files, in turn of each of the five kinds."""
    malicious = list(malicious_files(content, marker))
    shuffled = cycle([malicious[i] for i in rng.permutation(len(malicious))])
    foreign = cycle(foreign_files(content))
    kinds = [lambda damage=damage: damage(good, rng) for damage in (cut, flipped, zeroed)]
    kinds += [lambda: next(foreign), lambda: next(shuffled)]
    return [kind() for kind in islice(cycle(kinds), count)]


def everything_below(folder):
    return sorted(path for path in folder.rglob("*"))


def test_bad_checkpoints_are_rejected_or_unchanged(pretrained, tmp_path, monkeypatch, capsys, count=120):
    path = pretrained / "checkpoint_0000.pth.tar"
    content, good = load_checkpoint(path), path.read_bytes()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # files there would be noticed, too
    before, errors = everything_below(tmp_path), []
    for bad in bad_files(good, content, tmp_path / "marker", np.random.default_rng(count), count):
        path.write_bytes(bad)
        try:
            assert identical(load_checkpoint(path), content)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 500
            errors.append(str(error))
    assert everything_below(tmp_path) == before
    assert capsys.readouterr() == ("", ""), "nothing is printed in addition to the error"
    assert 0.8 * count < len(errors) < count
    malicious = [error for error in errors if "which is not allowed in a checkpoint" in error]
    assert len(malicious) > 0.05 * count and not any("Weights only" in error for error in errors)


def test_bad_label_pickles_are_rejected_or_unchanged(tmp_path, monkeypatch, count=100):
    """A pickle has no checksum, but a label that changed does not match the name of its clip."""
    monkeypatch.chdir(tmp_path)
    folder, labels = tmp_path / "ntu60" / "xview", [3, 59, 0, 11, 3]
    names = [f"S001C002P00{i}R001A{label + 1:03d}" for i, label in enumerate(labels)]
    write_official(folder, [f"{name}.skeleton" for name in names], labels, [5] * 5)
    path, rng = folder / "train_label.pkl", np.random.default_rng(count)
    contents = [pickle.dumps((names, labels), protocol) for protocol in range(6)]
    malicious = [
        pickle.dumps(part)
        for bad in malicious_objects(tmp_path / "marker")
        for part in (bad, (names, [bad] * 5), ([bad] * 5, labels), [bad, names, labels])
    ]
    before, rejected = everything_below(tmp_path), 0
    for i in range(count):
        kinds = (cut, flipped, zeroed, lambda good, rng: malicious[int(rng.integers(len(malicious)))])
        path.write_bytes(kinds[i % 4](contents[i % 6], rng))
        try:
            clips = open_clips(tmp_path, "ntu60", "cross_view", "train")
            assert clips.labels.tolist() == labels
            assert [name[-4:] for name in clips.names] == [name[-4:] for name in names]
        except UserError as error:
            assert str(path.parent) in str(error) and "\n" not in str(error)
            rejected += 1
    assert everything_below(tmp_path) == before
    assert 0.8 * count < rejected


def altered_contents(content, names):
    """Contents that no run writes, in intact files."""
    for name in names:
        yield {key: value for key, value in content.items() if key != name}
        yield {**content, name: "text\nof two lines"}
    weights, optimizer = content["state_dict"], content["optimizer"]
    yield {**content, "state_dict": {}}
    yield {**content, "state_dict": {**weights, next(iter(weights)): torch.zeros(3)}}
    yield {**content, "format_version": torch.tensor([1, 1])}
    state = optimizer["state"]
    buffer = state[0]["momentum_buffer"]
    for changed in (  # the fused step on a smaller buffer would read outside of it
        {**state, 0: {"momentum_buffer": torch.zeros(1)}},
        {**state, 0: {"momentum_buffer": buffer.double()}},
        {index: entry for index, entry in state.items() if index > 0},
    ):
        yield {**content, "optimizer": {**optimizer, "state": changed}}


def test_resume_rejects_altered_checkpoints(pretrain, pretrained):
    path = pretrained / "checkpoint_0000.pth.tar"
    for content in altered_contents(load_checkpoint(path), ("optimizer", "flags", "seed", "epoch", "step")):
        torch.save(content, path)
        assert str(path) in pretrain.fail(pretrained, "--resume", path)


def test_probe_rejects_altered_checkpoints(probe, tmp_path):
    flags = ["--seed", 1, "--epochs"]
    probe.succeed(tmp_path, *flags, 1)
    path = tmp_path / PROBE_FILE
    names = ("optimizer", "flags", "seed", "epoch", "step", "encoder_sha256")
    for content in altered_contents(load_checkpoint(path), names):
        torch.save(content, path)
        assert str(path) in probe.fail(tmp_path, *flags, 2, "--resume", "auto")


def test_evaluation_rejects_altered_checkpoints(run, pretrained):
    path = pretrained / "checkpoint_0000.pth.tar"
    good = load_checkpoint(path)
    for change in (
        {"sizes": {"depth": 3}},
        {"sizes": "large"},
        {"representations": None},
        {"state_dict": {}},
        {"state_dict": {name: torch.zeros(1) for name in good["state_dict"]}},
    ):
        torch.save({**good, **change}, path)
        flags = ["--finetune-skeleton-representation", "seq-based"]
        assert str(path) in run.fail(RETRIEVAL, "--pretrained", path, *flags)
