"""CMD: its official checkpoints are recognized, whatever their sizes, and its presets train."""

import json
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, INTER, log_lines, one_line, write_store

from engine.encoders import load_encoders
from facts.skeletons import KINECT_V1, KINECT_V2
from models.registry import lay_out
from utils.errors import UserError

PRESETS = Path(__file__).resolve().parents[1] / "presets"
STREAMS = {"": "seq-based", "_bone": "seq-based:bone", "_motion": "seq-based:motion"}


def shapes(hidden=1024, layers=3, dim=128, queue=16384, numbers=150, mlp=True, norm=True):
    """name -> shape in a checkpoint of CMD; the defaults are those of the published models."""
    encoder = {}
    for layer in range(layers):
        for suffix in ("", "_reverse"):
            for kind, inputs in (("ih", 2 * hidden if layer else numbers), ("hh", hidden)):
                encoder[f"encoder.gru.weight_{kind}_l{layer}{suffix}"] = [3 * hidden, inputs]
                encoder[f"encoder.gru.bias_{kind}_l{layer}{suffix}"] = [3 * hidden]
    width = 2 * hidden
    head = {"fc.0": (width, width), "fc.2": (dim, width)} if mlp else {"fc": (dim, width)}
    for name, shape in head.items():
        encoder |= {f"{name}.weight": [*shape], f"{name}.bias": [shape[0]]}
    if norm:
        names = ("weight", "bias", "running_mean", "running_var")
        encoder |= {f"input_norm.{name}": [numbers] for name in names}
        encoder["input_norm.num_batches_tracked"] = []
    state = {f"encoder_{x}{s}.{k}": v for s in STREAMS for x in "qk" for k, v in encoder.items()}
    return state | {f"queue{s}": [dim, queue] for s in STREAMS} | {f"queue_ptr{s}": [1] for s in STREAMS}


def write(path, prefix="", **sizes):
    torch.manual_seed(0)
    state = {
        name: torch.rand(shape) if shape and "ptr" not in name else torch.zeros(shape, dtype=torch.long)
        for name, shape in shapes(**sizes).items()
    }
    torch.save({"epoch": 451, "state_dict": {prefix + k: v for k, v in state.items()}, "optimizer": {}}, path)
    return state


def test_names_and_shapes_are_those_of_the_published_models():
    assert shapes() == json.loads((GOLDEN / "cmd_checkpoint_keys.json").read_text())


@pytest.mark.parametrize(
    "prefix, sizes",
    [
        ("", {"hidden": 6, "layers": 3, "dim": 4, "queue": 8}),
        ("module.", {"hidden": 5, "layers": 1, "dim": 3, "queue": 4, "mlp": False}),
        ("", {"hidden": 4, "layers": 2, "dim": 3, "queue": 4, "norm": False}),
        ("", {"hidden": 4, "layers": 2, "dim": 3, "queue": 4, "numbers": 120}),
    ],
)
def test_checkpoints_of_any_size_load_without_flags(tmp_path, prefix, sizes):
    state = write(tmp_path / "cmd.pth.tar", prefix, **sizes)
    skeleton = KINECT_V1 if sizes.get("numbers") == 120 else KINECT_V2
    views = torch.randn(2, 7, *skeleton.frame_shape)
    for suffix, name in STREAMS.items():
        loaded = load_encoders(str(tmp_path / "cmd.pth.tar"), None, name, {})
        assert loaded.representations == (name,) and loaded.skeleton == skeleton
        assert "CMD" in loaded.title and "451 epochs" in loaded.title
        for key, value in loaded.encoders[name].state_dict().items():
            assert torch.equal(value, state[f"encoder_q{suffix}.{key}"])
        assert loaded(lay_out(views, [name], skeleton)).shape == (2, 2 * sizes["hidden"])
    together = load_encoders(str(tmp_path / "cmd.pth.tar"), None, "_and_".join(STREAMS.values()), {})
    assert together.num_features == 3 * 2 * sizes["hidden"]


def test_contradicting_flags_are_rejected(tmp_path):
    path = tmp_path / "cmd.pth.tar"
    write(path, hidden=4, layers=1, dim=3, queue=4)
    for pretrain, sizes, message in (
        (None, {"gru_hidden_size": 1024}, "--gru-hidden-size 1024 contradicts"),
        ("seq-based_and_graph-based", {}, "--pretrain-skeleton-representation"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_encoders(str(path), pretrain, "seq-based", sizes)
        assert one_line(str(error.value))


@pytest.mark.parametrize(
    "dataset, epochs, schedule", [("ntu60", 451, 351), ("ntu120", 451, 351), ("pku2", 1001, 801)]
)
def test_presets_have_the_published_settings(run, tmp_path, dataset, epochs, schedule):
    names = [f"clip{i}" for i in range(4)]
    splits = {"cross_subject": ["train"] * 4}
    write_store(tmp_path / "data" / "new" / dataset, names, [0, 1, 0, 1], [9] * 4, splits, dataset)
    data = ["--data-root", tmp_path / "data" / "new", "--protocol", "cross_subject", "--seed", 1]
    short = ["--epochs", 1, "--batch-size", 4, "--moco-k", 4, "--num-frames", 4, "--gru-hidden-size", 4]
    preset = PRESETS / f"cmd_{dataset}.txt"
    run.succeed(INTER, f"@{preset}", *data, *short, "--checkpoint-path", tmp_path / "c")
    assert log_lines(tmp_path / "c")[0]["loss/distillation"] > 0
    flags = json.loads((tmp_path / "c" / "config.json").read_text())
    expected = {
        "dataset": dataset,
        "schedule": [schedule],
        "skeleton_representation": "seq-based_and_seq-based:bone_and_seq-based:motion",
        "pairs": "intra",
        "distill": "inter",
        "distill_neighbors": 8192,
        "gru_input_norm": "batch",
        "gru_num_layers": 3,
        "lr": 0.01,
        "moco_t": 0.07,
        "moco_m": 0.999,
    }
    assert {name: flags[name] for name in expected} == expected
    given = preset.read_text()
    assert f"--epochs {epochs}" in given and "--batch-size 64" in given and "--moco-k 16384" in given
