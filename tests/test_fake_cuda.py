"""The GPU path of every script on a simulated GPU: placement, host-device synchronization, precision."""

from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, INTER, INTRA, RETRIEVAL, TINY_FLAGS, log_lines, write_pretraining
from fake_cuda import Copy, fake_cuda
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import engine.pretrain
import engine.retrieve
from dataset.augment import AUGMENTATIONS
from engine.diagnostics import Monitor
from engine.randomness import DROPOUT, seed_globally
from models.registry import REPRESENTATIONS, SEPARATOR

ALL = SEPARATOR.join(REPRESENTATIONS)
STREAMS = "seq-based_and_graph-based:motion_and_image-based:bone"
DTYPES = {"off": {torch.float32}, "bf16": {torch.bfloat16}, "fp16": {torch.float16}}


@dataclass
class Epoch:
    """One epoch of pretraining, as seen by the simulated GPU."""

    loss: float
    waits: list[list[str]] = field(default_factory=list)  # between each step and the next one
    copies: list[list[Copy]] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)  # of convolutions and linear layers


@pytest.fixture
def pretrain(run, tmp_path, monkeypatch):
    """``pretrain(names, *flags, gpu=True)``: an epoch of five steps on the simulated GPU, or on the CPU."""

    def epoch(names, *flags, gpu=True):
        folder = tmp_path / f"checkpoints_{gpu}"
        seen = Epoch(0.0)
        seed = engine.pretrain.seed_globally

        def start_step(*position):
            seed(*position)
            if gpu and position[1] == DROPOUT:
                seen.waits.append(list(fake.waits))
                seen.copies.append(list(fake.copies))
                fake.waits.clear()
                fake.copies.clear()

        def record_dtype(module, args, output):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                seen.dtypes.add(output.dtype)

        given = ["--skeleton-representation", names, "--checkpoint-path", folder, "--seed", 5]
        flags = [*given, "--moco-k", 16, "--batch-size", 4, "--epochs", 1, *TINY_FLAGS, *flags]
        simulation = fake_cuda() if gpu else nullcontext()
        with monkeypatch.context() as patch, register_module_forward_hook(record_dtype), simulation as fake:
            patch.setattr(engine.pretrain, "seed_globally", start_step)
            patch.setattr(Monitor, "measure", lambda monitor: {})  # after the epoch, in float32
            run.succeed(INTER if SEPARATOR in names else INTRA, *flags)
        seen.loss = log_lines(folder)[0]["loss"]
        seen.waits, seen.copies = seen.waits[1:], seen.copies[1:]  # without the preparation
        return seen

    return epoch


def problems(epoch, amp="off"):
    """What is wrong with an epoch on the GPU."""
    found = [f"waits for {what}" for waits in epoch.waits for what in waits]
    found += [f"waits for {what}" for copies in epoch.copies for what in copies if what.waits]
    if epoch.dtypes != DTYPES[amp]:
        found.append(f"computes in {epoch.dtypes}")
    return found


@pytest.mark.parametrize("names, amp", [("seq-based", "off"), (STREAMS, "off"), (STREAMS, "bf16")])
def test_steps_do_not_wait_and_losses_equal_those_on_the_cpu(pretrain, names, amp):
    flags = ["--amp", amp]
    found, expected = (pretrain(names, *flags, gpu=gpu) for gpu in (True, False))
    assert problems(found, amp) == [] and len(found.waits) == 4
    # In bf16 the GRU runs in bfloat16 on a GPU, and in float32 on a CPU.
    assert found.loss == pytest.approx(expected.loss, rel={"off": 1e-5, "bf16": 2e-2}[amp])
    assert all(len(copies) == 8 for copies in found.copies)  # crops and joint maps of two views
    assert all(what.size < 2**16 for copies in found.copies for what in copies)


def test_augmentations_do_not_wait(pretrain):
    flags = ["--num-frames", 64, "--augmentations", *AUGMENTATIONS, "--compose", "all"]
    found = pretrain("seq-based", *flags)
    assert problems(found) == []
    assert any(what.size > 2**16 for copies in found.copies for what in copies)  # the noise


def test_steps_with_loss_scaling_do_not_wait(pretrain):
    found = pretrain("seq-based_and_graph-based", "--amp", "fp16")
    assert problems(found, "fp16") == [] and 0 < found.loss < 100


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_prepared_on_the_cpu_are_copied_from_pinned_memory(pretrain, workers):
    flags = ["--data-device", "cpu", "--num-frames", 64, "--workers", workers]  # copies of more than 64 KB
    found = pretrain("image-based", *flags)
    assert problems(found) == []
    copies = [what for copies in found.copies for what in copies]
    assert copies and all(what.pinned and what.size > 2**16 for what in copies)


