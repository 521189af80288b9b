"""Read and write ``results.json``, and print tables of them:

    python -m engine.report runs/demo
    python -m engine.report runs/demo runs/demo_seed1 runs/demo_seed2 --over seed --sort "1-NN retrieval"
    python -m engine.report runs/sbu --over seed protocol --format latex
    python -m engine.report --compare runs/a/linear_results runs/b/linear_results

With --over or --sort the best accuracy of each dataset and protocol is marked.
"""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from options.parser import Parser, expanded_path
from utils.errors import UserError, parse_errors, run_script
from utils.files import find_files, write_json

RESULTS, CONFIG_FILE = "results.json", "config.json"
FORMATS = ("text", "markdown", "csv", "latex")
MARKS = {"text": "{} *", "markdown": "**{}**", "latex": r"\textbf{{{}}}"}  # of the best
# Flags of an evaluation that do not change what is evaluated.
FREE_FLAGS = {
    "output_dir",
    "overwrite",
    "resume",
    "workers",
    "gpu",
    "data_device",
    "feature_memory",
    "tf32",
    "print_freq",
    "pretrain_skeleton_representation",  # official checkpoints do not store it
    "save_scores",
    "save_features",
    "gallery",
    "gallery_queries",
    "tsne",
    "tsne_classes",
    "format",
    "dpi",
    "width",
}
# Flags whose values are in KEY_COLUMNS or may differ between seeds and protocols.
KEY_FLAGS = {"pretrained", "data_root", "label_seed", "finetune_skeleton_representation"}
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
    """Write ``results.json`` and return its path: ``metadata`` (encoders, clips, flags) and the metrics."""
    path = folder / RESULTS
    origin = {"commit": current_commit(), "torch": version("torch")}
    with numbers_in_errors(numbers):
        write_json(path, {"task": task, **metadata, "numbers": numbers, **origin})
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
    std = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values) if values else None, std


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


def result_cells(result: dict) -> dict[str, float]:
    """Return the accuracies of a result by the column that they belong in."""
    numbers = result["numbers"]
    if "fusion" in numbers:
        return {"fusion": numbers["fusion"]["top1"]}
    if "knn" not in numbers:  # a classifier
        fraction = result.get("flags", {}).get("label_fraction")
        crops = numbers.get("cached_crops")
        task = result["task"] + (f", {100 * fraction:g}% of labels" if fraction else "")
        task += f", {crops} cached crops" if crops else ""
        return {f"{task} {which}": numbers[which]["top1"] for which in ("best", "last")}
    retrieval = f"{numbers['neighbours']}-NN retrieval"
    columns = {"knn": retrieval, "autoencoder_knn": f"{retrieval}, autoencoder"}
    return {column: numbers[name] for name, column in columns.items() if name in numbers}


@dataclass
class Row:
    """A row of a table of results: what was evaluated, and per column one accuracy per result."""

    key: tuple[str, ...]  # of KEY_COLUMNS
    values: dict[str, list[float]] = field(default_factory=dict)


def arrange(results: Sequence[dict], over: Sequence[str] = ()) -> list[Row]:
    """Arrange results in rows; those that differ only in the columns ``over`` share their cells.

    Results that differ in other flags, and repeated results, get rows of their own.
    """
    rows: dict[tuple, Row] = {}
    variants: dict[tuple, list] = {}  # of the results that belong in the same cells
    repetitions: Counter = Counter()
    omitted = {*FREE_FLAGS, *KEY_FLAGS, *over}
    for result in results:
        key, cells = row_key(result, over), result_cells(result)
        given = result.get("flags", {}) if over else {}
        flags = {name: str(value) for name, value in given.items() if name not in omitted}
        identity = (key, *cells, *sorted(flags.items()), *(str(result[name]) for name in over))
        repetitions[identity] += 1
        variant = (flags, repetitions[identity])
        known = variants.setdefault((key, *cells), [])
        if variant not in known:
            known.append(variant)
        row = rows.setdefault((key, known.index(variant)), Row(key))
        for column, value in cells.items():
            row.values.setdefault(column, []).append(value)
    return list(rows.values())


def row_key(result: dict, over: Sequence[str]) -> tuple[str, ...]:
    """Return the cells of ``KEY_COLUMNS``, without those in ``over`` and their traces.

    A path may contain seed or protocol; with ``--steps`` the number of epochs depends on the protocol.
    """
    key = {name: str(result[name]) for name in KEY_COLUMNS}
    for name in over:
        trace = r"[-_]?seed[-_=]?\d+" if name == "seed" else re.escape(key[name])
        key["pretrained"] = re.sub(trace, "", key["pretrained"])
        if name != "seed":
            key["pretrained"] = re.sub(r"checkpoint_\d+", "checkpoint", key["pretrained"])
            key["encoder"] = re.sub(r", \d+ epochs( and \d+ steps)?", "", key["encoder"])
    return tuple("" if name in over else value for name, value in key.items())


