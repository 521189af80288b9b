"""Measure how fast raw files of NTU RGB+D become a store, and how much memory that takes.

    python benchmarks/data_gen.py [--files 4000] [--workers 2]

The reference reads the same files, which were just written and are in the page cache. It follows the official
code: a Python loop over files, frames and joints, once per protocol, and clips padded to 300 frames. The
resulting clips are compared. The best of --repeats runs counts for both, because speed varies on a busy
machine.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from functools import partial
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


def main() -> None:
    parser = Parser(__doc__)
    add = partial(parser.add_argument, type=POSITIVE_INT, metavar="N")
    add("--files", default=4000, help="number of files (default: 4000)")
    add("--reference-files", default=40, help="files for the reference, which is slow (default: 40)")
    add("--workers", default=default_workers(), help="processes (default: all cores)")
    add("--repeats", default=3, help="runs to take the best of (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw, store = Path(folder, "raw"), Path(folder, "store")
        size = write_raw_files(raw, args.files)
        runs = [run_preparation(raw, store, args.workers) for _ in range(args.repeats)]
        paths = sorted(raw.iterdir())[: args.reference_files]
        reference_seconds = min(run_reference(paths, store, args.repeats))
        stored = sum(path.stat().st_size for path in store.iterdir())
    seconds, memory = min(runs)[0], max(run[1] for run in runs)
    speeds = ", ".join(f"{args.files / run[0]:.0f}" for run in runs)
    padded = args.files * len(PROTOCOLS) * 3 * MAX_FRAMES * 25 * 2 * 4
    print(
        f"{args.files:,} files of {size / args.files / 1e3:.0f} kB on average, {args.workers} workers\n"
        f"this repo  {args.files / seconds:7.0f} files/s, all protocols at once "
        f"({size / seconds / 1e6:.0f} MB/s); runs: {speeds}\n"
        f"reference  {1 / reference_seconds:7.1f} files/s for both protocols of NTU-60\n"
        f"speed-up   {args.files / seconds * reference_seconds:7.0f}\n"
        f"memory     {memory / 1e6:7.0f} MB at the peak, all processes together\n"
        f"store      {stored / 1e6:7.0f} MB; the official layout, padded to {MAX_FRAMES} frames, takes "
        f"{padded / 1e6:,.0f} MB for these clips, {padded / stored:.1f} times the size"
    )


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


def run_preparation(raw: Path, store: Path, workers: int) -> tuple[float, int]:
    """Run ``ntu_gendata.py``; return its seconds and its peak memory in bytes."""
    command = [sys.executable, REPOSITORY / "data_gen" / "ntu_gendata.py", "--data_path", raw, "--overwrite"]
    command += ["--out_folder", store, "--workers", str(workers)]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, resident_memory(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the preparation ended with exit code {process.returncode}")
    return time.perf_counter() - start, peak


def resident_memory(pid: int) -> int:
    """Return the resident memory of a process and its children in bytes (Linux)."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # the process has just ended
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if pid in (int(fields["Pid"]), int(fields["PPid"])):
                total += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return total


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
