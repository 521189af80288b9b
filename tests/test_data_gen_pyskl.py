"""Stores of pyskl's pickles: the same clips as from raw files, hostile and damaged pickles."""

import collections
import io
import json
import os
import pickle
import struct

import numpy as np
import pytest
from conftest import one_line
from damaged_inputs import damage, store_or_error

from data_gen import ntu_gendata, pyskl_gendata
from data_gen.normalize import select_people
from data_gen.own_clips import frames_of_array
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import find_raw_files
from dataset.store import open_store
from dataset.store_format import INFO_FILE
from facts.datasets import ntu_splits, parse_ntu_name
from utils.errors import UserError
from utils.pickles import read_pickle


def annotations_of(raw):
    """Return the annotations of skeleton files, with the two people that the official code selects."""
    annotations = []
    for file in find_raw_files([raw], ".skeleton"):
        bodies, _ = read_skeleton(file.read())
        people = select_people(bodies).astype(np.float32)
        keypoint = people if people[1].any() else people[:1]
        annotations.append(annotation(file.name, keypoint))
    return annotations


def annotation(name, keypoint, **changes):
    label = parse_ntu_name(name).label
    return {
        "frame_dir": name,
        "label": label,
        "keypoint": keypoint,
        "total_frames": keypoint.shape[1],
        **changes,
    }


def content_of(annotations):
    """Return the content of a pickle in the format of pyskl."""
    split = {}
    for key, protocol in (("xsub", "cross_subject"), ("xview", "cross_view")):
        for which in ("train", "val"):
            names = [item["frame_dir"] for item in annotations]
            split[f"{key}_{which}"] = [
                name for name in names if ntu_splits(parse_ntu_name(name))[protocol] == which
            ]
    return {"split": split, "annotations": annotations}


def small_content(seed=0, count=3, frames=4):
    rng = np.random.default_rng(seed)
    names = [f"S001C{i % 3 + 1:03d}P{i + 1:03d}R001A{i + 1:03d}" for i in range(count)]
    return content_of(
        [
            annotation(name, rng.normal(size=(1 + i % 2, frames, 25, 3)).astype("f4"))
            for i, name in enumerate(names)
        ]
    )


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def prepare(path, store, *flags):
    return pyskl_gendata.main(
        ["--data_path", str(path), "--out_folder", str(store), "--workers", "1", *map(str, flags)]
    )


def left_out(store):
    info = json.loads((store / INFO_FILE).read_text())
    return {item["file"]: item["reason"] for item in info["left_out"]}


def test_same_clips_as_from_raw_files(ntu_raw, tmp_path, capsys):
    path = write(tmp_path / "ntu60_3danno.pkl", content_of(annotations_of(ntu_raw)[::-1]))
    assert prepare(path, tmp_path / "pyskl") == 0
    assert "40,091" in capsys.readouterr().out
    flags = ["--data_path", str(ntu_raw), "--out_folder", str(tmp_path / "ntu60"), "--workers", "1"]
    assert ntu_gendata.main(flags) == 0
    ours, theirs = open_store(tmp_path / "ntu60"), open_store(tmp_path / "pyskl")
    assert np.array_equal(ours.frames, theirs.frames)
    assert theirs.dataset == "ntu60" and theirs.names == ours.names
    assert theirs.labels.tolist() == ours.labels.tolist()
    for protocol in ("cross_subject", "cross_view"):
        assert theirs.splits[protocol] == ours.splits[protocol]
        assert set(theirs.splits[protocol]) == {"train", "val"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_protocols_and_numpy_versions(tmp_path, protocol):
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(1, 3, 25, 3)).astype(">f4"),
        np.asfortranarray(rng.normal(size=(2, 30, 25, 3)).astype(np.float16)),
        rng.integers(0, 9, (50, 60))[::2, ::3],
        np.zeros((0, 3)),
        np.array(2.5),
    ]
    scalars = [np.float32(0.5), np.int64(-7), np.bool_(True), 2**40, -1, 1e300, None, "é", (1, 2, 3, 4)]
    data = pickle.dumps([arrays, scalars, collections.OrderedDict(a=b"\xff")], protocol=protocol)
    versions = [data]
    if protocol < 4:  # names are lines, which can be replaced
        versions += [data.replace(b"numpy._core", b"numpy.core"), data.replace(b"numpy.core", b"numpy._core")]
    for version in versions:
        (tmp_path / "x.pkl").write_bytes(version)
        read_arrays, read_scalars, dictionary = read_pickle(tmp_path / "x.pkl")
        assert read_scalars == scalars and dictionary == {"a": b"\xff"}
        for array, item in zip(arrays, read_arrays, strict=True):
            assert np.array_equal(array, item) and isinstance(item, np.ndarray)


