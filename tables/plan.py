"""The pretraining runs and evaluations that fill each cell of the paper's tables.

Cells that need the same run have equal specifications. Choices where the paper is ambiguous:

- Table 4 does not state the NTU-60 protocol used for pretraining: cross_subject.
- Tables 8 and 9 vary one augmentation and use no other, as their numbers show: 15 joints and a
  crop of at least 0.1 are rows of Table 5.
- Table 10, single representation, column inter: the pair of Table 6 with the same accuracy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

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
    return tuple(name for name in (SEQ, GRAPH, IMAGE) if name.removesuffix("-based") in short_names)


def by_protocol(row: PaperRow) -> EvaluationSpec:
    """Plan Tables 1 to 4 and 7: contrast of sequence and graph, evaluation of the sequence encoder."""
    source, _, target = row.column.rpartition(" -> ")  # the source is the dataset of pretraining in Table 4
    split, _, percent = target.partition(" ")
    dataset, protocol = split.split("/")
    contrasted = (source, "cross_subject") if source else (dataset, protocol)
    supervised = row.method.startswith("supervised only")
    task = {"T1": "linear", "T3": "retrieval"}.get(row.table, "supervised" if supervised else "finetune")
    pretrained = () if supervised else (PretrainingSpec(SEQ_GRAPH, *contrasted),)
    fraction = float(percent.rstrip("%")) / 100 if percent else None
    return EvaluationSpec(task, (SEQ,), dataset, protocol, pretrained, fraction)


def ablation(row: PaperRow) -> EvaluationSpec:
    """Plan Tables 5, 6, 8, 9 and 10: linear probes on NTU-60 cross-view."""
    method, dataset, evaluated = row.method.split(": ")[-1], ABLATIONS, (IMAGE,)
    if row.table == "T5":  # augmentations: names -> intra
        names = () if method == "none" else tuple(method.split())
        evaluated = parse_short_names(row.column.removeprefix("intra "))
        pretrained = [PretrainingSpec(evaluated, *dataset, names)]
    elif row.table == "T6":  # intra, or inter seq+graph -> representation
        evaluated = parse_short_names(row.column)
        contrasted = parse_short_names(method.removeprefix("inter ")) if "inter" in method else evaluated
        pretrained = [PretrainingSpec(contrasted, *dataset)]
    elif row.table == "T8":  # number of jittered joints
        pretrained = [PretrainingSpec(evaluated, *dataset, ("jitter",), jitter_joints=int(method))]
    elif row.table == "T9":  # shortest crop
        pretrained = [PretrainingSpec(evaluated, *dataset, ("crop",), min_crop_ratio=float(method))]
    else:  # one or several representations under one classifier
        evaluated = parse_short_names(method.removeprefix("downstream "))
        pairs = {(SEQ,): SEQ_GRAPH, (GRAPH,): SEQ_GRAPH, (IMAGE,): (SEQ, IMAGE)}
        intra = row.column == "intra"
        contrasts = [(name,) for name in evaluated] if intra else [pairs.get(evaluated, evaluated)]
        pretrained = [PretrainingSpec(contrasted, *dataset) for contrasted in contrasts]
    return EvaluationSpec("linear", evaluated, *dataset, tuple(pretrained))


def evaluations_of(row: PaperRow, seeds: Iterable[int], label_seeds: Iterable[int]) -> list[EvaluationSpec]:
    """Return those whose mean is ``row``: per seed, with few labels also per label seed; none of others."""
    if not row.is_runnable:
        return []
    spec = by_protocol(row) if row.table in ("T1", "T2", "T3", "T4", "T7") else ablation(row)
    specs: dict[EvaluationSpec, None] = {}  # a supervised baseline is the same for all pretraining seeds
    for seed in seeds:
        pretrained = tuple(replace(p, seed=seed) for p in spec.pretrained)
        for evaluation_seed in [seed] if spec.label_fraction is None else label_seeds:
            specs[replace(spec, pretrained=pretrained, seed=evaluation_seed)] = None
    return list(specs)


def datasets_of(row: PaperRow) -> set[str]:
    """Return the datasets that the cell ``row`` needs."""
    specs = evaluations_of(row, [0], [0])
    return {x.dataset for spec in specs for x in (spec, *spec.pretrained)}
