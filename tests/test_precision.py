"""Mixed precision, and the step that a loss which is no number does not take."""

import copy

import pytest
import torch
from torch import nn

from conftest import TINY
from dataset.clips import open_clips
from models.representations import lay_out
from dataset.views import pretraining_view
from engine.optimization import GuardedOptimizer
from engine.device import check_amp, in_precision
from engine.randomness import VIEWS, generator
from models.representations import build_encoder
from moco.model import MoCo, inter_pairs
from options.errors import UserError
from models.representations import REPRESENTATIONS

CPU = torch.device("cpu")
NAMES = ("seq-based", "graph-based", "image-based")


def small_moco():
    torch.manual_seed(0)
    return MoCo(NAMES, lambda name, dim: build_encoder(name, dim, **TINY), inter_pairs(NAMES), 16, 40, mlp=True)


def views_of(store):
    clips = open_clips(store, "ntu60", "cross_view", "train")
    return [
        lay_out(pretraining_view().of(clips, torch.arange(20), generator(i, VIEWS)), NAMES)
        for i in range(2)
    ]


def test_bf16_agrees_to_its_rounding_and_keeps_float32_where_it_matters(small_store):
    exact, mixed, views = small_moco().eval(), small_moco().eval(), views_of(small_store)
    loss, logits = exact(*views)
    mixed_loss, mixed_logits = mixed(*views, encode=in_precision(mixed.encoders, "bf16", CPU))
    assert mixed_loss.dtype == torch.float32 and all(x.dtype == torch.float32 for x in mixed_logits)
    assert all(x.dtype == torch.float32 for x in mixed.state_dict().values() if x.is_floating_point())
    # Cosines to about 2^-8, here divided by the temperature.
    for found, expected in zip(mixed_logits, logits):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03 / 0.07)
    assert 0 < (mixed_loss - loss).abs() < 0.02 * loss
    loss.backward(), mixed_loss.backward()
    for name in NAMES:
        pairs = zip(exact.encoders.query[name].parameters(), mixed.encoders.query[name].parameters())
        a, b = (torch.cat([p.grad.flatten() for p in side]) for side in zip(*pairs))
        assert torch.cosine_similarity(a, b, dim=0) > 0.98, name
        assert b.dtype == torch.float32


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_autocast_reaches_the_encoders(representation):
    """Under bf16 the convolutions and linear layers compute in it; without, nothing does."""
    encoder = build_encoder(representation, 5, **TINY)
    layers = [m for m in encoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    shape = (2, 64, 150) if representation == "seq-based" else (2, 3, 64, 25, 2)
    for amp, expected in (("bf16", torch.bfloat16), ("off", torch.float32)):
        found = []
        hooks = [m.register_forward_hook(lambda *call: found.append(call[2].dtype)) for m in layers]
        in_precision(encoder, amp, CPU)(torch.randn(shape))
        for hook in hooks:
            hook.remove()
        assert found and set(found) == {expected}


def test_formats_that_a_cpu_has_not():
    check_amp("bf16", CPU)
    with pytest.raises(UserError, match="--amp fp16 needs a GPU"):
        check_amp("fp16", CPU)


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, fused=True),
    lambda p: torch.optim.Adam(p, 0.1, fused=True),
])
def test_from_the_first_loss_that_is_no_number_nothing_moves(make):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    stepper = GuardedOptimizer(make(model.parameters()), "off", CPU)
    inputs = torch.randn(5, 4, 3)
    states = []
    for number, x in enumerate(inputs):
        loss = model(x).square().mean() * (float("inf") if number == 2 else 1.0)
        stepper.step(loss, number, lambda flag: 2 * flag)  # as if two processes had the same loss
        states.append((copy.deepcopy(model.state_dict()), copy.deepcopy(stepper.optimizer.state_dict())))
        assert stepper.first_nonfinite_step() == (None if number < 2 else 2)
    assert not torch.equal(states[0][0]["weight"], states[1][0]["weight"])
    for weights, optimizer in states[2:]:
        assert all(torch.equal(x, states[1][0][name]) for name, x in weights.items())
        for index, entries in optimizer["state"].items():
            assert all(torch.equal(x, states[1][1]["state"][index][name]) for name, x in entries.items())


def test_a_finite_step_is_that_of_plain_sgd():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    other = copy.deepcopy(model)
    stepper = GuardedOptimizer(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True), "off", CPU)
    plain = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    for number, x in enumerate(torch.randn(4, 6, 3)):
        stepper.step(model(x).square().mean(), number)
        plain.zero_grad()
        other(x).square().mean().backward()
        plain.step()
    torch.testing.assert_close(model.weight, other.weight)
