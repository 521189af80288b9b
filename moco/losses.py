"""Objectives of momentum contrast: InfoNCE (this paper) and neighbor distillation (CMD, ECCV 2022).

An objective is a small dataclass. Its first field is the tuple of representations; every other field with
``help`` in its metadata is a command-line flag of the same name. Calling it with the ``Embeddings`` of a
step returns named terms of the loss, which the model sums. To add one, write a class and add it to
``OBJECTIVES``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.class_flags import flag

Pairs = list[tuple[str, str]]


def intra_pairs(representations: Sequence[str]) -> Pairs:
    """Return pairs of each representation with itself (section 3.1)."""
    return [(name, name) for name in representations]


def inter_pairs(representations: Sequence[str]) -> Pairs:
    """Return pairs of each representation with every other one, in both orders (section 3.3)."""
    return [(a, b) for a in representations for b in representations if a != b]


def all_pairs(representations: Sequence[str]) -> Pairs:
    """Return both ``inter_pairs`` and ``intra_pairs``."""
    return inter_pairs(representations) + intra_pairs(representations)


PAIRS = {"none": lambda representations: [], "inter": inter_pairs, "intra": intra_pairs, "all": all_pairs}


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one step by representation, all unit vectors in float32.

    Attributes:
        queries: ``(N, D)``, of this process's clips.
        keys: ``(B, D)``, of the global batch; the positive of query i is row ``first + i``.
        queues: ``(K, D)``, keys of earlier batches; row i is the same clip in every queue. Empty without a
            queue: the negatives are the keys of the other clips of the batch, as in MoCo v3.
        first: row of the positive of the first query; not 0 in the other processes of a distributed run.
    """

    queries: Mapping[str, Tensor]
    keys: Mapping[str, Tensor]
    queues: Mapping[str, Tensor]
    first: int = 0

    def positives(self, name: str) -> Tensor:
        """Return the keys ``(N, D)`` of the clips of the queries."""
        return self.keys[name][self.first : self.first + len(self.queries[name])]

    def negative_similarities(self, x: Tensor, name: str) -> Tensor:
        """Return cosine similarities of ``x`` to the negatives of a representation.

        Args:
            x: ``(N, D)`` queries or positives, in the order of the queries.
            name: the representation whose keys are the negatives.

        Returns:
            ``(N, K)`` in the order of the queue; without one ``(N, B - 1)`` in the order of the batch.
        """
        negatives = self.queues[name] if self.queues else self.keys[name]
        with torch.autocast(x.device.type, enabled=False):
            similarities = x.float() @ negatives.detach().float().t()
        if self.queues:
            return similarities
        own = self.first + torch.arange(len(x), device=x.device)[:, None]  # N x 1
        other = torch.arange(len(negatives) - 1, device=x.device)[None]  # 1 x (B - 1)
        return similarities.gather(1, other + (other >= own))


@dataclass(frozen=True)
class Outcome:
    """What an objective returns: weighted scalar terms of the loss, and the logits of an InfoNCE by pair."""

    terms: Mapping[str, Tensor]  # by name; the loss is their sum
    logits: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)  # by (query, key); see info_nce


class Objective(Protocol):
    """Called with the embeddings of a step and the number of steps before it."""

    def __call__(self, embeddings: Embeddings, step: int) -> Outcome:
        """Return the terms of the loss."""


