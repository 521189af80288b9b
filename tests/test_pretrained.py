"""Encoders from official checkpoints and from checkpoints of this repository."""

import json
from functools import cache

import pytest
import torch
from conftest import GOLDEN, TINY, TINY_SIZES, write_pretraining

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.encoders import load_encoders
from models.registry import REPRESENTATIONS, build_encoder, lay_out
from utils.errors import UserError

KEYS = json.loads((GOLDEN / "official_checkpoint_keys.json").read_text())
NO_SIZES = dict.fromkeys(TINY_SIZES)
SHAPES = {"seq-based": (64, 150), "graph-based": (3, 64, 25, 2), "image-based": (3, 64, 25, 2)}


def official_state(pretraining, prefix="module."):
    """Random weights with the names and shapes of an official checkpoint; queues are small."""
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
def test_official_checkpoints(tmp_path, pretraining):
    """The features of every encoder equal those of an encoder whose weights are copied by hand."""
    held = pretraining.split("/")[1]
    state = official_state(pretraining)
    path = tmp_path / "checkpoint_0450.pth.tar"
    torch.save({"epoch": 451, "arch": "moco", "state_dict": state}, path)
    for member, name in zip(held.split("_and_"), ("encoder_q", "encoder_r")):
        loaded = load_encoders(str(path), held, member, NO_SIZES)
        x = torch.randn(2, *SHAPES[member])
        expected = filled_by_hand(state, member, name).forward_features(x)
        torch.testing.assert_close(loaded({member: x}), expected)
        assert loaded.representations == (member,) and not loaded.training


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """An official checkpoint of sequence and image, without the ``module.`` prefix."""
    path = tmp_path_factory.mktemp("official") / "official.pth.tar"
    state = official_state("inter/seq-based_and_image-based", prefix="")
    torch.save({"epoch": 451, "state_dict": state}, path)
    return path


def test_prefix_and_order_of_names_do_not_matter(official):
    a, b = (
        load_encoders(str(official), names, "image-based", NO_SIZES)
        for names in ("seq-based_and_image-based", "image-based_and_seq-based")
    )
    x = {"image-based": torch.randn(2, *SHAPES["image-based"])}
    assert torch.equal(a(x), b(x))


def test_features_of_two_representations_are_concatenated(official):
    names = "seq-based_and_image-based"
    loaded = load_encoders(str(official), names, names, NO_SIZES)
    views = {name: torch.randn(2, *SHAPES[name]) for name in loaded.representations}
    assert loaded(views).shape == (2, 2048 + 4096) == (2, loaded.num_features)


@pytest.mark.parametrize(
    "pretrain, finetune, sizes, message",
    [
        (None, "seq-based", {}, "does not store its representations"),
        ("seq-based", "seq-based", {}, "contains 2 query encoders"),
        (
            "seq-based_and_graph-based",
            "graph-based",
            {},
            "does not fit the graph-based encoder.*missing data_bn",
        ),
        ("seq-based_and_image-based", "graph-based", {}, "no graph-based encoder"),
        ("seq-based_and_image-based", None, {}, "choose what to evaluate"),
        (
            "seq-based_and_image-based",
            "seq-based",
            {"gru_hidden_size": 512},
            r"is \(3072, 150\) in the file, \(1536, 150\)",
        ),
    ],
)
def test_mismatch_is_reported(official, pretrain, finetune, sizes, message):
    with pytest.raises(UserError, match=message):
        load_encoders(str(official), pretrain, finetune, {**NO_SIZES, **sizes})


def test_unexpected_weight_is_reported(official, tmp_path):
    content = torch.load(official, weights_only=True)
    content["state_dict"]["encoder_q.extra"] = torch.zeros(1)
    path = tmp_path / "more.pth.tar"
    torch.save(content, path)
    with pytest.raises(UserError, match="unexpected extra"):
        load_encoders(str(path), "seq-based_and_image-based", "seq-based", NO_SIZES)