# --- Every script from end to end ----------------------------------------------------------------------

RANDOM = ["--pretrained", "random", *TINY_FLAGS]
SCRIPTS = [
    [INTER, "--skeleton-representation", ALL, *TINY_FLAGS, "--moco-k", 16, "--batch-size", 4, "--epochs", 1],
    [CLASSIFICATION, *RANDOM, "--epochs", 2, "--cached-crops", 1, "--label-fraction", 0.5],
    [CLASSIFICATION, "--pretrained", "pretrained.pth.tar", "--mode", "finetune", "--epochs", 1]
    + ["--finetune-skeleton-representation", "graph-based", "--amp", "bf16"],
    [CLASSIFICATION, "--mode", "supervised", *TINY_FLAGS, "--epochs", 1, "--batch-size", 7]
    + ["--finetune-skeleton-representation", ALL],
    [RETRIEVAL, *RANDOM, "--knn-neighbours", 3, "--save-features", "features.npz", "--autoencoder"],
    [RETRIEVAL, "--pretrained", "coordinates", "--data-device", "cpu", "--workers", 0],
    ["extract_features.py", *RANDOM, "--input", "clips", "--knn-neighbours", 2],
]


@pytest.mark.parametrize("command", SCRIPTS, ids=lambda command: f"{command[0]} {command[2]}")
def test_script_runs_on_the_simulated_gpu(run, tmp_path, monkeypatch, command):
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips" / "a.npy", np.random.default_rng(0).normal(size=(40, 25, 3, 2)))
    write_pretraining(tmp_path / "pretrained.pth.tar", tuple(REPRESENTATIONS))
    monkeypatch.setattr(engine.retrieve, "EPOCHS", 3)
    seed = [] if command[0] == "extract_features.py" else ["--seed", 1]
    with fake_cuda() as fake:
        run.succeed(*command, *seed)
    assert fake.copies


# --- The simulation ------------------------------------------------------------------------------------


def test_simulation_rejects_operands_on_two_devices():
    with fake_cuda():
        x = torch.ones(3, device="cuda")
        for operate in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([torch.ones(3), x]),
            lambda: x @ torch.ones(3),
        ):
            with pytest.raises(RuntimeError, match="tensors on cuda:0 and on the CPU"):
                operate()
        with pytest.raises(TypeError, match="to numpy"):
            x.numpy()
        assert torch.equal((x + torch.tensor(2.0)).cpu(), torch.full((3,), 3.0))  # scalars may be on the CPU


def test_simulation_lists_waits_and_copies():
    with fake_cuda() as fake:
        x, index = torch.ones(3, device="cuda"), torch.tensor([0, 2])
        waiting = [
            lambda: x[index],
            lambda: x[x > 0],
            lambda: x.sum().item(),
            lambda: bool(x.any()),
            lambda: x.tolist(),
            lambda: x.cpu(),
            lambda: x.to("cpu", non_blocking=True),
            lambda: x.nonzero(),
            lambda: torch.zeros(3).copy_(x),
        ]
        for number, operate in enumerate(waiting, start=1):
            operate()
            assert len(fake.waits) == number, fake.waits
        large = torch.zeros(2**16)
        large.to("cuda", non_blocking=True)
        large.pin_memory().to("cuda", non_blocking=True)
        x.copy_(torch.zeros(3), non_blocking=True)
        torch.tensor(1.0, device="cuda")
        assert [what.waits for what in fake.copies] == [True, False, False, True]
        assert fake.copies[0].where.startswith("test_fake_cuda.py:")


# --- Seeds of several GPUs -----------------------------------------------------------------------------


def test_seeding_makes_no_gpu_current_and_replicas_drop_different_units(monkeypatch):
    """A GPU that becomes current gets a context of hundreds of MB."""
    current, generators = [], [torch.Generator() for _ in range(4)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device", lambda index: current.append(index) or nullcontext())
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    seed_globally(1, DROPOUT, 0, 0)
    seeds = [generator.initial_seed() for generator in generators]
    assert current == [] and seeds == [torch.initial_seed() + i for i in range(4)]
    seed_globally(1, DROPOUT, 0, 1)
    assert generators[0].initial_seed() not in seeds
