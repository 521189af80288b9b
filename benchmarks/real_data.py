"""What each pretraining gives on a small set of real recordings, at small sizes, on a CPU.

    python benchmarks/real_data.py --raw FOLDER [--epochs 60] [--seed 0] [--runs FOLDER]

``FOLDER`` holds .skeleton files in NTU's format (UTD-MHAD or MSR-Action3D converted to it, say). The
untrained encoders, the three intra-skeleton and the four inter-skeleton pretrainings are measured by
retrieval and by the linear probe on cross_subject, with the demo's settings and sizes; the table is
printed and written as Markdown.
What was run before is not run again: give another --runs for other raw files or to begin anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # layers this small gain nothing from more

from engine.report import RESULTS, format_table
from models.representations import REPRESENTATIONS, SEPARATOR

SIZES = "--num-frames 16 --gru-hidden-size 64 --gru-num-layers 2 --graph-width 8 --graph-num-blocks 2 --image-width 16"
CONTRAST = (
    "--augmentations crop pose --min-crop-ratio 0.5 --min-crop-frames 24 --moco-k 256 --moco-m 0.99 "
    "--moco-t 0.2 --batch-size 16 --lr 0.05 --cos"
)
PROBE = "--epochs 40 --schedule 25 35"
PAIRS = [
    SEPARATOR.join(pair)
    for pair in (REPRESENTATIONS[:2], REPRESENTATIONS[::2], REPRESENTATIONS[1:], REPRESENTATIONS)
]


def run(*command: str) -> None:
    print("+ python", " ".join(command), flush=True)
    subprocess.run([sys.executable, *command], check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def evaluate(folder: Path, data: list[str], pretrained: str, representation: str, *sizes: str) -> list[str]:
    """Cells of one row: retrieval, linear probe (best, last)."""
    common = ["--pretrained", pretrained, "--finetune-skeleton-representation", representation, *data, *sizes]
    for script, task, extra in (("action_retrieval.py", "retrieval", []),
                                ("action_classification.py", "linear", PROBE.split())):
        output = folder / f"{task}_{representation}"
        if not (output / RESULTS).is_file():
            run(script, *common, *extra, "--output-dir", str(output))
    retrieval, linear = (
        json.loads((folder / f"{task}_{representation}" / RESULTS).read_text())["numbers"]
        for task in ("retrieval", "linear")
    )
    return [f"{x:.1f}" for x in (retrieval["knn"], linear["best"]["top1"], linear["last"]["top1"])]


def pretrain(folder: Path, data: list[str], contrast: str, names: str, epochs: int) -> Path:
    """The last checkpoint of one pretraining, run or resumed where it is not there yet."""
    checkpoint = folder / f"checkpoint_{epochs - 1:04d}.pth.tar"
    if not checkpoint.is_file():
        resume = ["--resume", "auto"] if list(folder.glob("*.tar")) else []
        run(f"main_moco_{contrast}_skeleton.py", "--pre-dataset", "ntu60", *data, "--skeleton-representation",
            names, "--checkpoint-path", str(folder), "--epochs", str(epochs), *CONTRAST.split(), *SIZES.split(), *resume)
    return checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--runs", type=Path, help="default: runs/real_data_seedS_Eepochs")
    args = parser.parse_args()
    name = f"real_data_seed{args.seed}_{args.epochs}epochs"
    runs = (args.runs or REPOSITORY / "runs" / name).resolve()
    if not (runs / "data" / "ntu60").is_dir():
        run("data_gen/ntu_gendata.py", "--data_path", str(args.raw.resolve()), "--out_folder", str(runs / "data" / "ntu60"))
    data = ["--data-root", str(runs / "data"), "--protocol", "cross_subject", "--seed", args.seed]
    rows = [["pretraining", "encoder", "retrieval", "linear best", "linear last"]]
    for name in ("coordinates", *REPRESENTATIONS):
        pretrained, representation = ("coordinates", "seq-based") if name == "coordinates" else ("random", name)
        sizes = [] if name == "coordinates" else SIZES.split()
        cells = evaluate(runs / pretrained, data, pretrained, representation, *sizes)
        rows.append(["none" if name == "coordinates" else "untrained", name, *cells])
    for contrast, choices in (("intra", REPRESENTATIONS), ("inter", PAIRS)):
        for names in choices:
            folder = runs / f"{contrast}_{names}"
            checkpoint = pretrain(folder, data, contrast, names, args.epochs)
            for representation in names.split(SEPARATOR):
                cells = evaluate(folder, data, str(checkpoint), representation)
                rows.append([f"{contrast} {names}", representation, *cells])
    table = format_table(rows)
    (runs / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
