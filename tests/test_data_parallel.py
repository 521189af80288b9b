"""DataParallel on the CPU: any number of replicas gives what one device gives.

Scattering, replication and gathering are PyTorch's; only the copies between GPUs and the streams are
replaced. BatchNorm and dropout are in evaluation mode, in which they treat every clip on its own.
"""

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, INTER, RETRIEVAL, TINY_FLAGS, log_lines, results
from torch import nn
from torch.autograd import Function
from torch.nn.modules.module import register_module_forward_hook

import engine.device
import engine.features
from engine.checkpoint import load_checkpoint
from engine.diagnostics import Monitor
from moco.model import KeyQueue, MoCo
from models.registry import REPRESENTATIONS, SEPARATOR

ALL = SEPARATOR.join(REPRESENTATIONS)
PRETRAIN = [INTER, "--skeleton-representation", ALL, *TINY_FLAGS, "--batch-size", 10, "--moco-k", 20]
EVALUATE = ["--pretrained", "random", "--finetune-skeleton-representation", ALL, *TINY_FLAGS]


def copies(tensors, devices):
    """A list of tensors per device; the first device has the originals."""
    return [list(tensors) if i == 0 else [x.clone() for x in tensors] for i in range(len(devices))]


class Broadcast(Function):
    """Stand-in for the function that copies the parameters to every device."""

    @staticmethod
    def forward(ctx, devices, *tensors):
        ctx.count = len(tensors)
        outputs = copies(tensors, devices)
        frozen = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if not needed]
        ctx.mark_non_differentiable(*(output[i] for output in outputs for i in frozen))
        return tuple(x for output in outputs for x in output)

    @staticmethod
    def backward(ctx, *gradients):
        return (None, *(sum(gradients[i :: ctx.count]) for i in range(ctx.count)))


class Scatter(Function):
    """Stand-in for the function that distributes a batch."""

    @staticmethod
    def forward(ctx, devices, sizes, dim, x):
        ctx.dim = dim
        return tuple(part.clone() for part in x.chunk(len(devices), dim))

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, None, torch.cat(gradients, ctx.dim)


class Gather(Function):
    """Stand-in for the function that collects the outputs."""

    @staticmethod
    def forward(ctx, device, dim, *tensors):
        ctx.dim, ctx.sizes = dim, [x.shape[dim] for x in tensors]
        return torch.cat(tensors, dim)

    @staticmethod
    def backward(ctx, gradient):
        return (None, None, *gradient.split(ctx.sizes, ctx.dim))


class CpuDataParallel(nn.DataParallel):
    """``nn.DataParallel`` with ``replicas`` devices, all of them the CPU."""

    replicas = 2

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module, self.dim = module, 0
        self.device_ids, self.output_device = list(range(self.replicas)), 0
        self.src_device_obj = torch.device("cpu")

    def parallel_apply(self, replicas, inputs, kwargs):
        """Run each replica in a thread, which inherits from autocast that it is on, but not its dtype."""
        outputs, grad, autocast = {}, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")

        def work(i):
            with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=autocast):
                outputs[i] = replicas[i](*inputs[i], **kwargs[i])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(replicas))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [outputs[i] for i in range(len(replicas))]


@pytest.fixture
def replicate(monkeypatch):
    """``replicate(count)``: from now on runs use this many devices in one process; 1: one device."""
    for layer in (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout2d):
        monkeypatch.setattr(layer, "train", lambda module, mode=True: nn.Module.train(module, False))
    monkeypatch.setattr("torch.nn.parallel._functions.Broadcast", Broadcast)
    monkeypatch.setattr("torch.nn.parallel.scatter_gather.Scatter", Scatter)
    monkeypatch.setattr("torch.nn.parallel.scatter_gather.Gather", Gather)
    monkeypatch.setattr("torch.nn.parallel.comm.broadcast_coalesced", copies)
    monkeypatch.setattr(nn, "DataParallel", CpuDataParallel)
    monkeypatch.setattr(Monitor, "measure", lambda monitor: {})  # runs on one device, in float32

    def choose(count):
        monkeypatch.setattr(CpuDataParallel, "replicas", count)
        monkeypatch.setattr(engine.device, "uses_data_parallel", lambda device, gpu: count > 1)

    return choose


