"""Joint, bone and motion streams: the functions, and every place that must use the stream of a checkpoint."""

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, RETRIEVAL, TINY_FLAGS, identical, results, write_pretraining

import action_retrieval
import extract_features
from dataset.clips import open_clips
from dataset.views import evaluation_view
from engine.checkpoint import load_checkpoint
from engine.encoders import load_encoders
from facts.skeletons import KINECT_V2
from models.registry import (
    lay_out,
    parse_representations,
    short_name,
    stream_of,
    with_stream,
)
from models.streams import STREAMS
from utils.errors import UserError

NO_SIZES: dict = {}


@pytest.fixture
def view(small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "val")
    return evaluation_view().of(clips, torch.arange(4))


def test_bone_is_joint_minus_parent(view):
    bones = STREAMS["bone"](view, KINECT_V2)
    for joint, parent in enumerate(KINECT_V2.parents):
        assert torch.equal(bones[:, :, joint], view[:, :, joint] - view[:, :, parent])
    root = next(joint for joint, parent in enumerate(KINECT_V2.parents) if joint == parent)
    assert not bones[:, :, root].any()


def test_motion_is_next_frame_minus_this_one(view):
    motion = STREAMS["motion"](view, KINECT_V2)
    for t in range(view.shape[1] - 1):
        assert torch.equal(motion[:, t], view[:, t + 1] - view[:, t])
    assert not motion[:, -1].any()


@pytest.mark.parametrize("stream", STREAMS)
def test_absent_people_stay_zero(view, stream):
    view[..., 1] = 0.0
    result = STREAMS[stream](view, KINECT_V2)
    assert not result[..., 1].any() and result[..., 0].any() and result.shape == view.shape


def test_lay_out_computes_the_stream_before_the_layout(view):
    names = ("seq-based", "seq-based:bone", "graph-based:motion")
    laid_out = lay_out(view, names, KINECT_V2)
    bones, motion = (STREAMS[name](view, KINECT_V2) for name in ("bone", "motion"))
    assert torch.equal(laid_out["seq-based"], view.flatten(2))
    assert torch.equal(laid_out["seq-based:bone"], bones.flatten(2))
    assert torch.equal(laid_out["graph-based:motion"], motion.permute(0, 3, 1, 2, 4))


def test_names_with_streams():
    parse = parse_representations
    assert parse("graph-based_and_seq-based:motion_and_seq-based") == (
        "seq-based",
        "seq-based:motion",
        "graph-based",
    )
    assert parse("seq-based:joint") == parse("seq-based") == ("seq-based",)
    assert parse("graph-based_and_seq-based", "bone") == ("seq-based:bone", "graph-based:bone")
    assert [stream_of(name) for name in ("seq-based", "graph-based:bone")] == ["joint", "bone"]
    assert [short_name(name) for name in ("seq-based", "graph-based:bone")] == ["seq", "graph:bone"]
    for text, stream, message in (
        ("seq-based:velocity", None, "not a skeleton representation"),
        ("seq-based:", None, "not a skeleton representation"),
        ("seq-based_and_seq-based:joint", None, "twice"),
        ("seq-based:bone", "motion", "--stream motion contradicts 'seq-based:bone'"),
    ):
        with pytest.raises(UserError, match=message):
            parse(text, stream)


def test_pretraining_uses_and_stores_the_stream(pretrain, tmp_path):
    """The stream changes the training; the suffix and --stream are the same."""
    name, weights = "seq-based_and_graph-based", {}
    names = {False: ["seq-based", "graph-based"], True: ["seq-based:bone", "graph-based:bone"]}
    runs = {"joint": [name], "bone": [name, "--stream", "bone"], "suffix": ["_and_".join(names[True])]}
    for folder, flags in runs.items():
        flags = ["--skeleton-representation", *flags, "--epochs", 1]
        out = pretrain.succeed(tmp_path / folder, *flags)
        assert ("seq:bone->" in out) == (folder != "joint")
        checkpoint = load_checkpoint(tmp_path / folder / "checkpoint_0000.pth.tar")
        assert checkpoint["representations"] == names[folder != "joint"]
        weights[folder] = [x for k, x in checkpoint["state_dict"].items() if k.startswith("encoders.query")]
    assert identical(weights["bone"], weights["suffix"]) and not identical(weights["bone"], weights["joint"])
    resume = ["--skeleton-representation", name, "--epochs", 2, "--resume", "auto"]
    err = pretrain.fail(tmp_path / "bone", *resume)
    assert "--skeleton-representation" in err and "bone" in err
    pretrain.succeed(tmp_path / "bone", *resume, "--stream", "bone")


