"""The store on disk: a folder with every clip of a dataset once, for all protocols.

    frames.npy   float32 (frames of all clips, V joints, 3 coordinates, 2 people), no padding
    clips.csv    name,label,first_frame,num_frames and one column per protocol: train, val or empty. The label
                 is empty for a clip without label
    store.json   format version, dataset, skeleton, class names, counts, how it was made, what was left out

``data_gen`` writes it and ``dataset.store`` reads it. With this order of the last three axes, the
sequence layout of a frame (in the order joint, coordinate, person) is a contiguous row, so a batch is
a gather of whole rows.
"""

from __future__ import annotations

FORMAT_VERSION = 1

FRAMES_FILE = "frames.npy"
CLIPS_FILE = "clips.csv"
INFO_FILE = "store.json"

CLIP_COLUMNS = ("name", "label", "first_frame", "num_frames")
SPLITS = ("train", "val")
SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "test": "val"}  # of input -> of a store
NO_LABEL = -1  # of a clip without label; an empty cell in clips.csv
MAX_CLASSES = 10_000  # labels are less than this
