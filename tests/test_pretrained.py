"""Encoders from official checkpoints and from checkpoints of this repository."""

import json

import pytest
import torch
from conftest import GOLDEN, TINY, TINY_SIZES, write_pretraining

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.encoders import load_encoders
from models.registry import REPRESENTATIONS, build_encoder, lay_out
from utils.errors import UserError

KEYS = json.loads((GOLDEN / "official_checkpoint_keys.json").read_text())
SHAPES = {"seq-based": (64, 150), "graph-based": (3, 64, 25, 2), "image-based": (3, 64, 25, 2)}
SEQ_IMAGE, SEQ_GRAPH = "seq-based_and_image-based", "seq-based_and_graph-based"


def official_state(pretraining):
    """Random weights with the names and shapes of an official checkpoint; queues are small."""
    source = torch.Generator().manual_seed(len(pretraining))
    state = {}
    for name, shape in KEYS[pretraining].items():
        if "ueue" in name or ".encoder_k" in name or ".encoder_l" in name:
            state[name] = torch.zeros(1)  # never read downstream
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=source) + 0.5
        else:
            state[name] = torch.randn(shape, generator=source) * 0.02
    return state


def filled_by_hand(state, representation, name):
    encoder = build_encoder(representation, 1).eval()
    own = encoder.state_dict()
    own.update({key: state[f"module.{name}.{key}"] for key in own if not key.startswith("fc.")})
    encoder.load_state_dict(own)
    return encoder


@pytest.mark.parametrize(
    "pretraining, evaluated, name",
    [("intra/image-based", "image-based", "encoder_q"), (f"inter/{SEQ_GRAPH}", "graph-based", "encoder_r")],
)
def test_official_checkpoints(tmp_path, pretraining, evaluated, name):
    """The features equal those of an encoder whose weights are copied by hand."""
    state, path = official_state(pretraining), tmp_path / "checkpoint_0450.pth.tar"
    torch.save({"epoch": 451, "arch": "moco", "state_dict": state}, path)
    loaded = load_encoders(str(path), pretraining.split("/")[1], evaluated)
    x = torch.randn(2, *SHAPES[evaluated])
    expected = filled_by_hand(state, evaluated, name).forward_features(x)
    torch.testing.assert_close(loaded({evaluated: x}), expected)
    assert loaded.representations == (evaluated,) and not loaded.training


@pytest.fixture
def official(tmp_path):
    """An official checkpoint of tiny sequence and image encoders, without the ``module.`` prefix."""
    torch.manual_seed(1)
    encoders = {"encoder_q": "seq-based", "encoder_r": "image-based"}
    states = {prefix: build_encoder(name, 8, **TINY).state_dict() for prefix, name in encoders.items()}
    state = {f"{prefix}.{k}": v for prefix, weights in states.items() for k, v in weights.items()}
    torch.save(
        {"epoch": 451, "state_dict": {**state, "queue": torch.zeros(1)}}, tmp_path / "official.pth.tar"
    )
    return tmp_path / "official.pth.tar"


def test_order_of_names_does_not_matter_and_features_are_concatenated(official):
    views = {name: torch.randn(2, *SHAPES[name]) for name in ("seq-based", "image-based")}
    a, b = (
        load_encoders(str(official), names, "image-based", TINY)(views)
        for names in (SEQ_IMAGE, "image-based_and_seq-based")
    )
    seq = load_encoders(str(official), SEQ_IMAGE, "seq-based", TINY)(views)
    both = load_encoders(str(official), SEQ_IMAGE, SEQ_IMAGE, TINY)
    assert torch.equal(a, b) and torch.equal(both(views), torch.cat([seq, a], dim=1))


@pytest.fixture
def pretraining(tmp_path):
    """A pretraining checkpoint of this repository with tiny sequence and graph encoders."""
    return write_pretraining(tmp_path / "inter.pth.tar", ("seq-based", "graph-based"))


