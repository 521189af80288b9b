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

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from engine.autoencoder import encode, train_autoencoder
from engine.encoders import last_checkpoints
from engine.evaluation import Evaluation, prepare_evaluation
from engine.log import config_text, write_config
from engine.retrieve import knn_accuracy, nearest_neighbors, unit_blocks
from options import flags
from options.parser import POSITIVE_INT, Parser, expanded_path
from utils.errors import UserError, run_script
from utils.files import atomic_write, check_output_file, check_output_folder
from visual import require_library
from visual.gallery import NEIGHBORS, choose_queries, write_gallery
from visual.tsne import write_feature_map


def parse_args() -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser(__doc__)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_pretrained_flags(parser)
    group = parser.add_argument_group("retrieval")
    group.add_argument(
        "--knn-neighbours",
        type=POSITIVE_INT,
        default=1,
        metavar="K",
        help="number of nearest neighbors that vote (default: 1)",
    )
    group.add_argument(
        "--save-features",
        type=expanded_path,
        metavar="FILE.npz",
        help="save features, labels and names of both splits, in the order of the store",
    )
    group.add_argument(
        "--autoencoder",
        action="store_true",
        help="also report retrieval on autoencoder codes of the features",
    )
    group = parser.add_argument_group("visualization")
    group.add_argument(
        "--gallery",
        type=expanded_path,
        metavar="DIR",
        help="write an animated page of validation clips and their nearest training clips",
    )
    group.add_argument(
        "--gallery-queries",
        nargs="+",
        metavar="NAME",
        help="validation clips of the gallery (default: one of each of eight random classes)",
    )
    group.add_argument(
        "--tsne",
        type=expanded_path,
        metavar="DIR",
        help="write t-SNE maps of ten random classes, and features for TensorBoard's projector",
    )
    flags.add_size_flags(parser, note=" (untrained or official)")
    note = " (accepted as in the official commands; only --batch-size is used, by --autoencoder)"
    flags.add_optimization_flags(parser, epochs=80, lr=0.1, schedule=[], weight_decay=0.0, note=note)
    flags.add_run_flags(parser, print_freq=50, print_help="print every N epochs of --autoencoder")
    return parser.parse_args()


def check_outputs(args: argparse.Namespace) -> None:
    """Raise ``UserError`` early if a requested output cannot be written or a figure cannot be rendered."""
    if args.save_features:
        check_output_file(Path(args.save_features), "--save-features")
    if args.gallery:
        require_library("--gallery", "Pillow")
        require_library("--gallery", "Jinja2")
        check_output_folder(Path(args.gallery), "--gallery")
    elif args.gallery_queries:
        raise UserError("--gallery-queries needs --gallery DIR, the folder of the page")
    if args.tsne:
        require_library("--tsne", "Matplotlib")
        require_library("--tsne", "scikit-learn")
        check_output_folder(Path(args.tsne), "--tsne")


def save_features(path: Path, run: Evaluation, train: Tensor, val: Tensor) -> None:
    """Save ``train_features`` (N, D) float32, ``train_labels``, ``train_names``, and the same for ``val``."""
    arrays = {}
    for clips, features in ((run.train, train), (run.val, val)):
        arrays[f"{clips.split}_features"] = features.cpu().numpy()
        arrays[f"{clips.split}_labels"] = clips.labels.numpy()
        arrays[f"{clips.split}_names"] = np.array(clips.names)
    atomic_write(path, lambda file: np.savez(file, **arrays))
    print(f"written: {path}", flush=True)


def accuracy(run: Evaluation, train: Tensor, val: Tensor, k: int) -> float:
    """Return the retrieval accuracy in percent with features or codes ``(N, D)``."""
    train_labels, val_labels = (clips.labels.to(train.device) for clips in (run.train, run.val))
    return knn_accuracy(val, val_labels, train, train_labels, k, run.train.num_classes)


def main() -> int:
    """Evaluate by retrieval; returns the exit code."""
    args = parse_args()
    args.pretrained = last_checkpoints(args.pretrained)
    check_outputs(args)
    run, k = prepare_evaluation(args, "retrieval"), args.knn_neighbours
    run.note_missing_classes()
    if k > len(run.train):
        raise UserError(f"--knn-neighbours {k}: there are only {len(run.train)} training clips")
    queries = choose_queries(run.val, args.gallery_queries, run.seed) if args.gallery else []
    write_config(run.folder, args)
    print(config_text(args), flush=True)
    train, val = (run.extractor.center_crop_features(c, f"{c.split} features") for c in (run.train, run.val))
    unsaved = None
    if args.save_features:
        try:
            save_features(Path(args.save_features), run, train, val)
        except UserError as error:  # the results do not depend on this file
            unsaved = error
    widths = run.extractor.encoders.widths
    train, val = unit_blocks(train, widths), unit_blocks(val, widths)
    numbers = {"neighbours": k, "knn": accuracy(run, train, val, k)}
    if args.autoencoder:
        model = train_autoencoder(train, args.batch_size, run.seed, args.print_freq)
        numbers["autoencoder_knn"] = accuracy(run, encode(model, train), encode(model, val), k)
    path = run.write("retrieval", args, numbers)
    print(f"{k}-nearest-neighbor retrieval: {numbers['knn']:.2f}%")
    if args.autoencoder:
        print(f"{k}-nearest-neighbor retrieval on autoencoder codes: {numbers['autoencoder_knn']:.2f}%")
    print(f"written: {path}", flush=True)
    if args.gallery:
        found = nearest_neighbors(val[queries], train, min(NEIGHBORS, len(run.train)))
        title = f"{run.extractor.encoders.title}, {args.dataset} {args.protocol}"
        print(write_gallery(Path(args.gallery), run.val, run.train, queries, *found, title))
    if args.tsne:
        print(write_feature_map(Path(args.tsne), val, run.val, run.seed))
    if unsaved:
        raise unsaved
    return 0


if __name__ == "__main__":
    run_script(main, memory_flags="--amp, --data-device")
