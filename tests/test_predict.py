"""Classes of new clips, by script and from Python, of probes and fine-tuned models; exported models."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIFICATION, TINY_FLAGS, write_pretraining

from dataset.clips import open_clips
from dataset.views import evaluation_view
from engine.api import classify, encode, load_classifier, load_encoders, prepare_clips
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.scores import load_scores
from facts.class_names import short_class_names
from models.registry import lay_out
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:in .* expected in meters")  # random clips
SCRIPT = "predict.py"
SEQUENCE, GRAPH, BOTH = "seq-based", "graph-based", "seq-based_and_graph-based"
PRETRAINED = ["--pretrained", "inter.pth.tar", "--finetune-skeleton-representation"]
CASES = {  # --classifier -> the flags of its training
    "probe": [*PRETRAINED, BOTH],
    "bone": ["--pretrained", "random", *TINY_FLAGS, "--stream", "bone"],
    "coordinates": ["--pretrained", "coordinates"],
    "finetuned": ["--mode", "finetune", *PRETRAINED, BOTH],
    "supervised": ["--mode", "supervised", *TINY_FLAGS],
}


@pytest.fixture
def train(run, tmp_path, tmp_path_factory):
    """``train(name)``: the folder ``name`` of one of ``CASES``, which is trained once for all tests."""
    write_pretraining(tmp_path / "inter.pth.tar", (SEQUENCE, GRAPH))
    trained = tmp_path_factory.getbasetemp() / "classifiers"

    def call(name):
        if not (trained / name).exists():
            flags = ["--epochs", 1, "--seed", 3, "--output-dir", trained / name]
            run.succeed(CLASSIFICATION, *CASES[name], *flags, "--save-scores", trained / name / "scores.npz")
        return Path(shutil.copytree(trained / name, tmp_path / name))

    return call


def arrays_of(root, split="val"):
    """The clips of the small store as arrays (frames, V, 3, people), which are normalized already."""
    clips = open_clips(root, "ntu60", "cross_view", split)
    rows = zip(clips.names, clips.first_frame.tolist(), clips.num_frames.tolist())
    return {name: clips.frames.numpy()[first : first + count].copy() for name, first, count in rows}


@pytest.mark.parametrize("name", CASES)
def test_probabilities_are_those_of_the_training(run, train, small_store, name):
    """Whatever was trained, the probabilities of the validation clips equal the scores that it saved."""
    folder = train(name)
    scores = load_scores(folder / "scores.npz")
    state, classifier = torch.get_rng_state(), load_classifier(folder)
    assert torch.equal(torch.get_rng_state(), state), "loading does not change the caller's random numbers"
    arrays, clips = arrays_of(small_store), open_clips(small_store, "ntu60", "cross_view", "val")
    with pytest.raises(UserError, match="normalize=True"):
        classify(classifier, prepare_clips(arrays, normalize=False))
    probabilities = classify(classifier, clips)
    expected = torch.from_numpy(scores.logits).softmax(dim=1)
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-6)
    assert clips.names == scores.names.tolist() and len(classifier.class_names) == 60
    view = evaluation_view(classifier.encoders.num_frames).of(clips, torch.arange(3))
    torch.testing.assert_close(classifier(view).softmax(dim=1), expected[:3], rtol=1e-4, atol=1e-6)
    logits = classifier.head(encode(classifier.encoders, clips))
    torch.testing.assert_close(logits.softmax(dim=1), probabilities)
    # the script normalizes arrays, but not the clips of a store
    np.savez("clips.npz", **arrays)
    normalized = classify(classifier, prepare_clips(arrays, classifier.skeleton))
    for source, values in (("clips.npz", normalized), ("data/ntu60", expected)):
        out = run.succeed(SCRIPT, "--classifier", folder, "--input", source, "--output", "out.json")
        assert "written: out.json" in out
        clips = json.loads((small_store.parent / "out.json").read_text())["clips"]
        found = {clip["clip"]: clip["probabilities"] for clip in clips}
        np.testing.assert_allclose([found[name] for name in arrays], values, rtol=1e-4, atol=1e-6)


def test_table_csv_and_timeline_of_windows(run, train, small_store, tmp_path):
    """Each window is classified as a clip of its own; one without a person is left out, and counted."""
    folder, arrays = train("finetuned"), [*arrays_of(small_store, "train").values()]
    recording = np.concatenate(arrays)[:250]
    recording[80:160] = 0
    np.savez("long.npz", recording=recording, short=arrays[0][:5])
    flags = "--input long.npz --window 40 --stride 20 --output out.csv --timeline figures --format svg"
    out = run.succeed(SCRIPT, "--classifier", folder / "finetune_last.pth.tar", *flags.split())
    assert "recording.npy: 3 of 12 windows cannot be used: no body in any frame" in out
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    spans = [(row["clip"], int(row["first_frame"]), int(row["last_frame"])) for row in rows]
    starts = [0, 20, 40, 60, 140, 160, 180, 200, 210]  # in nine of the twelve windows someone is visible
    assert spans == [*(("recording", start + 1, start + 40) for start in starts), ("short", 1, 5)]
    classifier, cut = load_classifier(folder), [recording[start : start + 40] for start in starts]
    names = short_class_names(classifier.class_names)
    expected = classify(classifier, prepare_clips([*cut, arrays[0][:5]])).topk(5)
    for row, values, labels in zip(rows, expected.values, expected.indices):
        assert [row[f"class_{i}"] for i in range(1, 6)] == [names[k] for k in labels]
        found = [float(row[f"probability_{i}"]) for i in range(1, 6)]
        np.testing.assert_allclose(found, values, atol=1e-3)
    first = f"recording  1-40     {rows[0]['class_1']} {float(rows[0]['probability_1']):.1%}"
    assert any(line.startswith(first) for line in out.splitlines()), out
    figure = (tmp_path / "figures/recording.svg").read_text()
    predicted = [row["class_1"] for row in rows[:-1]]
    assert (
        max(predicted, key=predicted.count)[:19] in figure
        and (tmp_path / "figures/short.png").stat().st_size > 5000
    )


def test_skeleton_files_are_cut_beyond_the_frames_of_a_training_clip(run, train, ntu_raw, tmp_path):
    train("coordinates")
    path = sorted(ntu_raw.glob("*.skeleton"))[0]
    count, _, body = path.read_text().partition("\n")
    times = -(-320 // int(count))
    (tmp_path / "long.skeleton").write_text(f"{times * int(count)}\n{body * times}")
    for last, flags in ((300, []), (times * int(count), ["--window", 100])):
        files = ["--input", "long.skeleton", path, "--output", "o.json"]
        run.succeed(SCRIPT, "--classifier", "coordinates", *files, *flags)
        clips = json.loads((tmp_path / "o.json").read_text())["clips"]
        assert max(clip["last_frame"] for clip in clips) == last


def test_encoders_of_a_probe_that_moved_or_changed(run, train, tmp_path):
    """They are found with --pretrained; others, or none, are an error."""
    folder = train("probe")
    np.save("clip.npy", np.random.default_rng(0).normal(scale=0.3, size=(30, 25, 3)))
    flags = ["--classifier", folder, "--input", "clip.npy"]
    (tmp_path / "inter.pth.tar").rename(tmp_path / "moved.pth.tar")
    write_pretraining(tmp_path / "others.pth.tar", (SEQUENCE, GRAPH))
    for more, message in (
        ([], "give their place with --pretrained (checkpoint inter.pth.tar does not exist"),
        (["--pretrained", "others.pth.tar"], "(the weights in others.pth.tar are others)"),
    ):
        assert message in run.fail(SCRIPT, *flags, *more)
    assert "clip  1-30" in run(SCRIPT, *flags, "--pretrained", "moved.pth.tar")[1]


def test_checkpoints_of_earlier_versions_load(train, small_store):
    """They store neither the names of the classes nor, those of a probe, the encoders' description."""
    for name, file in (("bone", "probe_last.pth.tar"), ("supervised", "finetune_last.pth.tar")):
        path = train(name) / file
        new, content = load_classifier(path), load_checkpoint(path)
        for key in ("class_names", "normalized", *(["encoders"] if name == "bone" else [])):
            del content[key]
        save_checkpoint(path, content)
        old, clips = load_classifier(path), prepare_clips(arrays_of(small_store))
        assert torch.equal(classify(old, clips), classify(new, clips)) and old.class_names == new.class_names


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--classifier nowhere", "nowhere does not exist"),
        ("--classifier inter.pth.tar", "inter.pth.tar is no classifier: give probe_last.pth.tar or"),
        ("--stride 5", "--stride and --timeline need --window"),
        ("--output o.txt", "must end with .csv or .json"),
        ("--input wrong.npy", "the array is (4, 9, 3, 1) instead of (frames, 25, 3 or 4, people)"),
        ("--input data", "no clip can be used"),
    ],
)
def test_errors_are_one_line(run, train, flags, message):
    train("bone")
    np.save("wrong.npy", np.ones((4, 9, 3)))
    assert message in run.fail(SCRIPT, "--classifier", "bone", "--input", "wrong.npy", *flags.split())