def contrast_logits(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the argument of the softmax of eq. 1, ``(N, 1 + K)``; column 0 is the positive pair.

    ``query`` and ``key``, the positives, are ``(N, D)`` unit vectors; ``negatives`` are the cosine
    similarities ``(N, K)`` of the queries to the negatives.
    """
    positive = (query * key).sum(dim=1, keepdim=True)  # N x 1
    return torch.cat([positive, negatives], dim=1) / temperature


def info_nce(logits: Tensor) -> Tensor:
    """Return the InfoNCE loss (eq. 1): cross-entropy with column 0, the positive pair, as the target."""
    target = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, target)


@dataclass(frozen=True)
class InfoNCE:
    """InfoNCE of the queries and keys of each pair of representations, summed over the pairs (eq. 2)."""

    representations: tuple[str, ...]
    pairs: str = flag(
        "inter",
        "inter: contrast each representation with the other ones, as in the paper; intra: with its own "
        "keys; all: both, often better on small datasets",
        choices=("inter", "intra", "all"),
    )
    moco_t: float = flag(0.07, "softmax temperature", above=0.0)

    def __call__(self, embeddings: Embeddings, step: int) -> Outcome:
        """Return the term ``info_nce`` and the logits of each pair."""
        logits = {}
        for query_name, key_name in PAIRS[self.pairs](self.representations):
            query = embeddings.queries[query_name]
            negatives = embeddings.negative_similarities(query, key_name)
            positives = embeddings.positives(key_name)
            logits[query_name, key_name] = contrast_logits(query, positives, negatives, self.moco_t)
        return Outcome({"info_nce": torch.stack([info_nce(x) for x in logits.values()]).sum()}, logits)


@dataclass(frozen=True)
class NeighborDistillation:
    """Distillation of the similarities of a key to its neighbors (Mao et al., CMD, ECCV 2022).

    The teacher is a representation's key: a softmax over its ``distill_neighbors`` largest similarities to
    the negatives of its representation. The student is a query: the softmax over its similarities to the
    same clips among the negatives of its own representation. The loss is the Kullback-Leibler divergence,
    averaged over the batch and summed over the (teacher, student) pairs. Only the queries get gradients.
    """

    representations: tuple[str, ...]
    distill: str = flag(
        "none",
        "neighbor distillation: the teachers of a representation are the other ones (inter, as in CMD), "
        "itself (intra, as in PCM3) or both (all)",
        choices=tuple(PAIRS),
    )
    distill_neighbors: int = flag(
        8192, "nearest neighbors that are compared; at most all negatives", minimum=1
    )
    distill_teacher_t: float = flag(0.05, "teacher temperature", above=0.0)
    distill_student_t: float = flag(0.1, "student temperature", above=0.0)
    distill_weight: float = flag(1.0, "weight in the loss", minimum=0.0)
    distill_start: int = flag(
        0,
        "steps before distillation starts; its weight then grows linearly over as many steps. Untrained "
        "teachers can make the embeddings collapse",
        minimum=0,
    )

    def __post_init__(self) -> None:
        if self.distill == "inter" and len(self.representations) < 2:
            raise ValueError("--distill inter needs several representations: use --distill intra")

    def weight(self, step: int) -> float:
        """Return the weight of the term after ``step`` steps."""
        if self.distill_start == 0:
            return self.distill_weight
        ramp = (step - self.distill_start) / self.distill_start
        return self.distill_weight * min(max(ramp, 0.0), 1.0)

    def __call__(self, embeddings: Embeddings, step: int) -> Outcome:
        """Return the term ``distillation``; nothing with ``--distill none``."""
        pairs = PAIRS[self.distill](self.representations)
        if not pairs:
            return Outcome({})
        weight = self.weight(step)
        if weight == 0:
            return Outcome({"distillation": next(iter(embeddings.queries.values())).new_zeros(())})
        similarities = {
            student: embeddings.negative_similarities(embeddings.queries[student], student)
            for student in dict.fromkeys(student for _, student in pairs)
        }
        divergences = []
        for teacher in self.representations:
            probabilities, neighbors = self.teach(embeddings, teacher)
            for student in (student for name, student in pairs if name == teacher):
                chosen = similarities[student].gather(1, neighbors) / self.distill_student_t
                divergences.append(F.kl_div(chosen.log_softmax(dim=1), probabilities, reduction="batchmean"))
        return Outcome({"distillation": weight * torch.stack(divergences).sum()})

    @torch.no_grad()
    def teach(self, embeddings: Embeddings, teacher: str) -> tuple[Tensor, Tensor]:
        """Return the probabilities and the columns ``(N, neighbors)`` of the teacher's nearest negatives."""
        similarities = embeddings.negative_similarities(embeddings.positives(teacher), teacher)
        count = min(self.distill_neighbors, similarities.shape[1])
        nearest, columns = similarities.topk(count, dim=1)
        return (nearest / self.distill_teacher_t).softmax(dim=1), columns


OBJECTIVES: tuple[type, ...] = (InfoNCE, NeighborDistillation)
