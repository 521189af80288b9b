"""Speed of nearest-neighbor retrieval, compared with the brute-force search of scikit-learn.

    python benchmarks/retrieval.py [--device cuda] [--gallery 16384 --queries 4096]
    python benchmarks/retrieval.py --gallery 63026 --queries 50919 --repeats 1 --no-reference
    python benchmarks/retrieval.py --gallery 1000000 --queries 4096 --features 512 --repeats 1 \\
        --no-reference --in-file float16

All programs start from the same random features in memory, scattered around one direction per class,
and end with the accuracy of the neighbors' vote. scikit-learn runs on the CPU with cosine distances,
and with Euclidean distances of normalized features, which give the same order and have a specialized
kernel; the ratio is to the faster one. Each repeat times all programs in turn. Medians are reported:
wall time, from which the ratio is computed, and CPU time of all threads, which is less sensitive to
other jobs. The second command has the size of NTU-120 cross-subject and measures time and memory of
this repository only; the third a million training clips, whose features are in a file.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import time_in_turn
from engine.features import FeatureStorage
from engine.report import format_table
from engine.retrieve import knn_accuracy
from options.parser import POSITIVE_INT, Parser
from utils.errors import UserError, run_script

NUM_CLASSES = 120
THIS_REPO = "this repo"

Split = tuple[Tensor, Tensor]  # features (N, D), labels (N,)
Splits = tuple[Split, Split]  # training and validation clips
Program = Callable[[Split, Split, int], float]  # training and validation clips, k -> accuracy in percent


def random_split(count: int, num_features: int, seed: int, storage: FeatureStorage) -> Split:
    """Return random features and labels, made in blocks so that retrieval determines the peak memory."""
    source = torch.Generator().manual_seed(seed)
    centers = torch.randn(NUM_CLASSES, num_features, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=source)
    features = storage.empty(count, num_features, torch.device("cpu"))
    for rows, classes in zip(features.split(1024), labels.split(1024), strict=True):
        rows.copy_(torch.randn(rows.shape, generator=source).add_(centers[classes], alpha=0.15))
    return features, labels


def accuracy_of_this_repo(train: Split, val: Split, k: int) -> float:
    """Return the percentage of queries whose neighbors vote for the correct class."""
    return knn_accuracy(*val, *train, k, NUM_CLASSES)


def cosine_accuracy(train: Split, val: Split, k: int) -> float:
    """Return the accuracy of scikit-learn with cosine distances."""
    (gallery, labels), (queries, expected) = (tuple(x.numpy() for x in split) for split in (train, val))
    classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    return 100.0 * np.mean(classifier.fit(gallery, labels).predict(queries) == expected)


def euclidean_accuracy(train: Split, val: Split, k: int) -> float:
    """Return the accuracy with Euclidean distances: ``|a - b|^2 = 2 - 2 a.b`` for unit vectors."""
    gallery, queries = (F.normalize(features, dim=1).numpy() for features, _ in (train, val))
    classifier = KNeighborsClassifier(k, metric="euclidean", algorithm="brute")
    classifier.fit(gallery, train[1].numpy())
    return 100.0 * np.mean(classifier.predict(queries) == val[1].numpy())


def rows_of(k: int, programs: dict[str, tuple[Program, Splits]], repeats: int) -> list[list[str]]:
    """Time the programs in turn; return a row for each. Raises ``UserError`` if accuracies differ."""
    calls = {name: partial(program, *splits, k) for name, (program, splits) in programs.items()}
    medians = time_in_turn(calls, repeats)
    accuracies = {name: accuracy for name, (_, _, accuracy) in medians.items()}
    if max(accuracies.values()) - min(accuracies.values()) > 0.1:  # neighbors at equal distance may swap
        raise UserError(f"the programs have different accuracies: {accuracies}")
    fastest = min((values[0] for name, values in medians.items() if name != THIS_REPO), default=0.0)
    return [
        [str(k), name, f"{seconds:.2f}", f"{cpu:.2f}", f"{accuracy:.2f}%", f"{fastest / seconds:.2f}"]
        for name, (seconds, cpu, accuracy) in medians.items()
    ]


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--gallery", type=POSITIVE_INT, default=16384, metavar="N", help="training clips")
    parser.add_argument("--queries", type=POSITIVE_INT, default=4096, metavar="N", help="validation clips")
    parser.add_argument("--features", type=POSITIVE_INT, default=2048, metavar="D", help="per clip")
    parser.add_argument("--neighbors", type=POSITIVE_INT, nargs="+", default=[1, 5], metavar="K")
    parser.add_argument("--in-file", choices=["float32", "float16"], help="keep features in temporary files")
    parser.add_argument("--repeats", type=POSITIVE_INT, default=5, metavar="N")
    parser.add_argument("--no-reference", action="store_true", help="do not run scikit-learn")
    args = parser.parse_args()
    storage = FeatureStorage()
    if args.in_file:
        storage = FeatureStorage(getattr(torch, args.in_file), 0.0, Path(tempfile.gettempdir()))
    sizes = (args.gallery, args.queries)
    splits = tuple(random_split(n, args.features, seed, storage) for seed, n in enumerate(sizes, start=1))
    on_device = tuple(tuple(x.to(args.device) for x in split) for split in splits)
    queries, labels = on_device[1]
    accuracy_of_this_repo(on_device[0], (queries[:64], labels[:64]), 2)  # warm-up
    print(
        f"{args.gallery:,} training and {args.queries:,} validation clips with {args.features} features; "
        f"this repo on {args.device}, {torch.get_num_threads()} CPU threads, medians of {args.repeats}\n"
    )
    rows = [["neighbors", "program", "seconds", "CPU seconds", "accuracy", "ratio to the faster reference"]]
    programs = {THIS_REPO: (accuracy_of_this_repo, on_device)}
    if not args.no_reference:
        programs["scikit-learn, cosine"] = cosine_accuracy, splits
        programs["scikit-learn, Euclidean"] = euclidean_accuracy, splits
    for k in args.neighbors:
        rows += rows_of(k, programs, args.repeats)
    print(format_table(rows))
    flops = 2 * args.gallery * args.queries * args.features
    print(f"\none pass over the data: {flops / 1e12:.2f} x 10^12 floating-point operations")
    if args.device == "cuda":
        print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    elif args.no_reference:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        features = sum(split[0].nbytes for split in splits) / 1e9
        where = "in files, whose pages the system can reclaim" if args.in_file else "the features"
        print(f"peak memory {peak:.2f} GB, of which {features:.2f} GB are {where}")


if __name__ == "__main__":
    run_script(main)
