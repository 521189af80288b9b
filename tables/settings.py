"""Hyperparameters of the commands: those of the paper, and a smoke test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facts.datasets import DATASETS
from models.registry import complete_sizes
from options.defaults import CLASSIFIER_DEFAULTS


@dataclass(frozen=True)
class Scale:
    """The hyperparameters of all commands, keyed by flag name."""

    pretraining: Mapping[str, Any]  # None: depends on the dataset, see pretraining_flags
    classifier: Mapping[str, Mapping[str, Any]]  # mode -> flags
    sizes: Mapping[str, Any]
    label_seeds: tuple[int, ...]  # seeds of the label subsets of Table 2
    synthetic: bool  # whether missing datasets are generated

    def pretraining_flags(self, dataset: str) -> dict[str, Any]:
        """Return all pretraining flags; None is replaced with the paper's value for ``dataset``."""
        info = DATASETS[dataset]
        defaults = {"epochs": info.epochs, "schedule": info.schedule, "moco_k": info.moco_k}
        return {name: defaults[name] if value is None else value for name, value in self.pretraining.items()}


PAPER = Scale(  # sections 3.4, 4.2 and 4.3, and the scripts of the official code
    pretraining={
        "epochs": None,
        "schedule": None,
        "batch_size": 64,
        "lr": 0.01,
        "momentum": 0.9,
        "wd": 1e-4,
        "mlp": True,
        "moco_dim": 128,
        "moco_k": None,
        "moco_m": 0.999,
        "moco_t": 0.07,
        "min_crop_frames": 64,
        "jitter_zero_prob": 0.5,
    },
    classifier={
        mode: {**flags, "batch_size": 64, "momentum": 0.9 if flags["optimizer"] == "sgd" else None, "wd": 0.0}
        for mode, flags in CLASSIFIER_DEFAULTS.items()
    },
    sizes=complete_sizes({}),
    label_seeds=(0, 1, 2, 3, 4),
    synthetic=False,
)

SMOKE_TRAINING = {"epochs": 4, "schedule": (3,), "batch_size": 16}
SMOKE = Scale(  # every command in seconds on a CPU
    pretraining={**PAPER.pretraining, "epochs": 1, "schedule": (), "batch_size": 16, "moco_k": 64},
    classifier={  # learning rates high enough to change the weights in a few steps
        mode: {**flags, **SMOKE_TRAINING, "lr": 0.1 if mode == "linear" else 0.01}
        for mode, flags in PAPER.classifier.items()
    },
    sizes={
        **PAPER.sizes,
        "num_frames": 16,
        "gru_hidden_size": 16,
        "gru_num_layers": 1,
        "graph_width": 4,
        "graph_num_blocks": 2,
        "image_width": 16,
    },
    label_seeds=(0, 1),
    synthetic=True,
)

SCALES = {"paper": PAPER, "smoke": SMOKE}
