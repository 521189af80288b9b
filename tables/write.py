"""``tables.md`` and ``tables.csv``: the result of this repository next to the paper's number, per cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.report import format_accuracy, format_table, mean_and_std, read_result
from utils.files import atomic_write, write_csv

from .jobs import JobBuilder
from .paper import TITLES, PaperRow
from .plan import EvaluationSpec, evaluations_of
from .run import RunSummary, sort_jobs

COLUMNS = ("method", "column", "this repo", "last epoch", "paper", "difference", "seeds", "commit")
CSV_COLUMNS = (
    "table",
    "method",
    "column",
    "accuracy",
    "accuracy_std",
    "accuracy_last",
    "accuracy_last_std",
    "paper",
    "paper_std",
    "difference",
    "seeds",
    "commit",
)
NOTES = """\
Top-1 accuracy in percent. "this repo" is the best epoch on the validation clips, as the paper
reports it, followed by the last epoch; retrieval has no epochs. Several seeds: mean ± sample standard
deviation (n - 1). Seeds with a slash: pretraining/label subset. "difference" is this repo minus the
paper. Empty cells: not run yet, or a method of another paper.
"""
SMOKE_NOTE = """\
**Scale "smoke": tiny encoders, a few epochs, synthetic data. The numbers only show that every row
runs. They and their difference from the paper have no meaning.**
"""


@dataclass(frozen=True)
class Cell:
    """The accuracies of the finished evaluations of one cell, and their seeds and commits."""

    row: PaperRow
    best: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    seeds: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)


def read_cell(row: PaperRow, builder: JobBuilder, seeds: Sequence[int]) -> Cell:
    """Read the results on disk for the cell ``row``."""
    cell = Cell(row)
    for spec in evaluations_of(row, seeds, builder.scale.label_seeds):
        job = builder.evaluation(spec)
        if not job.is_done:
            continue
        result = read_result(job.output)
        numbers = result["numbers"]
        if spec.task == "retrieval":
            cell.best.append(numbers["knn"])
        else:
            cell.best.append(numbers["best"]["top1"])
            cell.last.append(numbers["last"]["top1"])
        cell.seeds.append(format_seeds(spec))
        if (commit := result["commit"] or "unknown") not in cell.commits:
            cell.commits.append(commit)
    return cell


def format_seeds(spec: EvaluationSpec) -> str:
    """Return ``3``, or ``0/3`` if pretraining and label subset have separate seeds."""
    if spec.label_fraction is None or not spec.pretrained:
        return str(spec.seed)
    return f"{spec.pretrained[0].seed}/{spec.seed}"


def markdown_row(cell: Cell) -> list[str]:
    """Return the cell as a row of ``COLUMNS``."""
    row, (mean, std) = cell.row, mean_and_std(cell.best)
    difference = None if mean is None else mean - row.accuracy
    return [
        row.method,
        row.column,
        format_accuracy(mean, std),
        format_accuracy(*mean_and_std(cell.last)),
        format_accuracy(row.accuracy, row.std),
        format_accuracy(difference, sign="+"),
        " ".join(cell.seeds),
        " ".join(cell.commits),
    ]


def csv_row(cell: Cell) -> list[str]:
    """Return the cell as a row of ``CSV_COLUMNS``."""
    row, best, last = cell.row, mean_and_std(cell.best), mean_and_std(cell.last)
    difference = None if best[0] is None else best[0] - row.accuracy
    values = [*best, *last, row.accuracy, row.std, difference]
    shown = ["" if value is None else f"{value:.4g}" for value in values]
    return [row.table, row.method, row.column, *shown, " ".join(cell.seeds), " ".join(cell.commits)]


def table_text(table: str, cells: Sequence[Cell]) -> str:
    """Return one table as Markdown."""
    body = [markdown_row(cell) for cell in cells if cell.row.table == table]
    return f"## Table {table[1:]}. {TITLES[table]}\n\n{format_table([list(COLUMNS), *body])}\n"


def write_tables(cells: Sequence[Cell], builder: JobBuilder) -> Path:
    """Write ``tables.csv`` and ``tables.md`` to the builder's folder; return the path of the latter."""
    path = builder.folder / "tables.md"
    parts = [
        "# Reproduction of the paper's tables\n",
        *([SMOKE_NOTE] if builder.scale.synthetic else []),
        NOTES,
    ]
    parts += [table_text(table, cells) for table in dict.fromkeys(cell.row.table for cell in cells)]
    atomic_write(path, lambda file: file.write("\n".join(parts).encode()))
    write_csv(path.with_suffix(".csv"), CSV_COLUMNS, [csv_row(cell) for cell in cells])
    return path


def progress(rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int]) -> str:
    """Return the number of finished jobs of ``rows``, as text."""
    jobs = builder.evaluations(rows, seeds)
    total, remaining = len(sort_jobs(jobs)), len(sort_jobs(jobs, skip_done=True))
    return f"{total - remaining} of {total} jobs done"


def print_list(rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int]) -> None:
    """Print each table with its number of cells and finished jobs."""
    for table in dict.fromkeys(row.table for row in rows):
        cells = [row for row in rows if row.table == table]
        runnable = sum(row.is_runnable for row in cells)
        print(
            f"{table:4s}{TITLES[table]}: {runnable} cells of the paper's method, "
            f"{len(cells) - runnable} of other methods, {progress(cells, builder, seeds)}"
        )
    print(f"all tables (shared jobs counted once): {progress(rows, builder, seeds)}")


def print_failures(
    rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int], summary: RunSummary
) -> None:
    """Print every failed job, and every cell that is incomplete because of it."""
    for name, reason in summary.failed.items():
        print(f"failed: {name}: {reason}")
    for row in rows:
        if any(job.name in summary.failed for job in builder.evaluations([row], seeds)):
            print(f"not filled: {row.table}, {row.method}, {row.column}")
