"""Mixed precision, and the updates that are skipped from the first non-finite loss on."""

import copy

import pytest
import torch
from conftest import TINY
from torch import nn

from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.device import check_amp, in_precision
from engine.optimization import GuardedOptimizer
from engine.randomness import VIEWS, generator
from moco.model import MoCo, inter_pairs
from models.representations import REPRESENTATIONS, build_encoder, lay_out
from options.errors import UserError

CPU = torch.device("cpu")
NAMES = tuple(REPRESENTATIONS)


def small_moco():
    torch.manual_seed(0)
    return MoCo(NAMES, lambda name, dim: build_encoder(name, dim, **TINY), inter_pairs(NAMES), 16, 40)


def two_views(store):
    clips = open_clips(store, "ntu60", "cross_view", "train")
    view, index = pretraining_view(), torch.arange(20)
    return [lay_out(view.of(clips, index, generator(i, VIEWS)), NAMES) for i in range(2)]


def test_bf16_keeps_loss_and_logits_in_float32_and_differs_only_by_rounding(small_store):
    exact, mixed, views = small_moco().eval(), small_moco().eval(), two_views(small_store)
    loss, logits = exact(*views)
    mixed_loss, mixed_logits = mixed(*views, encode=in_precision(mixed.encoders, "bf16", CPU))
    assert mixed_loss.dtype == torch.float32 and all(x.dtype == torch.float32 for x in mixed_logits)
    assert all(x.dtype == torch.float32 for x in mixed.state_dict().values() if x.is_floating_point())
    # Cosine similarities agree to about 2^-8; the logits are these divided by the temperature.
    for found, expected in zip(mixed_logits, logits, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03 / 0.07)
    assert 0 < (mixed_loss - loss).abs() < 0.02 * loss
    loss.backward()
    mixed_loss.backward()
    for name in NAMES:
        a, b = (
            torch.cat([p.grad.flatten() for p in model.encoders.query[name].parameters()])
            for model in (exact, mixed)
        )
        assert torch.cosine_similarity(a, b, dim=0) > 0.98, name
        assert b.dtype == torch.float32


@pytest.mark.parametrize("amp, dtype", [("bf16", torch.bfloat16), ("off", torch.float32)])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_autocast_reaches_all_convolutions_and_linear_layers(representation, amp, dtype):
    encoder, found = build_encoder(representation, 5, **TINY), []
    for module in encoder.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda module, args, output: found.append(output.dtype))
    x = lay_out(torch.randn(2, 64, 25, 3, 2), (representation,))[representation]
    in_precision(encoder, amp, CPU)(x)
    assert found and set(found) == {dtype}


def test_amp_formats_unsupported_on_cpu():
    check_amp("bf16", CPU)
    with pytest.raises(UserError, match="--amp fp16 needs a GPU"):
        check_amp("fp16", CPU)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, fused=True),
        lambda p: torch.optim.Adam(p, 0.1, fused=True),
    ],
    ids=["sgd", "adam"],
)
def test_updates_stop_at_first_non_finite_loss(make):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = GuardedOptimizer(make(model.parameters()), "off", CPU)
    states = []
    for number, x in enumerate(torch.randn(5, 4, 3)):
        loss = model(x).square().mean() * (float("inf") if number == 2 else 1.0)
        optimizer.step(loss, number, lambda flag: 2 * flag)  # as if two processes had the same loss
        states.append((copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.optimizer.state_dict())))
        assert optimizer.first_nonfinite_step() == (None if number < 2 else 2)
    assert not torch.equal(states[0][0]["weight"], states[1][0]["weight"])
    for weights, state in states[2:]:
        assert all(torch.equal(x, states[1][0][name]) for name, x in weights.items())
        for index, entries in state["state"].items():
            assert all(torch.equal(x, states[1][1]["state"][index][name]) for name, x in entries.items())


def test_guarded_step_equals_plain_sgd_for_finite_losses():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    other = copy.deepcopy(model)
    optimizer = GuardedOptimizer(
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True), "off", CPU
    )
    plain = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    for number, x in enumerate(torch.randn(4, 6, 3)):
        optimizer.step(model(x).square().mean(), number)
        plain.zero_grad()
        other(x).square().mean().backward()
        plain.step()
    torch.testing.assert_close(model.weight, other.weight)
