"""Measure a frozen encoder by nearest-neighbour retrieval: val clips among the training clips.

The sequence encoder of an inter-skeleton pretraining, on NTU-60 cross-view:

    python action_retrieval.py --lr 0.1 --batch-size 64 --knn-neighbours 1 \\
        --pretrained ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar \\
        --finetune-dataset ntu60 --protocol cross_view \\
        --pretrain-skeleton-representation seq-based_and_graph-based \\
        --finetune-skeleton-representation seq-based

Features of the clips' centres, cosine similarity, the vote of the neighbours: nothing is trained,
but for the released program's second figure, --autoencoder. --save-features keeps the features,
--gallery and --tsne show them as pictures.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from engine.autoencoder import codes, train_autoencoder
from options.files import atomic_write, ensure_folder
from engine.evaluation import Evaluation, prepare_evaluation
from engine.features import validation_features
from engine.retrieve import knn_accuracy, nearest_neighbours
from models.representations import size_flags
from options import flags
from options.errors import UserError, run_script
from visual.feature_map import write_feature_map
from visual.gallery import NEIGHBOURS, choose_queries, write_gallery
from visual.packages import PLOTS, SKELETONS, require


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_pretrained_flags(parser)
    group = parser.add_argument_group("retrieval")
    group.add_argument("--knn-neighbours", type=flags.POSITIVE_INT, default=1, metavar="K",
                       help="training clips that vote on a val clip (default 1)")
    group.add_argument("--save-features", metavar="FILE.npz",
                       help="write features, labels and names of both splits, in the store's order")
    group.add_argument("--autoencoder", action="store_true",
                       help="a second figure, on the 125-dim code of an autoencoder of the features")
    group = parser.add_argument_group("pictures (of packages that only they need)")
    group.add_argument("--gallery", metavar="DIR",
                       help="write a page of val clips and their nearest training clips, animated")
    group.add_argument("--gallery-queries", nargs="+", metavar="NAME",
                       help="val clips to show there; default: one from each of eight random classes")
    group.add_argument("--tsne", metavar="DIR",
                       help="write t-SNE maps of ten random classes, and features for TensorBoard's "
                       "projector")
    flags.add_size_flags(parser, size_flags(), note=" (of an untrained encoder or the authors' checkpoints)")
    flags.add_optimization_flags(
        parser, epochs=80, lr=0.1, schedule=[], weight_decay=0.0,
        note=" (taken because the released commands have them; only --batch-size is used, by "
        "--autoencoder)",
    )
    flags.add_run_flags(parser, print_freq=50, print_help="epochs of --autoencoder between printed lines")
    return parser.parse_args()


def save_features(path: Path, run: Evaluation, features: list[torch.Tensor]) -> None:
    """``train_features`` (N, D) float32, ``train_labels``, ``train_names``, and the same for val."""
    arrays = {}
    for clips, values in zip((run.train, run.val), features):
        arrays[f"{clips.split}_features"] = values.cpu().numpy()
        arrays[f"{clips.split}_labels"] = clips.labels.numpy()
        arrays[f"{clips.split}_names"] = np.array(clips.names)
    atomic_write(path, lambda file: np.savez(file, **arrays))
    print(f"written: {path}")


def check_pictures(args: argparse.Namespace) -> None:
    """Refuse, before any work, pictures that cannot be drawn here."""
    if args.gallery:
        require("--gallery", SKELETONS)
    elif args.gallery_queries:
        raise UserError("--gallery-queries needs --gallery DIR, the folder for the page")
    if args.tsne:
        require("--tsne", PLOTS)


def main() -> int:
    args = parse_args()
    check_pictures(args)
    run = prepare_evaluation(args, "retrieval")
    run.note_missing_classes()
    if args.knn_neighbours > len(run.train):
        raise UserError(f"--knn-neighbours {args.knn_neighbours}: there are {len(run.train)} training clips")
    shown = choose_queries(run.val, args.gallery_queries, run.seed) if args.gallery else []
    for folder in (run.folder, args.save_features and Path(args.save_features).parent, args.gallery, args.tsne):
        if folder:
            ensure_folder(Path(folder))
    features = [
        validation_features(
            run.encode, run.encoders, clips, run.device, args.workers, f"{clips.split} features"
        )
        for clips in (run.train, run.val)
    ]
    if args.save_features:
        save_features(Path(args.save_features), run, features)

    def accuracy(train: torch.Tensor, val: torch.Tensor) -> float:
        labels = [clips.labels.to(run.device) for clips in (run.train, run.val)]
        return knn_accuracy(val, labels[1], train, labels[0], args.knn_neighbours, run.train.num_classes)

    numbers = {"neighbours": args.knn_neighbours, "knn": accuracy(*features)}
    print(f"{args.knn_neighbours}-nearest-neighbour retrieval: {numbers['knn']:.2f}%")
    if args.autoencoder:
        model = train_autoencoder(features[0], args.batch_size, run.seed, args.print_freq)
        numbers["autoencoder_knn"] = accuracy(*(codes(model, x) for x in features))
        print(f"on the autoencoder's code: {numbers['autoencoder_knn']:.2f}%")
    run.write("retrieval", args, numbers)
    if args.gallery:
        found = nearest_neighbours(features[1][shown], features[0], min(NEIGHBOURS, len(run.train)))
        title = f"{run.encoders.title}, {args.dataset} {args.protocol}"
        print(write_gallery(Path(args.gallery), run.val, run.train, shown, *found, title))
    if args.tsne:
        print(write_feature_map(Path(args.tsne), features[1], run.val, run.seed))
    return 0


if __name__ == "__main__":
    run_script(main, memory_flags="--amp, --data-device")
