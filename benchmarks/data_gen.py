"""Measure how fast input files become a store, and how much memory that takes.

    python benchmarks/data_gen.py [--files 4000] [--workers 2]    # raw files of NTU RGB+D
    python benchmarks/data_gen.py --source pyskl                  # ntu60_3danno.pkl with 56,578 clips
    python benchmarks/data_gen.py --source ctrgcn                 # NTU60_CS.npz with 10,000 clips

Raw files are compared with a straightforward reference that reads the same files, which were just written and
are in the page cache. It follows the official code: a Python loop over files, frames and joints, once per
protocol, and clips padded to 300 frames. The resulting clips are compared. The best of --repeats runs counts
for both, because speed varies on a busy machine.

The other sources are synthetic files in the same formats, of 1.8 GB each, in the folder for temporary files.
"""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np

from data_gen.parallel import default_workers
from dataset.store_format import CLIPS_FILE, FRAMES_FILE
from facts.datasets import DATASETS, MAX_FRAMES, ntu_splits, parse_ntu_name
from options.parser import POSITIVE_INT, Parser
from utils.errors import run_script

TEMPLATES = REPOSITORY / "tests" / "golden" / "ntu_skeletons.zip"
TEMPLATE_NAMES = ("S008C002P012R001A009", "S019C002P046R001A066")  # 315 and 321 kB
PROTOCOLS = DATASETS["ntu60"].protocols
PYSKL_NAMES = {"cross_subject": "xsub", "cross_view": "xview"}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--source", choices=("raw", *SOURCES), default="raw", help="the kind of input")
    parser.add_argument(
        "--files",
        type=POSITIVE_INT,
        help="number of files, or of clips in the file (default: 4000, "
        + ", ".join(f"{source.clips} for {name}" for name, source in SOURCES.items())
        + ")",
    )
    parser.add_argument(
        "--reference-files",
        type=POSITIVE_INT,
        default=40,
        help="number of files for the reference, which is slow (default: 40)",
    )
    parser.add_argument(
        "--workers", type=POSITIVE_INT, default=default_workers(), help="processes (default: all cores)"
    )
    parser.add_argument(
        "--repeats", type=POSITIVE_INT, default=3, help="runs to take the best of (default: 3)"
    )
    args = parser.parse_args()
    if args.source == "raw":
        measure_raw_files(args.files or 4000, args.reference_files, args.workers, args.repeats)
    else:
        source = SOURCES[args.source]
        measure_source(source, args.files or source.clips, args.workers, args.repeats)


def measure_raw_files(files: int, reference_files: int, workers: int, repeats: int) -> None:
    """Measure ``ntu_gendata.py`` and the reference."""
    with tempfile.TemporaryDirectory() as folder:
        raw, store = Path(folder, "raw"), Path(folder, "store")
        size = write_raw_files(raw, files)
        runs = [run_preparation("ntu_gendata.py", raw, store, workers) for _ in range(repeats)]
        seconds, memory = min(runs)[0], max(run[1] for run in runs)
        paths = sorted(raw.iterdir())[:reference_files]
        reference_seconds = min(run_reference(paths, store, repeats))
        speed = files / seconds
        print(f"{files:,} files of {size / files / 1e3:.0f} kB on average, {workers} workers")
        print(
            f"this repo  {speed:7.0f} files/s, all protocols at once ({size / seconds / 1e6:.0f} MB/s, or "
            f"{size / seconds / 3e5:.0f} files/s of 300 kB); runs: "
            + ", ".join(f"{files / run[0]:.0f}" for run in runs)
        )
        print(f"reference  {1 / reference_seconds:7.1f} files/s for both protocols of NTU-60")
        print(f"speed-up   {speed * reference_seconds:7.0f}")
        print(f"memory     {memory / 1e6:7.0f} MB at the peak, all processes together")
        stored = sum(path.stat().st_size for path in store.iterdir())
        padded = files * len(PROTOCOLS) * 3 * MAX_FRAMES * 25 * 2 * 4
        print(
            f"store      {stored / 1e6:7.0f} MB; the official layout, padded to {MAX_FRAMES} frames, takes "
            f"{padded / 1e6:,.0f} MB for these clips, {padded / stored:.1f} times the size"
        )


