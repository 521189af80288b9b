"""What only a GPU can show: the same numbers as on the CPU, and the scripts end to end."""

import copy

import pytest
import torch

from conftest import TINY
from dataset.clips import open_clips
from dataset.crop import cut_and_resize
from dataset.augment import Augmentation
from dataset.layout import lay_out
from dataset.views import pretraining_view
from engine.randomness import VIEWS, generator
from models.build import build_encoder
from moco.model import MoCo, inter_pairs
from options.representations import REPRESENTATIONS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_encoders_at_the_papers_sizes(representation, small_store):
    clips = open_clips(small_store, "ntu60", "cross_view", "val")
    lengths = clips.num_frames[:4]
    view = cut_and_resize(clips, torch.arange(4), torch.zeros_like(lengths), lengths)
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
        lay_out(pretraining_view(clips, torch.arange(20), Augmentation(), generator(i, VIEWS)).cuda(), names)
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
        lay_out(pretraining_view(clips, torch.arange(20), Augmentation(), generator(i, VIEWS)), names)
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
