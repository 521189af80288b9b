"""The contrastive model without its encoders: objectives, momentum, queue, replicas."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from moco.losses import (
    PAIRS,
    Embeddings,
    InfoNCE,
    NeighborDistillation,
    Outcome,
    all_pairs,
    inter_pairs,
    intra_pairs,
)
from moco.model import KeyQueue, MoCo, momentum_update, unit

NAMES = ("a", "bb", "ccc")  # the length is the input dimension of the encoder


class TinyEncoder(nn.Module):
    def __init__(self, inputs, dim):
        super().__init__()
        self.body, self.fc = nn.Linear(inputs, 6), nn.Linear(6, dim)

    def forward(self, x):
        return self.fc(torch.tanh(self.body(x)))


def build(names=NAMES, pairs="inter", seed=0, distill="none", objectives=(), **settings):
    torch.manual_seed(seed)
    settings = {"dim": 4, "queue_size": 16, "momentum": 0.9, **settings}
    distillation = NeighborDistillation(names, distill, distill_neighbors=5)
    objectives = [InfoNCE(names, pairs, moco_t=0.1), distillation, *objectives]
    return MoCo(names, lambda name, dim: TinyEncoder(len(name), dim), objectives, **settings)


def random_views(names=NAMES, batch=8, seed=1):
    source = torch.Generator().manual_seed(seed)
    return [{name: torch.randn(batch, len(name), generator=source) for name in names} for _ in range(2)]


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_pairs():
    assert intra_pairs(["a"]) == [("a", "a")]
    assert inter_pairs(["a", "b"]) == [("a", "b"), ("b", "a")]
    assert len(inter_pairs(NAMES)) == 6 and all(q != k for q, k in inter_pairs(NAMES))
    assert all_pairs(["a", "b"]) == [("a", "b"), ("b", "a"), ("a", "a"), ("b", "b")]
    assert sorted(all_pairs(NAMES)) == sorted((q, k) for q in NAMES for k in NAMES)


def test_momentum_does_not_update_batch_norm_statistics():
    query, key = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    query(torch.randn(9, 3) + 5)
    momentum_update(query, key, 0.5)
    assert torch.equal(key.running_mean, torch.zeros(3))


def test_key_encoders_start_as_copies():
    encoders = build().encoders
    for q, k in zip(encoders.query.parameters(), encoders.key.parameters()):
        assert torch.equal(q, k) and q.data_ptr() != k.data_ptr()


def test_key_encoders_receive_no_gradient():
    model = build()
    for _ in range(2):
        loss, _ = model(*random_views())
        loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.encoders.key.parameters())
    assert all(p.grad is not None for p in model.encoders.query.parameters())
    assert not any(x.requires_grad for queue in model.queues.values() for x in queue.buffers())


def test_queue_starts_with_random_directions_and_takes_batches_that_divide_it():
    queue = KeyQueue(6, 3)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(6))
    with pytest.raises(ValueError, match="does not divide"):
        queue.enqueue(torch.zeros(4, 3))


def random_embeddings(batch=8, queue=16, seed=0, names=NAMES, dim=4):
    """Embeddings of a whole batch, with a queue unless its size is 0; the queries require gradients."""
    torch.manual_seed(seed)
    queries, keys = ({name: unit(torch.randn(batch, dim)) for name in names} for _ in range(2))
    for x in queries.values():
        x.requires_grad_()
    return Embeddings(queries, keys, {name: unit(torch.randn(queue, dim)) for name in names} if queue else {})


def shard(whole, first, count=4):
    """What the process has whose first query is number ``first``."""
    queries = {name: x[first : first + count] for name, x in whole.queries.items()}
    return Embeddings(queries, whole.keys, whole.queues, first)


def negatives_of(embeddings, name, i):
    """The negatives of query ``i``, one by one: the queue or the keys of the other clips."""
    if embeddings.queues:
        return embeddings.queues[name]
    return torch.stack([key for j, key in enumerate(embeddings.keys[name]) if j != embeddings.first + i])


@pytest.mark.parametrize("queue", [16, 0])
@pytest.mark.parametrize("first", [0, 4])
def test_info_nce_equals_its_equation_query_by_query(queue, first):
    embeddings = shard(random_embeddings(queue=queue), first)
    outcome = InfoNCE(NAMES, "inter", moco_t=0.1)(embeddings, step=0)
    assert list(outcome.logits) == inter_pairs(NAMES)
    losses = []
    for (q, k), logits in outcome.logits.items():
        for i, row in enumerate(logits):
            candidates = [embeddings.keys[k][first + i], *negatives_of(embeddings, k, i)]
            expected = torch.stack([embeddings.queries[q][i].dot(key) / 0.1 for key in candidates])
            torch.testing.assert_close(row, expected)
            losses.append(-expected.log_softmax(dim=0)[0])
    torch.testing.assert_close(outcome.terms["info_nce"], sum(losses) / len(logits))


@pytest.mark.parametrize("queue", [16, 0])
@pytest.mark.parametrize("distill", ["inter", "intra", "all"])
def test_distillation_equals_its_equation_query_by_query(queue, distill):
    first, neighbors = 4, 5
    embeddings = shard(random_embeddings(queue=queue), first)
    divergences = []
    for a, b in PAIRS[distill](NAMES):
        for i in range(4):
            teacher = negatives_of(embeddings, a, i) @ embeddings.keys[a][first + i]
            student = negatives_of(embeddings, b, i) @ embeddings.queries[b][i]
            nearest = teacher.argsort(descending=True)[:neighbors]
            p, q = (teacher[nearest] / 0.05).softmax(dim=0), (student[nearest] / 0.1).softmax(dim=0)
            divergences.append((p * (p / q).log()).sum())
    distillation = NeighborDistillation(NAMES, distill, neighbors, distill_weight=0.5)
    (term,) = distillation(embeddings, step=0).terms.values()
    torch.testing.assert_close(term, 0.5 * sum(divergences) / 4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("queue", [16, 0])
@pytest.mark.parametrize("objective", [InfoNCE(NAMES, "all"), NeighborDistillation(NAMES, "all", 5)])
def test_shards_of_a_batch_have_the_loss_of_the_whole(objective, queue):
    whole = random_embeddings(queue=queue)
    (expected,) = objective(whole, 0).terms.values()
    parts = [next(iter(objective(shard(whole, first), 0).terms.values())) for first in (0, 4)]
    torch.testing.assert_close(sum(parts) / 2, expected)


@pytest.mark.parametrize("queue", [16, 0])
def test_only_queries_get_gradients_of_distillation(queue):
    embeddings = random_embeddings(queue=queue)
    others = [*embeddings.keys.values(), *embeddings.queues.values()]
    for x in others:
        x.requires_grad_()
    NeighborDistillation(NAMES, "all", 5)(embeddings, 0).terms["distillation"].backward()
    assert all(x.grad is None for x in others)
    assert all(x.grad.abs().sum() > 0 for x in embeddings.queries.values())


def test_objectives_compute_in_float32_under_autocast():
    embeddings = random_embeddings()
    for objective in (InfoNCE(NAMES), NeighborDistillation(NAMES, "inter", 5)):
        (expected,) = objective(embeddings, 0).terms.values()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = objective(embeddings, 0).terms.values()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)


def test_distillation_starts_and_is_ramped_in_by_the_step():
    embeddings = random_embeddings()
    full = NeighborDistillation(NAMES, "inter", 5)(embeddings, 0).terms["distillation"]
    late = NeighborDistillation(NAMES, "inter", 5, distill_start=100)
    for step, share in ((0, 0), (100, 0), (125, 0.25), (200, 1), (10**6, 1)):
        torch.testing.assert_close(late(embeddings, step).terms["distillation"], share * full)


def test_distillation_needs_a_teacher():
    with pytest.raises(ValueError, match="--distill inter needs several representations"):
        NeighborDistillation(("a",), "inter")
    assert NeighborDistillation(("a",), "none")(random_embeddings(names=("a",)), 0).terms == {}


@dataclass(frozen=True)
class Invariance:
    """A third objective, as a user would add it: the distance of the queries from their keys."""

    representations: tuple[str, ...]

    def __call__(self, embeddings, step):
        distances = [
            (embeddings.queries[name] - embeddings.positives(name)).square().sum(dim=1).mean()
            for name in self.representations
        ]
        return Outcome({"invariance": torch.stack(distances).sum()})


def test_loss_is_the_sum_of_the_terms_of_all_objectives():
    model, views = build(distill="all", objectives=[Invariance(NAMES)]), random_views()
    reference = copy.deepcopy(model)
    loss, outcome = model(*views, step=3)
    assert [*outcome.terms] == ["info_nce", "distillation", "invariance"]
    torch.testing.assert_close(loss, sum(outcome.terms.values()))
    expected = reference.compare(*reference.encoders(*views))
    torch.testing.assert_close([*outcome.terms.values()], [*expected.terms.values()])
    loss.backward()  # the queues that it compared with were not changed by enqueueing
    plain = build()(*views)[0]
    assert torch.equal(plain, outcome.terms["info_nce"])


def test_without_a_queue_the_momentum_continues():
    model, views = build(queue_size=0, distill="inter"), random_views()
    assert not model.queues
    before = copy.deepcopy(model)
    loss, outcome = model(*views)
    assert [x.shape for x in outcome.logits.values()] == [(8, 8)] * 6
    loss.backward()
    with torch.no_grad():
        for parameter in model.encoders.query.parameters():
            parameter -= parameter.grad
    model(*views)
    assert not same_weights(before.encoders.key, model.encoders.key)


@pytest.mark.parametrize("queue_size", [16, 0])
def test_processes_together_have_the_loss_and_the_queues_of_one(queue_size):
    whole, views = build(distill="all", queue_size=queue_size), random_views()
    parts = [copy.deepcopy(whole) for _ in range(2)]
    keys = copy.deepcopy(whole).encoders(*views)[1]  # the query encoders are equal: no momentum to apply
    losses = []
    for rank, model in enumerate(parts):
        shard = [{n: x[4 * rank : 4 * rank + 4] for n, x in view.items()} for view in views]
        gathered = iter(keys.values())
        losses.append(model(*shard, gather=lambda _, gathered=gathered: next(gathered), rank=rank)[0])
    torch.testing.assert_close(sum(losses) / 2, whole(*views)[0])
    for model in parts:
        torch.testing.assert_close(model.state_dict(), whole.state_dict())
