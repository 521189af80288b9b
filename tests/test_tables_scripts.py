"""The shell scripts contain the same configurations as the plan of the tables."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from facts.skeletons import KINECT_V2
from models.registry import complete_sizes, size_flags
from options.defaults import check_mode, fill_augmentation_defaults, fill_classifier_defaults
from options.flags import pretraining_parser
from tables.jobs import JobBuilder
from tables.paper import read_paper
from tables.run import sort_jobs
from tables.settings import PAPER

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = {"checkpoint_path", "output_dir", "pretrained", "save_freq", "seed", "resume"}
# Experiments that the plan of the paper's tables does not contain.
BEYOND_THE_PAPER = {"ntu60_cross_view_streams", "streams_ntu60_cross_view"}


def bash(script, *experiments, code=0, **environment):
    """Run a script with DRY_RUN=1; return its output."""
    environment = {**os.environ, "DRY_RUN": "1", **environment}
    command = ["bash", str(REPOSITORY / script), *experiments]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def parse(name, flags):
    """The flags of a command, complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *flags])
        if "moco" in name:
            args = pretraining_parser("", name.split("_")[2]).parse_args()
            fill_augmentation_defaults(args, KINECT_V2)
        else:
            args = importlib.import_module(name.removesuffix(".py")).parse_args()
    if "classification" in name:
        check_mode(args)
        fill_classifier_defaults(args)
    if name != "ensemble.py":
        vars(args).update(complete_sizes({size: getattr(args, size) for size in size_flags()}))
    return args


def commands_in(script, only=()):
    """Name and flags of every command of the experiments of the paper, or of ``only``, in a script."""
    names = re.findall(r"^  (\w+) ", bash(script), re.MULTILINE)
    lines = bash(script, *(only or [name for name in names if name not in BEYOND_THE_PAPER])).splitlines()
    return [(name, parse(name, flags)) for _, _, name, *flags in map(shlex.split, lines)]


def settings(name, args, written):
    """What distinguishes a run: script, flags and the settings of its pretrainings."""
    values = {key: str(value) for key, value in vars(args).items() if key not in FOLDERS}
    pretrained = [written[path] for path in getattr(args, "pretrained", None) or [] if path != "random"]
    return name, frozenset(values.items()), frozenset(pretrained)


def all_settings(commands):
    """The settings of every command, of pretrainings by the path of their last checkpoint."""
    written = {
        f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar": settings(name, args, {})
        for name, args in commands
        if "moco" in name
    }
    evaluations = [settings(name, args, written) for name, args in commands if "moco" not in name]
    return written, evaluations


def test_scripts_match_the_plan():
    """Each pretraining has its own folder, and evaluations read the checkpoints that are written."""
    scripts = ("script_pretrain.sh", "script_action_classification.sh", "script_action_retrieval.sh")
    written, evaluations = all_settings([command for script in scripts for command in commands_in(script)])
    builder = JobBuilder(PAPER, Path("data"), Path("runs"))
    jobs = sort_jobs(builder.evaluations(read_paper(), (0,)))
    names = [(Path(job.command[0]).name, job.command[1:]) for job in jobs]
    planned, planned_evaluations = all_settings([(name, parse(name, flags)) for name, flags in names])
    assert len(written) == len(planned) and set(written.values()) == set(planned.values())
    assert len(evaluations) == len(set(evaluations)) and set(evaluations) == set(planned_evaluations)


def test_unknown_experiments_are_rejected_and_the_data_root_is_read_from_the_environment():
    assert "has no experiment 'nowhere'" in bash("script_pretrain.sh", "nowhere", code=2)
    assert "--data-root /there" in bash("script_pretrain.sh", "pku1_cross_subject", DATA_ROOT="/there")


def test_streams_are_pretrained_before_their_scores_are_fused():
    experiments = ["ntu60_cross_view_intra", "ntu60_cross_view_streams"]
    written = {
        f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar": args.stream
        for _, args in commands_in("script_pretrain.sh", experiments)
    }
    *probes, (script, fusion) = commands_in("script_action_classification.sh", ["streams_ntu60_cross_view"])
    assert [written[args.pretrained[0]] for _, args in probes] == [None, "bone", "motion"]
    assert script == "ensemble.py" and fusion.scores == [args.save_scores for _, args in probes]
