"""The folder of an evaluation: no result is replaced by one of another configuration."""

import json

import pytest
from conftest import CLASSIFICATION, RETRIEVAL, TINY_FLAGS, results, write_pretraining

from engine.classifier import FINETUNE_FILE, PROBE_FILE
from engine.encoders import load_encoders

RANDOM = ["--pretrained", "random", *TINY_FLAGS]


CHANGES = {  # script: (flags of the first run, flags of others and what the error says)
    CLASSIFICATION: (
        ["--epochs", 1],
        [
            (["--epochs", 2], "--epochs 1 instead of --epochs 2"),
            (["--batch-size", 8], "--batch-size 64 instead of"),
            (["--wd", 0.1], "--weight-decay 0.0 instead of"),
            (["--optimizer", "adam"], "--optimizer sgd instead"),
            (["--seed", 8], "--seed 7 instead of --seed 8"),
        ],
    ),
    RETRIEVAL: (
        [],
        [
            (["--gru-hidden-size", 8], "--gru-hidden-size 16 instead of --gru-hidden-size 8"),
            (["--classes", 0, 1], "no --classes instead of --classes 0 1"),
        ],
    ),
}


@pytest.mark.parametrize("script", CHANGES)
def test_results_of_other_flags_are_not_replaced(run, tmp_path, script):
    given, changes = CHANGES[script]
    command = [script, *RANDOM, "--seed", 7, "--output-dir", "o", *given]
    run.succeed(*command)
    before = {path: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    for other, named in changes:
        err = run.fail(*command, *other)
        assert named in err and "--overwrite" in err
    assert {path: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before
    run.succeed(*command, "--print-freq", 3)  # which changes no result
    run.succeed(*command, *other, "--overwrite")
    assert results(tmp_path / "o")["flags"] != json.loads(before[tmp_path / "o/config.json"])


def test_overwritten_results_are_gone_before_the_new_ones(run, tmp_path, monkeypatch):
    command = [CLASSIFICATION, *RANDOM, "--seed", 7, "--output-dir", "o"]
    run.succeed(*command, "--epochs", 1)
    with monkeypatch.context() as patch:
        patch.setattr("engine.classifier.LinearProbe.train_epoch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*command, "--epochs", 2, "--overwrite")
    assert not (tmp_path / "o/results.json").exists() and not (tmp_path / "o" / PROBE_FILE).exists()
    assert "starting a new run" in run.succeed(*command, "--epochs", 2, "--resume", "auto")


@pytest.mark.parametrize("script, flags", [(RETRIEVAL, []), (CLASSIFICATION, ["--epochs", 1])])
def test_runs_without_a_seed_have_separate_folders(run, tmp_path, script, flags):
    """The same command twice, as in README: both results are kept."""
    for _ in range(2):
        run.succeed(script, *RANDOM, *flags)
    found = sorted((tmp_path / "runs").rglob("results.json"))
    assert len(found) == 2 and all(
        path.parent.name.endswith(f"_seed{results(path.parent)['seed']}") for path in found
    )


def test_resume_without_a_seed_finds_the_latest_run(run, tmp_path):
    command = [CLASSIFICATION, *RANDOM, "--resume", "auto"]
    assert "starting a new run" in run.succeed(*command, "--epochs", 1)
    assert "epoch 2, step 0" in run.succeed(*command, "--epochs", 2)
    assert [len(results(path.parent)["flags"]) > 0 for path in tmp_path.rglob("results.json")] == [True]


def test_same_folder_spelled_differently_is_the_same_configuration(run, tmp_path):
    path = write_pretraining(tmp_path / "c/checkpoint_0002.pth.tar", ("seq-based",))
    for spelled in ("c/checkpoint_0002.pth.tar", "./c/../c/checkpoint_0002.pth.tar"):
        run.succeed(RETRIEVAL, "--pretrained", spelled, "--seed", 1, "--output-dir", "o")
    (tmp_path / "o/config.json").write_text("{")
    err = run.fail(RETRIEVAL, "--pretrained", path, "--seed", 1, "--output-dir", "o")
    assert "o/config.json cannot be read" in err


def test_classes_restrict_both_splits(run, tmp_path):
    out = run.succeed(
        CLASSIFICATION, *RANDOM, "--epochs", 1, "--classes", 0, "brushing teeth", "--output-dir", "o"
    )
    assert "10 training and 5 validation clips" in out and "mean class accuracy" in out
    found = results(tmp_path / "o")
    assert found["clips"] == {"train": 10, "val": 5} and "mean_class" in found["numbers"]["last"]
    for classes, message in (
        (["60"], "no class 60; give names or numbers from 0 to 59"),
        ([9], "has no clip"),
    ):
        assert message in run.fail(RETRIEVAL, *RANDOM, "--classes", *classes)


def test_class_weights_change_the_training(run, tmp_path):
    losses = []
    for flags in ([], ["--class-weights"]):
        folder = tmp_path / f"o{len(flags)}"
        labels = ["--label-fraction", 0.4, "--label-sampling", "uniform"]  # other numbers of clips per class
        run.succeed(
            CLASSIFICATION, *RANDOM, *labels, "--seed", 1, "--epochs", 2, *flags, "--output-dir", folder
        )
        losses.append(json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["loss"])
    assert losses[0] != losses[1]


def test_fine_tuned_checkpoint_is_an_encoder(run, tmp_path):
    """With the sizes of two pretrainings, whose encoders were fine-tuned together."""
    image = write_pretraining(tmp_path / "image.pth.tar", ("image-based",))
    seq = write_pretraining(tmp_path / "seq.pth.tar", ("seq-based",), gru_hidden_size=24)
    flags = ["--mode", "finetune", "--pretrained", seq, image, "--epochs", 1, "--output-dir", "o"]
    run.succeed(CLASSIFICATION, *flags)
    path = tmp_path / "o" / FINETUNE_FILE
    loaded = load_encoders(str(path), None, "seq-based_and_image-based")
    assert loaded.title.endswith("fine-tuned for 1 epoch") and loaded.widths == [48, 64]
    before = load_encoders(str(seq)).encoders["seq-based"].state_dict()
    after = loaded.encoders["seq-based"].state_dict()
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)
    out = run.succeed(RETRIEVAL, "--pretrained", path, "--finetune-skeleton-representation", "image-based")
    assert "fine-tuned" in out
