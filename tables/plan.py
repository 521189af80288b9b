"""Which pretrainings and evaluations fill a cell of the paper's tables.

``Pretraining`` and ``Evaluation`` are plain values: two cells that need the same one ask for equal
values, and each is run once. Where the paper leaves something open, the choice is here:

- Table 4 does not say on which of NTU-60's protocols the encoder was pretrained: cross_subject.
- Tables 8 and 9 vary one augmentation and use no other, as their numbers show: 15 joints and a
  crop of at least 0.1 are Table 5's rows.
- Table 10, one representation, column inter: the pair of Table 6 with the same number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Iterable

from models.representations import REPRESENTATIONS

from .paper import PaperRow

SEQ, GRAPH, IMAGE = REPRESENTATIONS
SEQ_GRAPH = (SEQ, GRAPH)
ABLATIONS = ("ntu60", "cross_view")  # where Tables 5, 6, 8, 9 and 10 are measured


@dataclass(frozen=True)
class Pretraining:
    """One pretraining: intra-skeleton of one representation, inter-skeleton of several."""

    representations: tuple[str, ...]
    dataset: str
    protocol: str
    augmentations: tuple[str, ...] = ("crop", "pose", "jitter")
    jitter_joints: int = 15
    min_crop_ratio: float = 0.1
    seed: int = 0

    @property
    def contrast(self) -> str:
        return "inter" if len(self.representations) > 1 else "intra"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: a linear probe, fine-tuning, supervised training or retrieval."""

    task: str  # linear, finetune, supervised or retrieval
    representations: tuple[str, ...]
    dataset: str
    protocol: str
    pretrained: tuple[Pretraining, ...] = ()  # several: their features side by side
    label_fraction: float | None = None
    seed: int = 0  # with a label fraction also which clips keep their labels


def names(text: str) -> tuple[str, ...]:
    """``image+seq`` as representations in the program's order."""
    short = text.split("+")
    return tuple(name for name in REPRESENTATIONS if name.removesuffix("-based") in short)


def by_protocol(row: PaperRow) -> Evaluation:
    """Tables 1, 2, 3 and 7: sequence and graph against each other, the sequence encoder downstream."""
    place, _, percent = row.column.partition(" ")
    dataset, protocol = place.split("/")
    supervised = row.method.startswith("supervised only")
    task = {"T1": "linear", "T3": "retrieval"}.get(row.table, "supervised" if supervised else "finetune")
    pretrained = () if supervised else (Pretraining(SEQ_GRAPH, dataset, protocol),)
    fraction = float(percent.rstrip("%")) / 100 if percent else None
    return Evaluation(task, (SEQ,), dataset, protocol, pretrained, fraction)


def transfer(row: PaperRow) -> Evaluation:
    """Table 4."""
    source, target = row.column.split(" -> ")
    pretrained = Pretraining(SEQ_GRAPH, source, "cross_subject")
    return Evaluation("finetune", (SEQ,), *target.split("/"), (pretrained,))


def ablation(pretraining: Pretraining, representations: tuple[str, ...]) -> Evaluation:
    return Evaluation("linear", representations, *ABLATIONS, (pretraining,))


def augmentations(row: PaperRow) -> Evaluation:
    """Table 5."""
    kinds = row.method.removeprefix("augmentations: ").split()
    representation = names(row.column.removeprefix("intra "))
    pretraining = Pretraining(representation, *ABLATIONS, () if kinds == ["none"] else tuple(kinds))
    return ablation(pretraining, representation)


def contrasts(row: PaperRow) -> Evaluation:
    """Table 6."""
    contrast, _, members = row.method.partition(" ")
    representation = names(row.column)
    members = names(members) if contrast == "inter" else representation
    return ablation(Pretraining(members, *ABLATIONS), representation)


def jittered_joints(row: PaperRow) -> Evaluation:
    """Table 8."""
    count = int(row.method.split(": ")[1])
    return ablation(Pretraining((IMAGE,), *ABLATIONS, ("jitter",), jitter_joints=count), (IMAGE,))


def crop_ratio(row: PaperRow) -> Evaluation:
    """Table 9."""
    ratio = float(row.method.split(": ")[1])
    return ablation(Pretraining((IMAGE,), *ABLATIONS, ("crop",), min_crop_ratio=ratio), (IMAGE,))


def combinations(row: PaperRow) -> Evaluation:
    """Table 10."""
    representations = names(row.method.removeprefix("downstream "))
    if row.column == "intra":
        pretrained = tuple(Pretraining((name,), *ABLATIONS) for name in representations)
        return Evaluation("linear", representations, *ABLATIONS, pretrained)
    pair = {(SEQ,): SEQ_GRAPH, (GRAPH,): SEQ_GRAPH, (IMAGE,): (SEQ, IMAGE)}
    pretraining = Pretraining(pair.get(representations, representations), *ABLATIONS)
    return ablation(pretraining, representations)


RULES: dict[str, Callable[[PaperRow], Evaluation]] = {
    "T1": by_protocol, "T2": by_protocol, "T3": by_protocol, "T4": transfer, "T5": augmentations,
    "T6": contrasts, "T7": by_protocol, "T8": jittered_joints, "T9": crop_ratio, "T10": combinations,
}


def evaluations_of(
    row: PaperRow, seeds: Iterable[int], label_seeds: Iterable[int]
) -> list[Evaluation]:
    """The evaluations whose mean is the cell ``row``; none for a method that is not the paper's.

    One for each of ``seeds``; where the labels are a part, one for each of ``seeds`` and
    ``label_seeds``, of which the former is then the pretraining's.
    """
    if not row.is_ours:
        return []
    found: dict[Evaluation, None] = {}
    for seed in seeds:
        one = RULES[row.table](row)
        one = replace(one, pretrained=tuple(replace(p, seed=seed) for p in one.pretrained))
        for own in [seed] if one.label_fraction is None else label_seeds:
            found[replace(one, seed=own)] = None
    return list(found)
