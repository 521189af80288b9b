"""Retrieval: nearest neighbors in tiles, ties, votes."""

import os
import re

import numpy as np
import pytest
import torch
from conftest import RETRIEVAL, TINY_FLAGS, clusters
from sklearn.neighbors import KNeighborsClassifier

import engine.retrieve
from engine.retrieve import knn_accuracy, majority_label, nearest_neighbors
from utils.errors import UserError


@pytest.fixture(params=[3, 64, 1000])
def tile(request, monkeypatch):
    """Number of queries and gallery clips per tile."""
    monkeypatch.setattr(engine.retrieve, "TILE", request.param)


@pytest.mark.parametrize("k", [1, 20])
def test_retrieval_matches_scikit_learn(tile, k):
    gallery, gallery_labels = clusters(300, 1)
    queries, query_labels = clusters(100, 2)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(gallery, gallery_labels)
    expected = 100 * reference.score(queries, query_labels)
    assert 30 < expected < 100
    assert knn_accuracy(queries, query_labels, gallery, gallery_labels, k, 6) == pytest.approx(expected)
    distances, indices = reference.kneighbors(queries)
    found, similarities = nearest_neighbors(queries, gallery, k)
    np.testing.assert_array_equal(found.numpy(), indices)
    np.testing.assert_allclose(similarities.numpy(), 1 - distances, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 300])
def test_ties_go_to_lowest_index(tile, k):
    """Few directions: every query has many equally similar neighbors."""
    rng = np.random.default_rng(1)
    directions = torch.eye(4, dtype=torch.float32)
    gallery, queries = (directions[torch.tensor(rng.integers(0, 4, n))] * 2 for n in (300, 64))
    found, similarities = nearest_neighbors(queries, gallery, k)
    for query, indices, values in zip(queries, found, similarities):
        expected = (gallery @ query / 4).sort(descending=True, stable=True)
        assert torch.equal(indices, expected.indices[:k]) and torch.equal(values, expected.values[:k])


def test_arguments_are_unchanged_and_norms_do_not_matter():
    gallery, queries = clusters(300, 1)[0], clusters(50, 2)[0]
    before = gallery.clone(), queries.clone()
    found, similarities = nearest_neighbors(queries, gallery, 4)
    assert torch.equal(gallery, before[0]) and torch.equal(queries, before[1])
    longer = nearest_neighbors(queries * 1e3, gallery * torch.linspace(0.1, 9, 300)[:, None], 4)
    assert torch.equal(longer[0], found)
    torch.testing.assert_close(longer[1], similarities)


def test_non_finite_features_are_rejected():
    features = torch.ones(5, 3)
    features[1, 2], features[4, 0] = torch.nan, torch.inf
    for arguments in ((torch.ones(2, 3), features), (features, torch.ones(9, 3))):
        with pytest.raises(UserError, match="of 2 of 5 clips are non-finite"):
            nearest_neighbors(*arguments, 1)


def test_similarities_do_not_use_tf32(monkeypatch):
    seen, largest_columns = [], engine.retrieve.largest_columns

    def watched(*arguments):
        seen.append(torch.get_float32_matmul_precision())
        return largest_columns(*arguments)

    monkeypatch.setattr(engine.retrieve, "largest_columns", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    nearest_neighbors(torch.ones(2, 3), torch.ones(4, 3), 1)
    after = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    assert seen == ["highest"] and after == "medium"


def test_majority_label():
    labels = torch.tensor([[2, 2, 1], [3, 1, 0], [5, 5, 5]])
    assert majority_label(labels, 6).tolist() == [2, 0, 5], "ties go to the smallest label"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("k", [1, 5])
def test_gpu_finds_same_neighbors(tile, k):
    gallery, queries = clusters(300, 1)[0], clusters(100, 2)[0]
    gallery[200:] = gallery[:100]  # every neighbor has a copy
    found, similarities = nearest_neighbors(queries.cuda(), gallery.cuda(), k)
    expected = nearest_neighbors(queries, gallery, k)
    torch.testing.assert_close(similarities.cpu(), expected[1])
    assert torch.equal(found.cpu() % 200, expected[0] % 200), "equal except for which of two copies"


def test_features_in_a_file_and_in_half_precision(run, tmp_path, monkeypatch):
    """The same neighbors from a temporary file, which is gone afterwards; half the size in half precision."""
    monkeypatch.setattr(engine.retrieve, "TILE", 5)
    given = ["--pretrained", "random", *TINY_FLAGS]
    given += ["--finetune-skeleton-representation", "seq-based_and_graph-based", "--seed", 0]
    lines, saved = [], []
    for name, flags in (
        ("memory", []),
        ("file", ["--feature-memory", 1e-9]),
        ("half", ["--feature-memory", 1e-9, "--feature-dtype", "float16"]),
    ):
        path, folder = tmp_path / f"{name}.npz", tmp_path / name
        code, out, err = run(RETRIEVAL, *given, *flags, "--output-dir", folder, "--save-features", path)
        assert code == 0 and out.count(f"kept in a temporary file in {folder}") == (4 if flags else 0), err
        assert sorted(os.listdir(folder)) == sorted(os.listdir(tmp_path / "memory"))
        lines.append(re.search(r"1-nearest-neighbor retrieval: .*", out)[0])
        with np.load(path) as file:
            saved.append([file["train_features"], file["val_features"]])
    assert lines[0] == lines[1]
    again = [*given, "--feature-memory", 1, "--output-dir", tmp_path / "memory"]
    assert run(RETRIEVAL, *again)[0] == 0, "where the features are does not matter to the results"
    for memory, file, half in zip(*saved):
        assert np.array_equal(memory, file) and half.dtype == np.float16
        np.testing.assert_allclose(memory, half, rtol=1e-3, atol=1e-6)