def test_pickle_of_python_2(tmp_path):
    """Python 2 stores the bytes of an array as a string, and its text without encoding."""
    array = np.random.default_rng(0).normal(size=(2, 30, 25, 3)).astype("<f4")
    string = b"T" + struct.pack("<i", array.nbytes) + array.tobytes()
    data = (
        b"\x80\x02}U\x08keypointcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01(K\x02K\x1eK\x19K\x03tcnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + string + b"tbs."
    )
    assert np.array_equal(pickle.loads(data, encoding="latin1")["keypoint"], array)
    (tmp_path / "x.pkl").write_bytes(data)
    assert np.array_equal(read_pickle(tmp_path / "x.pkl")["keypoint"], array)


def test_splits_of_other_datasets(tmp_path):
    rng = np.random.default_rng(0)
    items = [
        {"frame_dir": f"clip{i}", "label": i, "keypoint": rng.normal(size=(1, 5, 25, 3))} for i in range(4)
    ]
    split = {
        "train": ["clip0", "clip1"],
        "test": ["clip2"],
        "train2": ["clip2"],
        "test2": ["clip0", "absent"],
        "sub_train": ("clip3",),
        "sub_val": ["clip0", 3, None],
        "sub_test": ["clip3"],
        "all": ["clip0"],
    }
    path = write(tmp_path / "mine.pkl", {"split": split, "annotations": items})
    assert prepare(path, tmp_path / "store", "--dataset", "mine") == 1  # three names are not of clips
    store = open_store(tmp_path / "store")
    assert store.num_classes == 4
    assert store.splits == {
        "split": ["train", "train", "val", ""],
        "split2": ["val", "", "train", ""],
        "sub": ["val", "", "", "train"],
    }
    info = json.loads((tmp_path / "store" / INFO_FILE).read_text())
    assert [(item["file"], item["reason"]) for item in info["left_out"]] == [
        ("mine.pkl", "the split 'all' is not a list of names for train, val or test"),
        ("mine.pkl", "the split 'sub_test' is not used, because there is one for val"),
        ("mine.pkl", "the split 'sub_val' has entries that are not names"),
        ("mine.pkl/absent", "listed in split2, no annotation"),
    ]


