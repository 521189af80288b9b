"""Joint, bone and motion streams: the functions, and every place that must use the stream of a checkpoint."""

import json

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, INTER, INTRA, RETRIEVAL, TINY, TINY_FLAGS

import action_retrieval
import extract_features
from dataset.clips import open_clips
from dataset.views import evaluation_view
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.encoders import load_encoders
from engine.retrieve import unit_blocks
from facts.skeletons import KINECT_V2
from models.registry import (
    build_encoder,
    lay_out,
    parse_representations,
    short_name,
    stream_of,
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


@pytest.mark.parametrize("script", [INTRA, INTER])
def test_pretraining_uses_and_stores_the_stream(pretrain, tmp_path, script):
    """The stream changes the training; the suffix and --stream are the same."""
    name = "seq-based" if script == INTRA else "seq-based_and_graph-based"
    suffixed = "_and_".join(f"{part}:bone" for part in name.split("_and_"))
    weights = {}
    for folder, flags in {
        "joint": [name],
        "bone": [name, "--stream", "bone"],
        "suffix": [suffixed],
    }.items():
        flags = ["--skeleton-representation", *flags, "--epochs", 1]
        code, out, err = pretrain(tmp_path / folder, *flags, script=script)
        assert code == 0, err
        assert ("seq:bone->" in out) == (folder != "joint")
        checkpoint = load_checkpoint(tmp_path / folder / "checkpoint_0000.pth.tar")
        assert checkpoint["representations"] == (
            name.split("_and_") if folder == "joint" else suffixed.split("_and_")
        )
        weights[folder] = [x for k, x in checkpoint["state_dict"].items() if k.startswith("encoders.query")]
    assert all(map(torch.equal, weights["bone"], weights["suffix"]))
    assert not all(map(torch.equal, weights["bone"], weights["joint"]))
    resume = ["--skeleton-representation", name, "--epochs", 2, "--resume", "auto"]
    code, _, err = pretrain(tmp_path / "bone", *resume, script=script)
    assert code == 2 and "--skeleton-representation" in err and "bone" in err
    assert pretrain(tmp_path / "bone", *resume, "--stream", "bone", script=script)[0] == 0


def test_streams_can_be_contrasted_with_each_other(run, pretrain, tmp_path):
    names = "seq-based:motion_and_graph-based"
    code, out, err = pretrain(tmp_path / "c", "--skeleton-representation", names, "--epochs", 1)
    assert code == 0 and "seq:motion->graph" in out and "graph->seq:motion" in out, err
    checkpoint = tmp_path / "c" / "checkpoint_0000.pth.tar"
    flags = ["--pretrained", checkpoint, "--finetune-skeleton-representation", "seq-based"]
    code, out, err = run(RETRIEVAL, *flags, "--output-dir", tmp_path / "o")
    assert code == 0, err
    assert json.loads((tmp_path / "o/results.json").read_text())["representation"] == "seq-based:motion"


def write_stream_checkpoint(path, stream):
    """A pretraining checkpoint of a sequence encoder; the weights do not depend on the stream."""
    torch.manual_seed(1)
    name = "seq-based" if stream == "joint" else f"seq-based:{stream}"
    state = build_encoder(name, 8, **TINY).state_dict()
    content = {
        "kind": "pretraining",
        "contrast": "intra",
        "epoch": 3,
        "step": 0,
        "representations": [name],
        "sizes": TINY,
        "state_dict": {f"encoders.query.{name}.{k}": v for k, v in state.items()},
        "flags": {},
        "seed": 0,
        "optimizer": {},
    }
    save_checkpoint(path, content)
    return path


def test_encoders_take_the_stream_of_the_checkpoint(tmp_path, view):
    paths = {s: write_stream_checkpoint(tmp_path / f"{s}.pth.tar", s) for s in STREAMS}
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
    saved, scores, extracted = {}, {}, {}
    raw = tmp_path / "clip.npy"
    np.save(raw, np.random.default_rng(0).normal(size=(30, 25, 3, 1)).astype(np.float32))
    for stream in ("joint", "bone"):
        path = write_stream_checkpoint(tmp_path / f"{stream}.pth.tar", stream)
        common = ["--pretrained", path, "--seed", 1]
        features = tmp_path / f"{stream}.npz"
        code, _, err = run(
            RETRIEVAL, *common, "--save-features", features, "--output-dir", tmp_path / "r" / stream
        )
        assert code == 0, err
        saved[stream] = np.load(features)["val_features"]
        for mode in ("linear", "finetune"):
            file = tmp_path / f"{stream}_{mode}.npz"
            flags = ["--mode", mode, "--epochs", 1, "--save-scores", file]
            code, _, err = run(CLASSIFICATION, *common, *flags, "--output-dir", tmp_path / mode / stream)
            assert code == 0, err
            scores[stream, mode] = np.load(file)["logits"]
        output = tmp_path / f"{stream}_raw.npz"
        code, _, err = run("extract_features.py", "--input", raw, "--pretrained", path, "--output", output)
        assert code == 0, err
        extracted[stream] = np.load(output)["features"]
    for values in (saved, extracted):
        assert not np.allclose(values["joint"], values["bone"])
    for mode in ("linear", "finetune"):
        assert not np.allclose(scores["joint", mode], scores["bone", mode])


def test_supervised_training_takes_the_stream(run, tmp_path):
    logits = []
    for stream in ("joint", "motion"):
        file = tmp_path / f"{stream}.npz"
        flags = ["--mode", "supervised", "--stream", stream, "--epochs", 1, "--seed", 1, *TINY_FLAGS]
        code, out, err = run(CLASSIFICATION, *flags, "--save-scores", file, "--output-dir", tmp_path / stream)
        assert code == 0 and (f"seq-based:{stream}" in out) == (stream != "joint"), err
        logits.append(np.load(file)["logits"])
    assert not np.allclose(*logits)


def test_retrieval_sums_the_cosine_similarities_of_several_encoders():
    torch.manual_seed(0)
    a, b = torch.randn(6, 3), 50 * torch.randn(6, 5)
    blocks = unit_blocks(torch.cat([a, b], dim=1), [3, 5])
    cosine = torch.nn.functional.cosine_similarity
    expected = (cosine(a[:, None], a[None], dim=2) + cosine(b[:, None], b[None], dim=2)) / 2
    torch.testing.assert_close(cosine(blocks[:, None], blocks[None], dim=2), expected)
    assert unit_blocks(a, [3]) is a


def test_retrieval_over_three_streams(run, tmp_path, monkeypatch):
    """The results name all streams, and each encoder's features are compared at unit length."""
    compared = []

    def record(function):
        def call(queries, *rest):
            compared.append(queries)
            return function(queries, *rest)

        return call

    for module, name in ((action_retrieval, "knn_accuracy"), (extract_features, "nearest_neighbors")):
        monkeypatch.setattr(module, name, record(getattr(module, name)))
    paths = [write_stream_checkpoint(tmp_path / f"{s}.pth.tar", s) for s in STREAMS]
    code, _, err = run(RETRIEVAL, "--pretrained", *paths, "--output-dir", tmp_path / "o")
    assert code == 0, err
    results = json.loads((tmp_path / "o/results.json").read_text())
    assert results["representation"] == "seq-based_and_seq-based:bone_and_seq-based:motion"
    raw = tmp_path / "clip.npy"
    np.save(raw, np.random.default_rng(0).normal(size=(30, 25, 3, 1)).astype(np.float32))
    flags = ["--input", raw, "--pretrained", *paths, "--output", tmp_path / "f.npz", "--knn-neighbours", 1]
    code, _, err = run("extract_features.py", *flags)
    assert code == 0, err
    assert len(compared) == 2
    for features in compared:
        norms = features.unflatten(1, (3, -1)).norm(dim=2)  # N x encoders
        torch.testing.assert_close(norms, torch.ones_like(norms))