@pytest.mark.parametrize(
    "kind, representation",
    [("script", SEQUENCE), ("script", GRAPH), ("export", GRAPH), ("onnx", SEQUENCE), ("onnx", GRAPH)],
)
def test_exported_encoders_give_the_same_features(tmp_path, kind, representation):
    """As in docs/own_data.md, where a sequence encoder is exported, for a batch of another size."""
    path = write_pretraining(tmp_path / "one.pth.tar", (representation,), num_frames=8, gru_num_layers=1)
    encoder = load_encoders(str(path)).encoders[representation]
    views = torch.randn(5, 8, 25, 3, 2, generator=torch.manual_seed(0))
    views[[0, 1, 3], ..., 1] = 0  # no second person: not the same number of them as in the example
    x = lay_out(views, (representation,))[representation]
    shapes = ({0: torch.export.Dim("clips")},)
    if kind == "script":
        with torch.no_grad():
            torch.jit.trace(encoder, x[:2]).save(tmp_path / "e.ts")
        found = torch.jit.load(tmp_path / "e.ts")(x)
    elif kind == "export":
        torch.export.save(torch.export.export(encoder, (x[:2],), dynamic_shapes=shapes), tmp_path / "e.pt2")
        found = torch.export.load(tmp_path / "e.pt2").module()(x)
    else:
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
        torch.onnx.export(encoder, (x[:2],), tmp_path / "e.onnx", dynamo=True, dynamic_shapes=shapes)
        session = runtime.InferenceSession(tmp_path / "e.onnx")
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(found, encoder(x), rtol=1e-5, atol=1e-6)
