"""Features of recordings that belong to no store: the same numbers as through a store, and every refusal."""

import zipfile

import numpy as np
import pytest

from conftest import TINY_FLAGS
from data_gen import ntu_gendata, synthetic_gendata
from engine.raw_clips import read_raw_clips
from options.errors import UserError

ENCODER = ["--pretrained", "random", *TINY_FLAGS, "--num-frames", 16]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A dozen synthetic recordings in NTU's file format, and the folder of a store of them."""
    folder = tmp_path_factory.mktemp("recordings")
    flags = ["--out-folder", folder / "raw", "--subjects", 3, "--actions", 9, 50, "--cameras", 1, "--setups", 1]
    synthetic_gendata.main(list(map(str, flags)))
    ntu_gendata.main(["--data-path", str(folder / "raw"), "--out-folder", str(folder / "data/ntu60")])
    return folder


def test_the_features_are_those_of_the_store(run, raw, tmp_path):
    """The file's way here and through the preparation ends at the same numbers."""
    code, out, err = run("extract_features.py", "--input", raw / "raw", *ENCODER, "--output", tmp_path / "a.npz",
                         "--data-root", raw / "data", "--protocol", "cross_subject", "--knn-neighbours", 2)
    assert code == 0 and "12 recordings, 0 left out" in out, err
    assert "S001C001P001R001A009: standing up (from sitting position) (nearest S001C001P001R001A009, cosine 1.000)" in out
    with np.load(tmp_path / "a.npz") as own:
        assert own["features"].shape == (12, 32) and own["neighbour_labels"].shape == (12, 2)
        # two of three people are training subjects: their recordings find themselves
        train = [name for name in own["names"] if name[8:12] in ("P001", "P002")]
        found = dict(zip(own["names"].tolist(), own["neighbour_names"][:, 0].tolist()))
        assert len(train) == 8 and all(found[name] == name for name in train)
        np.testing.assert_allclose(own["similarities"][own["names"] == train[0]][0, 0], 1, atol=1e-5)
        assert set(own["neighbour_labels"].ravel()) <= {8, 49}
        features = own["features"]
    code, out, err = run("extract_features.py", "--input", raw / "raw", *ENCODER, "--output", tmp_path / "b.npz",
                         "--data-root", tmp_path / "nowhere")  # no store is needed
    assert code == 0, err
    with np.load(tmp_path / "b.npz") as own:
        assert sorted(own) == ["features", "names"]
        np.testing.assert_array_equal(own["features"], features)


def test_every_kind_of_input(raw, tmp_path):
    files = sorted((raw / "raw").glob("*.skeleton"))
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(9, 25, 3)), rng.normal(size=(7, 25, 3, 2))
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "more.npz", wave=two, walk=one)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(files[0], "inside/" + files[0].name)
    clips, left_out = read_raw_clips([files[0], tmp_path], "--input")
    assert not left_out and len(clips) == 5
    # a name that occurs twice comes with its place
    assert clips.names == [files[0].name, f"packed.zip/inside/{files[0].name}", "one", "wave", "walk"]
    assert clips.num_frames.tolist()[2:] == [9, 7, 9] and len(clips.frames) == clips.num_frames.sum()
    first = [clips.frames[start : start + length] for start, length in zip(clips.first_frame, clips.num_frames)]
    assert first[0].equal(first[1]) and first[2].equal(first[4])


def test_what_cannot_be_used_is_listed(run, raw, tmp_path):
    (tmp_path / "in").mkdir()
    text = next((raw / "raw").glob("*.skeleton")).read_text()
    (tmp_path / "in/good.skeleton").write_text(text)
    (tmp_path / "in/short.skeleton").write_text(text[: len(text) // 2])
    np.save(tmp_path / "in/flat.npy", np.zeros((4, 75)))
    (tmp_path / "in/broken.npz").write_bytes(b"PK")
    code, out, err = run("extract_features.py", "--input", tmp_path / "in", *ENCODER, "--output", tmp_path / "o.npz")
    assert code == 0 and "1 recordings, 3 left out" in out, err
    assert "left out: short.skeleton, line " in out and "left out: flat.npy: the array is (4, 75)" in out
    assert "left out: broken.npz: it cannot be read" in out
    with pytest.raises(UserError, match="no recording can be used; the first reason: flat.npy"):
        read_raw_clips([tmp_path / "in/flat.npy"], "--input")


@pytest.mark.parametrize("flags, sentence", [
    (["--input", "nowhere"], "nowhere does not exist; give the folder or zip archive of the raw data with --input"),
    (["--input", "data"], "--input data: no recording can be used; no .skeleton, .npy, .npz file"),
    (["--input", "data", "--pretrained", "missing.pth.tar"], "there is no checkpoint missing.pth.tar"),
    (["--input", "data", "--knn-neighbours", "21"], "there are 20 training clips"),
    (["--input", "data", "--knn-neighbours", "1", "--finetune-dataset", "other"], "no dataset 'other'"),
])
def test_refusals(run, tmp_path, flags, sentence):
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run("extract_features.py", *ENCODER, *flags)
    assert code == 2 and sentence in err and len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