def write_stream_checkpoint(folder, stream):
    """A pretraining checkpoint of a sequence encoder; the weights do not depend on the stream."""
    (folder / stream).mkdir()
    return write_pretraining(folder / stream / "x.tar", [with_stream("seq-based", stream)], num_frames=8)


def test_encoders_take_the_stream_of_the_checkpoint(tmp_path, view):
    paths = {s: write_stream_checkpoint(tmp_path, s) for s in STREAMS}
    features = {}
    for stream, path in paths.items():
        encoders = load_encoders(str(path), None, "seq-based", NO_SIZES)
        features[stream] = encoders(lay_out(view, encoders.representations, KINECT_V2))
        expected = encoders.encoders[encoders.representations[0]].forward_features(
            STREAMS[stream](view, KINECT_V2).flatten(2)
        )
        assert torch.equal(features[stream], expected)
    assert not torch.equal(features["joint"], features["bone"])
    assert not torch.equal(features["joint"], features["motion"])
    with pytest.raises(UserError, match="--stream motion contradicts .* was trained with bone"):
        load_encoders(str(paths["bone"]), None, None, NO_SIZES, stream="motion")
    with pytest.raises(UserError, match="seq-based:motion: each encoder must be in exactly one"):
        load_encoders(str(paths["bone"]), None, "seq-based:motion", NO_SIZES)
    three = load_encoders([str(path) for path in paths.values()], None, None, NO_SIZES)
    together = three(lay_out(view, three.representations, KINECT_V2))
    assert torch.equal(together, torch.cat([features[stream] for stream in STREAMS], dim=1))


def test_every_downstream_script_uses_the_stream(run, tmp_path):
    """With equal weights, only the stream distinguishes the results."""
    raw, arrays = tmp_path / "clip.npy", {}
    np.save(raw, np.random.default_rng(0).normal(size=(30, 25, 3, 1)).astype(np.float32))
    for stream in ("joint", "bone"):
        encoder = ["--pretrained", write_stream_checkpoint(tmp_path, stream)]
        supervised = ["--mode", "supervised", "--stream", stream, *TINY_FLAGS, "--num-frames", 8]
        classify = [CLASSIFICATION, "--epochs", 1, "--seed", 1]
        commands = {  # name of the array, script and flags; the last one is the file
            "val_features": [RETRIEVAL, *encoder, "--seed", 1, "--save-features"],
            "features": ["extract_features.py", *encoder, "--input", raw, "--output"],
            "logits": [*classify, *encoder, "--save-scores"],
            "logits of supervised": [*classify, *supervised, "--save-scores"],
        }
        for name, command in commands.items():
            file = tmp_path / f"{stream}_{name.replace(' ', '_')}.npz"
            output = [] if name == "features" else ["--output-dir", tmp_path / stream / name]
            run.succeed(*command, file, *output)
            arrays[stream, name] = np.load(file)[name.split()[0]]
    for name in commands:
        assert not np.allclose(arrays["joint", name], arrays["bone", name]), name


def test_retrieval_over_three_streams(run, tmp_path, monkeypatch):
    """The results name all streams, and each encoder's features are compared at unit length."""
    compared = []

    def record(function):
        def call(queries, *rest):
            compared.append(queries)
            return function(queries, *rest)

        return call

    for module, name in ((action_retrieval, "knn_labels"), (extract_features, "nearest_neighbors")):
        monkeypatch.setattr(module, name, record(getattr(module, name)))
    paths = [write_stream_checkpoint(tmp_path, s) for s in STREAMS]
    run.succeed(RETRIEVAL, "--pretrained", *paths, "--output-dir", tmp_path / "o")
    names = "seq-based_and_seq-based:bone_and_seq-based:motion"
    assert results(tmp_path / "o")["representation"] == names
    raw = tmp_path / "clip.npy"
    np.save(raw, np.random.default_rng(0).normal(size=(30, 25, 3, 1)).astype(np.float32))
    flags = ["--input", raw, "--pretrained", *paths, "--output", tmp_path / "f.npz", "--knn-neighbours", 1]
    run.succeed("extract_features.py", *flags)
    assert len(compared) == 2
    for features in compared:
        norms = features.unflatten(1, (3, -1)).norm(dim=2)  # N x encoders
        torch.testing.assert_close(norms, torch.ones_like(norms))
