"""How fast nearest neighbours are found, beside scikit-learn's brute force.

    python benchmarks/retrieval.py [--device cuda] [--gallery 16384 --queries 4096]
    python benchmarks/retrieval.py --gallery 63026 --queries 50919 --repeats 1 --ours-only

Both start from the same random features in memory, around one direction per class, and end with
the accuracy of the neighbours' vote. scikit-learn runs on the CPU, twice: with cosine distances,
and with euclidean distances of normalised features, which order neighbours alike and for which it has
a kernel of its own; the faster one counts. Each repeat times all of them, one after the other;
medians count, of wall time for the ratio and of all threads' CPU time, which a busy machine disturbs
less. The second command is the size of NTU-120 cross-subject: time and memory of ours.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from engine.retrieve import knn_accuracy
from options.flags import POSITIVE_INT

NUM_CLASSES = 120


def random_clips(count: int, num_features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features ``(count, num_features)`` and labels, a block at a time: memory is part of the result."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.randn(NUM_CLASSES, num_features, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=source)
    features = torch.empty(count, num_features).normal_(generator=source)
    for rows, classes in zip(features.split(1024), labels.split(1024)):
        rows.add_(centres[classes], alpha=0.15)
    return features, labels


def our_accuracy(train: tuple, val: tuple, k: int) -> float:
    return knn_accuracy(*val, *train, k, NUM_CLASSES)


def cosine_accuracy(train: tuple, val: tuple, k: int) -> float:
    (gallery, labels), (queries, expected) = (map(Tensor.numpy, pair) for pair in (train, val))
    classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    return 100.0 * np.mean(classifier.fit(gallery, labels).predict(queries) == expected)


def euclidean_accuracy(train: tuple, val: tuple, k: int) -> float:
    """Equal order of neighbours: |a - b|^2 = 2 - 2 a.b where both have length 1."""
    gallery, queries = (F.normalize(features, dim=1).numpy() for features, _ in (train, val))
    classifier = KNeighborsClassifier(k, metric="euclidean", algorithm="brute")
    return 100.0 * np.mean(classifier.fit(gallery, train[1].numpy()).predict(queries) == val[1].numpy())


def seconds_of(run: Callable[[], float]) -> tuple[float, float, float]:
    """Wall time, CPU time, and the accuracy in percent; reading that waits for the device."""
    start, cpu_start = time.perf_counter(), time.process_time()
    accuracy = run()
    return time.perf_counter() - start, time.process_time() - cpu_start, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--gallery", type=POSITIVE_INT, default=16384, help="training clips")
    parser.add_argument("--queries", type=POSITIVE_INT, default=4096, help="validation clips")
    parser.add_argument("--features", type=POSITIVE_INT, default=2048)
    parser.add_argument("--neighbours", type=POSITIVE_INT, nargs="+", default=[1, 5], metavar="K")
    parser.add_argument("--repeats", type=POSITIVE_INT, default=5)
    parser.add_argument("--ours-only", action="store_true")
    args = parser.parse_args()
    train, val = random_clips(args.gallery, args.features, 1), random_clips(args.queries, args.features, 2)
    on_device = [tuple(x.to(args.device) for x in pair) for pair in (train, val)]
    our_accuracy(on_device[0], tuple(x[:64] for x in on_device[1]), 2)  # warm-up
    print(
        f"{args.gallery:,} training and {args.queries:,} validation clips of {args.features} features; "
        f"ours on {args.device}, {torch.get_num_threads()} CPU threads, medians of {args.repeats}\n"
    )
    print("| neighbours | program | seconds | CPU seconds | accuracy | ratio to the faster reference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for k in args.neighbours:
        programs = {"ours": lambda: our_accuracy(*on_device, k)}
        if not args.ours_only:
            programs["scikit-learn, cosine"] = lambda: cosine_accuracy(train, val, k)
            programs["scikit-learn, euclidean"] = lambda: euclidean_accuracy(train, val, k)
        report(k, programs, args.repeats)
    operations = 2 * args.gallery * args.queries * args.features
    print(f"\none pass multiplies and adds {operations / 1e12:.2f} x 10^12 times")
    if args.device == "cuda":
        print(f"GPU memory at most {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    elif args.ours_only:
        print(f"memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, the "
              f"features are {4 * args.features * (args.gallery + args.queries) / 1e9:.2f} GB of it")


def report(k: int, programs: dict[str, Callable[[], float]], repeats: int) -> None:
    """Time ``programs`` in turn and print a line each; their accuracies must agree."""
    runs = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            runs[name].append(seconds_of(program))
    medians = {name: [statistics.median(column) for column in zip(*r)] for name, r in runs.items()}
    accuracies = {name: r[-1] for name, r in medians.items()}
    if max(accuracies.values()) - min(accuracies.values()) > 0.1:  # nearly equal neighbours may swap
        raise SystemExit(f"the programs do not agree: {accuracies}")
    fastest = min((r[0] for name, r in medians.items() if name != "ours"), default=None)
    for name, (seconds, cpu_seconds, accuracy) in medians.items():
        ratio = f"{fastest / seconds:.2f}" if fastest else ""
        print(
            f"| {k} | {name} | {seconds:.2f} | {cpu_seconds:.2f} | {accuracy:.2f}% | {ratio} |", flush=True
        )


if __name__ == "__main__":
    main()
