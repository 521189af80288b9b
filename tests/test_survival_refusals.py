"""What a run refuses before it starts, and what it says of data that cannot tell it much."""

import json

import pytest

from conftest import TINY_FLAGS, write_store
from engine.checkpoint import LAST
from test_scripts import pretrain

ROWS = [f"S001C002P00{i}R001A00{1 + i % 3}" for i in range(1, 9)]


def store(root, dataset="ntu60", lengths=9, version=1, val=2, labels=None):
    """Eight clips in ``root/dataset``, the last ``val`` of them for validation."""
    labels = labels or [(i - 1) % 3 for i in range(1, 9)]
    cells = ["train"] * (8 - val) + ["val"] * val
    return write_store(root / dataset, ROWS, labels, [lengths] * 8, {"cross_view": cells}, dataset, 60, version=version)


@pytest.mark.parametrize("change, sentence", [
    ({"lengths": 10}, "has 6 training clips that are not those"),
    ({"val": 3}, "has 5 training clips that are not those"),
])
def test_a_resume_on_other_clips(run, tmp_path, change, sentence):
    store(tmp_path / "one"), store(tmp_path / "two", **change)
    assert pretrain(run, tmp_path / "c", "--data-root", tmp_path / "one")[0] == 0
    flags = ["--resume", "auto", "--epochs", 3]
    code, _, err = pretrain(run, tmp_path / "c", "--data-root", tmp_path / "two", *flags)
    assert code == 2 and sentence in err and "give the --data-root it had" in err
    assert pretrain(run, tmp_path / "c", "--data-root", tmp_path / "one", *flags)[0] == 0


def test_a_resume_on_another_data_set(run, tmp_path):
    store(tmp_path / "one"), store(tmp_path / "one", "mine")
    assert pretrain(run, tmp_path / "c", "--data-root", tmp_path / "one")[0] == 0
    code, _, err = pretrain(run, tmp_path / "c", "--data-root", tmp_path / "one", "--pre-dataset", "mine", "--resume", "auto")
    assert code == 2 and "--pre-dataset is mine" in err and "was trained with ntu60" in err


def test_a_resume_into_the_folder_of_another_run(run, tmp_path):
    for name in "ab":
        assert pretrain(run, tmp_path / name, "--epochs", 1)[0] == 0
    code, _, err = pretrain(run, tmp_path / "a", "--resume", tmp_path / "b" / "checkpoint_0000.pth.tar")
    assert code == 2 and "holds checkpoints of another run; name another --checkpoint-path" in err


def test_a_resume_of_another_kind(run, tmp_path):
    assert pretrain(run, tmp_path / "c", "--epochs", 1)[0] == 0
    probe = ["action_classification.py", "--pretrained", "random", *TINY_FLAGS, "--epochs", 1, "--output-dir", tmp_path / "o"]
    assert run(*probe)[0] == 0
    code, _, err = pretrain(run, tmp_path / "d", "--resume", tmp_path / "o" / "probe_last.pth.tar")
    assert code == 2 and "not a checkpoint of this program's pretraining" in err
    code, _, err = run(*probe, "--resume", tmp_path / "c" / "checkpoint_0000.pth.tar")
    assert code == 2 and "not a checkpoint of a probe" in err
    code, _, err = pretrain(run, tmp_path / "c", "--resume", "auto", script="main_moco_intra_skeleton.py")
    assert code == 2 and "is of inter-skeleton pretraining" in err


def test_auto_begins_a_run_where_there_is_none(run, tmp_path):
    code, out, err = pretrain(run, tmp_path / "c", "--epochs", 1, "--resume", "auto")
    assert code == 0 and f"no checkpoint in {tmp_path / 'c'} yet, so this run begins anew" in out, err
    code, out, err = pretrain(run, tmp_path / "c", "--resume", "auto")
    assert code == 0 and "checkpoint_0000.pth.tar: epoch 1, step 0" in out, err


def test_auto_goes_past_a_damaged_rolling_checkpoint(run, tmp_path):
    assert pretrain(run, tmp_path / "c", "--epochs", 1)[0] == 0
    for content in (b"", b"PK\x03\x04 and so on"):
        (tmp_path / "c" / LAST).write_bytes(content)
        code, out, err = pretrain(run, tmp_path / "c", "--epochs", 1, "--resume", "auto")
        assert code == 0 and f"{LAST} is damaged" in out and "falling back to the one before" in out, err
        assert "resumed" in out and "checkpoint_0000.pth.tar: epoch 1, step 0" in out


@pytest.mark.parametrize("change, sentence", [
    ({"version": 99}, "store.json has format version 99, this program reads 1: make the store again"),
    ({"val": 8}, "has no clip in the 'train' split of cross_view"),
    ({"val": 6}, "the training split has 2 clips, fewer than --batch-size 4; lower --batch-size"),
])
def test_data_that_no_run_can_use(run, tmp_path, change, sentence):
    store(tmp_path / "d", **change)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = pretrain(run, tmp_path / "c", "--data-root", tmp_path / "d")
    assert code == 2 and sentence in err and len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_val_split(run, tmp_path):
    store(tmp_path / "d", val=0)
    for script in ("action_retrieval.py", "action_classification.py"):
        code, _, err = run(script, "--pretrained", "random", *TINY_FLAGS, "--data-root", tmp_path / "d")
        assert code == 2 and "has no clip in the 'val' split of cross_view" in err


@pytest.mark.parametrize("script", ["action_retrieval.py", "action_classification.py"])
def test_classes_without_a_training_clip_are_named(run, tmp_path, script):
    """A note, not a refusal: small sets of one's own have them, and the other classes can be measured."""
    store(tmp_path / "d", labels=[0, 1, 0, 1, 0, 1, 5, 2], val=3)
    code, out, err = run(script, "--pretrained", "random", *TINY_FLAGS, "--epochs", 1, "--data-root", tmp_path / "d",
                         "--output-dir", tmp_path / "o")
    assert code == 0, err
    assert "note: 2 validation classes have no training clips and cannot be predicted: 2 5 (counted from 0)" in out
    assert json.loads((tmp_path / "o" / "results.json").read_text())["classes_without_train_clip"] == [2, 5]


def test_a_checkpoint_of_mid_epoch_says_so_in_results(run, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.pretrain.report_epoch", killed)
    assert pretrain(run, tmp_path / "c", "--save-minutes", 1e-6)[0] == 130
    code, out, err = run("action_retrieval.py", "--pretrained", tmp_path / "c" / LAST, "--output-dir", tmp_path / "o",
                         "--finetune-skeleton-representation", "seq-based")
    assert code == 0, err
    assert json.loads((tmp_path / "o/results.json").read_text())["encoder"].endswith("0 epochs and 4 steps")
