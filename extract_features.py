"""Extract features from your own skeleton data and optionally classify it by its nearest training clips.

    python extract_features.py --input my_clips/ --output features.npz \\
        --pretrained checkpoints/ntu60_cross_view/inter/checkpoint_0450.pth.tar \\
        --finetune-skeleton-representation seq-based

--input takes .skeleton files, .npy arrays (frames, joints, 3, people), .npz files of several such arrays,
folders and zip archives of these, and stores. Clips must have the skeleton that the encoders were trained
on, and get the same normalization as the training data. The output contains ``names`` (N,) and ``features``
(N, D).
With --knn-neighbours K it also contains the K nearest training clips of the store that --data-root,
--finetune-dataset and --protocol specify, and the classes that they vote for are printed.
"""

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from dataset.clips import UNLABELED, ClipSet, open_clips
from dataset.label_subset import labeled_clips
from dataset.raw_clips import read_raw_clips
from engine.device import describe
from engine.distributed import require_one_process
from engine.evaluation import chosen_encoders, prepare_device
from engine.features import FeatureExtractor, place_run
from engine.randomness import WEIGHTS, seed_globally
from engine.retrieve import majority_label, nearest_neighbors, unit_blocks
from options import flags
from options.parser import POSITIVE_INT, Parser, expanded_path
from utils.errors import UserError, run_script
from utils.files import atomic_write, check_output_file

MAX_PRINTED = 20  # clips whose class is printed; the output file contains all of them
SEED = 0  # of --pretrained random


def parse_args() -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser(__doc__)
    group = parser.add_argument_group("clips")
    text = "stores, or files, folders and zip archives of .skeleton, .npy and .npz files"
    group.add_argument("--input", type=expanded_path, nargs="+", required=True, metavar="PATH", help=text)
    text = "output file (default: features.npz)"
    group.add_argument("--output", type=expanded_path, default="features.npz", metavar="FILE.npz", help=text)
    text = "find the K nearest training clips of the dataset below (default: none, no dataset is needed)"
    group.add_argument("--knn-neighbours", type=POSITIVE_INT, metavar="K", help=text)
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_pretrained_flags(parser, results=False)
    flags.add_size_flags(parser, note=" (untrained or official)")
    flags.add_device_flags(parser.add_argument_group("run"))
    return parser.parse_args()


def open_gallery(args: argparse.Namespace) -> ClipSet | None:
    """Open the training clips to search for neighbors; None if not requested."""
    if args.knn_neighbours is None:
        return None
    gallery = open_clips(args.data_root, args.dataset, args.protocol, "train")
    if gallery.has_labels:
        gallery = labeled_clips(gallery, "--knn-neighbours")
    else:
        print("note: the training clips have no labels, so they vote for no class")
    if args.knn_neighbours > len(gallery):
        raise UserError(f"--knn-neighbours {args.knn_neighbours}: there are {len(gallery)} training clips")
    return gallery


def find_neighbors(
    extractor: FeatureExtractor, features: Tensor, gallery: ClipSet, k: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the ``k`` nearest clips of ``gallery`` as arrays ``(N, k)``, and the class they vote for."""
    known = extractor.center_crop_features(gallery, "training features")
    widths = extractor.encoders.widths
    nearest, similarities = nearest_neighbors(unit_blocks(features, widths), unit_blocks(known, widths), k)
    labels = gallery.labels.to(nearest.device)[nearest]
    arrays = {
        "neighbour_names": np.array(gallery.names)[nearest.cpu().numpy()],
        "neighbour_labels": labels.cpu().numpy(),
        "similarities": similarities.cpu().numpy(),
    }
    if not gallery.has_labels:
        return arrays, [UNLABELED] * len(labels)
    votes = majority_label(labels, gallery.num_classes).tolist()
    return arrays, [gallery.class_names[vote] for vote in votes]


def main() -> int:
    """Extract the features; returns the exit code."""
    args = parse_args()
    require_one_process("extracting features")
    check_output_file(Path(args.output), "--output")
    device = prepare_device(args)
    gallery = open_gallery(args)
    seed_globally(SEED, WEIGHTS)
    encoders = chosen_encoders(args, gallery.skeleton if gallery else None).to(device)
    normalize = gallery.normalized if gallery else encoders.normalized
    clips, left_out = read_raw_clips(args.input, "--input", encoders.skeleton, normalize)
    for issue in left_out:
        print(f"left out: {issue}")
    print(
        f"{len(clips)} clips, {len(left_out)} left out; {encoders.title}, {encoders.num_features} features, "
        f"{describe(device, args.gpu)}",
        flush=True,
    )
    extractor, (clips, *known) = place_run(args, encoders, [clips, gallery] if gallery else [clips], device)
    features = extractor.center_crop_features(clips, "features")
    arrays = {"names": np.array(clips.names), "features": features.cpu().numpy()}
    lines: list[str] = []
    if gallery is not None:
        neighbors, votes = find_neighbors(extractor, features, *known, args.knn_neighbours)
        arrays |= neighbors
        columns = (clips.names, votes, neighbors["neighbour_names"][:, 0], neighbors["similarities"][:, 0])
        lines = [*map("{}: {} (nearest {}, cosine {:.3f})".format, *columns)]
    atomic_write(Path(args.output), lambda file: np.savez(file, **arrays))
    if len(lines) > MAX_PRINTED:
        lines[MAX_PRINTED:] = [f"... and {len(lines) - MAX_PRINTED} more in {args.output}"]
    print(*lines, f"written: {args.output}", sep="\n")
    return 0


if __name__ == "__main__":
    run_script(main)
