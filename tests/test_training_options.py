"""Options of pretraining beyond the paper: AdamW, warm-up, --init, --pairs intra, the best checkpoint."""

import argparse

import pytest
import torch
from conftest import (
    INTRA,
    identical,
    in_optimizer_step,
    log_lines,
    same_state,
    terminate,
    write_eight_clips,
)
from torch import nn
from torch._inductor.exc import InvalidCxxCompiler

from engine.checkpoint import BEST_KNN, load_checkpoint
from engine.optimization import learning_rate, pretraining_optimizer
from engine.pretrain import compile_errors
from engine.signals import EXIT_RESUMABLE
from utils.errors import UserError

SEQUENCE = ["--skeleton-representation", "seq-based"]


def query_weights(path):
    """The query and key encoders in a checkpoint."""
    return {k: v for k, v in load_checkpoint(path)["state_dict"].items() if k.startswith("encoders.")}


def test_learning_rate_schedules():
    rates = [learning_rate(0.1, epoch, 80, [50, 70], False) for epoch in (0, 49, 50, 69, 70, 79)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    rates = [learning_rate(0.8, epoch, 8, [6], cosine=False, warmup=4) for epoch in range(8)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.08, 0.08])
    rates = [learning_rate(0.8, epoch, 6, [], cosine=True, warmup=2) for epoch in range(6)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.6828427, 0.4, 0.1171573])


def test_adamw_decays_matrices_only():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    args = argparse.Namespace(optimizer="adamw", lr=0.1, weight_decay=0.5)
    optimizer = pretraining_optimizer(module, args)
    before = [p.detach().clone() for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = [*module.parameters()]
    assert torch.allclose(after[0], before[0] * 0.95)
    assert all(torch.equal(a, b) for a, b in zip(after[1:], before[1:]))


def test_adamw_with_warm_up_resumes_exactly(pretrain, tmp_path):
    flags = ["--optimizer", "adamw", "--warmup-epochs", 2, "--lr", 0.001, "--save-freq", 1]
    pretrain.succeed(tmp_path / "whole", *flags, "--epochs", 3)
    pretrain.succeed(tmp_path / "c", *flags)
    pretrain.succeed(tmp_path / "c", *flags, "--epochs", 3, "--resume", "auto")
    assert same_state(*(tmp_path / name / "checkpoint_0002.pth.tar" for name in ("whole", "c")))
    assert [line["learning_rate"] for line in log_lines(tmp_path / "c")] == [0.0005, 0.001, 0.001]


def test_init_loads_the_encoders_of_another_dataset(pretrain, tmp_path):
    pretrain.succeed(tmp_path / "first", *SEQUENCE, script=INTRA)
    write_eight_clips(tmp_path / "other", "mine")
    data = ["--data-root", tmp_path / "other", "--pre-dataset", "mine", "--epochs", 1, "--lr", 1e-30]
    flags = [*SEQUENCE, *data, "--wd", 0, "--moco-m", 1, "--init", tmp_path / "first"]
    out = pretrain.succeed(tmp_path / "second", *flags, script=INTRA)
    assert f"initialized from {tmp_path / 'first/checkpoint_0001.pth.tar'}: 2 epochs" in out
    first = query_weights(tmp_path / "first/checkpoint_0001.pth.tar")
    assert identical(first, query_weights(tmp_path / "second/checkpoint_0000.pth.tar"))
    assert log_lines(tmp_path / "second")[0]["epoch"] == 0
    err = pretrain.fail(tmp_path / "third", *flags, "--gru-hidden-size", 8, script=INTRA)
    assert "first/checkpoint_0001.pth.tar does not have the expected content" in err


def test_best_checkpoint_is_that_of_the_highest_monitored_accuracy(pretrain, tmp_path):
    flags = ["--monitor-knn", "--monitor-freq", 1, "--epochs", 4, "--save-freq", 1]
    pretrain.succeed(tmp_path / "c", *flags)
    means = [(line["knn/seq"] + line["knn/graph"]) / 2 for line in log_lines(tmp_path / "c")]
    best = means.index(max(means))
    assert same_state(tmp_path / "c" / BEST_KNN, tmp_path / "c" / f"checkpoint_{best:04d}.pth.tar")
    assert load_checkpoint(tmp_path / "c/checkpoint_0003.pth.tar")["best_knn"] == max(means)


def test_distillation_between_intra_pairs_resumes_exactly(pretrain, tmp_path):
    """Without a queue; it starts after 3 of the 10 steps and reaches its weight after 6."""
    flags = ["--skeleton-representation", "seq-based_and_seq-based:bone", "--pairs", "intra", "--moco-k", 0]
    flags += ["--distill", "inter", "--distill-start", 3]
    out = pretrain.succeed(tmp_path / "whole", *flags)
    assert "intra-skeleton contrast of seq-based_and_seq-based:bone" in out and "distillation " in out
    with in_optimizer_step(4, terminate):
        assert pretrain(tmp_path / "c", *flags)[0] == EXIT_RESUMABLE
    pretrain.succeed(tmp_path / "c", *flags, "--resume", "auto")
    assert same_state(*(tmp_path / name / "checkpoint_0001.pth.tar" for name in ("whole", "c")))
    for line in log_lines(tmp_path / "c"):
        assert line["loss"] == pytest.approx(line["loss/info_nce"] + line["loss/distillation"])
        assert line["loss/distillation"] > 0
        pairs = {name.partition("/")[2] for name in line if name.startswith("contrastive")}
        assert pairs == {"seq->seq", "seq:bone->seq:bone"}


def test_flags_of_distillation_are_checked(pretrain, tmp_path):
    sequence = ["--skeleton-representation", "seq-based"]
    for flags, message in (
        (["--distill", "inter"], "needs several representations"),
        (["--distill", "intra", "--distill-teacher-t", 0], "--distill-teacher-t 0.0 must be above 0.0"),
    ):
        assert message in pretrain.fail(tmp_path / "c", *sequence, *flags, script=INTRA)
    assert not (tmp_path / "c").exists()


def test_compile_without_a_compiler_is_a_one_line_error():
    with pytest.raises(UserError, match="--compile failed .*compiler.*; install them, or omit --compile"):
        with compile_errors():
            raise InvalidCxxCompiler
    with pytest.raises(ZeroDivisionError), compile_errors():
        raise ZeroDivisionError
