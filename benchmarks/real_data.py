"""Pretrain and evaluate all representations and streams on a small real dataset, with the small-data preset.

    python benchmarks/real_data.py --raw FOLDER [--seeds 0 1 2] [--jobs 2] [--runs FOLDER] \\
        [--only reference preset intra inter all streams]

``FOLDER`` contains .skeleton files in NTU's format, for example converted from UTD-MHAD or
MSR-Action3D. Written to the runs folder and printed, for all finished runs, mean and sample standard
deviation over the seeds:

- ``table.md``: coordinates, untrained encoders, the preset unchanged (intra-skeleton, sequence encoder), and
  at ``--steps`` each: intra-skeleton pretraining of each representation and inter-skeleton pretraining
  (pairs ``inter`` and ``all``) of every two. 1-NN retrieval and linear probe on cross_subject, also of
  concatenated features. "minutes" is the longest pretraining of a seed on one core.
- ``streams.md``: the sequence encoder on joints, bones and motion (``--stream-steps``), and their fusion.
- ``curves.svg``: 1-NN retrieval over the steps of pretraining.

Finished runs are skipped: choose another --runs for other raw files, another preset or to start over.
Parts can run at the same time in several processes, unless they have the same number of steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.small_runs import (
    Contrast,
    Encoder,
    Runs,
    add_run_flags,
    open_runs,
    parse_preset,
    run_all,
)
from engine.encoders import COORDINATES, RANDOM
from engine.report import RESULTS, format_table, read_result
from models.gru import SEQUENCE
from models.registry import REPRESENTATIONS, join_representations, short_name, with_stream
from models.streams import STREAMS
from options.parser import POSITIVE_INT, Parser
from tables.run import Job, script_command
from tables.write import format_accuracy, mean_and_std
from utils.errors import run_script
from utils.files import atomic_write
from visual.plots import figure_svg, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("reference", "preset", "intra", "inter", "all", "streams")
PAIRS = (*combinations(REPRESENTATIONS, 2),)
COLUMNS = ["pretraining", "encoder", "steps", "minutes", "1-NN", "linear best", "linear last"]
STREAM_COLUMNS = ["stream", "1-NN", "linear best", "linear last"]
STYLES = ("-", "--", ":", "-.")  # by the other representation of a pair
COLORS = {"intra": "#555555", "inter": "#d95f02", "all": "#1b6ca8"}


def table_encoders(part: str, steps: int) -> list[Encoder]:
    """Return the rows of the table for one part."""
    names = [*REPRESENTATIONS]
    if part == "reference":
        return [Encoder(SEQUENCE.name, COORDINATES), *(Encoder(name, RANDOM) for name in names)]
    if part == "preset":
        return [Encoder(SEQUENCE.name, (Contrast("intra", (SEQUENCE.name,), parse_preset().steps),))]
    if part == "intra":
        contrasts = {name: Contrast("intra", (name,), steps) for name in names}
        single = [Encoder(name, (contrast,)) for name, contrast in contrasts.items()]
        return single + [
            Encoder(join_representations((a, b)), (contrasts[a], contrasts[b])) for a, b in PAIRS
        ]
    return [
        Encoder(features, (Contrast(part, pair, steps),))
        for pair in PAIRS
        for features in (*pair, join_representations(pair))
    ]


def stream_encoders(steps: int) -> list[Encoder]:
    """Return the sequence encoder of each stream."""
    names = [with_stream(SEQUENCE.name, stream) for stream in STREAMS]
    return [Encoder(name, (Contrast("intra", (name,), steps),)) for name in names]


def concatenated(encoders: Sequence[Encoder]) -> Encoder:
    """Return the concatenation of pretrained encoders."""
    contrasts = tuple(contrast for encoder in encoders for contrast in encoder.source)
    return Encoder(join_representations([encoder.representation for encoder in encoders]), contrasts)


def fusion(runs: Runs, encoders: Sequence[Encoder], seed: int) -> Job:
    """Return the job of the fusion of the linear probes of ``encoders``; its output is ``results.json``."""
    jobs = tuple(runs.evaluation("linear", encoder, seed) for encoder in encoders)
    output = runs.folder / f"{concatenated(encoders).folder}_seed{seed}" / "ensemble"
    script, *given = script_command("ensemble.py", {"output_dir": output})
    command = (script, *(str(job.output) for job in jobs), *given)
    return Job(f"fusion {output.parent.name}", command, output / RESULTS, jobs)


def table(runs: Runs, encoders: Sequence[Encoder], seeds: Sequence[int]) -> str:
    """Return the table of all finished evaluations as Markdown."""
    rows = [COLUMNS]
    for encoder in encoders:
        accuracies, steps, minutes = runs.accuracies(encoder, seeds), "", ""
        if not isinstance(encoder.source, str):
            finished = [s for s in seeds if all(runs.pretraining(x, s).is_done for x in encoder.source)]
            steps = str(encoder.source[0].steps)
            durations = [sum(runs.minutes(x, seed) for x in encoder.source) for seed in finished]
            minutes = f"{max(durations, default=0):.1f}"
        if any(accuracies):
            rows.append([encoder.title, encoder.label, steps, minutes, *accuracies])
    return format_table(rows)


def stream_table(runs: Runs, encoders: Sequence[Encoder], seeds: Sequence[int]) -> str:
    """Return the table of the streams and their fusion as Markdown."""
    rows = [[stream, *runs.accuracies(encoder, seeds)] for stream, encoder in zip(STREAMS, encoders)]
    fusions = [job.output for seed in seeds if (job := fusion(runs, encoders, seed)).is_done]
    top1 = [read_result(output)["numbers"]["fusion"]["top1"] for output in fusions]
    retrieval = runs.accuracies(concatenated(encoders), seeds)[0]
    rows.append(["fusion", retrieval, "", format_accuracy(*mean_and_std(top1))])
    return format_table([STREAM_COLUMNS, *rows])


def plot_curve(axes: Axes, runs: Runs, contrast: Contrast, name: str, seeds: Sequence[int]) -> None:
    """Plot the mean and the standard deviation over the finished seeds of one encoder of a pretraining."""
    finished = [seed for seed in seeds if runs.pretraining(contrast, seed).is_done]
    if not finished:
        return
    # Without the checkpoint after the first epoch, which is far to the left on a logarithmic axis.
    curves = [runs.learning_curves(contrast, seed)[name][1:] for seed in finished]
    steps = [step for step, _ in curves[0]]
    means, deviations = zip(*(mean_and_std([y for _, y in points]) for points in zip(*curves)))
    low, high = ([m + sign * (d or 0) for m, d in zip(means, deviations)] for sign in (-1, 1))
    others = [x for x in contrast.representations if x != name]
    label = " ".join([contrast.pairs, *(f"with {short_name(x)}" for x in others)])
    if contrast.steps == parse_preset().steps:
        label += f", {contrast.steps:,} steps"
    partners = [x for x in REPRESENTATIONS if x != name]
    style = STYLES[partners.index(others[0]) % len(STYLES)] if others else "-"
    color = COLORS[contrast.pairs]
    axes.plot(steps, means, style, color=color, marker=".", label=label)
    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def plot_reference(axes: Axes, runs: Runs, encoder: Encoder, seeds: Sequence[int]) -> None:
    """Plot the mean 1-NN accuracy of coordinates or of an untrained encoder as a horizontal line."""
    jobs = [runs.evaluation("retrieval", encoder, seed) for seed in seeds]
    values = [read_result(job.output)["numbers"]["knn"] for job in jobs if job.is_done]
    if values:
        style = ":" if encoder.source == COORDINATES else "-."
        label = COORDINATES if encoder.source == COORDINATES else encoder.title
        axes.axhline(fmean(values), linestyle=style, color="black", linewidth=1, label=label)


def plot_curves(runs: Runs, contrasts: Sequence[Contrast], seeds: Sequence[int]) -> bytes:
    """Plot 1-NN retrieval over steps as SVG: a panel per representation, a line per pretraining."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = new_figure(4 * len(REPRESENTATIONS), 5)
    panels = figure.subplots(1, len(REPRESENTATIONS), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, REPRESENTATIONS):
        for contrast in contrasts:
            if name in contrast.representations:
                plot_curve(axes, runs, contrast, name, seeds)
        for encoder in (Encoder(SEQUENCE.name, COORDINATES), Encoder(name, RANDOM)):
            plot_reference(axes, runs, encoder, seeds)
        axes.set(title=f"{short_name(name)} encoder", xlabel="steps", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        style_axes(axes)
        if axes.lines:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=8)
    panels[0].set_ylabel("1-NN accuracy on validation clips (%)")
    return figure_svg(figure)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_steps = partial(parser.add_argument, type=POSITIVE_INT, metavar="N")
    add_steps("--steps", default=2000, help="steps of intra, inter and all (default: 2000)")
    add_steps("--stream-steps", default=8000, help="steps of the streams (default: 8000)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (default: all)")
    add_run_flags(parser, "real_data")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runs, seeds = open_runs(args, "real_data"), args.seeds
    folder = runs.folder
    by_part = {part: table_encoders(part, args.steps) for part in PARTS[:-1]}
    streams = stream_encoders(args.stream_steps)
    rows = [encoder for part in by_part.values() for encoder in part]
    jobs = runs.evaluations([encoder for part in args.only for encoder in by_part.get(part, [])], seeds)
    if "streams" in args.only:
        jobs += runs.evaluations(streams, seeds)
        jobs += [runs.evaluation("retrieval", concatenated(streams), seed) for seed in seeds]
        jobs += [fusion(runs, streams, seed) for seed in seeds]
    summary = run_all(jobs, args.jobs, folder)
    texts = {"table.md": table(runs, rows, seeds), "streams.md": stream_table(runs, streams, seeds)}
    for name, text in texts.items():
        content = f"{text}\n".encode()
        atomic_write(folder / name, lambda file, content=content: file.write(content))
        print(f"\n{text}", flush=True)
    contrasts = [x for encoder in rows if not isinstance(encoder.source, str) for x in encoder.source]
    svg = plot_curves(runs, [*dict.fromkeys(contrasts)], seeds)
    atomic_write(folder / "curves.svg", lambda file: file.write(svg))
    print(f"\nwritten: {', '.join([*texts, 'curves.svg'])} in {folder}", flush=True)
    summary.check_complete(folder / "logs")


if __name__ == "__main__":
    run_script(main)
