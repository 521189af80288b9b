"""Collect the results of real_data.py and write their tables into a page.

    python benchmarks/results.py --add NW-UCLA=RUNS            # add results of a dataset, update the page
    python benchmarks/results.py                               # only update the page

real_data.py writes results.csv to each of its folders RUNS, a row per encoder, seed and protocol. --add
merges its rows into --table; they replace those of the same run. The page has a table between each pair of
lines "<!-- results: PART, PART -->" and "<!-- end -->": mean and sample standard deviation over seeds and
protocols (folds). Parts are those of real_data.py.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from engine.report import format_accuracy, format_table, mean_and_std
from options.parser import Parser
from utils.errors import UserError, parse_errors, run_script
from utils.files import atomic_write

RUN_RESULTS = "results.csv"
GROUP = ("data", "part", "pretraining", "flags", "encoder", "steps")  # runs with equal cells are summarized
RUN = ("protocol", "seed")
METRICS = ("1-NN", "linear best", "linear last")
COLUMNS = (*GROUP, *RUN, "training clips", "validation clips", "minutes", *METRICS)
SECTION = re.compile(r"(<!-- results: (.+?) -->\n).*?(?=<!-- end -->)", re.DOTALL)

Row = Mapping[str, str]


def read_results(path: Path) -> list[Row]:
    """Read a table of results; raises ``UserError`` if it is not one."""
    with parse_errors(f"{path} is not a table of results"):
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [{name: row[name] for name in COLUMNS} for row in rows]


def write_results(path: Path, rows: Iterable[Row]) -> None:
    """Write a table of results, sorted by the data."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["data"]))
    atomic_write(path, lambda file: file.write(text.getvalue().encode()))


def merge(*tables: Iterable[Row]) -> list[Row]:
    """Return the rows of all tables; those of a later table replace those of the same run."""
    return [*{tuple(row[name] for name in (*GROUP, *RUN)): row for rows in tables for row in rows}.values()]


def summarize(rows: Iterable[Row]) -> list[list[str]]:
    """Return a table, header first, with a row per group and the number of its runs."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
    table = [[*GROUP, "runs", "minutes", *METRICS]]
    for group, runs in groups.items():
        minutes = [float(row["minutes"]) for row in runs if row["minutes"]]
        longest = f"{max(minutes):.1f}" if minutes else ""
        values = [[float(row[metric]) for row in runs if row[metric]] for metric in METRICS]
        cells = [format_accuracy(*mean_and_std(x)) if x else "" for x in values]
        table.append([*group, str(len(runs)), longest, *cells])
    return table


def with_tables(page: str, rows: Sequence[Row]) -> str:
    """Return the text of a page with new tables in its sections, without the column of the part."""

    def section(match: re.Match) -> str:
        parts = match[2].split(", ")
        chosen = [row for row in rows if row["part"] in parts]
        if not chosen:
            raise UserError(f"there are no results of {match[2]}")
        table = [[row[0], *(cell.replace("_and_", " + ") for cell in row[2:])] for row in summarize(chosen)]
        return f"{match[1]}\n{format_table(table)}\n\n"

    return SECTION.sub(section, page)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--add", nargs="+", default=[], metavar="NAME=RUNS", help="name and folder of runs")
    text = "(default: benchmarks/results.csv)"
    parser.add_argument("--table", type=Path, default=REPOSITORY / "benchmarks/results.csv", help=text)
    text = "(default: docs/results.md)"
    parser.add_argument("--page", type=Path, default=REPOSITORY / "docs/results.md", help=text)
    args = parser.parse_args()
    rows = read_results(args.table) if args.table.exists() else []
    for given in args.add:
        name, separator, folder = given.partition("=")
        if not separator:
            raise UserError(f"--add {given}: give the name of the dataset and a folder, NAME=RUNS")
        added = [{**row, "data": name} for row in read_results(Path(folder) / RUN_RESULTS)]
        rows = merge(rows, added)
        print(f"{name}: {len(added)} results from {folder}")
    write_results(args.table, rows)
    with parse_errors(f"{args.page} cannot be read"):
        page = with_tables(args.page.read_text(encoding="utf-8"), rows)
    atomic_write(args.page, lambda file: file.write(page.encode()))
    print(f"written: {args.table}, {args.page}")


if __name__ == "__main__":
    run_script(main)
