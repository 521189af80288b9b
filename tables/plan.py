"""The pretraining runs and evaluations that fill each cell of the paper's tables.

``PretrainingSpec`` and ``EvaluationSpec`` are plain values: cells that need the same run have equal
specifications, and it is run once. Choices where the paper is ambiguous:

- Table 4 does not state the NTU-60 protocol used for pretraining: cross_subject.
- Tables 8 and 9 vary one augmentation and use no other, as their numbers show: 15 joints and a
  crop of at least 0.1 are rows of Table 5.
- Table 10, single representation, column inter: the pair of Table 6 with the same accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from models.registry import REPRESENTATIONS

from .paper import PaperRow

SEQ, GRAPH, IMAGE = "seq-based", "graph-based", "image-based"  # the paper's representations
SEQ_GRAPH = (SEQ, GRAPH)
ABLATIONS = ("ntu60", "cross_view")  # dataset and protocol of Tables 5, 6, 8, 9 and 10


@dataclass(frozen=True)
class PretrainingSpec:
    """One pretraining run: intra-skeleton with one representation, inter-skeleton with several."""

    representations: tuple[str, ...]
    dataset: str
    protocol: str
    augmentations: tuple[str, ...] = ("crop", "pose", "jitter")
    jitter_joints: int = 15
    min_crop_ratio: float = 0.1
    seed: int = 0

    @property
    def contrast(self) -> str:
        """``intra`` or ``inter``."""
        return "inter" if len(self.representations) > 1 else "intra"


@dataclass(frozen=True)
class EvaluationSpec:
    """One linear probe, fine-tuning, supervised training or retrieval."""

    task: str  # linear, finetune, supervised or retrieval
    representations: tuple[str, ...]
    dataset: str
    protocol: str
    pretrained: tuple[PretrainingSpec, ...] = ()  # features of several are concatenated
    label_fraction: float | None = None
    seed: int = 0  # with a label fraction, also the seed of the label subset


def parse_short_names(text: str) -> tuple[str, ...]:
    """Parse ``image+seq`` to ``("seq-based", "image-based")``, in registry order."""
    short_names = text.split("+")
    return tuple(name for name in REPRESENTATIONS if name.removesuffix("-based") in short_names)


def by_protocol(row: PaperRow) -> EvaluationSpec:
    """Plan Tables 1, 2, 3 and 7: contrast of sequence and graph, evaluation of the sequence encoder."""
    split, _, percent = row.column.partition(" ")
    dataset, protocol = split.split("/")
    supervised = row.method.startswith("supervised only")
    task = {"T1": "linear", "T3": "retrieval"}.get(row.table, "supervised" if supervised else "finetune")
    pretrained = () if supervised else (PretrainingSpec(SEQ_GRAPH, dataset, protocol),)
    fraction = float(percent.rstrip("%")) / 100 if percent else None
    return EvaluationSpec(task, (SEQ,), dataset, protocol, pretrained, fraction)


def transfer(row: PaperRow) -> EvaluationSpec:
    """Plan Table 4: pretraining on one dataset, fine-tuning on another."""
    source, target = row.column.split(" -> ")
    pretraining = PretrainingSpec(SEQ_GRAPH, source, "cross_subject")
    dataset, protocol = target.split("/")
    return EvaluationSpec("finetune", (SEQ,), dataset, protocol, (pretraining,))


def ablation(pretraining: PretrainingSpec, representations: tuple[str, ...]) -> EvaluationSpec:
    """Return the linear probe of one pretraining run of an ablation."""
    return EvaluationSpec("linear", representations, *ABLATIONS, (pretraining,))


def augmentations(row: PaperRow) -> EvaluationSpec:
    """Plan Table 5: the set of augmentations."""
    names = row.method.removeprefix("augmentations: ").split()
    representation = parse_short_names(row.column.removeprefix("intra "))
    pretraining = PretrainingSpec(representation, *ABLATIONS, () if names == ["none"] else tuple(names))
    return ablation(pretraining, representation)


def contrasts(row: PaperRow) -> EvaluationSpec:
    """Plan Table 6: the contrasted representations."""
    contrast, _, contrasted = row.method.partition(" ")
    evaluated = parse_short_names(row.column)
    representations = parse_short_names(contrasted) if contrast == "inter" else evaluated
    return ablation(PretrainingSpec(representations, *ABLATIONS), evaluated)


def jittered_joints(row: PaperRow) -> EvaluationSpec:
    """Plan Table 8: the number of jittered joints."""
    count = int(row.method.split(": ")[1])
    return ablation(PretrainingSpec((IMAGE,), *ABLATIONS, ("jitter",), jitter_joints=count), (IMAGE,))


def crop_ratio(row: PaperRow) -> EvaluationSpec:
    """Plan Table 9: the shortest temporal crop."""
    ratio = float(row.method.split(": ")[1])
    return ablation(PretrainingSpec((IMAGE,), *ABLATIONS, ("crop",), min_crop_ratio=ratio), (IMAGE,))


def combinations(row: PaperRow) -> EvaluationSpec:
    """Plan Table 10: one or several representations under one classifier."""
    representations = parse_short_names(row.method.removeprefix("downstream "))
    if row.column == "intra":
        pretrained = tuple(PretrainingSpec((name,), *ABLATIONS) for name in representations)
        return EvaluationSpec("linear", representations, *ABLATIONS, pretrained)
    pairs = {SEQ: SEQ_GRAPH, GRAPH: SEQ_GRAPH, IMAGE: (SEQ, IMAGE)}
    contrasted = pairs[representations[0]] if len(representations) == 1 else representations
    return ablation(PretrainingSpec(contrasted, *ABLATIONS), representations)


RULES: dict[str, Callable[[PaperRow], EvaluationSpec]] = {
    "T1": by_protocol,
    "T2": by_protocol,
    "T3": by_protocol,
    "T4": transfer,
    "T5": augmentations,
    "T6": contrasts,
    "T7": by_protocol,
    "T8": jittered_joints,
    "T9": crop_ratio,
    "T10": combinations,
}


def evaluations_of(row: PaperRow, seeds: Iterable[int], label_seeds: Iterable[int]) -> list[EvaluationSpec]:
    """Return the evaluations whose mean is the cell ``row``; none for other papers' methods.

    There is one per seed or, with a fraction of the labels, one per combination of pretraining seed
    and label seed.
    """
    if not row.is_runnable:
        return []
    specs: dict[EvaluationSpec, None] = {}  # a supervised baseline is the same for all pretraining seeds
    for seed in seeds:
        spec = RULES[row.table](row)
        spec = replace(spec, pretrained=tuple(replace(p, seed=seed) for p in spec.pretrained))
        for evaluation_seed in [seed] if spec.label_fraction is None else label_seeds:
            specs[replace(spec, seed=evaluation_seed)] = None
    return list(specs)
