"""Encoders: sizes, parameter names, initialization, and reference forms of their computations."""

import copy
import json
import math
import pickle

import pytest
import torch
from conftest import GOLDEN, TINY, TINY_SIZES
from torch import nn
from torch.nn import functional as F

from models import batch_norm
from models.agcn import AdaptiveGraphConv, channel_factors
from models.graph import spatial_adjacency
from models.gru import contiguous_copies
from models.recurrence import Recurrence, parallel_grus
from models.registry import REPRESENTATIONS, build_encoder, lay_out
from utils.errors import UserError

FEATURES = {"seq-based": 2048, "graph-based": 256, "image-based": 4096}  # in the paper


def random_input(representation, clips=3):
    """A batch of random clips in the layout of a representation."""
    return lay_out(torch.randn(clips, 64, 25, 3, 2), (representation,))[representation]


def official_weights(representation):
    """name -> shape of the query encoder in the official intra-skeleton checkpoint, without its head."""
    keys = json.loads((GOLDEN / "official_checkpoint_keys.json").read_text())[f"intra/{representation}"]
    prefix = "module.encoder_q."
    names = {k.removeprefix(prefix): tuple(v) for k, v in keys.items() if k.startswith(prefix)}
    return {k: v for k, v in names.items() if not k.startswith("fc.")}


@pytest.mark.parametrize("representation", FEATURES)
def test_paper_sizes_match_the_official_checkpoints(representation):
    encoder = build_encoder(representation, 7)
    names = {k: tuple(v.shape) for k, v in encoder.state_dict().items() if not k.startswith("fc.")}
    assert names == official_weights(representation)
    assert encoder.num_features == FEATURES[representation]
    assert encoder.fc.weight.shape == (7, FEATURES[representation])


