"""Mixed precision, and the updates that are skipped from the first non-finite loss on."""

import copy

import pytest
import torch
from conftest import TINY
from torch import nn

from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.device import check_amp, in_precision
from engine.optimization import GuardedOptimizer, make_sgd
from engine.randomness import VIEWS, generator
from moco.losses import InfoNCE
from moco.model import MoCo
from models.gru import recurrent_dtype
from models.registry import REPRESENTATIONS, build_encoder, lay_out
from utils.errors import UserError

CPU = torch.device("cpu")
NAMES = tuple(REPRESENTATIONS)


def small_moco(names=NAMES, seed=0):
    torch.manual_seed(seed)
    return MoCo(names, lambda name, dim: build_encoder(name, dim, **TINY), [InfoNCE(tuple(names))], 16, 40)


def two_views(store, count=20):
    clips = open_clips(store, "ntu60", "cross_view", "train")
    view, index = pretraining_view(num_frames=TINY["num_frames"]), torch.arange(count)
    return [lay_out(view.of(clips, index, generator(i, VIEWS)), NAMES) for i in range(2)]


def test_bf16_keeps_loss_and_logits_in_float32_and_differs_only_by_rounding(small_store):
    exact, mixed, views = small_moco().eval(), small_moco().eval(), two_views(small_store)
    loss, outcome = exact(*views)
    mixed_loss, mixed_outcome = mixed(*views, encode=in_precision(mixed.encoders, "bf16", CPU))
    assert mixed_loss.dtype == torch.float32
    assert all(x.dtype == torch.float32 for x in mixed_outcome.logits.values())
    assert all(x.dtype == torch.float32 for x in mixed.state_dict().values() if x.is_floating_point())
    # Cosine similarities agree to about 2^-8; the logits are these divided by the temperature.
    for pair, expected in outcome.logits.items():
        torch.testing.assert_close(mixed_outcome.logits[pair], expected, rtol=0, atol=0.03 / 0.07)
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


def test_amp_formats_unsupported_on_cpu():
    check_amp("bf16", CPU)
    with pytest.raises(UserError, match="--amp fp16 needs a GPU"):
        check_amp("fp16", CPU)


def pretend_gpu(monkeypatch, capability, cudnn_version=92400):
    """Let PyTorch describe a GPU of this compute capability whose cuDNN accepts every tensor."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    monkeypatch.setattr(torch, "cudnn_is_acceptable", lambda x: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn_version)


def test_bf16_is_rejected_where_pytorch_would_emulate_it(monkeypatch):
    pretend_gpu(monkeypatch, (7, 5))
    with pytest.raises(UserError, match="some GPU does not support bfloat16; use --amp fp16"):
        check_amp("bf16", torch.device("cuda", 1))
    check_amp("fp16", torch.device("cuda", 1))
    pretend_gpu(monkeypatch, (8, 0))
    check_amp("bf16", torch.device("cuda", 1))


@pytest.mark.parametrize(
    "dtype, capability, cudnn_version, expected",
    [
        (torch.bfloat16, (9, 0), 92400, torch.bfloat16),
        (torch.bfloat16, (8, 0), 91300, torch.bfloat16),
        (torch.bfloat16, (9, 0), 91200, torch.float32),
        (torch.bfloat16, (7, 5), 92400, torch.float32),
        (torch.float16, (7, 5), 90100, torch.float16),
    ],
)
def test_gru_computes_in_the_autocast_dtype_if_cudnn_does(
    monkeypatch, dtype, capability, cudnn_version, expected
):
    x = torch.zeros(2, 3)
    with torch.autocast("cpu", dtype=dtype):
        assert recurrent_dtype(x) == torch.float32, "without cuDNN"
    pretend_gpu(monkeypatch, capability, cudnn_version)
    assert recurrent_dtype(x) == torch.float32
    with torch.autocast("cpu", dtype=dtype):
        assert recurrent_dtype(x) == expected


@pytest.mark.parametrize(
    "make",
    [lambda p: make_sgd(p, 0.1, 0.9, 0.1), lambda p: torch.optim.Adam(p, 0.1, fused=True)],
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


def test_skipped_first_step_leaves_no_uninitialized_momentum(monkeypatch):
    """PyTorch's fused SGD allocates its buffers with ``empty_like``, whatever the memory contains."""
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, 7.0))
    weight = nn.Parameter(torch.zeros(3))
    optimizer = GuardedOptimizer(make_sgd([weight], 0.1, 0.9, 0.0), "off", CPU)
    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    optimizer.step((1000.0 * weight).sum(), 0)  # the scaled gradient is infinite
    optimizer.step((0.0 * weight).sum(), 1)
    assert not weight.any() and not optimizer.optimizer.state[weight]["momentum_buffer"].any()


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_checkpoint_without_momentum_buffers_resumes_with_zeros(momentum):
    """As written by an earlier version that was stopped before its first step."""
    earlier = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.1, momentum=momentum, fused=True)
    weight = nn.Parameter(torch.ones(3))
    optimizer = make_sgd([weight], 0.1, momentum, 0.0)
    optimizer.load_state_dict(earlier.state_dict())
    assert ("momentum_buffer" in optimizer.state[weight]) == (momentum > 0)
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))
    if momentum:
        assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.ones(3))


@pytest.mark.parametrize("seed", range(2))
def test_fp16_run_with_a_skipped_first_step_stays_finite(small_store, seed):
    """float16 arithmetic on the CPU; the initial loss scale overflows, so the scaler skips step 0."""
    names = ("seq-based", "graph-based")
    model = small_moco(names, seed)
    views = [{name: view[name] for name in names} for view in two_views(small_store, count=8)]
    query = model.encoders.query
    optimizer = GuardedOptimizer(make_sgd(query.parameters(), 0.01, 0.9, 1e-4), "off", CPU)
    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    encode = in_precision(model.encoders, "fp16", CPU)
    states = [copy.deepcopy(query.state_dict())]
    for step in range(3):
        loss, _ = model(*views, encode=encode)
        optimizer.step(loss, step)
        states.append({name: parameter.detach().clone() for name, parameter in query.named_parameters()})
    assert optimizer.first_nonfinite_step() is None
    assert all(torch.equal(x, states[0][name]) for name, x in states[1].items())  # step 0 was skipped
    assert any(not torch.equal(x, states[1][name]) for name, x in states[2].items())  # step 1 was not
    assert all(torch.isfinite(x).all() and x.abs().max() < 10 for x in states[-1].values())
    for state in optimizer.optimizer.state.values():
        assert torch.isfinite(state["momentum_buffer"]).all()
