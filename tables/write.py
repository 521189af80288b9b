"""``tables.md`` and ``tables.csv``: each cell as run here, beside the paper's."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from options.files import atomic_write
from engine.report import format_table, read_result
from options.files import write_csv

from .jobs import Place
from .paper import TITLES, PaperRow
from .plan import Evaluation, evaluations_of

COLUMNS = ("method", "column", "ours", "ours, last epoch", "paper", "difference", "seeds", "commit")
CSV_COLUMNS = (
    "table", "method", "column", "ours", "ours_std", "ours_last", "ours_last_std", "paper", "paper_std",
    "difference", "seeds", "commit",
)
NOTES = """\
Top-1 accuracy in percent. "ours" is the best epoch's on the validation clips, as the paper reports
it, beside the last epoch's; retrieval has no epochs. More than one seed: mean ± standard deviation
(of a sample, n - 1). Seeds with a slash are the pretraining's and that of the labels. "difference"
is ours less the paper's. Empty: not run here, or another paper's method.
"""
SMOKE_NOTE = """\
**Scale "smoke": tiny encoders, a few epochs, synthetic data. These numbers show that every row
runs; they say nothing about the method, and their difference from the paper means nothing.**
"""


@dataclass(frozen=True)
class Cell:
    """What was run for one cell: an accuracy for each evaluation whose results are there."""

    row: PaperRow
    best: list[float]
    last: list[float]
    seeds: list[str]
    commits: list[str]


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation, each None where there are too few values."""
    return (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def seeds_text(evaluation: Evaluation) -> str:
    """``3``, or ``0/3`` where pretraining and labels have one each."""
    if evaluation.label_fraction is None or not evaluation.pretrained:
        return str(evaluation.seed)
    return f"{evaluation.pretrained[0].seed}/{evaluation.seed}"


def fill(row: PaperRow, place: Place, seeds: Sequence[int]) -> Cell:
    """The cell of ``row``, out of the results on disk."""
    cell = Cell(row, [], [], [], [])
    for evaluation in evaluations_of(row, seeds, place.scale.label_seeds):
        job = place.evaluation(evaluation)
        if not job.is_done:
            continue
        result = read_result(job.result)
        numbers = result["numbers"]
        if evaluation.task == "retrieval":
            cell.best.append(numbers["knn"])
        else:
            cell.best.append(numbers["best"]["top1"])
            cell.last.append(numbers["last"]["top1"])
        cell.seeds.append(seeds_text(evaluation))
        if (commit := result["commit"] or "unknown") not in cell.commits:
            cell.commits.append(commit)
    return cell


def number(mean: float | None, std: float | None = None, sign: str = "") -> str:
    """``81.2``, ``81.2 ± 0.5``, or nothing."""
    if mean is None:
        return ""
    return f"{mean:{sign}.1f}" + (f" ± {std:.1f}" if std is not None else "")


def markdown_row(cell: Cell) -> list[str]:
    row, (mean, std) = cell.row, mean_and_std(cell.best)
    difference = None if mean is None else mean - row.accuracy
    return [
        row.method, row.column, number(mean, std), number(*mean_and_std(cell.last)),
        number(row.accuracy, row.std), number(difference, sign="+"), " ".join(cell.seeds),
        " ".join(cell.commits),
    ]


def csv_row(cell: Cell) -> list:
    row, best, last = cell.row, mean_and_std(cell.best), mean_and_std(cell.last)
    difference = None if best[0] is None else best[0] - row.accuracy
    values = [*best, *last, row.accuracy, row.std, difference]
    shown = ["" if value is None else f"{value:.4g}" for value in values]
    return [row.table, row.method, row.column, *shown, " ".join(cell.seeds), " ".join(cell.commits)]


def table_text(table: str, cells: Sequence[Cell]) -> str:
    """One table as Markdown."""
    body = [markdown_row(cell) for cell in cells if cell.row.table == table]
    return f"## Table {table[1:]}. {TITLES[table]}\n\n{format_table([list(COLUMNS), *body])}\n"


def write_tables(cells: Sequence[Cell], place: Place) -> Path:
    """Write ``tables.csv`` and ``tables.md``, whose path it returns, into the place's folder."""
    path = place.folder / "tables.md"
    parts = ["# The paper's tables, run here\n", *([SMOKE_NOTE] if place.scale.synthetic else []), NOTES]
    parts += [table_text(table, cells) for table in dict.fromkeys(cell.row.table for cell in cells)]
    atomic_write(path, lambda file: file.write("\n".join(parts).encode()))
    write_csv(path.with_suffix(".csv"), CSV_COLUMNS, [csv_row(cell) for cell in cells])
    return path
