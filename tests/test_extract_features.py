"""Features of raw clips: the same values as from a store, and one-line errors."""

import zipfile

import numpy as np
import pytest
from conftest import INTRA, TINY_FLAGS

from data_gen import ntu_gendata
from data_gen.synthetic import make_ntu
from dataset.raw_clips import read_raw_clips
from utils.errors import UserError

ENCODER = ["--pretrained", "random", *TINY_FLAGS, "--num-frames", 16]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Twelve synthetic clips as NTU skeleton files, and a store made from them."""
    folder = tmp_path_factory.mktemp("raw_clips")
    flags = f"--out-folder {folder / 'raw'} --subjects 3 --actions 9 50 --cameras 1 --setups 1"
    make_ntu.main(flags.split())
    ntu_gendata.main(["--data-path", str(folder / "raw"), "--out-folder", str(folder / "data/ntu60")])
    return folder


def test_features_match_those_from_the_store(run, raw, tmp_path):
    """Reading a file directly and through the data preparation gives the same features."""
    command = ["extract_features.py", "--input", raw / "raw", *ENCODER, "--output"]
    known = f"--data-root {raw / 'data'} --protocol cross_subject --knn-neighbours 2"
    out = run.succeed(*command, tmp_path / "a.npz", *known.split())
    assert "12 clips, 0 left out" in out
    name = "S001C001P001R001A009"
    assert f"{name}: standing up (from sitting position) (nearest {name}, cosine 1.000)" in out
    with np.load(tmp_path / "a.npz") as own:
        assert own["features"].shape == (12, 32) and own["neighbour_labels"].shape == (12, 2)
        # two of three people are training subjects: their clips are their own nearest neighbors
        train = [name for name in own["names"] if name[8:12] in ("P001", "P002")]
        found = dict(zip(own["names"].tolist(), own["neighbour_names"][:, 0].tolist()))
        assert len(train) == 8 and all(found[name] == name for name in train)
        np.testing.assert_allclose(own["similarities"][own["names"] == train[0]][0, 0], 1, atol=1e-5)
        assert set(own["neighbour_labels"].ravel()) <= {8, 49}
        features = own["features"]
    run.succeed(*command, tmp_path / "b.npz", "--data-root", tmp_path / "nowhere")
    with np.load(tmp_path / "b.npz") as own:
        assert sorted(own) == ["features", "names"]
        np.testing.assert_array_equal(own["features"], features)


def test_all_input_formats(raw, tmp_path):
    files = sorted((raw / "raw").glob("*.skeleton"))
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(9, 25, 3)), rng.normal(size=(7, 25, 3, 2))
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "more.npz", wave=two, walk=one)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(files[0], "inside/" + files[0].name)
    clips, left_out = read_raw_clips([files[0], tmp_path], "--input")
    assert not left_out and len(clips) == 5
    # a name that occurs twice is shown with its folder or archive
    assert clips.names == [files[0].name, f"packed.zip/inside/{files[0].name}", "one", "walk", "wave"]
    assert clips.num_frames.tolist()[2:] == [9, 9, 7] and len(clips.frames) == clips.num_frames.sum()
    frames = clips.frames.split(clips.num_frames.tolist())
    assert clips.first_frame.tolist() == [0, *clips.num_frames.cumsum(0).tolist()[:-1]]
    assert frames[0].equal(frames[1]) and frames[2].equal(frames[3])


def test_unusable_files_are_listed(run, raw, tmp_path):
    (tmp_path / "in").mkdir()
    text = next((raw / "raw").glob("*.skeleton")).read_text()
    (tmp_path / "in/good.skeleton").write_text(text)
    (tmp_path / "in/short.skeleton").write_text(text[: len(text) // 2])
    np.save(tmp_path / "in/flat.npy", np.zeros((4, 75)))
    (tmp_path / "in/broken.npz").write_bytes(b"PK")
    data = (tmp_path / "in/flat.npy").read_bytes()
    (tmp_path / "in/header.npy").write_bytes(data[:20] + b"((((" + data[24:])  # parsed as Python
    out = run.succeed(
        "extract_features.py", "--input", tmp_path / "in", *ENCODER, "--output", tmp_path / "o.npz"
    )
    assert "1 clips, 4 left out" in out
    assert "left out: short.skeleton, line " in out and "left out: flat.npy: the array is (4, 75)" in out
    assert "left out: header.npy: cannot be read as an array of numbers" in out
    assert "left out: broken.npz: the archive is damaged" in out
    with pytest.raises(UserError, match="no clip can be used; the first reason: flat.npy"):
        read_raw_clips([tmp_path / "in/flat.npy"], "--input")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--input", "nowhere"], "nowhere does not exist; give the folder or archive of the raw data with"),
        (["--input", "data"], "--input data: no clip can be used; no .skeleton, .npy or .npz file"),
        (["--input", "data", "--pretrained", "missing.pth.tar"], "checkpoint missing.pth.tar does not exist"),
        (["--input", "data", "--knn-neighbours", "21"], "there are 20 training clips"),
        (["--input", "data", "--knn-neighbours", "1", "--finetune-dataset", "other"], "no dataset 'other'"),
    ],
)
def test_invalid_flags_are_one_line_errors(run, tmp_path, flags, message):
    before = sorted(tmp_path.rglob("*"))
    err = run.fail("extract_features.py", *ENCODER, *flags)
    assert message in err and len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_precision_and_workers(run, raw, tmp_path):
    encoder = [*ENCODER, "--finetune-skeleton-representation", "graph-based"]
    command = ["extract_features.py", "--input", raw / "raw", *encoder, "--output"]
    features = []
    for i, more in enumerate((["--tf32", "off"], ["--workers", 2], ["--amp", "bf16"])):
        run.succeed(*command, tmp_path / f"{i}.npz", *more)
        with np.load(tmp_path / f"{i}.npz") as own:
            features.append(own["features"])
    np.testing.assert_array_equal(features[0], features[1])
    assert 0 < np.abs(features[0] - features[2]).max() < 0.1


def test_coordinates_are_kept_as_in_the_training_data(run, tmp_path, monkeypatch):
    """An encoder that was trained on coordinates as they are gets them as they are."""
    rng = np.random.default_rng(0)
    pose = 3 + rng.normal(scale=0.3, size=(8, 1, 25, 3, 1))
    clips = {f"clip{i}": pose[i] + rng.normal(scale=0.02, size=(20, 25, 3, 1)) for i in range(8)}
    np.savez(tmp_path / "clips.npz", **clips)
    rows = "".join(f"{name},{i % 2},train\n" for i, name in enumerate(clips))
    (tmp_path / "clips.csv").write_text(f"name,label,split\n{rows}")
    data = ["--data_path", tmp_path / "clips.npz", "--clips", tmp_path / "clips.csv"]
    store = ["--dataset", "kept", *data, "--out_folder", tmp_path / "data/kept", "--keep_coordinates"]
    run.succeed("data_gen.arrays_gendata.py", *store)
    known = ["--data-root", tmp_path / "data", "--protocol", "split"]
    flags = ["--batch-size", 4, "--moco-k", 8, "--epochs", 1, "--checkpoint-path", tmp_path / "run"]
    run.succeed(INTRA, "--pre-dataset", "kept", *known, *TINY_FLAGS, *flags)
    for more in ([], ["--finetune-dataset", "kept", *known, "--knn-neighbours", 1]):
        files = ["--input", tmp_path / "clips.npz", "--output", tmp_path / f"features{len(more)}.npz"]
        run.succeed("extract_features.py", *files, "--pretrained", tmp_path / "run", *more)
    with np.load(tmp_path / "features8.npz") as found, np.load(tmp_path / "features0.npz") as alone:
        assert found["neighbour_names"][:, 0].tolist() == found["names"].tolist()
        np.testing.assert_allclose(found["similarities"], 1, atol=1e-5)
        np.testing.assert_array_equal(found["features"], alone["features"])
