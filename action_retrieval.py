"""Evaluate frozen encoders by nearest-neighbor retrieval: validation queries, training gallery.

The sequence encoder from inter-skeleton pretraining, on NTU-60 cross-view:

    python action_retrieval.py --lr 0.1 --batch-size 64 --knn-neighbours 1 \\
        --pretrained \\
        ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar \\
        --finetune-dataset ntu60 --protocol cross_view \\
        --pretrain-skeleton-representation seq-based_and_graph-based \\
        --finetune-skeleton-representation seq-based

Center-crop features, cosine similarity, majority vote; nothing is trained, except with --autoencoder,
the second metric of the official code. --save-features saves the features, --gallery and --tsne plot
them.
"""

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.encoders import last_checkpoints
from engine.evaluation import Evaluation, prepare_evaluation
from engine.features import FeatureStorage
from engine.retrieve import (
    encode,
    knn_labels,
    mean_class_accuracy,
    nearest_neighbors,
    train_autoencoder,
    unit_blocks,
)
from options import flags
from options.parser import POSITIVE, POSITIVE_INT, Flags, Parser, add_figure_flags, expanded_path
from utils.errors import UserError, run_script
from utils.files import atomic_write, check_output_file, check_output_folder
from visual.gallery import NEIGHBORS, choose_queries, write_gallery
from visual.plots import Style
from visual.tsne import named_classes, write_feature_map

# Flags of the official commands that train nothing here.
IGNORED = ("epochs", "start_epoch", "lr", "schedule", "cos", "momentum", "weight_decay", "resume")


def parse_args() -> Flags:
    """Parse and complete the flags, without those that are not used; check the output paths."""
    parser = Parser(__doc__)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_pretrained_flags(parser)
    group = parser.add_argument_group("retrieval")
    text = "number of nearest neighbors that vote (default: 1)"
    group.add_argument("--knn-neighbours", type=POSITIVE_INT, default=1, metavar="K", help=text)
    text = "save features, labels and names of both splits, in the order of the store"
    group.add_argument("--save-features", type=expanded_path, metavar="FILE.npz", help=text)
    text = "number format of the features, in memory and in the file of --save-features (default: float32)"
    group.add_argument("--feature-dtype", choices=["float32", "float16"], help=text)
    text = "keep the features of a split in a temporary file if they take more memory than this"
    group.add_argument("--feature-memory", type=POSITIVE, metavar="GB", help=text)
    text = "also report retrieval on autoencoder codes of the features"
    group.add_argument("--autoencoder", action="store_true", help=text)
    group = parser.add_argument_group("visualization")
    text = "write an animated page of validation clips and their nearest training clips"
    group.add_argument("--gallery", type=expanded_path, metavar="DIR", help=text)
    text = "validation clips of the gallery (default: one of each of eight random classes)"
    group.add_argument("--gallery-queries", nargs="+", metavar="NAME", help=text)
    text = "write t-SNE maps of the features of ten random classes"
    group.add_argument("--tsne", type=expanded_path, metavar="DIR", help=text)
    flags.add_tsne_classes_flag(group)
    add_figure_flags(parser)
    flags.add_size_flags(parser, note=" (untrained or official)")
    note = " (accepted for compatibility and ignored, except --batch-size with --autoencoder)"
    flags.add_optimization_flags(parser, epochs=80, lr=0.1, schedule=[], weight_decay=0.0, note=note)
    flags.add_run_flags(parser, print_freq=50, print_help="print every N epochs of --autoencoder")
    args = parser.parse_args()
    args.pretrained = last_checkpoints(args.pretrained)
    for name in IGNORED if args.autoencoder else (*IGNORED, "batch_size", "print_freq"):
        delattr(args, name)
    if args.gallery_queries and not args.gallery:
        raise UserError("--gallery-queries needs --gallery DIR, the folder of the page")
    if args.tsne_classes and not args.tsne:
        raise UserError("--tsne-classes needs --tsne DIR, the folder of the figure")
    if args.save_features:
        check_output_file(Path(args.save_features), "--save-features")
    for flag, folder in (("--gallery", args.gallery), ("--tsne", args.tsne)):
        if folder:
            check_output_folder(Path(folder), flag)
    return Flags(args)


def save_features(path: Path, run: Evaluation, train: Tensor, val: Tensor) -> None:
    """Save ``train_features`` (N, D), ``train_labels``, ``train_names``, and the same for ``val``."""
    arrays = {}
    for clips, features in ((run.train, train), (run.val, val)):
        arrays[f"{clips.split}_features"] = features.cpu().numpy()
        arrays[f"{clips.split}_labels"] = clips.labels.numpy()
        arrays[f"{clips.split}_names"] = np.array(clips.names)
    arrays["class_names"] = np.array(run.val.class_names)
    atomic_write(path, lambda file: np.savez(file, **arrays))
    print(f"written: {path}", flush=True)