def measure_source(source: Source, clips: int, workers: int, repeats: int) -> None:
    """Measure the script of another source on a synthetic file."""
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder, source.file_name), Path(folder, "store")
        source.write(path, clips)
        runs = [run_preparation(source.script, path, store, workers) for _ in range(repeats)]
        seconds, memory = min(runs)[0], max(run[1] for run in runs)
        stored = sum(file.stat().st_size for file in store.iterdir())
        print(f"{source.file_name}: {clips:,} clips, {path.stat().st_size / 1e6:,.0f} MB, {workers} workers")
        print(f"time    {seconds:7.0f} s ({clips / seconds:.0f} clips/s); runs: ", end="")
        print(", ".join(f"{run[0]:.0f}" for run in runs))
        print(f"memory  {memory / 1e6:7.0f} MB at the peak, all processes together")
        print(f"store   {stored / 1e6:7,.0f} MB")


def synthetic_clips(count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names of NTU-60 and bodies, float32 (1 or 2, frames, 25, 3).

    The bodies are random walks of 85 frames on average.
    """
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.4, (2, 1, 25, 3)) + [0, 0, 3]
    walk = (start + np.cumsum(rng.normal(0, 0.01, (2, 400, 25, 3)), axis=1)).astype(np.float32)
    for i in range(count):
        setup, subject, camera, action = 1 + i // 7200, 1 + i // 180 % 40, 1 + i // 60 % 3, 1 + i % 60
        first, length = int(rng.integers(0, 250)), int(rng.integers(40, 131))
        people = 2 if rng.random() < 0.25 else 1
        name = f"S{setup:03d}C{camera:03d}P{subject:03d}R001A{action:03d}"
        yield name, walk[:people, first : first + length]


def write_pickle(path: Path, count: int) -> None:
    """Write a file in the format of pyskl."""
    annotations, split = [], {}
    for name, keypoint in synthetic_clips(count):
        parsed = parse_ntu_name(name)
        for protocol, which in ntu_splits(parsed).items():
            if protocol in PYSKL_NAMES:
                split.setdefault(f"{PYSKL_NAMES[protocol]}_{which}", []).append(name)
        annotation = {"frame_dir": name, "label": parsed.label, "keypoint": keypoint}
        annotations.append({**annotation, "total_frames": keypoint.shape[1]})
    with open(path, "wb") as file:
        pickle.dump({"split": split, "annotations": annotations}, file, protocol=4)


def write_npz(path: Path, count: int) -> None:
    """Write a file in the format of CTR-GCN, with three quarters of the clips for training."""
    clips = list(synthetic_clips(count))
    parts = {"train": clips[: count * 3 // 4], "test": clips[count * 3 // 4 :]}
    with zipfile.ZipFile(path, "w") as archive:
        for part, items in parts.items():
            with archive.open(f"x_{part}.npy", "w", force_zip64=True) as file:
                shape = (len(items), MAX_FRAMES, 150)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _, bodies in items:
                    rows = np.zeros((MAX_FRAMES, 2, 25, 3), np.float32)
                    rows[: bodies.shape[1], : len(bodies)] = bodies.swapaxes(0, 1)
                    file.write(rows.tobytes())
            with archive.open(f"y_{part}.npy", "w", force_zip64=True) as file:
                np.save(file, np.eye(60)[[parse_ntu_name(name).label for name, _ in items]])


@dataclass(frozen=True)
class Source:
    """A script, and how to write its input: ``write(path, number of clips)``."""

    script: str
    file_name: str
    clips: int
    write: Callable[[Path, int], None]


SOURCES = {
    "pyskl": Source("pyskl_gendata.py", "ntu60_3danno.pkl", 56578, write_pickle),
    "ctrgcn": Source("ctrgcn_gendata.py", "NTU60_CS.npz", 10000, write_npz),
}


def write_raw_files(folder: Path, count: int) -> int:
    """Write ``count`` files with names of NTU-60; return their size in bytes."""
    folder.mkdir()
    with zipfile.ZipFile(TEMPLATES) as archive:
        templates = [archive.read(f"{name}.skeleton") for name in TEMPLATE_NAMES]
    for i in range(count):
        subject, camera, action = 1 + i // 180, 1 + i // 60 % 3, 1 + i % 60
        name = f"S001C{camera:03d}P{subject:03d}R001A{action:03d}.skeleton"
        (folder / name).write_bytes(templates[i % len(templates)])
    return sum(path.stat().st_size for path in folder.iterdir())


def run_preparation(script: str, raw: Path, store: Path, workers: int) -> tuple[float, int]:
    """Run a script of data_gen; return its seconds and its peak memory in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            REPOSITORY / "data_gen" / script,
            "--data_path",
            raw,
            "--out_folder",
            store,
            "--workers",
            str(workers),
            "--overwrite",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = [0]
    watcher = threading.Thread(target=watch_memory, args=(process, peak))
    watcher.start()
    if process.wait():
        raise SystemExit(f"the preparation ended with exit code {process.returncode}")
    seconds = time.perf_counter() - start
    watcher.join()
    return seconds, peak[0]


def watch_memory(process: subprocess.Popen, peak: list[int]) -> None:
    """Record in ``peak[0]`` the largest resident memory of a process and its children in bytes (Linux)."""
    while process.poll() is None:
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            except OSError:  # the process has just ended
                continue
            if process.pid in (int(fields["Pid"]), int(fields["PPid"])):
                total += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
        peak[0] = max(peak[0], total)
        time.sleep(0.1)


def run_reference(paths: list[Path], store: Path, repeats: int) -> list[float]:
    """Return seconds per file for both protocols, of every run; checks the clips against the store."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for protocol in PROTOCOLS:
            for split in ("train", "val"):
                chosen = [path for path in paths if ntu_splits(parse_ntu_name(path.stem))[protocol] == split]
                clips = prepare_clips(chosen)
                check(clips, chosen, store)
        seconds.append((time.perf_counter() - start) / len(paths))
    return seconds


def check(clips: np.ndarray, paths: list[Path], store: Path) -> None:
    frames = np.load(store / FRAMES_FILE, mmap_mode="r")
    with open(store / CLIPS_FILE) as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for path, clip in zip(paths, clips):
        row = rows[path.stem]
        first, count = int(row["first_frame"]), int(row["num_frames"])
        stored = frames[first : first + count].transpose(2, 0, 1, 3)
        np.testing.assert_allclose(clip[:, :count], stored, atol=1e-5)


def prepare_clips(paths: list[Path]) -> np.ndarray:
    """Return (clips, 3, 300, 25, 2) float32 with loops over people, frames and joints."""
    clips = np.zeros((len(paths), 3, MAX_FRAMES, 25, 2), dtype=np.float32)
    for clip, path in zip(clips, paths):
        bodies = read_bodies(path)
        spreads = [
            sum(tracked[:, :, c].std() for c in range(3)) if len(tracked) else 0
            for tracked in (body[body.any(axis=(1, 2))] for body in bodies)
        ]
        for person, body in enumerate(np.argsort(spreads, kind="stable")[::-1][:2]):
            clip[:, : bodies.shape[1], :, person] = bodies[body].transpose(2, 0, 1)
        normalize(clip)
    return clips


def read_bodies(path: Path) -> np.ndarray:
    """Return (4 bodies, frames, 25, 3); converts every field of a line, although only some are used."""
    with open(path) as file:
        bodies = np.zeros((4, int(file.readline()), 25, 3))
        for frame in range(bodies.shape[1]):
            for body in range(int(file.readline())):
                file.readline()
                for joint in range(int(file.readline())):
                    numbers = [float(text) for text in file.readline().split()]
                    if body < 4:
                        bodies[body, frame, joint] = numbers[:3]
    return bodies


def normalize(clip: np.ndarray) -> None:
    """Fill, center and rotate one clip (3, 300, 25, 2) in place."""
    people = clip.transpose(3, 1, 2, 0)
    for person in people:
        tracked = person.any(axis=(1, 2))
        if tracked.any():
            length = np.flatnonzero(tracked)[-1] + 1
            kept = person[:length].copy() if tracked[0] else person[tracked].copy()
            for frame in range(len(person)):
                person[frame] = kept[frame % len(kept)]
    center = people[0, :, 1].copy()
    for person in people:
        for frame in range(len(person)):
            for joint in range(25):
                if person[frame, joint].any():
                    person[frame, joint] -= center[frame]
    for start, end, goal in ((0, 1, np.eye(3)[2]), (4, 8, np.eye(3)[0])):
        bone = people[0, 0, end] - people[0, 0, start]
        axis = np.cross(bone, goal)
        if np.abs(axis).sum() < 1e-6:
            continue
        x, y, z = axis / np.linalg.norm(axis)
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        angle = np.arccos(np.clip(bone @ goal / np.linalg.norm(bone), -1, 1))
        rotation = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
        for person in people:
            for frame in person:
                if frame.any():
                    for joint in range(25):
                        frame[joint] = rotation @ frame[joint]


if __name__ == "__main__":
    run_script(main)
