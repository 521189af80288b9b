"""What only a GPU can show: the same numbers as on the CPU, and the scripts end to end."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import TINY, TINY_FLAGS
from dataset.clips import open_clips
from dataset.views import crop_and_resize
from models.representations import lay_out
from dataset.views import pretraining_view
from engine.optimization import GuardedOptimizer
from engine.device import place_clips
from engine.distributed import Group
from engine.device import in_precision
from engine.pretrain import EpochMetrics
from engine.randomness import VIEWS, generator
from models.representations import build_encoder
from moco.model import MoCo, inter_pairs
from models.representations import REPRESENTATIONS

REPOSITORY = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_encoders_at_the_papers_sizes(representation, small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "val")
    lengths = clips.num_frames[:4]
    view = crop_and_resize(clips, torch.arange(4), torch.zeros_like(lengths), lengths)
    x = lay_out(view, (representation,))[representation]
    encoder = build_encoder(representation, 8).eval()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        expected = encoder.forward_features(x)
        found = encoder.cuda().forward_features(x.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_real_encoders_under_data_parallel(small_store):
    """In evaluation mode, in which BatchNorm does not depend on how a batch is split."""
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    names = ("seq-based", "graph-based", "image-based")
    torch.manual_seed(0)
    one = MoCo(names, lambda name, dim: build_encoder(name, dim, **TINY), inter_pairs(names), 16, 40)
    one = one.cuda().eval()
    many = copy.deepcopy(one)
    views = [
        lay_out(pretraining_view().of(clips, torch.arange(20), generator(i, VIEWS)).cuda(), names)
        for i in range(2)
    ]
    loss, _ = one(*views)
    parallel_loss, _ = many(*views, encode=torch.nn.DataParallel(many.encoders))
    torch.testing.assert_close(parallel_loss, loss, rtol=1e-4, atol=1e-4)
    loss.backward(), parallel_loss.backward()
    for a, b in zip(one.encoders.query.parameters(), many.encoders.query.parameters()):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4)
    for a, b in zip(one.queues.buffers(), many.queues.buffers()):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_a_step_of_contrast_on_the_gpu(small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    names = ("seq-based", "graph-based")
    torch.manual_seed(0)
    cpu = MoCo(names, lambda name, dim: build_encoder(name, dim, **TINY), inter_pairs(names), 16, 40)
    gpu = copy.deepcopy(cpu).cuda()
    views = [
        lay_out(pretraining_view().of(clips, torch.arange(20), generator(i, VIEWS)), names)
        for i in range(2)
    ]
    loss, _ = cpu(*views)
    gpu_loss, _ = gpu(*({n: x.cuda() for n, x in view.items()} for view in views))
    torch.testing.assert_close(gpu_loss.cpu(), loss, rtol=1e-3, atol=1e-3)
    gpu_loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in gpu.encoders.query.parameters())
    torch.testing.assert_close(
        gpu.queues["seq-based"].keys.cpu(), cpu.queues["seq-based"].keys, rtol=1e-3, atol=1e-3
    )


def test_views_of_clips_on_the_gpu_are_those_on_the_cpu(small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    (moved,) = place_clips([clips], "cuda", torch.device("cuda"))
    index = torch.arange(20)
    views = [pretraining_view().of(c, index, generator(3, VIEWS)).cpu() for c in (clips, moved)]
    torch.testing.assert_close(*views, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_step_does_not_wait_for_the_device(small_store, amp):
    """Views, contrast, backward and optimizer queue their work: torch refuses any wait."""
    device = torch.device("cuda", 0)
    clips = open_clips(small_store, "ntu60", "cross_view", "train").on(device)
    names = ("seq-based", "graph-based")
    torch.manual_seed(0)
    model = MoCo(names, lambda name, dim: build_encoder(name, dim, **TINY), inter_pairs(names), 16, 40).to(device)
    stepper = GuardedOptimizer(torch.optim.SGD(model.encoders.query.parameters(), 0.01, momentum=0.9, fused=True), amp, device)
    metrics, encode = EpochMetrics(model.pairs, device), in_precision(model.encoders, amp, device)
    before = copy.deepcopy(model.encoders.query.state_dict())
    try:
        for step in range(4):
            torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # the first ones set up
            source = generator(0, VIEWS, step)
            views = [lay_out(pretraining_view().of(clips, torch.arange(20), source), names) for _ in range(2)]
            loss, logits = model(*views, encode=encode)
            stepper.step(loss, step)
            metrics.add(loss, logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert stepper.first_nonfinite_step() is None and metrics.means(Group())[0] > 0
    assert any(not torch.equal(x, before[name]) for name, x in model.encoders.query.state_dict().items())


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_agrees_to_its_rounding(small_store, amp):
    clips = open_clips(small_store, "ntu60", "cross_view", "train")
    names, device = ("seq-based", "graph-based", "image-based"), torch.device("cuda", 0)
    torch.manual_seed(0)
    model = MoCo(names, lambda name, dim: build_encoder(name, dim, **TINY), inter_pairs(names), 16, 40).to(device).eval()
    views = [
        lay_out(pretraining_view().of(clips, torch.arange(20), generator(i, VIEWS)).cuda(), names)
        for i in range(2)
    ]
    other = copy.deepcopy(model)
    loss, _ = model(*views)
    mixed_loss, logits = other(*views, encode=in_precision(other.encoders, amp, device))
    assert mixed_loss.dtype == torch.float32 and all(x.dtype == torch.float32 for x in logits)
    torch.testing.assert_close(mixed_loss, loss, rtol=0.02, atol=0)


@pytest.mark.parametrize("flags", [
    ["--amp", "bf16"], ["--amp", "fp16"], ["--compile"], ["--data-device", "cpu", "--workers", "2"], ["--tf32", "off"],
], ids=" ".join)
def test_pretraining_in_every_mode(small_store, tmp_path, flags):
    assert run_script(small_store, tmp_path / "c", [], "--gpu", "0", *flags).returncode == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("flags", [[], ["--sync-bn"], ["--amp", "bf16", "--compile"]], ids=" ".join)
def test_pretraining_under_torchrun(small_store, tmp_path, flags):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    assert run_script(small_store, tmp_path / "c", launcher, *flags).returncode == 0


def run_script(store, folder, launcher, *flags):
    command = [
        sys.executable, *launcher, REPOSITORY / "main_moco_inter_skeleton.py", "--data-root", store, "--checkpoint-path",
        folder, *TINY_FLAGS, "--epochs", "2", "--batch-size", "4", "--moco-k", "16", "--mlp", "--seed", "1", *flags,
    ]
    done = subprocess.run(map(str, command), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not part of single contiguous chunk" not in done.stderr
    return done
