"""``results.json`` of an evaluation, and one table of many of them.

    python -m engine.report runs/demo
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from options.errors import UserError, run_script

from options.files import atomic_write, write_json

RESULTS = "results.json"
KEY_COLUMNS = ("pretrained", "encoder", "representation", "dataset", "protocol", "seed")
REPOSITORY = Path(__file__).resolve().parents[1]


def current_commit() -> str | None:
    """The commit this program runs from, ``+`` where the tree differs; None outside git."""
    try:
        run = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_results(folder: Path, task: str, what: dict, numbers: dict) -> Path:
    """Write ``results.json``: what was run, on what, the numbers, the commit."""
    path = folder / RESULTS
    content = {
        "task": task, **what, "numbers": numbers,
        "commit": current_commit(), "torch": torch.__version__,
    }
    write_json(path, content)
    return path


def read_result(path: Path) -> dict:
    """One ``results.json``."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["task"], result["numbers"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it or run that evaluation again")
    return result


def read_results(root: Path) -> list[dict]:
    """Every ``results.json`` below ``root``, in order of its path."""
    return [read_result(path) for path in sorted(root.rglob(RESULTS))]


def format_table(rows: list[list[str]]) -> str:
    """Rows of cells, the first the header, as a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def results_rows(results: list[dict]) -> list[list[str]]:
    """All evaluations of the same encoder side by side, one row per encoder and seed, below a header.

    Where two results would fill the same cell, the later gets a row of its own: none is left out.
    """
    rows: list[tuple[tuple, dict[str, str]]] = []
    columns: dict[str, None] = {}
    for result in results:
        key = tuple(str(result[name]) for name in KEY_COLUMNS)
        cells = result_cells(result)
        columns.update(dict.fromkeys(cells))
        for other, there in rows:
            if other == key and not there.keys() & cells.keys():
                there.update(cells)
                break
        else:
            rows.append((key, cells))
    # The checkpoint's path is shown only where rows would otherwise look alike.
    shown = [key[1:] for key, _ in rows]
    skip = 1 if len({(key[0], *key[1:]) for key, _ in rows}) == len(set(shown)) else 0
    body = [[*key[skip:], *(cells.get(column, "") for column in columns)] for key, cells in rows]
    return [[*KEY_COLUMNS[skip:], *columns], *body]


def results_table(results: list[dict]) -> str:
    """``results_rows`` as a Markdown table."""
    return format_table(results_rows(results))


def result_cells(result: dict) -> dict[str, str]:
    """Column -> accuracy of one result."""
    numbers = result["numbers"]
    if "knn" not in numbers:  # a classifier
        fraction = result.get("flags", {}).get("label_fraction")
        crops = numbers.get("cached_crops")
        task = result["task"] + (f", {100 * fraction:g}% of labels" if fraction else "")
        task += f", {crops} cached crops" if crops else ""
        return {f"{task} {when}": f"{numbers[when]['top1']:.1f}" for when in ("best", "last")}
    cells = {f"{numbers['neighbours']}-NN retrieval": f"{numbers['knn']:.1f}"}
    if "autoencoder_knn" in numbers:
        cells["on autoencoder"] = f"{numbers['autoencoder_knn']:.1f}"
    return cells


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise UserError(f"usage: python -m engine.report FOLDER, a folder with {RESULTS} files below")
    results = read_results(Path(sys.argv[1]))
    if not results:
        raise UserError(f"{sys.argv[1]} has no {RESULTS} below it")
    print("accuracy in percent\n" + results_table(results))
    return 0


if __name__ == "__main__":
    run_script(main)
