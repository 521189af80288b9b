"""Evaluation metrics, the autoencoder, and the table of results."""

import json

import pytest
import torch
from conftest import RETRIEVAL, TINY_FLAGS, clusters, write_pretraining

import engine.retrieve
from engine.classifier import accuracies, class_weights, fingerprint, linear_head
from engine.report import read_results, results_table
from engine.retrieve import Autoencoder, encode, train_autoencoder


def test_accuracies():
    logits = torch.tensor([[3.0, 2, 1, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6]])
    assert accuracies(logits, torch.tensor([0, 2])) == {"top1": 50.0, "top5": 100.0, "mean_class": 50.0}
    assert accuracies(logits, torch.tensor([1, 1])) == {"top1": 0.0, "top5": 50.0, "mean_class": 0.0}
    assert accuracies(logits[:, :3], torch.tensor([2, 2]))["top5"] == 100.0, "fewer classes than five"
    three_to_one = accuracies(logits[[0, 0, 0, 1]], torch.tensor([0, 0, 0, 2]))
    assert three_to_one == {"top1": 75.0, "top5": 100.0, "mean_class": 50.0}


def test_class_weights_give_every_class_the_same_share_of_the_loss():
    labels = torch.tensor([0, 0, 0, 2])
    weights = class_weights(labels, 4)
    assert weights.tolist() == pytest.approx([2 / 3, 0, 2, 0]) and weights[labels].mean() == 1


def test_head_initialization():
    head = linear_head(500, 60, seed=1)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02) and not head.bias.any()
    assert torch.equal(head.weight, linear_head(500, 60, seed=1).weight)


def test_fingerprint_covers_weights_and_buffers():
    module = torch.nn.BatchNorm1d(3)
    before = fingerprint(module)
    assert fingerprint(module) == before
    module.running_mean[1] += 1e-7
    assert fingerprint(module) != before


def test_autoencoder_reconstructs_features(monkeypatch):
    features, _ = clusters(120, 3)
    untrained = Autoencoder(20)
    sizes = [layer.out_features for layer in untrained.modules() if isinstance(layer, torch.nn.Linear)]
    assert sizes == [1024, 512, 125, 512, 1024, 20]
    monkeypatch.setattr(engine.retrieve, "EPOCHS", 30)
    trained = train_autoencoder(features, 32, seed=1, print_freq=100)
    error = [(m(features) - features).square().mean().item() for m in (untrained, trained)]
    assert error[1] < 0.5 * error[0]
    code = encode(trained, features)
    assert code.shape == (120, 125) and code.abs().max() <= 1
    monkeypatch.setattr(engine.retrieve, "TILE", 50)
    torch.testing.assert_close(encode(trained, features), code)


def result(task, numbers, seed=0, pretrained="x"):
    what = dict.fromkeys(("encoder", "representation", "dataset", "protocol"), "x")
    return json.dumps({"task": task, **what, "pretrained": pretrained, "seed": seed, "numbers": numbers})


def test_table_joins_probe_and_retrieval(tmp_path):
    accuracy = {"best": {"top1": 61.26}, "last": {"top1": 60.0}}
    for name, text in (
        ("a", result("linear", accuracy)),
        ("b", result("retrieval", {"knn": 50.04, "neighbours": 1})),
        ("c", result("retrieval", {"knn": 1.0, "neighbours": 1}, seed=1)),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    lines = results_table(read_results(tmp_path)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert cells[2][4:] == ["0", "61.3", "60.0", "50.0"] and cells[3][4:] == ["1", "", "", "1.0"]
    for name, knn, pretrained in (("d", 7.0, "y"), ("b2", 8.0, "x")):
        (tmp_path / name).mkdir()
        text = result("retrieval", {"knn": knn, "neighbours": 1}, pretrained=pretrained)
        (tmp_path / name / "results.json").write_text(text)
    table = results_table(read_results(tmp_path))
    assert table.startswith("| pretrained |")
    assert all(x in table for x in ("50.0", "1.0", "7.0", "8.0")), "no result is lost"


def test_configuration_lists_the_flags_that_are_used(run, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.retrieve, "EPOCHS", 2)  # of the autoencoder
    for flags, unused in (
        (["--lr", 0.1], {"lr", "epochs", "schedule", "weight_decay", "resume", "batch_size", "gallery"}),
        (["--autoencoder"], {"lr", "epochs", "save_features"}),
    ):
        o = f"o{len(flags)}"
        out = run.succeed(RETRIEVAL, "--pretrained", "random", *TINY_FLAGS, "--output-dir", o, *flags)
        assert "config: " in out
        config, results = (
            json.loads((tmp_path / o / f"{n}.json").read_text()) for n in ("config", "results")
        )
        assert config["knn_neighbours"] == 1 and config["gru_hidden_size"] == 16
        assert config["seed"] == results["seed"] == results["flags"]["seed"], "the seed that was used"
        assert config["workers"] == 0 and config["output_dir"] == o and not config.keys() & unused
        assert ("batch_size" in config) == (flags == ["--autoencoder"])


def test_pretraining_folder_is_not_an_output_folder(run, tmp_path):
    """config.json and log.jsonl of the pretraining would be overwritten."""
    path = write_pretraining(tmp_path / "c/checkpoint_0002.pth.tar", ("seq-based",))
    before = sorted(tmp_path.rglob("*"))
    for script in ("action_retrieval.py", "action_classification.py"):
        err = run.fail(script, "--pretrained", path, "--output-dir", tmp_path / "c")
        assert f"{tmp_path / 'c'} contains the checkpoints of a pretraining" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluations_with_other_settings_have_folders_of_their_own(run, tmp_path):
    path = write_pretraining(tmp_path / "c/checkpoint_0002.pth.tar", ("seq-based",))
    common = ["--pretrained", path, "--seed", 0]
    for flags in ([], ["--knn-neighbours", 5]):
        run.succeed("action_retrieval.py", *common, *flags)
    for flags in ([], ["--lr", 0.1], ["--lr", 0.01]):
        run.succeed("action_classification.py", *common, "--epochs", 1, *flags)
    folders = sorted(file.parent.name for file in (tmp_path / "c").rglob("results.json"))
    linear, retrieval = (f"{task}_ntu60_cross_view" for task in ("linear", "retrieval"))
    assert folders == [
        f"{linear}_lr0.01_seed0",
        f"{linear}_seed0",
        f"{retrieval}_k5_seed0",
        f"{retrieval}_seed0",
    ]
