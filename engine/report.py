"""Read and write ``results.json``, and print a summary table:

python -m engine.report runs/demo
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from options.parser import Parser, expanded_path
from utils.errors import UserError, parse_errors, run_script
from utils.files import find_files, write_json

RESULTS = "results.json"
KEY_COLUMNS = ("pretrained", "encoder", "representation", "dataset", "protocol", "seed")
REPOSITORY = Path(__file__).resolve().parents[1]


def current_commit() -> str | None:
    """Return the commit of the code, with ``+`` if files are modified; None outside of git."""
    try:
        run = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_results(folder: Path, task: str, metadata: dict, numbers: dict) -> Path:
    """Write ``results.json`` and return its path.

    Args:
        folder: the folder of the run.
        task: ``retrieval`` or a ``--mode``.
        metadata: encoders, clips and flags.
        numbers: the metrics.
    """
    path = folder / RESULTS
    version = {"commit": current_commit(), "torch": torch.__version__}
    with numbers_in_errors(numbers):
        write_json(path, {"task": task, **metadata, "numbers": numbers, **version})
    return path


@contextmanager
def numbers_in_errors(numbers: dict) -> Iterator[None]:
    """Add ``numbers`` to a ``UserError``, so that they are not lost if the disk is full."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; the results are {json.dumps(numbers)}") from error


def read_result(path: Path) -> dict:
    """Read a ``results.json``; raises ``UserError`` if it is corrupted."""
    with parse_errors(f"{path} cannot be read; remove it or repeat that evaluation"):
        result = json.loads(path.read_text(encoding="utf-8"))
        result["task"], result["numbers"]
    return result


def results_by_folder(root: Path) -> dict[Path, dict]:
    """Read every ``results.json`` below ``root``, sorted by path; those that are corrupted are listed."""
    results, problems = {}, []
    for path in find_files(root, RESULTS):
        try:
            with parse_errors(f"{path} cannot be read"):
                results_rows([result := read_result(path)])
            results[path.parent] = result
        except UserError as error:
            problems.append(f"note: left out: {error}")
    if problems:
        print(*problems, f"note: {len(problems)} {RESULTS} left out", sep="\n", file=sys.stderr)
    return results


def read_results(root: Path) -> list[dict]:
    """Return the values of ``results_by_folder``."""
    return [*results_by_folder(root).values()]


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation; None if there are too few values."""
    return (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def format_accuracy(mean: float | None, std: float | None = None, sign: str = "") -> str:
    """Return ``81.2``, ``81.2 ± 0.5`` or an empty string."""
    if mean is None:
        return ""
    return f"{mean:{sign}.1f}" + (f" ± {std:.1f}" if std is not None else "")


def format_table(rows: list[list[str]]) -> str:
    """Format rows of cells, the first of which is the header, as a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def results_rows(results: list[dict]) -> list[list[str]]:
    """Arrange results in a table: a header, then one row per encoder and seed.

    If two results belong in the same cell, the later one gets its own row.
    """
    rows: list[tuple[tuple, dict[str, str]]] = []
    columns: dict[str, None] = {}
    for result in results:
        key = tuple(str(result[name]) for name in KEY_COLUMNS)
        cells = result_cells(result)
        columns.update(dict.fromkeys(cells))
        for other, filled in rows:
            if other == key and not filled.keys() & cells.keys():
                filled.update(cells)
                break
        else:
            rows.append((key, cells))
    keys = {key for key, _ in rows}
    skip = 1 if len(keys) == len({key[1:] for key in keys}) else 0  # the path, if rows differ without it
    body = [[*key[skip:], *(cells.get(column, "") for column in columns)] for key, cells in rows]
    return [[*KEY_COLUMNS[skip:], *columns], *body]


def results_table(results: list[dict]) -> str:
    """Format ``results_rows`` as a Markdown table."""
    return format_table(results_rows(results))


def result_cells(result: dict) -> dict[str, str]:
    """Return the accuracies of a result by the column that they belong in."""
    numbers = result["numbers"]
    if "fusion" in numbers:
        return {"fusion": f"{numbers['fusion']['top1']:.1f}"}
    if "knn" not in numbers:  # a classifier
        fraction = result.get("flags", {}).get("label_fraction")
        crops = numbers.get("cached_crops")
        task = result["task"] + (f", {100 * fraction:g}% of labels" if fraction else "")
        task += f", {crops} cached crops" if crops else ""
        return {f"{task} {which}": f"{numbers[which]['top1']:.1f}" for which in ("best", "last")}
    retrieval = f"{numbers['neighbours']}-NN retrieval"
    cells = {retrieval: f"{numbers['knn']:.1f}"}
    if "autoencoder_knn" in numbers:
        cells[f"{retrieval}, autoencoder"] = f"{numbers['autoencoder_knn']:.1f}"
    return cells


def main() -> int:
    """Print the table of all results below a folder; returns the exit code."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=expanded_path, help=f"folder with {RESULTS} files below it")
    folder = Path(parser.parse_args().folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; usage: python -m engine.report FOLDER")
    results = read_results(folder)
    if not results:
        raise UserError(f"{folder} has no {RESULTS} below it")
    print("accuracy in percent\n" + results_table(results))
    return 0


if __name__ == "__main__":
    run_script(main)
