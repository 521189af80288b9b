"""``tables.md`` and ``tables.csv``: the result of this repository next to the paper's number, per cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.report import format_accuracy, format_table, mean_and_std, read_result
from utils.files import atomic_write, write_csv

from .jobs import JobBuilder
from .paper import TITLES, PaperRow
from .plan import evaluations_of
from .run import RunSummary, sort_jobs

COLUMNS = ["method", "column", "this repo", "last epoch", "paper", "difference", "seeds", "commit"]
CSV_COLUMNS = ["table", "method", "column", "accuracy", "accuracy_std", "accuracy_last", "accuracy_last_std"]
CSV_COLUMNS += ["paper", "paper_std", "difference", "seeds", "commit"]
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
    last: list[float] = field(default_factory=list)  # none of retrieval
    seeds: list[str] = field(default_factory=list)
    commits: dict[str, None] = field(default_factory=dict)


def read_cell(row: PaperRow, builder: JobBuilder, seeds: Sequence[int]) -> Cell:
    """Read the results on disk for the cell ``row``."""
    cell = Cell(row)
    for spec in evaluations_of(row, seeds, builder.scale.label_seeds):
        if not (job := builder.evaluation(spec)).is_done:
            continue
        numbers = (result := read_result(job.output))["numbers"]
        cell.best.append(numbers["knn"] if spec.task == "retrieval" else numbers["best"]["top1"])
        if spec.task != "retrieval":
            cell.last.append(numbers["last"]["top1"])
        # Pretraining and label subset may have separate seeds.
        separate = spec.pretrained and spec.label_fraction is not None
        cell.seeds.append(f"{spec.pretrained[0].seed}/{spec.seed}" if separate else str(spec.seed))
        cell.commits[result["commit"] or "unknown"] = None
    return cell


def cell_rows(cell: Cell) -> tuple[list[str], list[str]]:
    """Return the cell as rows of ``COLUMNS`` and of ``CSV_COLUMNS``."""
    row, best, last = cell.row, mean_and_std(cell.best), mean_and_std(cell.last)
    paper, difference = (row.accuracy, row.std), None if best[0] is None else best[0] - row.accuracy
    shown = [format_accuracy(*numbers) for numbers in (best, last, paper)]
    shown.append(format_accuracy(difference, sign="+"))
    values = ["" if value is None else f"{value:.4g}" for value in (*best, *last, *paper, difference)]
    name, origin = [row.method, row.column], [" ".join(cell.seeds), " ".join(cell.commits)]
    return [*name, *shown, *origin], [row.table, *name, *values, *origin]


def table_text(table: str, cells: Sequence[Cell]) -> str:
    """Return one table as Markdown."""
    body = [cell_rows(cell)[0] for cell in cells if cell.row.table == table]
    return f"## Table {table[1:]}. {TITLES[table]}\n\n{format_table([COLUMNS, *body])}\n"


def write_tables(cells: Sequence[Cell], builder: JobBuilder) -> Path:
    """Write ``tables.csv`` and ``tables.md`` to the builder's folder; return the path of the latter."""
    path = builder.folder / "tables.md"
    notes = [SMOKE_NOTE, NOTES] if builder.scale.synthetic else [NOTES]
    tables = [table_text(table, cells) for table in dict.fromkeys(cell.row.table for cell in cells)]
    text = "\n".join(["# Reproduction of the paper's tables\n", *notes, *tables])
    atomic_write(path, lambda file: file.write(text.encode()))
    write_csv(path.with_suffix(".csv"), CSV_COLUMNS, [cell_rows(cell)[1] for cell in cells])
    return path


def print_list(rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int]) -> None:
    """Print each table with its number of cells and finished jobs."""
    for table in [*dict.fromkeys(row.table for row in rows), "all"]:
        cells = [row for row in rows if table in (row.table, "all")]
        jobs = builder.evaluations(cells, seeds)
        total, remaining = len(sort_jobs(jobs)), len(sort_jobs(jobs, skip_done=True))
        runnable = sum(row.is_runnable for row in cells)
        title = TITLES.get(table, "tables (shared jobs counted once)")
        title += f": {runnable} cells of the paper's method, {len(cells) - runnable} of other methods"
        print(f"{table:4s}{title}, {total - remaining} of {total} jobs done")


def print_failures(
    rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int], summary: RunSummary
) -> None:
    """Print every failed job, and every cell that is incomplete because of it."""
    for name, reason in summary.failed.items():
        print(f"failed: {name}: {reason}")
    for row in rows:
        if any(job.name in summary.failed for job in builder.evaluations([row], seeds)):
            print(f"not filled: {row.table}, {row.method}, {row.column}")
