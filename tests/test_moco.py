"""The contrastive model without its encoders: pairs, momentum, queue, replicas."""

import copy

import pytest
import torch
from torch import nn

from moco.model import (
    KeyQueue,
    MoCo,
    all_pairs,
    batch_contrast_logits,
    contrast_logits,
    info_nce,
    inter_pairs,
    intra_pairs,
    momentum_update,
)

NAMES = ("a", "bb", "ccc")  # the length is the input dimension of the encoder


class TinyEncoder(nn.Module):
    def __init__(self, inputs, dim):
        super().__init__()
        self.body, self.fc = nn.Linear(inputs, 6), nn.Linear(6, dim)

    def forward(self, x):
        return self.fc(torch.tanh(self.body(x)))


def build(names=NAMES, pairs=inter_pairs, seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"dim": 4, "queue_size": 16, "momentum": 0.9, "temperature": 0.1, **settings}
    return MoCo(names, lambda name, dim: TinyEncoder(len(name), dim), pairs(names), **settings)


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


def test_first_logit_is_the_positive_pair():
    query = nn.functional.normalize(torch.randn(5, 4), dim=1)
    logits = contrast_logits(query, query, -query, temperature=0.5)
    assert logits.shape == (5, 6)
    torch.testing.assert_close(logits[:, 0], torch.full((5,), 2.0))
    assert (logits[:, 0:1] >= logits[:, 1:]).all()
    expected = -(logits.softmax(dim=1)[:, 0].log()).mean()
    torch.testing.assert_close(info_nce(logits), expected)


def test_momentum_moves_keys_towards_queries():
    query, key = TinyEncoder(3, 4), TinyEncoder(3, 4)
    before = copy.deepcopy(key)
    momentum_update(query, key, 0.75)
    for q, old, new in zip(query.parameters(), before.parameters(), key.parameters()):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * q)


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


def test_queue_replaces_the_oldest_keys():
    queue = KeyQueue(6, 3)
    start = queue.keys.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(6))
    batches = [torch.full((2, 3), float(i)) for i in range(4)]
    for batch in batches:
        queue.enqueue(batch)
    assert queue.keys[:, 0].tolist() == [3.0, 3.0, 1.0, 1.0, 2.0, 2.0]
    assert queue.pointer.item() == 2
    with pytest.raises(ValueError, match="does not divide"):
        queue.enqueue(torch.zeros(4, 3))


def test_queries_are_contrasted_with_keys_of_other_representations():
    """With three representations, each query is contrasted with the keys and queues of the other two."""
    model = build()
    views = random_views()
    reference = copy.deepcopy(model)
    loss, logits = model(*views)
    queries, keys = reference.encoders(*views)
    for (q, k), found in zip(reference.pairs, logits):
        expected = contrast_logits(queries[q], keys[k], reference.queues[k].keys, 0.1)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss, sum(info_nce(x) for x in logits))


def test_without_a_queue_the_other_clips_of_the_batch_are_the_negatives():
    query, keys = (nn.functional.normalize(torch.randn(n, 4), dim=1) for n in (3, 7))
    for first in (0, 4):
        logits = batch_contrast_logits(query, keys, first, temperature=0.5)
        for i, row in enumerate(logits):
            own = first + i
            order = [own, *(j for j in range(7) if j != own)]
            expected = torch.stack([query[i].dot(keys[j]) / 0.5 for j in order])
            torch.testing.assert_close(row, expected)


def test_without_a_queue_shards_of_a_batch_have_its_logits_and_momentum_continues():
    model, views = build(queue_size=0), random_views()
    assert not model.queues
    before = copy.deepcopy(model)
    queries, keys = before.encoders(*views)
    whole = before.contrast(queries, keys)
    for first in (0, 4):
        part = before.contrast({name: x[first : first + 4] for name, x in queries.items()}, keys, first)
        for found, expected in zip(part, whole):
            torch.testing.assert_close(found, expected[first : first + 4])
    loss, logits = model(*views)
    assert [x.shape for x in logits] == [(8, 8)] * 6
    loss.backward()
    with torch.no_grad():
        for parameter in model.encoders.query.parameters():
            parameter -= parameter.grad
    model(*views)
    assert not same_weights(before.encoders.key, model.encoders.key)


class SplitBatch(nn.Module):
    """Like DataParallel: each replica encodes a part of the batch, and the results are gathered.

    A replica is a copy of the module, as on another device, so changes of its state are lost.
    """

    def __init__(self, module, parts):
        super().__init__()
        self.module, self.parts = module, parts

    def forward(self, *views):
        results = []
        for i in range(self.parts):
            replica = copy.deepcopy(self.module) if i else self.module
            for mine, theirs in zip(replica.query.parameters(), self.module.query.parameters()):
                mine.data = theirs.data
            chunk = [{n: x.chunk(self.parts)[i] for n, x in view.items()} for view in views]
            results.append(replica(*chunk))
        queries, keys = (
            {n: torch.cat([result[j][n] for result in results]) for n in results[0][j]} for j in range(2)
        )
        return queries, keys


@pytest.mark.parametrize("pairs", [inter_pairs, intra_pairs])
def test_splitting_the_batch_does_not_change_the_result(pairs):
    whole, split = build(pairs=pairs), build(pairs=pairs)
    encode = SplitBatch(split.encoders, 4)
    for step in range(5):
        views = random_views(seed=step)
        loss, logits = whole(*views)
        split_loss, split_logits = split(*views, encode=encode)
        torch.testing.assert_close(split_loss, loss)
        for a, b in zip(split_logits, logits):
            torch.testing.assert_close(a, b)
        with torch.no_grad():  # change the queries, so that the momentum update changes the keys
            for model in (whole, split):
                for parameter in model.encoders.query.parameters():
                    parameter.add_(0.01 * (step + 1))
    for (name, a), b in zip(whole.state_dict().items(), split.state_dict().values()):
        torch.testing.assert_close(b, a, msg=name)
    assert whole.queues[NAMES[0]].pointer.item() == 5 * 8 % 16


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_data_parallel_equals_one_device():
    one, many = build().cuda(), build().cuda()
    encode = nn.DataParallel(many.encoders)
    for step in range(3):
        views = [{n: x.cuda() for n, x in view.items()} for view in random_views(seed=step)]
        for model, wrapper in ((one, None), (many, encode)):
            model.zero_grad()
            model(*views, encode=wrapper)[0].backward()
        for a, b in zip(one.parameters(), many.parameters()):
            torch.testing.assert_close(a, b)
            if a.grad is not None:
                torch.testing.assert_close(a.grad, b.grad)
    for (name, a), b in zip(one.state_dict().items(), many.state_dict().values()):
        torch.testing.assert_close(b, a, msg=name)


def test_mlp_head():
    model = build(mlp=True)
    for encoder in model.encoders.query.values():
        assert [type(layer) for layer in encoder.fc] == [nn.Linear, nn.ReLU, nn.Linear]
        assert encoder.fc[0].weight.shape == (6, 6) and encoder.fc[2].weight.shape == (4, 6)
