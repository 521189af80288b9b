"""The shell scripts hold the same configurations as the tables' plan."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.setup import parse_pretraining_flags
from options.defaults import check_mode, fill_classifier_defaults
from models.representations import join_representations, parse_representations
from tables.paper import read_paper
from tables.plan import evaluations_of
from tables.scale import PAPER

REPOSITORY = Path(__file__).resolve().parents[1]
EVALUATIONS = list(dict.fromkeys(e for row in read_paper() for e in evaluations_of(row, (0,), PAPER.label_seeds)))


def bash(script, *blocks, code=0, **environment):
    done = subprocess.run(["bash", str(REPOSITORY / script), *blocks], capture_output=True, text=True, cwd="/",
                          env={**os.environ, "DRY_RUN": "1", **environment})
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def commands(monkeypatch):
    """``commands(script)``: name and parsed flags of every command of all its blocks."""
    def parse(script):
        names = re.findall(r"^  (\w+) ", bash(script), re.MULTILINE)
        assert names and all(bash(script, name) for name in names), "each runs alone"
        parsed = []
        for line in bash(script, *names).splitlines():
            plus, python, name, *flags = shlex.split(line)
            monkeypatch.setattr(sys, "argv", [name, *flags])
            name = name.removesuffix(".py")
            args = parse_pretraining_flags("", "", "") if "moco" in name else importlib.import_module(name).parse_args()
            parsed.append((name, args))
        return parsed
    return parse


def agrees(args, expected, where):
    for name, value in expected.items():
        name = {"wd": "weight_decay"}.get(name, name)
        value = list(value) if isinstance(value, tuple) else value
        assert getattr(args, name) == value, (where, name)


def test_pretraining(commands):
    found = set()
    for name, args in commands("script_pretrain.sh"):
        agrees(args, PAPER.pretraining_flags(args.dataset), args.checkpoint_path)
        representations = parse_representations(args.skeleton_representation)
        assert ("inter" in name) == (len(representations) > 1)
        found.add((representations, args.dataset, args.protocol, tuple(args.augmentations), args.jitter_joints,
                   args.min_crop_ratio, args.checkpoint_path))
    planned = {p for e in EVALUATIONS for p in e.pretrained}
    assert {x[:-1] for x in found} == {(p.representations, p.dataset, p.protocol, p.augmentations, p.jitter_joints,
                                       p.min_crop_ratio) for p in planned}
    assert len({x[-1] for x in found}) == len(found) == len(planned), "a folder each"


def test_evaluations(commands):
    """Every evaluation of the plan, of checkpoints that script_pretrain.sh writes."""
    written = {f"{args.checkpoint_path}/checkpoint_{args.epochs - 1:04d}.pth.tar": (
        parse_representations(args.skeleton_representation), args.dataset, args.protocol, tuple(args.augmentations),
        args.jitter_joints, args.min_crop_ratio) for _, args in commands("script_pretrain.sh")}
    found = []
    for script in ("script_action_classification.sh", "script_action_retrieval.sh"):
        for name, args in commands(script):
            task = "retrieval" if "retrieval" in name else args.mode
            if task != "retrieval":
                check_mode(args)
                fill_classifier_defaults(args)
                agrees(args, PAPER.classifier[task], script)
            labels = (None, None) if task == "retrieval" else (args.label_fraction, args.label_seed)
            found.append((task, args.finetune_skeleton_representation, args.dataset, args.protocol,
                          frozenset(written[path] for path in args.pretrained if path != "random"), *labels))
    planned = [(e.task, join_representations(e.representations), e.dataset, e.protocol,
                frozenset((p.representations, p.dataset, p.protocol, p.augmentations, p.jitter_joints, p.min_crop_ratio)
                          for p in e.pretrained), e.label_fraction, None if e.label_fraction is None else e.seed)
               for e in EVALUATIONS]
    assert len(found) == len(set(found)) and set(found) == set(planned)


def test_a_block_that_is_not_there():
    assert "has no block 'nowhere'" in bash("script_pretrain.sh", "nowhere", code=2)
    assert "--data-root /elsewhere" in bash("script_pretrain.sh", "pku1_cross_subject", DATA_ROOT="/elsewhere")