@pytest.mark.parametrize(
    "representation, sizes",
    [
        *((name, {}) for name in REPRESENTATIONS),
        ("seq-based", {"gru_input_norm": "batch"}),
        ("graph-based", {"graph_encoder": "stgcn"}),
        ("image-based", {"image_encoder": "resnet18"}),
    ],
)
def test_small_sizes(representation, sizes):
    encoder = build_encoder(representation, 5, **{**TINY, **sizes, "num_frames": 64})
    x = random_input(representation)
    assert encoder.forward_features(x).shape == (3, encoder.num_features)
    assert encoder(x).shape == (3, 5)
    encoder(x).sum().backward()
    unused = [n for n, p in encoder.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert unused == []
    copy = pickle.loads(pickle.dumps(encoder.eval()))
    torch.testing.assert_close(copy(x), encoder(x))


def test_shorter_graph_encoder_grows_like_the_ten_blocks():
    assert channel_factors(10) == [1, 1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert [channel_factors(n) for n in (1, 2, 3, 6)] == [[1], [1, 4], [1, 2, 4], [1, 1, 2, 2, 4, 4]]
    encoder = build_encoder("graph-based", 5, graph_width=8, graph_num_blocks=3)
    assert encoder.num_features == 32 and encoder.l3.tcn1.conv.stride == (2, 1)


@pytest.mark.parametrize(
    "representation, sizes, message",
    [
        ("video-based", {}, "unknown representation 'video-based'; choose from seq-based, "),
        ("graph-based", {"graph_num_blocks": 11}, "--graph-num-blocks 11: must be at most 10"),
        ("graph-based", {"graph_width": 6}, "--graph-width 6: must be a multiple of 4"),
        ("graph-based", {"graph_encoder": "gcn"}, "--graph-encoder gcn: choose from agcn, stgcn"),
        ("image-based", {"image_encoder": "resnet"}, "--image-encoder resnet: choose from hcn, resnet18"),
        ("image-based", {"image_width": 24}, "--image-width 24: must be a multiple of 16"),
        ("image-based", {"image_dropout": 1.0}, "--image-dropout 1.0: must be at least 0 and below 1"),
        ("image-based", {"num_frames": 40}, "width 64 and 40 frames must be multiples of 16"),
        ("seq-based", {"gru_hidden_size": 0}, "--gru-hidden-size 0: must be an integer of at least 1"),
        ("seq-based", {"gru_units": 8}, "unknown encoder sizes: gru_units"),
    ],
)
def test_invalid_sizes_and_representations_raise(representation, sizes, message):
    with pytest.raises(UserError, match=message):
        build_encoder(representation, 5, **sizes)


def test_image_dropout_reaches_every_dropout_layer():
    encoder = build_encoder("image-based", 5, image_width=16, image_dropout=0.25)
    assert {x.p for x in encoder.modules() if isinstance(x, torch.nn.Dropout2d)} == {0.25}
    x = torch.randn(2, 3, 64, 25, 2)
    assert not torch.equal(encoder(x), encoder(x))
    encoder = build_encoder("image-based", 5, image_width=16, image_dropout=0.0)
    assert torch.equal(encoder(x), encoder(x))


def test_resnet_sees_the_people_next_to_each_other():
    encoder = build_encoder("image-based", 5, image_encoder="resnet18").eval()
    x = torch.randn(2, 3, 64, 25, 2)
    assert encoder.num_features == 512
    image = torch.cat([x[..., 0], x[..., 1]], dim=3)  # N x 3 x T x 2V
    torch.testing.assert_close(encoder(x), encoder.fc(encoder.network(image)))
    assert encoder(torch.randn(2, 3, 10, 17, 2)).shape == (2, 5)  # any number of frames and joints


def test_input_norm_changes_no_initial_weight():
    weights = []
    for norm in ("none", "batch"):
        torch.manual_seed(0)
        weights.append(build_encoder("seq-based", 5, **TINY, gru_input_norm=norm).state_dict())
    assert all(torch.equal(weights[1][name], x) for name, x in weights[0].items())
    assert {name.split(".")[0] for name in weights[1].keys() - weights[0].keys()} == {"input_norm"}


def test_gru_on_a_gpu_computes_the_same_from_one_block_of_weights():
    """``torch.gru``, which cuDNN serves on a GPU, runs on the CPU too."""
    encoder = build_encoder("seq-based", 5, gru_hidden_size=12).encoder
    x, results = torch.randn(4, 9, 150), []
    weights = encoder.weights(0, "_reverse")
    for compute in (
        lambda: encoder.in_one_call(x, weights),
        lambda: parallel_grus(x.transpose(0, 1), [weights]).transpose(0, 1),
    ):
        output = compute()
        results.append((output, *torch.autograd.grad(output.square().sum(), weights)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_contiguous_copies_follow_each_other_in_memory():
    weights = build_encoder("seq-based", 5, gru_hidden_size=12).encoder.weights(1, "")
    copies, offset = contiguous_copies(weights, torch.bfloat16), 0
    for weight, found in zip(weights, copies, strict=True):
        assert found.untyped_storage().data_ptr() == copies[0].untyped_storage().data_ptr()
        assert found.storage_offset() == offset and found.is_contiguous()
        assert torch.equal(found, weight.bfloat16())
        offset += weight.numel()


def test_graph_encoder_at_the_paper_sizes_is_finite_in_float16():
    """float16 arithmetic on the CPU, with coordinates that overflow the sum of products of joints."""
    torch.manual_seed(0)
    encoder, x = build_encoder("graph-based", 8).eval(), 20.0 * torch.randn(1, 3, 16, 25, 2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        features = encoder.forward_features(x)
    assert features.dtype == torch.float16 and torch.isfinite(features).all()


def test_recurrence_has_the_gradients_of_its_equations():
    torch.manual_seed(0)
    shapes = (4, 2, 3, 6), (2, 6, 2), (2, 6)  # frames, GRUs, clips, gates of two units
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(Recurrence.apply, inputs)


def test_adaptive_graph_conv_equals_its_equation_subset_by_subset():
    torch.manual_seed(0)
    block = AdaptiveGraphConv(6, 8, spatial_adjacency())
    nn.init.normal_(block.PA, std=0.1)
    nn.init.normal_(block.bn.weight)
    x = torch.randn(5, 6, 4, 25)
    total = 0
    for k in range(3):
        theta = block.conv_a[k](x).permute(0, 3, 1, 2).flatten(2)  # N x V x CT
        phi = block.conv_b[k](x).flatten(1, 2)  # N x CT x V
        similarity = (theta @ phi / phi.shape[1]).softmax(dim=-2)
        adjacency = block.A[k] + block.PA[k] + similarity
        total = total + block.conv_d[k](torch.einsum("nctv,nvw->nctw", x, adjacency))
    torch.testing.assert_close(block(x), F.relu(block.bn(total) + block.down(x)), rtol=1e-4, atol=1e-5)


def test_initialization_follows_the_official_code():
    gru = build_encoder("seq-based", 10, gru_hidden_size=64)
    for weight in (gru.encoder.gru.weight_hh_l1_reverse, gru.fc.weight):
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < weight.abs().max() <= bound
    hcn = build_encoder("image-based", 10)
    bound = math.sqrt(6 / (9 * (128 + 128)))
    assert 0.95 * bound < hcn.conv5[0].weight.abs().max() <= bound and not hcn.conv5[0].bias.any()
    agcn = build_encoder("graph-based", 16).requires_grad_(False)
    assert agcn.fc.weight.std() == pytest.approx(math.sqrt(2 / 16), rel=0.05)
    assert agcn.l5.tcn1.conv.weight.std() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.05)
    assert agcn.l5.gcn1.conv_d[1].weight.std() == pytest.approx(math.sqrt(2 / (128 * 64 * 3)), rel=0.05)
    assert torch.allclose(agcn.l5.gcn1.bn.weight, torch.tensor(1e-6))


@pytest.mark.parametrize(
    "graph_encoder, absent",
    [("agcn", slice(0, 0)), ("agcn", slice(1, 2)), ("agcn", slice(0, 6)), ("stgcn", slice(1, 5))],
)
def test_absent_people_are_computed_once_and_count_as_often_as_they_occur(graph_encoder, absent, monkeypatch):
    """Features, gradients and running statistics equal those of the computation with all people."""
    torch.manual_seed(0)
    sizes = {**TINY_SIZES, "graph_encoder": graph_encoder}
    encoder = build_encoder("graph-based", 8, **sizes).double()
    for parameter in encoder.parameters():
        if parameter.dim() == 1:  # scales that are nearly zero at the start, and biases on the edge of a ReLU
            nn.init.uniform_(parameter, 0.5, 1.5)
    x = torch.randn(6, 3, 8, 25, 2, dtype=torch.float64)
    x[absent, ..., 1] = 0
    results = []
    for precisions in ((torch.float64,), ()):
        monkeypatch.setattr(batch_norm, "PRECISIONS", precisions)
        copied = copy.deepcopy(encoder)
        count = len(range(6)[absent]) if precisions else 0
        assert copied.distinct_people(x)[1] == max(count, 1)
        features = copied.forward_features(x)
        (features * torch.linspace(-1, 2, features.numel()).view_as(features)).sum().backward()
        gradients = [p.grad for name, p in copied.named_parameters() if not name.startswith("fc")]
        evaluated = copied.eval().forward_features(x)
        results.append([features, evaluated, *gradients, *copied.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
