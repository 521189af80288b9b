"""A representation is added by one module and one registry line, and old checkpoints stay loadable."""

import pytest
from conftest import CLASSIFICATION, INTER, INTRA, RETRIEVAL
from transformer_representation import TRANSFORMER

from engine.checkpoint import load_checkpoint
from models.registry import REPRESENTATIONS

ALL = "seq-based_and_graph-based_and_image-based_and_transformer-based"


@pytest.fixture
def register(monkeypatch):
    """Adds the representation; before the call scripts run without it."""
    return lambda: monkeypatch.setitem(REPRESENTATIONS, TRANSFORMER.name, TRANSFORMER)


def test_fourth_representation_runs_in_every_script(register, run, pretrain, tmp_path):
    register()
    printed = []

    def succeed(script, *flags):
        code, out, err = run(script, *flags)
        assert code == 0, err
        printed.append(out)

    names, sizes = ["--skeleton-representation", "transformer-based"], ["--transformer-width", 8]
    assert pretrain(tmp_path / "intra", *names, *sizes, "--epochs", 1, script=INTRA)[0] == 0
    code, out, err = pretrain(tmp_path / "inter", "--skeleton-representation", ALL, "--epochs", 1)
    assert code == 0 and out.count("transformer->") == 3, err
    intra, inter = (tmp_path / name / "checkpoint_0000.pth.tar" for name in ("intra", "inter"))
    succeed(CLASSIFICATION, "--epochs", 1, "--pretrained", intra)
    evaluated = ["--finetune-skeleton-representation", "seq-based_and_transformer-based"]
    succeed(RETRIEVAL, "--knn-neighbours", 1, "--pretrained", inter, *evaluated)
    succeed("reproduce_tables.py", "--list")
    assert load_checkpoint(intra)["sizes"]["transformer_width"] == 8
    assert load_checkpoint(inter)["sizes"]["transformer_width"] == 16


@pytest.mark.parametrize("script", [INTRA, INTER, CLASSIFICATION])
def test_fourth_representation_appears_in_the_help(register, run, monkeypatch, script):
    register()
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks
    code, out, err = run(script, "--help")
    assert code in (0, None) and out.count("width of the transformer (paper: 16)") == 1, err
    assert script == CLASSIFICATION or "transformer-based" in out


def test_checkpoint_from_before_a_size_flag_existed_is_used(register, run, pretrain, tmp_path):
    names = ["--skeleton-representation", "seq-based"]
    assert pretrain(tmp_path / "old", *names, "--epochs", 1, script=INTRA)[0] == 0
    register()
    checkpoint = tmp_path / "old" / "checkpoint_0000.pth.tar"
    assert run(CLASSIFICATION, "--epochs", 1, "--pretrained", checkpoint)[0] == 0
    assert pretrain(tmp_path / "old", *names, "--epochs", 2, "--resume", "auto", script=INTRA)[0] == 0
    assert "transformer_width" not in load_checkpoint(checkpoint)["sizes"]
    resumed = load_checkpoint(checkpoint.with_name("checkpoint_0001.pth.tar"))
    assert resumed["sizes"]["transformer_width"] == 16
