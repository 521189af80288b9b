"""Retrieval: neighbours in blocks, votes, and what does not depend on luck."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import engine.retrieve
from conftest import clusters
from engine.retrieve import knn_accuracy, majority_label, nearest_neighbours
from options.errors import UserError


@pytest.fixture(params=[3, 64, 1000])
def tile(request, monkeypatch):
    """So many queries and gallery clips at a time."""
    monkeypatch.setattr(engine.retrieve, "TILE", request.param)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_retrieval_equals_scikit_learns(tile, k):
    gallery, gallery_labels = clusters(300, 1)
    queries, query_labels = clusters(100, 2)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(gallery, gallery_labels)
    expected = 100 * reference.score(queries, query_labels)
    assert 30 < expected < 100
    assert knn_accuracy(queries, query_labels, gallery, gallery_labels, k, 6) == pytest.approx(expected)
    distances, indices = reference.kneighbors(queries)
    found, similarities = nearest_neighbours(queries, gallery, k)
    np.testing.assert_array_equal(found.numpy(), indices)
    np.testing.assert_allclose(similarities.numpy(), 1 - distances, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 5, 300])
def test_of_equals_the_first_in_the_gallery(tile, k):
    """Whole numbers along few directions: every query has many equally similar neighbours."""
    rng = np.random.default_rng(1)
    directions = torch.eye(4, dtype=torch.float32)
    gallery, queries = (directions[torch.tensor(rng.integers(0, 4, n))] * 2 for n in (300, 64))
    found, similarities = nearest_neighbours(queries, gallery, k)
    for query, indices, values in zip(queries, found, similarities):
        expected = (gallery @ query / 4).sort(descending=True, stable=True)
        assert torch.equal(indices, expected.indices[:k]) and torch.equal(values, expected.values[:k])


def test_a_tie_across_the_last_neighbour_only(tile):
    """The third and fourth best are equal; the third is the one that comes first."""
    gallery = torch.tensor([[1.0, 1.0], [0.0, 1.0], [4.0, 3.0], [1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    found, _ = nearest_neighbours(torch.tensor([[1.0, 0.0]]), gallery, 3)
    assert found.tolist() == [[3, 2, 0]]


def test_arguments_stay_as_they_are_and_lengths_do_not_count():
    gallery, queries = clusters(300, 1)[0], clusters(50, 2)[0]
    before = gallery.clone(), queries.clone()
    found, similarities = nearest_neighbours(queries, gallery, 4)
    assert torch.equal(gallery, before[0]) and torch.equal(queries, before[1])
    longer = nearest_neighbours(queries * 1e3, gallery * torch.linspace(0.1, 9, 300)[:, None], 4)
    assert torch.equal(longer[0], found)
    torch.testing.assert_close(longer[1], similarities)


def test_a_clip_without_any_feature_is_nobodys_neighbour():
    gallery = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.5, 1.0]])
    found, similarities = nearest_neighbours(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), gallery, 2)
    assert found[0].tolist() == [1, 2] and similarities.isfinite().all()
    assert similarities[1].tolist() == [0, 0]


def test_features_that_are_no_numbers_are_refused():
    features = torch.ones(5, 3)
    features[1, 2], features[4, 0] = torch.nan, torch.inf
    for arguments in ((torch.ones(2, 3), features), (features, torch.ones(9, 3))):
        with pytest.raises(UserError, match="of 2 of 5 clips are not finite"):
            nearest_neighbours(*arguments, 1)


def test_similarities_are_full_float32_whatever_the_run_allows(monkeypatch):
    seen, best_columns = [], engine.retrieve.best_columns

    def watched(*arguments):
        seen.append(torch.get_float32_matmul_precision())
        return best_columns(*arguments)

    monkeypatch.setattr(engine.retrieve, "best_columns", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        nearest_neighbours(torch.ones(2, 3), torch.ones(4, 3), 1)
        nearest_neighbours(torch.ones(2, 3), torch.ones(4, 3), 1)
        assert seen == ["highest", "highest"] and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_votes():
    labels = torch.tensor([[2, 2, 1], [3, 1, 0], [5, 5, 5]])
    assert majority_label(labels, 6).tolist() == [2, 0, 5], "of equals the smallest"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("k", [1, 5])
def test_a_gpu_finds_the_same_neighbours(tile, k):
    gallery, queries = clusters(300, 1)[0], clusters(100, 2)[0]
    gallery[200:] = gallery[:100]  # every neighbour has an equal
    found, similarities = nearest_neighbours(queries.cuda(), gallery.cuda(), k)
    expected = nearest_neighbours(queries, gallery, k)
    torch.testing.assert_close(similarities.cpu(), expected[1])
    assert torch.equal(found.cpu() % 200, expected[0] % 200), "equal but for which of two copies"