def poses_2d(seed, people=1, frames=30):
    """Random COCO poses (people, frames, 17, 2) in pixels, and their scores."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform(200, 400, (people, 1, 17, 2)) + np.cumsum(rng.normal(0, 2, (people, frames, 17, 2)), 1)
    pose[:, :, 5:7, 1], pose[:, :, 11:13, 1] = 200, 350  # shoulders and hips
    return pose.astype(np.float16), rng.uniform(0.1, 1, (people, frames, 17)).astype(np.float16)


def content_2d(count=12):
    """Return a pickle of 2D poses, as of an image-based pose estimator."""
    items = []
    for i in range(count):
        pose, score = poses_2d(i, people=1 + i % 2)
        score[0, 3, 9] = 0
        name = f"S001C{i % 3 + 1:03d}P{i % 4 + 1:03d}R{i // 6 + 1:03d}A{i % 2 + 1:03d}"
        extra = {"keypoint_score": score, "img_shape": (1080, 1920), "original_shape": (1080, 1920)}
        items.append(annotation(name, pose, **extra))
    return content_of(items)


def test_2d_poses(tmp_path, monkeypatch):
    monkeypatch.setattr(pyskl_gendata.flags, "DATA_FOLDER", tmp_path / "data")
    content = content_2d()
    path = write(tmp_path / "ntu60_hrnet.pkl", content)
    assert pyskl_gendata.main(["--data_path", str(path), "--workers", "1"]) == 0
    store = open_store(tmp_path / "data" / "ntu60_2d")
    assert store.skeleton.name == "coco" and store.dataset == "ntu60" and store.frames.shape[1:] == (17, 3, 2)
    assert store.class_names[0] == "drink water" and not store.frames[:, :, 2].any()
    item = min(content["annotations"], key=lambda item: item["frame_dir"])
    joints = np.concatenate([item["keypoint"], item["keypoint_score"][..., None]], axis=-1)
    expected = frames_of_array(joints.transpose(1, 2, 3, 0), skeleton=store.skeleton)
    assert np.array_equal(store.frames[:30], expected)
    assert not expected[3, 9].any()  # the score is zero


def one_clip(keypoint, label=0):
    item = {"frame_dir": "a", "label": label, "keypoint": keypoint}
    return {"split": {"train": ["a"]}, "annotations": [item]}


def test_skeleton_by_the_number_of_joints(tmp_path):
    rng = np.random.default_rng(0)
    for shape, name in (((20, 3), "kinect_v1"), ((25, 3), "kinect_v2"), ((17, 2), "coco"), ((19, 2), None)):
        path = write(tmp_path / "x.pkl", one_clip(rng.uniform(1, 2, (1, 5, *shape))))
        if name:
            prepare(path, tmp_path / "store", "--dataset", "mine", "--overwrite")
            assert open_store(tmp_path / "store").skeleton.name == name
        else:
            with pytest.raises(UserError, match="clips of 19 joints with 2 coordinates"):
                prepare(path, tmp_path / "other", "--dataset", "mine")


def test_score_of_another_shape_is_left_out(tmp_path):
    content = content_2d()
    content["annotations"][0]["keypoint_score"] = np.ones((1, 3, 17))
    path = write(tmp_path / "ntu60_hrnet.pkl", content)
    assert prepare(path, tmp_path / "store") == 1
    assert "must match exactly" in " ".join(left_out(tmp_path / "store").values())


def test_class_names_of_other_datasets(tmp_path):
    path = write(tmp_path / "x.pkl", one_clip(np.ones((1, 5, 25, 3)), label=1))
    (tmp_path / "names.txt").write_text("walk\nrun\njump\n")
    prepare(path, tmp_path / "store", "--dataset", "mine", "--class-names", tmp_path / "names.txt")
    assert open_store(tmp_path / "store").class_names == ("walk", "run", "jump")


def test_dry_run_writes_nothing(tmp_path, capsys):
    content = small_content()
    content["annotations"].append(None)
    path = write(tmp_path / "ntu60_3danno.pkl", content)
    assert prepare(path, tmp_path / "store", "--dry-run") == 0
    output = capsys.readouterr().out
    assert "2 / 37,646" in output and "1 / 18,932" in output
    assert "annotation 3: no clip with 'frame_dir'" in output
    assert os.listdir(tmp_path) == ["ntu60_3danno.pkl"]


NO_CLIP = "no clip with 'frame_dir', a 'label' of the dataset and name, and 'keypoint'"
BAD_ANNOTATIONS = [
    (None, NO_CLIP),
    ("x", NO_CLIP),
    ({"frame_dir": "a\nb"}, r"('a\nb', 2, (1"),
    ({"label": 60}, ", 60, ("),
    ({"label": -1}, ", -1, ("),
    ({"label": 10**30}, ", 100000000, ("),
    ({"label": "3"}, "'str' object cannot be interpreted as an integer"),
    ({"label": 3.0}, "'float' object cannot be interpreted as an integer"),
    ({"label": 5}, ", 5, ("),
    ({"keypoint": None}, "9, ())"),
    ({"keypoint": [[1.0]]}, "10, (1, 1))"),
    ({"keypoint": np.ones((2, 25, 3))}, "'keypoint' is not an array (people, frames, joints"),
    ({"keypoint": np.ones((1, 2, 24, 3))}, "instead of"),
    ({"keypoint": np.ones((0, 2, 25, 3))}, "instead of"),
    ({"keypoint": np.zeros((1, 2, 25, 3))}, "no body"),
    ({"keypoint": np.full((1, 2, 25, 3), 1e300)}, "too large"),
    ({"keypoint": np.full((1, 2, 25, 3), "x")}, "does not consist of numbers"),
]


def test_bad_annotations_are_left_out(tmp_path):
    content = small_content(count=60)
    for i, (bad, _) in enumerate(BAD_ANNOTATIONS):
        item = content["annotations"][i]
        content["annotations"][i] = {**item, **bad} if isinstance(bad, dict) else bad
    path = write(tmp_path / "ntu60_3danno.pkl", content)
    assert prepare(path, tmp_path / "store") == 1  # more than 5 percent
    assert len(open_store(tmp_path / "store").names) == 60 - len(BAD_ANNOTATIONS)
    reasons = list(left_out(tmp_path / "store").values())
    for _, reason in BAD_ANNOTATIONS:
        assert any(reason in text for text in reasons), (reason, reasons)
    with pytest.raises(UserError) as caught:
        prepare(path, tmp_path / "store", "--overwrite", "--on-error", "stop")
    assert one_line(str(caught.value))


def test_long_clips_are_cut(tmp_path):
    content = small_content()
    content["annotations"][0]["keypoint"] = np.random.default_rng(0).normal(size=(1, 400, 25, 3))
    assert prepare(write(tmp_path / "ntu60_3danno.pkl", content), tmp_path / "store") == 0
    assert open_store(tmp_path / "store").num_frames.tolist() == [300, 4, 4]
    info = json.loads((tmp_path / "store" / INFO_FILE).read_text())
    assert info["notes"][0]["reason"] == "400 frames, cut to the first 300"


def test_annotations_of_the_same_name_are_failures(tmp_path):
    """Six names for 18 clips, as of one name per person: none of them can be trusted."""
    content = small_content(count=40)
    for i in range(1, 18):
        content["annotations"][i] = {**content["annotations"][i // 3 * 3], "label": i}
    path = write(tmp_path / "mine.pkl", content)
    assert prepare(path, tmp_path / "store", "--dataset", "mine") == 1
    assert len(open_store(tmp_path / "store").names) == 22
    assert list(left_out(tmp_path / "store").values()).count("3 annotations have this name") == 6  # by name
    with pytest.raises(UserError, match="3 annotations have this name"):
        prepare(path, tmp_path / "other", "--dataset", "mine", "--on-error", "stop")


@pytest.mark.parametrize("kind", ["U20", "S20", object])
def test_splits_can_be_arrays(tmp_path, kind):
    content = small_content(count=9)
    expected = {key: len(names) for key, names in content["split"].items()}
    content["split"] = {key: np.array(names, dtype=kind) for key, names in content["split"].items()}
    assert prepare(write(tmp_path / "ntu60_3danno.pkl", content), tmp_path / "store") == 0
    splits = open_store(tmp_path / "store").splits
    assert splits["cross_view"].count("train") == expected["xview_train"] > 0
    assert splits["cross_subject"].count("val") == expected["xsub_val"] > 0


@pytest.mark.parametrize(
    "content,message",
    [
        ([], "not a pickle of pyskl"),
        ({"split": {}, "annotations": []}, "no split such as"),
        (
            {"split": {"xsub_train": ["a"], "xsub_val": ["a"]}, "annotations": []},
            "in both splits of cross_subject",
        ),
        ({"split": {"xsub_train": ["a"]}, "annotations": [None]}, "no valid clip"),
        ({"split": {"label_train": ["a"]}, "annotations": []}, "names must differ"),
    ],
)
def test_other_pickles_raise(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        prepare(write(tmp_path / "ntu60.pkl", content), tmp_path / "store")
    assert one_line(str(caught.value)) and os.listdir(tmp_path) == ["ntu60.pkl"]


def test_dataset_must_be_known(tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare(write(tmp_path / "ntu600.pkl", small_content()), tmp_path / "store")
    assert "--dataset is required" in capsys.readouterr().err


class Hostile:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_pickles(canary):
    """Pickles that would create ``canary`` if they were executed, or exhaust memory or the stack."""
    touch = f"touch {canary}"
    calls = [
        Hostile(os.system, touch),
        Hostile(eval, f"open({str(canary)!r}, 'w')"),
        Hostile(open, str(canary), "w"),
        Hostile(np.load, str(canary)),
        Hostile(np.ndarray, (1 << 40,)),
        Hostile(bytearray, 1 << 40),
        Hostile(bytes, 1 << 40),
        Hostile(collections.OrderedDict, [("a", 1)]),
        np.float64,
        io.BytesIO,
    ]
    yield from (
        pickle.dumps({"split": call, "annotations": []}, protocol=p) for call in calls for p in (2, 4)
    )
    size = struct.pack("<Q", 1 << 62)
    yield from (b"\x80\x04" + code + size + b"x." for code in (b"\x8e", b"\x96", b"\x8d"))
    yield from (b"\x80\x04" + code + b"\xff\xff\xff\xffx." for code in (b"B", b"T"))
    yield b"\x80\x02ccanary_module\nx\n."
    yield b"\x80\x02c" + b"x" * 100000
    yield b"\x80\x04" + b"]" * 100000 + b"a" * 99999 + b"."  # lists in lists
    yield b"\x80\x04)" + b"\x85" * 100000 + b"."  # tuples in tuples
    yield b"\x80\x04]\x94h\x00a."  # a list that contains itself
    yield from (b"\x80\x04h\x07.", b"\x80\x05\x97.", b"\x80\x04Q.", b"(ios\nsystem\n.", b"\x80", b"")
    yield from (b"PK\x03\x04" + bytes(100), bytes(3000))


def test_hostile_pickles_are_not_executed(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(f"open({str(canary)!r}, 'w')\nx = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "ntu60.pkl"
    for data in hostile_pickles(canary):
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            prepare(path, tmp_path / "store")
        assert one_line(str(caught.value)) and str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
    assert sorted(os.listdir(tmp_path)) == ["canary_module.py", "ntu60.pkl"]


def test_array_of_wrong_size_is_an_error(tmp_path):
    """The shape in the file is much larger than its data."""
    data = pickle.dumps(small_content(), protocol=3)
    shape = b"(K\x01K\x04K\x19K\x03t"
    assert shape in data
    (tmp_path / "ntu60.pkl").write_bytes(data.replace(shape, b"(J\xff\xff\x00\x00K\x04K\x19K\x03t"))
    with pytest.raises(UserError, match="buffer size does not match array size"):
        prepare(tmp_path / "ntu60.pkl", tmp_path / "store")


def test_damaged_pickles_give_a_store_or_an_error(tmp_path):
    data = {protocol: pickle.dumps(small_content(), protocol=protocol) for protocol in (2, 4)}
    path = tmp_path / "ntu60.pkl"
    results = []
    for seed in range(100):
        path.write_bytes(damage(data[2 + seed % 2 * 2], seed))
        results.append(store_or_error(pyskl_gendata.main, ["--data_path", path], tmp_path / "store"))
    assert 10 < results.count("store") < 90


def test_truncated_pickle_raises(tmp_path):
    path = write(tmp_path / "x.pkl", small_content())
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            read_pickle(path)


def test_existing_folder_is_refused_before_the_pickle_is_read(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/notes.txt").write_text("")
    (tmp_path / "ntu60.pkl").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match="exists but is not a store"):
        prepare(tmp_path / "ntu60.pkl", tmp_path / "store")
