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
from models.registry import join_representations, parse_representations
from options.defaults import check_mode, fill_augmentation_defaults, fill_classifier_defaults
from options.flags import pretraining_parser
from tables.paper import read_paper
from tables.plan import evaluations_of
from tables.settings import PAPER

REPOSITORY = Path(__file__).resolve().parents[1]
EVALUATIONS = list(
    dict.fromkeys(e for row in read_paper() for e in evaluations_of(row, (0,), PAPER.label_seeds))
)


def bash(script, *experiments, code=0, **environment):
    """Run a script with DRY_RUN=1; return its output."""
    done = subprocess.run(
        ["bash", str(REPOSITORY / script), *experiments],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "DRY_RUN": "1", **environment},
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def parse_flags(monkeypatch, name, flags):
    monkeypatch.setattr(sys, "argv", [name, *flags])
    if "moco" in name:
        args = pretraining_parser("", "inter").parse_args()
        fill_augmentation_defaults(args, KINECT_V2)
        return args
    return importlib.import_module(name.removesuffix(".py")).parse_args()


# Experiments that the plan of the paper's tables does not contain.
BEYOND_THE_PAPER = {"ntu60_cross_view_streams", "streams_ntu60_cross_view"}


@pytest.fixture
def commands(monkeypatch):
    """``commands(script)``: name and parsed flags of every command of the paper's experiments in a script."""

    def parse(script, only=None):
        names = re.findall(r"^  (\w+) ", bash(script), re.MULTILINE)
        assert names and all(bash(script, name) for name in names), "each experiment runs alone"
        names = only or [name for name in names if name not in BEYOND_THE_PAPER]
        parsed = []
        for line in bash(script, *names).splitlines():
            plus, python, name, *flags = shlex.split(line)
            parsed.append((name.removesuffix(".py"), parse_flags(monkeypatch, name, flags)))
        return parsed

    return parse


def assert_flags(args, expected, context):
    for name, value in expected.items():
        name = {"wd": "weight_decay"}.get(name, name)
        value = list(value) if isinstance(value, tuple) else value
        assert getattr(args, name) == value, (context, name)


def parsed_pretraining(args):
    """The settings that distinguish a pretraining, from parsed flags."""
    return (
        parse_representations(args.skeleton_representation),
        args.dataset,
        args.protocol,
        tuple(args.augmentations),
        args.jitter_joints,
        args.min_crop_ratio,
    )


def planned_pretraining(spec):
    """The same settings from the plan."""
    return (
        spec.representations,
        spec.dataset,
        spec.protocol,
        spec.augmentations,
        spec.jitter_joints,
        spec.min_crop_ratio,
    )


def test_pretraining_script_matches_the_plan(commands):
    found, folders = set(), set()
    parsed = commands("script_pretrain.sh")
    for name, args in parsed:
        assert_flags(args, PAPER.pretraining_flags(args.dataset), args.checkpoint_path)
        found.add(parsed_pretraining(args))
        folders.add(args.checkpoint_path)
        assert ("inter" in name) == (len(parse_representations(args.skeleton_representation)) > 1)
    planned = {p for e in EVALUATIONS for p in e.pretrained}
    assert found == {planned_pretraining(spec) for spec in planned}
    assert len(folders) == len(found) == len(parsed) == len(planned), "each has its own folder"


def test_evaluation_scripts_match_the_plan(commands):
    """The scripts contain every evaluation of the plan, of checkpoints that script_pretrain.sh writes."""
    written = {
        f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar": parsed_pretraining(args)
        for _, args in commands("script_pretrain.sh")
    }
    found = []
    for script in ("script_action_classification.sh", "script_action_retrieval.sh"):
        for name, args in commands(script):
            task = "retrieval" if "retrieval" in name else args.mode
            if task != "retrieval":
                check_mode(args)
                fill_classifier_defaults(args)
                assert_flags(args, PAPER.classifier[task], script)
            labels = (None, None) if task == "retrieval" else (args.label_fraction, args.label_seed)
            pretrained = frozenset(written[path] for path in args.pretrained if path != "random")
            representation = args.finetune_skeleton_representation
            found.append((task, representation, args.dataset, args.protocol, pretrained, *labels))
    planned = [
        (
            e.task,
            join_representations(e.representations),
            e.dataset,
            e.protocol,
            frozenset(planned_pretraining(p) for p in e.pretrained),
            e.label_fraction,
            None if e.label_fraction is None else e.seed,
        )
        for e in EVALUATIONS
    ]
    assert len(found) == len(set(found)) and set(found) == set(planned)


def test_unknown_experiment_is_rejected():
    assert "has no experiment 'nowhere'" in bash("script_pretrain.sh", "nowhere", code=2)


def test_data_root_is_read_from_the_environment():
    assert "--data-root /elsewhere" in bash(
        "script_pretrain.sh", "pku1_cross_subject", DATA_ROOT="/elsewhere"
    )


def test_streams_are_pretrained_before_their_scores_are_fused(commands):
    pretraining = commands("script_pretrain.sh", ["ntu60_cross_view_intra", "ntu60_cross_view_streams"])
    written = {
        f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar": args.stream
        for _, args in pretraining
    }
    *probes, (script, fusion) = commands("script_action_classification.sh", ["streams_ntu60_cross_view"])
    assert [written[args.pretrained[0]] for _, args in probes] == [None, "bone", "motion"]
    assert script == "ensemble" and fusion.scores == [args.save_scores for _, args in probes]
