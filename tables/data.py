"""The synthetic data sets of the smallest scale, made by the same commands as a user's.

One set of synthetic recordings becomes both NTU stores: none of its actions is beyond NTU-60's, so
at this scale NTU-120 has the same clips.
"""

from __future__ import annotations

from pathlib import Path

from dataset.store_format import INFO_FILE
from options.errors import UserError

from .job import Job, command

RAW_NTU = {"subjects": 8, "actions": [7, 8, 9, 22, 23, 50], "repetitions": 3, "in_turn": True, "difficulty": 0.1}
RAW_PKU = {"subjects": 4, "actions_per_video": 6, "difficulty": 0.1}
MARK = "synthetic.txt"  # in a folder of made-up data


def data_job(dataset: str, root: Path) -> Job:
    """The store of ``dataset`` below ``root``, from recordings that are made up first."""
    store = root / dataset
    if dataset.startswith("ntu"):
        raw = root / "raw_ntu"
        make = command("data_gen/synthetic_gendata.py", {**RAW_NTU, "out_folder": raw})
        prepare = command("data_gen/ntu_gendata.py", {"dataset": dataset, "data_path": raw, "out_folder": store})
    else:
        raw, part = root / f"raw_{dataset}", dataset[-1]
        make = command("data_gen/synthetic_pku_gendata.py", {**RAW_PKU, "part": part, "seed": part, "out_folder": raw})
        paths = {"data_path": raw / "skeletons", "label_path": raw / "labels", "split_path": raw / "splits"}
        prepare = command("data_gen/pku_gendata.py", {"part": part, **paths, "out_folder": store})
    recordings = Job(f"synthetic recordings, {raw.name}", make, raw)
    return Job(f"store of {dataset}", prepare, store / INFO_FILE, (recordings,))


def claim_folder(root: Path) -> None:
    """Mark ``root`` as a folder of made-up data; refused where there are other things already."""
    if (root / MARK).exists():
        return
    if root.exists() and any(root.iterdir()):
        raise UserError(
            f"--data-root {root} holds other data, and synthetic data must not lie among them: leave "
            "the flag out, or name a new folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    (root / MARK).write_text("Synthetic data made by reproduce_tables.py: nothing here was recorded.\n")
