"""Features of your own recordings from a trained encoder, and the known clips they are nearest to.

    python extract_features.py --input recordings/ --output features.npz \\
        --pretrained checkpoints/ntu60_cross_view/inter/checkpoint_0450.pth.tar \\
        --finetune-skeleton-representation seq-based

--input takes .skeleton files, .npy arrays (frames, 25, 3, people), .npz files of several such arrays,
and folders and zip archives of these. They are normalised as the preparation does it. The .npz
written has ``names`` (N,) and ``features`` (N, D). With --knn-neighbours K, the K nearest training
clips of the store that --data-root, --finetune-dataset and --protocol name are looked up too, and
their classes printed.
"""

import argparse
from pathlib import Path

import numpy as np

from dataset.clips import ClipSet, open_clips
from options.files import atomic_write
from engine.device import describe, parallel, pick_device
from engine.features import validation_features
from engine.pretrained import load_encoders
from engine.randomness import WEIGHTS, seed_globally
from engine.raw_clips import read_raw_clips
from models.representations import size_flags
from engine.retrieve import majority_label, nearest_neighbours
from options import flags
from options.class_names import class_name
from options.errors import UserError, run_script

SHOWN = 20  # lines printed; the file holds all
SEED = 0  # of the weights of --pretrained random


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("recordings")
    group.add_argument("--input", nargs="+", required=True, metavar="PATH",
                       help="files, folders and zip archives of .skeleton, .npy and .npz")
    group.add_argument("--output", default="features.npz", metavar="FILE.npz",
                       help="default features.npz")
    group.add_argument("--knn-neighbours", type=flags.POSITIVE_INT, metavar="K",
                       help="look up the K nearest training clips of the data set below; "
                       "default: none, and no data set is needed")
    flags.add_data_flags(parser, "--finetune-dataset")
    flags.add_pretrained_flags(parser, results=False)
    flags.add_size_flags(parser, size_flags(), note=" (of an untrained encoder or the authors' checkpoints)")
    group = parser.add_argument_group("run")
    group.add_argument("--gpu", type=flags.COUNT, metavar="N",
                       help="use this GPU only; default: all visible GPUs, or the CPU")
    return parser.parse_args()


def open_known(args: argparse.Namespace) -> ClipSet | None:
    """The training clips to compare with; None where none are asked for."""
    if args.knn_neighbours is None:
        return None
    known = open_clips(args.data_root, args.dataset, args.protocol, "train")
    if args.knn_neighbours > len(known):
        raise UserError(f"--knn-neighbours {args.knn_neighbours}: there are {len(known)} training clips")
    return known


def main() -> int:
    args = parse_args()
    device = pick_device(args.gpu)
    seed_globally(SEED, WEIGHTS)
    encoders = load_encoders(
        args.pretrained, args.pretrain_skeleton_representation,
        args.finetune_skeleton_representation, flags.given_sizes(args, size_flags()),
    ).to(device)
    known = open_known(args)
    clips, left_out = read_raw_clips(args.input, "--input")
    for remark in left_out:
        print(f"left out: {remark}")
    print(
        f"{len(clips)} recordings, {len(left_out)} left out; {encoders.title}, "
        f"{encoders.num_features} features, {describe(device, args.gpu)}", flush=True,
    )
    encode = parallel(encoders, device, args.gpu)
    features = validation_features(encode, encoders, clips, device, workers=0, title="features")
    arrays = {"names": np.array(clips.names), "features": features.cpu().numpy()}
    if known:
        gallery = validation_features(encode, encoders, known, device, workers=0, title="training clips")
        index, similarities = nearest_neighbours(features, gallery, args.knn_neighbours)
        labels = known.labels[index.cpu()]  # N x K
        arrays["neighbour_names"] = np.array(known.names)[index.cpu().numpy()]
        arrays["neighbour_labels"] = labels.numpy()
        arrays["similarities"] = similarities.cpu().numpy()
        votes = majority_label(labels, known.num_classes).tolist()
        for row, (name, vote) in enumerate(list(zip(clips.names, votes))[:SHOWN]):
            nearest, cosine = arrays["neighbour_names"][row, 0], arrays["similarities"][row, 0]
            print(f"{name}: {class_name(args.dataset, vote)} (nearest {nearest}, cosine {cosine:.3f})")
        if len(clips) > SHOWN:
            print(f"... and {len(clips) - SHOWN} more in {args.output}")
    atomic_write(Path(args.output), lambda file: np.savez(file, **arrays))
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    run_script(main)
