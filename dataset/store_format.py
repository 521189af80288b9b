"""The store on disk: a folder that holds every clip of a dataset once, for all protocols.

    frames.npy   float32 (frames of all clips, 25 joints, 3 coordinates, 2 people), no padding
    clips.csv    name,label,first_frame,num_frames and one column a protocol: train, val or empty
    store.json   format version, dataset, classes, counts, how it was made, what was left out

``data_gen`` writes it, ``dataset.store`` reads it; both take these names from here. The order of
the last three axes makes the sequence representation of a frame (150 numbers: joint, coordinate,
person) one contiguous row, so drawing a batch is a gather of whole rows.
"""

from __future__ import annotations

FORMAT_VERSION = 1

FRAMES_FILE = "frames.npy"
CLIPS_FILE = "clips.csv"
INFO_FILE = "store.json"

CLIP_COLUMNS = ("name", "label", "first_frame", "num_frames")
SPLITS = ("train", "val")