@pytest.fixture
def pretraining(tmp_path):
    """A pretraining checkpoint of this repository with tiny sequence and graph encoders."""
    return write_pretraining(tmp_path / "inter.pth.tar", ("seq-based", "graph-based"))


def test_checkpoint_stores_representations_and_sizes(pretraining):
    loaded = load_encoders(str(pretraining), None, "graph-based", NO_SIZES)
    assert loaded.num_features == 16
    weight = load_checkpoint(pretraining)["state_dict"]["encoders.query.graph-based.l2.tcn1.conv.weight"]
    assert torch.equal(loaded.encoders["graph-based"].l2.tcn1.conv.weight, weight)
    assert not any(p.requires_grad for p in loaded.parameters())
    load_encoders(
        str(pretraining), "graph-based_and_seq-based", "seq-based", {**NO_SIZES, "gru_hidden_size": 16}
    )


@pytest.mark.parametrize(
    "pretrain, finetune, sizes, message",
    [
        ("seq-based", "seq-based", {}, "contradicts"),
        (None, "image-based", {}, "no image-based encoder"),
        (None, None, {}, "choose what to evaluate"),
        (None, "seq-based", {"gru_hidden_size": 17}, "--gru-hidden-size 17 contradicts .* trained with 16"),
        (None, "seq-based", {"graph_encoder": "stgcn"}, "--graph-encoder stgcn contradicts"),
    ],
)
def test_contradicting_flags_are_rejected(pretraining, pretrain, finetune, sizes, message):
    with pytest.raises(UserError, match=message):
        load_encoders(str(pretraining), pretrain, finetune, {**NO_SIZES, **sizes})


def rewrite_sizes(path, change):
    """Save the checkpoint again after ``change(sizes)``."""
    content = load_checkpoint(path)
    change(content["sizes"])
    save_checkpoint(path, content)


def test_missing_size_is_the_default(pretraining):
    """A checkpoint written before a size flag was added loads with the default of that flag."""
    expected = load_encoders(str(pretraining), None, "graph-based", NO_SIZES)
    rewrite_sizes(pretraining, lambda sizes: sizes.pop("graph_encoder"))  # default agcn
    loaded = load_encoders(str(pretraining), None, "graph-based", NO_SIZES)
    x = {"graph-based": torch.randn(2, *SHAPES["graph-based"])}
    assert torch.equal(loaded(x), expected(x))
    load_encoders(str(pretraining), None, "graph-based", {**NO_SIZES, "graph_encoder": "agcn"})
    with pytest.raises(UserError, match="--graph-encoder stgcn contradicts .* trained with agcn"):
        load_encoders(str(pretraining), None, "graph-based", {**NO_SIZES, "graph_encoder": "stgcn"})


def test_missing_size_of_another_value_does_not_fit(pretraining):
    rewrite_sizes(pretraining, lambda sizes: sizes.pop("graph_width"))  # default 64, not 4
    with pytest.raises(UserError, match="does not fit the graph-based encoder"):
        load_encoders(str(pretraining), None, "graph-based", NO_SIZES)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"graph_depth": 3}, "unknown encoder sizes: graph_depth"),
        ({"graph_width": 6}, "--graph-width 6: must be a multiple of 4"),
    ],
)
def test_unusable_size_is_one_line_error(pretraining, change, message):
    rewrite_sizes(pretraining, lambda sizes: sizes.update(change))
    with pytest.raises(UserError, match=f"inter.pth.tar: {message}"):
        load_encoders(str(pretraining), None, "graph-based", NO_SIZES)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_random_encoder_and_coordinates(representation):
    sizes = {**NO_SIZES, **TINY, "num_frames": 32}
    untrained = load_encoders("random", None, representation, sizes)
    views = lay_out(torch.randn(2, 32, 25, 3, 2), (representation,))
    assert untrained(views).shape == (2, untrained.num_features)
    x = torch.randn(2, 64, 150)
    assert torch.equal(load_encoders("coordinates", None, None, NO_SIZES)({"seq-based": x}), x.flatten(1))
