"""The numbers of the paper's ten tables: ``paper.csv``, one line per cell (top-1 accuracy in percent)."""

import csv
from dataclasses import dataclass
from pathlib import Path

TITLES = {
    "T1": "Linear probe, compared with other methods",
    "T2": "Semi-supervised: fine-tuning on a fraction of the labels",
    "T3": "Nearest-neighbor retrieval",
    "T4": "Transfer to PKU-MMD II by fine-tuning",
    "T5": "Augmentations of intra-skeleton pretraining (NTU-60 cross-view, linear probe)",
    "T6": "Intra- and inter-skeleton pretraining (NTU-60 cross-view, linear probe)",
    "T7": "Fine-tuning on all labels",
    "T8": "Number of jittered joints (NTU-60 cross-view, linear probe)",
    "T9": "Shortest temporal crop (NTU-60 cross-view, linear probe)",
    "T10": "Concatenated representations under one classifier (NTU-60 cross-view, linear probe)",
}


@dataclass(frozen=True)
class PaperRow:
    """One cell of one table, for the paper's method or a method that it is compared with."""

    table: str
    method: str
    column: str
    accuracy: float
    std: float | None

    @property
    def is_runnable(self) -> bool:
        """Whether this repository can run the cell: the paper's method or its supervised baseline."""
        return not self.method.endswith("et al.")


def read_paper() -> list[PaperRow]:
    """Read all cells, in the paper's order."""
    rows = []
    with open(Path(__file__).with_name("paper.csv"), newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            accuracy, std = float(row["accuracy_percent"]), float(row["std"]) if row["std"] else None
            rows.append(PaperRow(row["table"], row["method"], row["column"], accuracy, std))
    return rows
