"""Checks that need a GPU: the same numbers as on the CPU, steps that do not wait, scripts end to end."""

import copy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from conftest import TINY, TINY_FLAGS

from dataset.clips import open_clips
from dataset.views import crop_and_resize, pretraining_view
from engine.device import in_precision, place_clips
from engine.distributed import SINGLE_PROCESS
from engine.optimization import GuardedOptimizer, make_sgd
from engine.pretrain import EpochMetrics
from engine.randomness import VIEWS, generator
from moco.losses import InfoNCE
from moco.model import MoCo
from models.registry import REPRESENTATIONS, build_encoder, lay_out

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = tuple(REPRESENTATIONS)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.fixture
def clips(small_store):
    return open_clips(small_store, "ntu60", "cross_view", "train")


def small_moco():
    torch.manual_seed(0)
    return MoCo(NAMES, lambda name, dim: build_encoder(name, dim, **TINY), [InfoNCE(NAMES)], 16, 40)


def two_views(clips, device, step=0):
    view, source = pretraining_view(num_frames=TINY["num_frames"]), generator(0, VIEWS, step)
    return [lay_out(view.of(clips, torch.arange(20), source).to(device), NAMES) for _ in range(2)]


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_features_at_the_paper_sizes_equal_those_on_the_cpu(representation, clips):
    lengths = clips.num_frames[:4]
    view = crop_and_resize(clips, torch.arange(4), torch.zeros_like(lengths), lengths)
    x = lay_out(view, (representation,))[representation]
    encoder = build_encoder(representation, 8).eval()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        expected = encoder.forward_features(x)
        found = encoder.cuda().forward_features(x.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_cudnn_accepts_the_block_of_gru_weights(amp):
    """Otherwise it warns, and copies the weights in every call."""
    device = torch.device("cuda")
    encoder = in_precision(build_encoder("seq-based", 8).to(device), amp, device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(torch.randn(4, 64, 150, device=device)).sum().backward()


def test_contrastive_step_equals_that_on_the_cpu(clips):
    cpu = small_moco()
    for module in cpu.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0  # CPU and GPU sample different masks
    gpu = copy.deepcopy(cpu).cuda()
    loss, _ = cpu(*two_views(clips, "cpu"))
    gpu_loss, _ = gpu(*two_views(clips, "cuda"))
    torch.testing.assert_close(gpu_loss.cpu(), loss, rtol=1e-3, atol=1e-3)
    gpu_loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in gpu.encoders.query.parameters())
    for name in NAMES:
        torch.testing.assert_close(gpu.queues[name].keys.cpu(), cpu.queues[name].keys, rtol=1e-3, atol=1e-3)


def test_views_of_clips_on_the_gpu_equal_those_on_the_cpu(clips):
    (moved,) = place_clips([clips], "cuda", torch.device("cuda"))
    views = [pretraining_view().of(c, torch.arange(20), generator(3, VIEWS)).cpu() for c in (clips, moved)]
    torch.testing.assert_close(*views, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_step_does_not_synchronize(clips, amp):
    """Views, contrast, backward and optimizer only queue work; PyTorch raises an error at any wait."""
    device = torch.device("cuda", 0)
    clips = clips.to(device)
    model = small_moco().to(device)
    query = model.encoders.query
    optimizer = GuardedOptimizer(make_sgd(query.parameters(), 0.01, 0.9, 1e-4), amp, device)
    metrics, encode = EpochMetrics(), in_precision(model.encoders, amp, device)
    before = copy.deepcopy(query.state_dict())
    try:
        for step in range(8):  # the first ones set up, and in float16 find a loss scale
            torch.cuda.set_sync_debug_mode("error" if step > 3 else "default")
            loss, outcome = model(*two_views(clips, device, step), encode=encode)
            optimizer.step(loss, step)
            metrics.add(loss, outcome)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    metrics.synchronize(SINGLE_PROCESS)
    assert optimizer.first_nonfinite_step() is None and metrics.means()["loss"] > 0
    assert any(not torch.equal(x, before[name]) for name, x in query.state_dict().items())
    assert all(torch.isfinite(x).all() for x in query.parameters())


def run_script(store, folder, launcher, *flags):
    command = [sys.executable, *launcher, REPOSITORY / "main_moco_inter_skeleton.py", "--data-root", store]
    command += ["--checkpoint-path", folder, *TINY_FLAGS, "--epochs", "2", "--batch-size", "4"]
    command += ["--moco-k", "16", "--seed", "1", *flags]
    done = subprocess.run(map(str, command), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not part of single contiguous chunk" not in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--amp", "bf16"],
        ["--amp", "fp16"],
        ["--compile"],
        ["--data-device", "cpu", "--workers", "2"],
        ["--tf32", "off"],
    ],
    ids=" ".join,
)
def test_pretraining_in_every_mode(small_store, tmp_path, flags):
    run_script(small_store, tmp_path / "c", [], "--gpu", "0", *flags)


@two_gpus
@pytest.mark.parametrize("flags", [[], ["--amp", "bf16"]], ids=" ".join)
def test_pretraining_under_data_parallel(small_store, tmp_path, flags):
    run_script(small_store, tmp_path / "c", [], *flags)


@two_gpus
@pytest.mark.parametrize("flags", [[], ["--sync-bn"], ["--amp", "bf16", "--compile"]], ids=" ".join)
def test_pretraining_under_torchrun(small_store, tmp_path, flags):
    run_script(small_store, tmp_path / "c", ["-m", "torch.distributed.run", "--nproc-per-node", "2"], *flags)