def accuracies(run: Evaluation, train: Tensor, val: Tensor, k: int) -> tuple[float, float]:
    """Return accuracy and mean class accuracy in percent with features or codes ``(N, D)``."""
    train_labels, val_labels = (clips.labels.to(run.extractor.device) for clips in (run.train, run.val))
    predicted = knn_labels(val, train, train_labels, k, run.train.num_classes)
    return 100.0 * (predicted == val_labels).float().mean().item(), mean_class_accuracy(predicted, val_labels)


def without_self(queries: Tensor, neighbors: Tensor, similarities: Tensor) -> tuple[Tensor, Tensor]:
    """Remove each query, or else its last neighbor, from its neighbors (N, k) in the same set of clips."""
    own = neighbors == queries.to(neighbors.device)[:, None]
    kept = own.long().argsort(dim=1, stable=True)[:, :-1]
    return neighbors.gather(1, kept), similarities.gather(1, kept)


def main() -> int:
    """Evaluate by retrieval; returns the exit code."""
    args = parse_args()
    run, k = prepare_evaluation(args, "retrieval"), args.knn_neighbours
    run.note_missing_classes()
    if args.autoencoder and not run.train.has_labels:
        raise UserError("--autoencoder needs labels, but the clips have none")
    if args.autoencoder and (args.feature_dtype == "float16" or args.feature_memory):
        raise UserError(
            "--autoencoder needs float32 features in memory; omit --feature-dtype and --feature-memory"
        )
    if k > len(run.train):
        raise UserError(f"--knn-neighbours {k}: there are only {len(run.train)} training clips")
    if args.tsne_classes:
        named_classes(args.tsne_classes, run.val.class_names, run.val.labels)  # before the work
    shown = choose_queries(run.val, args.gallery_queries, run.seed) if args.gallery else []
    with run.locked_folder():
        evaluate(run, shown)
    return 0


def evaluate(run: Evaluation, shown: list[int]) -> None:
    """Compute and write features, accuracies and figures; ``shown`` are the queries of the gallery."""
    args, encoders, k = run.args, run.extractor.encoders, run.args.knn_neighbours
    style = Style.of(args)
    storage = FeatureStorage(
        getattr(torch, args.feature_dtype or "float32"), 1e9 * (args.feature_memory or math.inf), run.folder
    )
    extract, empty = run.extractor.center_crop_features, partial(storage.empty, device=run.extractor.device)
    train, val = (extract(clips, f"{clips.split} features", storage) for clips in (run.train, run.val))
    gallery, queries = (unit_blocks(features, encoders.widths, empty) for features in (train, val))
    found = {}
    if run.train.has_labels:
        found["knn"] = accuracies(run, gallery, queries, k)
    else:
        print("note: accuracy needs labels, but the clips have none")
    if args.autoencoder:
        model = train_autoencoder(gallery, args.batch_size, run.seed, args.print_freq)
        found["autoencoder_knn"] = accuracies(run, encode(model, gallery), encode(model, queries), k)
    numbers: dict[str, float] = {"neighbours": k}
    for name, (every, mean_class) in found.items():
        numbers |= {name: every, f"{name}_mean_class": mean_class}
    path = run.write(numbers) if found else None
    for name, (every, mean_class) in found.items():
        on = " on autoencoder codes" if name == "autoencoder_knn" else ""
        print(f"{k}-nearest-neighbor retrieval{on}: {every:.2f}%, mean class accuracy {mean_class:.2f}%")
    if path:
        print(f"written: {path}", flush=True)
    if args.save_features:
        save_features(Path(args.save_features), run, train, val)
    if args.gallery:
        count = NEIGHBORS + (run.val.names == run.train.names)
        neighbors = nearest_neighbors(queries[shown], gallery, min(count, len(run.train)))
        if count > NEIGHBORS:
            neighbors = without_self(torch.tensor(shown), *neighbors)
        title = f"{encoders.title}, {args.dataset} {args.protocol}"
        print(write_gallery(Path(args.gallery), run.val, run.train, shown, *neighbors, title, style))
    if args.tsne:
        labels, names, chosen = run.val.labels, run.val.class_names, args.tsne_classes
        print(write_feature_map(Path(args.tsne), queries, labels, names, run.seed, chosen, style))


if __name__ == "__main__":
    run_script(main, memory_flags="--amp, --data-device, --feature-memory")
