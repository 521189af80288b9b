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
from options.defaults import fill_augmentation_defaults
from options.flags import pretraining_parser
from tables.jobs import JobBuilder
from tables.paper import read_paper
from tables.run import sort_jobs
from tables.settings import PAPER

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = {"output_dir", "pretrain_skeleton_representation", "pretrained", "save_freq", "seed", "resume"}
SCRIPTS = ("script_pretrain.sh", "script_action_classification.sh", "script_action_retrieval.sh")
# Experiments that the plan of the paper's tables does not contain.
BEYOND_THE_PAPER = re.compile("ntu60_cross_view_streams|streams_ntu60_cross_view|cmd_.*")


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
    if name != "ensemble.py":
        vars(args).update(complete_sizes({size: getattr(args, size) for size in size_flags()}))
    return args


def commands_in(script, only=()):
    """Name and flags of every command of the experiments of the paper, or of ``only``, in a script."""
    names = re.findall(r"^  (\w+) ", bash(script), re.MULTILINE)
    names = only or [name for name in names if not BEYOND_THE_PAPER.fullmatch(name)]
    lines = bash(script, *names).splitlines()
    return [(name, parse(name, flags)) for _, _, name, *flags in map(shlex.split, lines)]


def settings(name, args, written):
    """What distinguishes a run: script, flags and the settings of its pretrainings."""
    values = {key: str(value) for key, value in vars(args).items() if key not in FOLDERS}
    if "checkpoint_path" in values:
        values["checkpoint_path"] = os.path.normpath(values["checkpoint_path"])
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
    """Pretrainings are in the same folders, and evaluations read the checkpoints that are written."""
    written, evaluations = all_settings([command for script in SCRIPTS for command in commands_in(script)])
    builder = JobBuilder(PAPER, Path("data"), Path("checkpoints"), Path("runs"))
    jobs = sort_jobs(builder.evaluations(read_paper(), (0,)))
    names = [(Path(job.command[0]).name, job.command[1:]) for job in jobs]
    planned, planned_evaluations = all_settings([(name, parse(name, flags)) for name, flags in names])
    assert len(written) == len(planned) and set(written.values()) == set(planned.values())
    assert len(evaluations) == len(set(evaluations)) and set(evaluations) == set(planned_evaluations)


def test_unknown_experiments_are_rejected():
    assert "has no experiment 'nowhere'" in bash("script_pretrain.sh", "nowhere", code=2)


@pytest.mark.parametrize("script", SCRIPTS)
def test_folders_may_contain_spaces(tmp_path, script):
    """Printed commands and the arguments of the interpreter are the same, with each folder in one piece."""
    python, record = tmp_path / "my python", tmp_path / "record"
    python.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" $'\\n' >>{shlex.quote(str(record))}\n")
    python.chmod(0o755)
    folders = {"DATA_ROOT": "/my data", "CHECKPOINTS": "/my runs"}
    names = re.findall(r"^  (\w+) ", bash(script), re.MULTILINE)
    printed = bash(script, *names, PYTHON=str(python), DRY_RUN="", **folders)
    called = [line.strip("\0").split("\0") for line in record.read_text().split("\n") if line.strip("\0")]
    assert [shlex.split(line)[2:] for line in printed.splitlines()] == called
    assert printed == bash(script, *names, **folders)
    for name, *flags in called:
        checkpoints = [flag for flag in flags if "runs" in flag]
        assert checkpoints or "supervised" in flags
        assert all(flag.startswith("/my runs/") for flag in checkpoints)
        assert name == "ensemble.py" or flags[flags.index("--data-root") + 1] == "/my data"


STUBS = {
    "srun": '"$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node; else echo "$@" >requeued; fi',
    # torchrun, which exits with 1 for every failed process, and the pretraining script
    "python": """\
if [ "$1" != -m ]; then exit "$CODE"; fi
while [ "$1" != --no-python ] && [ $# -gt 1 ]; do shift; done
RANK=0 "${@:2}" || exit 1""",
}


@pytest.mark.parametrize("code, requeued", [(0, False), (1, False), (2, False), (75, True), (137, False)])
def test_slurm_job_is_requeued_if_it_was_stopped_and_not_if_it_failed(tmp_path, code, requeued):
    """Although there is a checkpoint that was written just before."""
    for name, content in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{content}\n")
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "my runs" / "ntu_60_cross_view" / "interskeleton_seq_based_graph_based"
    folder.mkdir(parents=True)
    (folder / "checkpoint_last.pth.tar").touch()
    (tmp_path / "checkpoints").symlink_to("my runs")
    job = {"SLURM_SUBMIT_DIR": tmp_path, "SLURM_JOB_ID": 7, "SLURM_JOB_NODELIST": "n", "SLURM_NNODES": 1}
    job |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": code, "CHECKPOINTS": "my runs"}
    job = {name: str(value) for name, value in job.items()}
    out = bash("script_slurm.sh", code=1 if code else 0, **job)
    assert (tmp_path / "requeued").exists() == requeued == ("requeueing" in out)
    assert [path.name for path in folder.iterdir()] == ["checkpoint_last.pth.tar"]


def test_streams_are_pretrained_before_their_scores_are_fused():
    experiments = ["ntu60_cross_view_intra", "ntu60_cross_view_streams"]
    written = {
        f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar": args.stream
        for _, args in commands_in("script_pretrain.sh", experiments)
    }
    *probes, (script, fusion) = commands_in("script_action_classification.sh", ["streams_ntu60_cross_view"])
    assert [written[args.pretrained[0]] for _, args in probes] == [None, "bone", "motion"]
    assert script == "ensemble.py" and fusion.scores == [args.save_scores for _, args in probes]
