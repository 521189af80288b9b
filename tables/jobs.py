"""Pretrainings and evaluations as jobs: every hyperparameter of each command, and where it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint import checkpoint_name
from engine.report import RESULTS
from options.datasets import DATASETS
from models.representations import join_representations

from .data import data_job
from .job import Job, command, in_order
from .plan import Evaluation, Pretraining
from .scale import Scale

DEFAULTS = Pretraining((), "", "")


def pretraining_name(p: Pretraining) -> str:
    """Data set, contrast, and what is not as usual."""
    parts = [f"{p.dataset}_{p.protocol}", p.contrast, join_representations(p.representations)]
    if p.augmentations != DEFAULTS.augmentations:
        parts.append("-".join(p.augmentations) or "unaugmented")
    if p.jitter_joints != DEFAULTS.jitter_joints:
        parts.append(f"joints{p.jitter_joints}")
    if p.min_crop_ratio != DEFAULTS.min_crop_ratio:
        parts.append(f"crop{p.min_crop_ratio}")
    return "_".join([*parts, f"seed{p.seed}"])


def evaluation_name(e: Evaluation) -> str:
    """Protocol, encoder, and what it was pretrained on."""
    parts = [f"{e.dataset}_{e.protocol}", join_representations(e.representations)]
    if e.label_fraction is not None:
        parts.append(f"labels{e.label_fraction}")
    parts.append(f"seed{e.seed}")
    if e.pretrained:
        parts += ["of", *(pretraining_name(p) for p in e.pretrained)]
    return "_".join(parts)


@dataclass(frozen=True)
class Place:
    """At which scale, on which data and into which folder the jobs run."""

    scale: Scale
    data_root: Path
    folder: Path
    common: tuple[str, ...] = ()  # flags that every command is given at its end

    def data_needed(self, dataset: str) -> tuple[Job, ...]:
        return (data_job(dataset, self.data_root),) if self.scale.synthetic else ()

    def all_data(self) -> list[Job]:
        """The jobs that make data sets: none at the paper's scale."""
        return in_order(job for dataset in DATASETS for job in self.data_needed(dataset))

    def pretraining(self, p: Pretraining) -> Job:
        folder = self.folder / "pretrained" / pretraining_name(p)
        flags = self.scale.pretraining_flags(p.dataset)
        line = command(f"main_moco_{p.contrast}_skeleton.py", {
            "pre_dataset": p.dataset, "protocol": p.protocol, "data_root": self.data_root,
            "skeleton_representation": join_representations(p.representations), **flags,
            "augmentations": p.augmentations, "jitter_joints": p.jitter_joints,
            "min_crop_ratio": p.min_crop_ratio, **self.scale.sizes, "seed": p.seed,
            # Only the first and the last: at the paper's sizes a checkpoint is over 600 MB.
            "save_freq": flags["epochs"], "checkpoint_path": folder, "resume": "auto",
        })
        checkpoint = folder / checkpoint_name(flags["epochs"] - 1)
        return Job(f"pretraining {folder.name}", line + self.common, checkpoint, self.data_needed(p.dataset))

    def evaluation(self, e: Evaluation) -> Job:
        pretrainings = [self.pretraining(p) for p in e.pretrained]
        folder = self.folder / e.task / evaluation_name(e)
        flags = {
            "finetune_dataset": e.dataset, "protocol": e.protocol, "data_root": self.data_root,
            "pretrained": [job.result for job in pretrainings] or None,
            "finetune_skeleton_representation": join_representations(e.representations),
            **({} if pretrainings else self.scale.sizes), "seed": e.seed,
        }
        if e.task == "retrieval":
            line = command("action_retrieval.py", {**flags, "knn_neighbours": 1, "output_dir": folder})
        else:
            labels = {}
            if e.label_fraction is not None:
                labels = {"label_fraction": e.label_fraction, "label_sampling": "balanced", "label_seed": e.seed}
            line = command("action_classification.py", {
                "mode": e.task, **flags, **labels, **self.scale.classifier[e.task], "output_dir": folder,
                "resume": "auto",
            })
        needs = (*self.data_needed(e.dataset), *pretrainings)
        return Job(f"{e.task} {folder.name}", line + self.common, folder / RESULTS, needs)
