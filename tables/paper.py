"""The paper's ten tables as numbers: ``paper.csv``, one line a cell (top-1 accuracy in percent)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

PAPER_FILE = Path(__file__).with_name("paper.csv")

TITLES = {
    "T1": "Linear probe, beside other methods",
    "T2": "Semi-supervised: fine-tuning on a part of the labels",
    "T3": "Retrieval by the nearest neighbour",
    "T4": "Transfer to PKU-MMD II by fine-tuning",
    "T5": "Augmentations of intra-skeleton pretraining (NTU-60 cross-view, linear probe)",
    "T6": "Intra- and inter-skeleton pretraining (NTU-60 cross-view, linear probe)",
    "T7": "Fine-tuning on all labels",
    "T8": "How many joints are jittered (NTU-60 cross-view, linear probe)",
    "T9": "The shortest crop (NTU-60 cross-view, linear probe)",
    "T10": "Representations side by side under one classifier (NTU-60 cross-view, linear probe)",
}


@dataclass(frozen=True)
class PaperRow:
    """One cell of one table, of the paper's method or of one that it compares with."""

    table: str
    method: str
    column: str
    accuracy: float
    std: float | None

    @property
    def is_ours(self) -> bool:
        """Whether it is of the paper's own method or baseline, which this program can run."""
        return not self.method.endswith("et al.")


def read_paper() -> list[PaperRow]:
    """All cells, in the paper's order."""
    with open(PAPER_FILE, newline="", encoding="utf-8") as file:
        return [
            PaperRow(row["table"], row["method"], row["column"], float(row["accuracy_percent"]),
                     float(row["std"]) if row["std"] else None)
            for row in csv.DictReader(file)
        ]
