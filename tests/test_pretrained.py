"""Encoders out of checkpoints: the authors' published files, and ours."""

import json
from functools import cache

import pytest
import torch

from conftest import GOLDEN, TINY
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.pretrained import load_encoders
from models.representations import build_encoder
from options.errors import UserError
from models.representations import REPRESENTATIONS

KEYS = json.loads((GOLDEN / "released_checkpoint_keys.json").read_text())
NO_SIZES = dict.fromkeys([*TINY, "graph_encoder", "num_frames"])
SHAPES = {"seq-based": (64, 150), "graph-based": (3, 64, 25, 2), "image-based": (3, 64, 25, 2)}


def released_state(pretraining, prefix="module."):
    """Random weights under the names and shapes of a published checkpoint, queues left small."""
    source = torch.Generator().manual_seed(len(pretraining))
    state = {}
    for name, shape in KEYS[pretraining].items():
        name = prefix + name.removeprefix("module.")
        if "ueue" in name or ".encoder_k" in name or ".encoder_l" in name:
            state[name] = torch.zeros(1)  # never read downstream
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=source) + 0.5
        else:
            state[name] = torch.randn(shape, generator=source) * 0.02
    return state


@cache  # building at the paper's sizes takes seconds
def paper_encoder(representation):
    return build_encoder(representation, 1).eval()


def filled_by_hand(state, representation, name):
    encoder = paper_encoder(representation)
    prefix = f"module.{name}."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    own = encoder.state_dict()
    for key in own:
        if not key.startswith("fc."):
            own[key] = weights[key]
    encoder.load_state_dict(own)
    return encoder


@pytest.mark.parametrize("pretraining", sorted(KEYS))
def test_published_checkpoints(tmp_path, pretraining):
    """Every pretraining, every member: the features are those of an encoder filled by hand."""
    held = pretraining.split("/")[1]
    state = released_state(pretraining)
    path = tmp_path / "checkpoint_0450.pth.tar"
    torch.save({"epoch": 451, "arch": "moco", "state_dict": state}, path)
    for member, name in zip(held.split("_and_"), ("encoder_q", "encoder_r")):
        loaded = load_encoders(str(path), held, member, NO_SIZES)
        x = torch.randn(2, *SHAPES[member])
        expected = filled_by_hand(state, member, name).forward_features(x)
        torch.testing.assert_close(loaded({member: x}), expected)
        assert loaded.representations == (member,) and not loaded.training


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A published checkpoint of seq and image, without the ``module.`` prefix."""
    path = tmp_path_factory.mktemp("released") / "released.pth.tar"
    state = released_state("inter/seq-based_and_image-based", prefix="")
    torch.save({"epoch": 451, "state_dict": state}, path)
    return path


def test_without_the_prefix_and_in_any_order_of_names(released):
    a, b = (
        load_encoders(str(released), names, "image-based", NO_SIZES)
        for names in ("seq-based_and_image-based", "image-based_and_seq-based")
    )
    x = {"image-based": torch.randn(2, *SHAPES["image-based"])}
    assert torch.equal(a(x), b(x))


def test_two_members_side_by_side(released):
    names = "seq-based_and_image-based"
    loaded = load_encoders(str(released), names, names, NO_SIZES)
    views = {name: torch.randn(2, *SHAPES[name]) for name in loaded.representations}
    assert loaded(views).shape == (2, 2048 + 4096) == (2, loaded.num_features)


@pytest.mark.parametrize("pretrain, finetune, sizes, sentence", [
    (None, "seq-based", {}, "does not say what it holds"),
    ("seq-based", "seq-based", {}, "holds 2 query encoders"),
    ("seq-based_and_graph-based", "graph-based", {}, "does not fit the graph-based encoder.*missing data_bn"),
    ("seq-based_and_image-based", "graph-based", {}, "no graph-based encoder"),
    ("seq-based_and_image-based", None, {}, "say which"),
    ("seq-based_and_image-based", "seq-based", {"gru_hidden_size": 512}, r"is \(3072, 150\) in the file, \(1536, 150\)"),
])
def test_what_does_not_fit_is_named(released, pretrain, finetune, sizes, sentence):
    with pytest.raises(UserError, match=sentence):
        load_encoders(str(released), pretrain, finetune, {**NO_SIZES, **sizes})


def test_an_unexpected_weight_is_named(released, tmp_path):
    content = torch.load(released, weights_only=True)
    content["state_dict"]["encoder_q.extra"] = torch.zeros(1)
    path = tmp_path / "more.pth.tar"
    torch.save(content, path)
    with pytest.raises(UserError, match="unexpected extra"):
        load_encoders(str(path), "seq-based_and_image-based", "seq-based", NO_SIZES)


@pytest.fixture
def ours(tmp_path):
    """A checkpoint of ours that holds tiny sequence and graph encoders."""
    sizes = {**TINY, "graph_encoder": "agcn", "num_frames": 64}
    names = ("seq-based", "graph-based")
    state = {
        f"encoders.query.{name}.{k}": v
        for name in names for k, v in build_encoder(name, 8, **sizes).state_dict().items()
    }
    path = tmp_path / "ours.pth.tar"
    save_checkpoint(path, {"kind": "pretraining", "contrast": "inter", "representations": list(names),
                           "sizes": sizes, "epoch": 3, "state_dict": state})
    return path


def test_our_checkpoint_says_what_it_holds(ours):
    loaded = load_encoders(str(ours), None, "graph-based", NO_SIZES)
    assert loaded.num_features == 16
    weight = load_checkpoint(ours)["state_dict"]["encoders.query.graph-based.l2.tcn1.conv.weight"]
    assert torch.equal(loaded.encoders["graph-based"].l2.tcn1.conv.weight, weight)
    assert not any(p.requires_grad for p in loaded.parameters())
    load_encoders(str(ours), "graph-based_and_seq-based", "seq-based", {**NO_SIZES, "gru_hidden_size": 16})


@pytest.mark.parametrize("pretrain, finetune, sizes, sentence", [
    ("seq-based", "seq-based", {}, "contradicts"),
    (None, "image-based", {}, "no image-based encoder"),
    (None, None, {}, "say which"),
    (None, "seq-based", {"gru_hidden_size": 17}, "--gru-hidden-size 17 contradicts .* trained with 16"),
    (None, "seq-based", {"graph_encoder": "stgcn"}, "--graph-encoder stgcn contradicts"),
])
def test_flags_that_contradict_our_checkpoint(ours, pretrain, finetune, sizes, sentence):
    with pytest.raises(UserError, match=sentence):
        load_encoders(str(ours), pretrain, finetune, {**NO_SIZES, **sizes})


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_untrained_and_no_encoder(representation):
    sizes = {**NO_SIZES, **TINY, "num_frames": 32}
    untrained = load_encoders("random", None, representation, sizes)
    shape = (32, 150) if representation == "seq-based" else (3, 32, 25, 2)
    assert untrained({representation: torch.randn(2, *shape)}).shape == (2, untrained.num_features)
    x = torch.randn(2, 64, 150)
    assert torch.equal(load_encoders("coordinates", None, None, NO_SIZES)({"seq-based": x}), x.flatten(1))