@pytest.mark.parametrize(
    "file, pretrain, finetune, sizes, message",
    [
        ("official", None, "seq-based", TINY, "does not store its representations"),
        ("official", "seq-based", "seq-based", TINY, "contains 2 query encoders"),
        (
            "official",
            SEQ_GRAPH,
            "graph-based",
            TINY,
            "fit the graph-based encoder .*Missing key.*data_bn",
        ),
        ("official", SEQ_IMAGE, "graph-based", TINY, f"graph-based: each .* contains {SEQ_IMAGE}"),
        ("official", SEQ_IMAGE, None, TINY, "choose what to evaluate"),
        ("official", SEQ_IMAGE, "seq-based", {**TINY, "gru_hidden_size": 8}, r"size mismatch .*\[48, 150\]"),
        ("inter", "seq-based", "seq-based", {}, "--pretrain-skeleton-representation seq-based contradicts"),
        ("inter", None, "image-based", {}, f"image-based: each .* contains {SEQ_GRAPH}"),
        ("inter", None, None, {}, "choose what to evaluate"),
        ("inter", None, "seq-based", {"gru_hidden_size": 17}, "--gru-hidden-size 17 contradicts .* with 16"),
        ("inter", None, "seq-based", {"image_dropout": 0.0}, "--image-dropout 0.0 contradicts .* with 0.5"),
        ("inter", None, "seq-based", {"graph_encoder": "stgcn"}, "--graph-encoder stgcn contradicts"),
    ],
)
def test_mismatch_is_reported(official, pretraining, tmp_path, file, pretrain, finetune, sizes, message):
    with pytest.raises(UserError, match=message):
        load_encoders(str(tmp_path / f"{file}.pth.tar"), pretrain, finetune, sizes)


def test_unexpected_weight_is_reported(official):
    content = torch.load(official, weights_only=True)
    content["state_dict"]["encoder_q.extra"] = torch.zeros(1)
    torch.save(content, official)
    with pytest.raises(UserError, match='Unexpected key.*"extra"'):
        load_encoders(str(official), SEQ_IMAGE, "seq-based", TINY)


def test_checkpoint_stores_representations_and_sizes(pretraining):
    loaded = load_encoders(str(pretraining), None, "graph-based", dict.fromkeys(TINY_SIZES))
    assert loaded.num_features == 16
    weight = load_checkpoint(pretraining)["state_dict"]["encoders.query.graph-based.l2.tcn1.conv.weight"]
    assert torch.equal(loaded.encoders["graph-based"].l2.tcn1.conv.weight, weight)
    assert not any(p.requires_grad for p in loaded.parameters())
    load_encoders(str(pretraining), "graph-based_and_seq-based", "seq-based", {"gru_hidden_size": 16})


def test_folder_of_a_pretraining_is_its_newest_checkpoint(pretraining):
    folder = pretraining.parent / "run"
    write_pretraining(folder / "checkpoint_0002.pth.tar", ("seq-based",))
    assert load_encoders(str(folder)).title == load_encoders(f"{folder}/checkpoint_0002.pth.tar").title
    with pytest.raises(UserError, match="no checkpoint that can be used"):
        load_encoders(str(pretraining.parent))


def rewrite_sizes(path, change):
    """Save the checkpoint again after ``change(sizes)``."""
    content = load_checkpoint(path)
    change(content["sizes"])
    save_checkpoint(path, content)


def test_missing_size_is_the_default(pretraining):
    """A checkpoint written before a size flag was added loads with the default of that flag."""
    x = {"graph-based": torch.randn(2, *SHAPES["graph-based"])}
    expected = load_encoders(str(pretraining), None, "graph-based")(x)
    rewrite_sizes(pretraining, lambda sizes: sizes.pop("graph_encoder"))  # default agcn
    assert torch.equal(load_encoders(str(pretraining), None, "graph-based")(x), expected)
    with pytest.raises(UserError, match="--graph-encoder stgcn contradicts .* trained with agcn"):
        load_encoders(str(pretraining), None, "graph-based", {"graph_encoder": "stgcn"})
    rewrite_sizes(pretraining, lambda sizes: sizes.pop("graph_width"))  # default 64, not 4
    with pytest.raises(UserError, match="does not fit the graph-based encoder"):
        load_encoders(str(pretraining), None, "graph-based")


def test_random_encoder_and_coordinates():
    for representation in REPRESENTATIONS:
        untrained = load_encoders("random", None, representation, {**TINY, "num_frames": 32})
        views = lay_out(torch.randn(2, 32, 25, 3, 2), (representation,))
        assert untrained(views).shape == (2, untrained.num_features)
    x = torch.randn(2, 64, 150)
    assert torch.equal(load_encoders("coordinates")({"seq-based": x}), x.flatten(1))