def table_cells(
    rows: Sequence[Row], over: Sequence[str] = (), style: str = "markdown", mark: bool = False
) -> list[list[str]]:
    """Return the header and the cells of a table; with ``mark``, the best of each dataset and protocol."""
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    keys = {row.key for row in rows}
    # The path is shown if rows differ in nothing else.
    first = 1 if len(keys) == len({key[1:] for key in keys}) else 0
    shown = [i for i, name in enumerate(KEY_COLUMNS) if i >= first and name not in over]
    best: dict[tuple, float] = {}
    for row in rows:
        for column, values in row.values.items():
            group = (column, row.key[3:5])
            best[group] = max(best.get(group, 0.0), statistics.fmean(values))
    titles = [KEY_COLUMNS[i] for i in shown]
    for column in columns:
        titles += [column, f"{column} std"] if over and style == "csv" else [column]
    table = [[*titles, *(["results"] if over else [])]]
    for row in rows:
        cells = [row.key[i] for i in shown]
        for column in columns:
            mean, std = mean_and_std(row.values.get(column, []))
            text = format_accuracy(mean, std)
            if style == "csv":
                cells += ["" if x is None else f"{x:.4g}" for x in ((mean, std) if over else (mean,))]
            elif mark and text and mean == best[column, row.key[3:5]]:
                cells.append(MARKS[style].format(text))
            else:
                cells.append(text)
        counts = sorted({len(values) for values in row.values.values()})
        table.append([*cells, *(["-".join(map(str, counts))] if over else [])])
    return table


def results_rows(results: list[dict]) -> list[list[str]]:
    """Arrange results in a table: a header, then one row per encoder and seed; see ``arrange``."""
    return table_cells(arrange(results))


def results_table(results: list[dict]) -> str:
    """Format ``results_rows`` as a Markdown table."""
    return format_table(results_rows(results))


def format_as(style: str, table: list[list[str]]) -> str:
    """Format the cells of a table as one of ``FORMATS``; rows may have different lengths as text."""
    if style == "markdown":
        return format_table(table)
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table)
        return text.getvalue().rstrip("\n")
    if style == "latex":
        escaped = [
            [re.sub(r"([&%#_])", r"\\\1", cell).replace("±", r"$\pm$") for cell in row] for row in table
        ]
        header, *body = (" & ".join(row) + r" \\" for row in escaped)
        lines = [rf"\begin{{tabular}}{{{'l' * len(table[0])}}}", r"\toprule", header, r"\midrule"]
        return "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}"])
    widths = [max(map(len, column)) for column in zip_longest(*table, fillvalue="")]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def sort_rows(rows: list[Row], column: str) -> list[Row]:
    """Sort by a column: names in alphabetical order, accuracies from the best to the worst."""
    if column in KEY_COLUMNS:
        return sorted(rows, key=lambda row: row.key[KEY_COLUMNS.index(column)])
    known = list(dict.fromkeys(name for row in rows for name in row.values))
    if column not in known:
        raise UserError(f"--sort: there is no column '{column}', but {', '.join([*KEY_COLUMNS, *known])}")
    return sorted(rows, key=lambda row: -statistics.fmean(row.values.get(column, [-1.0])))


def flat(content: Any, name: str = "") -> dict[str, str]:
    """Return the values of nested dictionaries by their names joined by dots."""
    if not isinstance(content, dict):
        text = str(content)
        return {name: text if len(text) <= 60 else f"{text[:57]}..."}
    parts = (flat(value, f"{name}.{key}".lstrip(".")) for key, value in content.items())
    return {key: value for part in parts for key, value in part.items()}


def read_run(path: Path) -> dict:
    """Return the results in ``path`` or, of a pretraining, its flags."""
    if path.is_dir() and not (path / RESULTS).exists():
        with parse_errors(f"{path} contains no {RESULTS} and no {CONFIG_FILE} that can be read"):
            return {"flags": json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))}
    return read_result(path / RESULTS if path.is_dir() else path)


def compare(first: Path, second: Path) -> list[list[str]]:
    """Return the flags and results in which two runs differ as a table."""
    a, b = flat(read_run(first)), flat(read_run(second))
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return [["", str(first), str(second)], *([name, a.get(name, ""), b.get(name, "")] for name in names)]


def main() -> int:
    """Print the table of all results below folders; returns the exit code."""
    parser = Parser(__doc__)
    parser.add_argument("folders", type=expanded_path, nargs="*", metavar="DIR", help="folders with results")
    text = "mean and sample standard deviation over a column, such as seed, or 'seed protocol' for folds"
    choices = KEY_COLUMNS[1:]
    parser.add_argument("--over", choices=choices, nargs="+", default=[], metavar="COLUMN", help=text)
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="(default: markdown)")
    parser.add_argument("--sort", metavar="COLUMN", help="sort by a column, accuracies from the best")
    text = "list the flags and results in which two runs differ, folders or results.json files"
    parser.add_argument("--compare", type=expanded_path, nargs=2, metavar=("A", "B"), help=text)
    args = parser.parse_args()
    if args.compare:
        print(format_as(args.format, compare(*map(Path, args.compare))))
        return 0
    for folder in args.folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is not a folder; usage: python -m engine.report FOLDER")
    results = [result for folder in args.folders for result in read_results(Path(folder))]
    if not results:
        raise UserError(f"{' '.join(args.folders) or 'no folder'} has no {RESULTS} below it")
    rows = arrange(results, args.over)
    if args.sort:
        rows = sort_rows(rows, args.sort)
    mark = bool(args.over or args.sort)
    heading = "accuracy in percent\n" if args.format in ("text", "markdown") else ""
    print(heading + format_as(args.format, table_cells(rows, args.over, args.format, mark)))
    return 0


if __name__ == "__main__":
    run_script(main)
