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

from .checkpoint import write_json

RESULTS = "results.json"
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


def read_results(root: Path) -> list[dict]:
    """Every ``results.json`` below ``root``, in order of its path, which is added as ``path``."""
    found = []
    for path in sorted(root.rglob(RESULTS)):
        try:
            found.append({**json.loads(path.read_text(encoding="utf-8")), "path": str(path)})
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); run that evaluation again")
    return found


def format_table(rows: list[list[str]]) -> str:
    """Rows of cells, the first the header, as a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def results_table(results: list[dict]) -> str:
    """One row per encoder, split and seed; linear probe and retrieval side by side."""
    rows: dict[tuple, dict[str, str]] = {}
    for result in results:
        key = tuple(
            str(result[name]) for name in ("encoder", "representation", "dataset", "protocol", "seed")
        )
        cells = rows.setdefault(key, {})
        if result["task"] == "linear":
            for when in ("best", "last"):
                cells[f"linear {when}"] = f"{result['numbers'][when]['top1']:.1f}"
        else:
            cells["retrieval"] = f"{result['numbers']['knn']:.1f}"
    columns = ["linear best", "linear last", "retrieval"]
    header = ["encoder", "representation", "dataset", "protocol", "seed", *columns]
    body = [[*key, *(cells.get(column, "") for column in columns)] for key, cells in rows.items()]
    return format_table([header, *body])


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