@pytest.fixture
def calls(monkeypatch):
    """How often the momentum update and the enqueue ran, and the sizes of the batches of replicas."""
    counted = Counter()
    update, enqueue = MoCo.momentum_update, KeyQueue.enqueue

    def count_update(model):
        counted["momentum update"] += 1
        update(model)

    def count_enqueue(queue, keys):
        counted[f"enqueue {len(keys)}"] += 1
        enqueue(queue, keys)

    monkeypatch.setattr(MoCo, "momentum_update", count_update)
    monkeypatch.setattr(KeyQueue, "enqueue", count_enqueue)
    return counted


def assert_same_weights(expected, found):
    expected, found = (load_checkpoint(path)["state_dict"] for path in (expected, found))
    assert expected.keys() == found.keys()
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-4, atol=1e-5, msg=name)


def test_pretraining_on_replicas_equals_that_on_one_device(run, tmp_path, replicate, calls):
    seen, losses = [], {}

    def record_batch(module, args, output):
        if isinstance(module, nn.Linear):
            seen.append(len(output))

    for devices, shards in ((1, {10}), (3, {4, 2}), (4, {3, 1})):
        seen.clear(), calls.clear()
        replicate(devices)
        folder = tmp_path / f"devices{devices}"
        with register_module_forward_hook(record_batch):
            run.succeed(*PRETRAIN, "--epochs", 2, "--seed", 5, "--checkpoint-path", folder)
        assert calls == {"momentum update": 4, "enqueue 10": 4 * len(REPRESENTATIONS)}  # four steps
        assert set(seen) == shards
        losses[devices] = [line["loss"] for line in log_lines(folder)]
    for count in (3, 4):
        assert losses[count] == pytest.approx(losses[1], rel=1e-5)
        # Weights of query and key encoders, queues and their pointers.
        assert_same_weights(*(tmp_path / f"devices{n}" / "checkpoint_0001.pth.tar" for n in (1, count)))


def test_features_on_replicas_equal_those_on_one_device(run, tmp_path, replicate, monkeypatch):
    """The last batch has fewer clips than replicas, or is split unevenly."""
    monkeypatch.setattr(engine.features, "FEATURE_BATCH", 9)  # 9 + 9 + 2 training clips, 9 + 1 for validation
    files = []
    for devices in (1, 4):
        replicate(devices)
        file = tmp_path / f"features{devices}.npz"
        run.succeed(RETRIEVAL, *EVALUATE, "--seed", 1, "--save-features", file)
        with np.load(file) as arrays:
            files.append(dict(arrays))
    assert files[0].keys() == files[1].keys()
    for name, expected in files[0].items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(files[1][name], expected, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(files[1][name], expected)


def test_supervised_training_on_replicas_equals_that_on_one_device(run, tmp_path, replicate):
    flags = ["--mode", "supervised", *EVALUATE[2:], "--optimizer", "sgd", "--lr", 0.01, "--seed", 1]
    flags += ["--batch-size", 9, "--epochs", 1]  # 9 + 9 + 2 clips
    for devices in (1, 4):
        replicate(devices)
        run.succeed(CLASSIFICATION, *flags, "--output-dir", tmp_path / f"devices{devices}")
    one, several = tmp_path / "devices1", tmp_path / "devices4"
    assert_same_weights(one / "finetune_last.pth.tar", several / "finetune_last.pth.tar")
    last = [results(folder)["numbers"]["last"] for folder in (one, several)]
    assert last[0] == last[1]


@pytest.mark.parametrize(
    "command",
    [[*PRETRAIN, "--epochs", 1], [RETRIEVAL, *EVALUATE]],
    ids=lambda command: command[0],
)
def test_replicas_compute_in_the_chosen_precision(run, replicate, monkeypatch, command):
    """The dtype of autocast is a property of each thread; the CPU's default is bfloat16."""
    replicate(2)
    monkeypatch.setitem(engine.device.AMP_DTYPES, "bf16", torch.float16)
    dtypes = set()

    def record_dtype(module, args, output):
        if isinstance(module, nn.Conv2d):
            dtypes.add(output.dtype)

    with register_module_forward_hook(record_dtype):
        run.succeed(*command, "--amp", "bf16", "--seed", 1)
    assert dtypes == {torch.float16}
