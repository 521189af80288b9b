"""Load encoders from checkpoints of this repository, of the official code or of CMD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facts.datasets import NUM_FRAMES
from facts.skeletons import KINECT_V2, Skeleton, from_data
from models.cmd import convert_checkpoint, is_cmd
from models.gru import SEQUENCE
from models.registry import (
    build_encoder,
    complete_sizes,
    join_representations,
    parse_representations,
    registry_entry,
    sort_representations,
    stream_of,
    with_stream,
)
from models.streams import JOINT
from options.parser import spelled
from utils.errors import UserError

from .checkpoint import checkpoint_errors, is_official, load_checkpoint, newest_checkpoint, state_error

RANDOM = "random"  # --pretrained random: untrained encoders
COORDINATES = "coordinates"  # --pretrained coordinates: no encoder, the normalized coordinates
FINE_TUNING = "fine-tuning"  # the kind of the checkpoints of fine-tuning and supervised training


class ConcatenatedEncoders(nn.Module):
    """One or several encoders whose features are concatenated; ``fc``, the projection head, is removed.

    ``encoders`` and ``sizes`` are by representation. ``title``, where the encoders come from, is for logs and
    results. They take clips of ``skeleton``, ``normalized`` or stored with ``--keep_coordinates``.
    """

    encoders: Any  # a ModuleDict, whose values torch types as Module

    def __init__(
        self,
        encoders: dict[str, Any],
        sizes: dict[str, dict[str, Any]],
        title: str,
        skeleton: Skeleton = KINECT_V2,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        self.sizes, self.title = sizes, title
        self.skeleton, self.normalized = skeleton, normalized
        frames = sorted({size["num_frames"] for size in sizes.values()})
        if len(frames) > 1:
            raise UserError(
                f"the encoders take views of {' and '.join(map(str, frames))} frames (--num-frames); to be "
                "concatenated they must agree"
            )
        self.num_frames = frames[0]
        for encoder in encoders.values():
            encoder.fc = nn.Identity()
        self.encoders = nn.ModuleDict(encoders)
        self.representations = tuple(encoders)
        self.widths = [encoder.num_features for encoder in encoders.values()]
        self.num_features = sum(self.widths)

    def description(self) -> dict[str, Any]:
        """Return what a checkpoint stores to rebuild the encoders, next to their weights."""
        skeleton = self.skeleton.to_dict()
        return {"title": self.title, "sizes": self.sizes, "skeleton": skeleton, "normalized": self.normalized}

    def forward(self, views: Mapping[str, Tensor]) -> Tensor:
        """Encode ``views`` (representation -> batch); returns features ``(N, num_features)`` float32."""
        features = [self.encoders[name].forward_features(views[name]) for name in self.encoders]
        return torch.cat(features, dim=1).float()  # mixed precision computes in another format


class Coordinates(nn.Module):
    """The baseline without an encoder: the flattened sequence layout, ``(N, T * 3 V M)``."""

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__()
        self.num_features = NUM_FRAMES * math.prod(skeleton.frame_shape)

    def forward_features(self, x: Tensor) -> Tensor:
        """Flatten the sequence view."""
        return x.flatten(start_dim=1)


@dataclass(frozen=True, eq=False)
class EncoderCheckpoint:
    """The encoders of one checkpoint: sizes and weights per representation, and the kind of their clips."""

    path: str
    title: str
    sizes: dict[str, dict[str, Any]]
    weights: dict[str, dict[str, Tensor]]
    skeleton: Skeleton = KINECT_V2
    normalized: bool = True

    def build(self, representation: str) -> nn.Module:
        """Build one of the encoders and load its weights, except those of ``fc``."""
        encoder = build_encoder(representation, 1, self.skeleton, **self.sizes[representation])
        encoder.fc = nn.Identity()
        weights = self.weights[representation]
        try:
            encoder.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
        except RuntimeError as error:
            raise UserError(
                f"{self.path} does not fit the {representation} encoder ({state_error(error)}); check the "
                "representation and size flags"
            ) from error
        return encoder


def last_checkpoints(pretrained: Sequence[str]) -> list[str]:
    """Return ``pretrained``, with the folder of a pretraining replaced by its most advanced checkpoint."""
    paths = []
    for path in pretrained:
        if path not in (RANDOM, COORDINATES) and Path(path).is_dir():
            newest = newest_checkpoint(Path(path))
            if newest is None:
                raise UserError(f"--pretrained {path}: the folder contains no checkpoint that can be used")
            path = str(newest[0])
        paths.append(path)
    return paths


def submodule_weights(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of ``state`` that start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def stored_skeleton(checkpoint: dict, path: str) -> Skeleton:
    """Return the skeleton of the checkpoint ``path``; Kinect v2 if it stores none."""
    return from_data(checkpoint.get("skeleton", KINECT_V2.name), path)


def check_skeleton(trained: Skeleton, path: str, skeleton: Skeleton) -> None:
    """Raise ``UserError`` if the checkpoint ``path`` was trained on another skeleton than the clips have."""
    if trained != skeleton:
        other = " with another definition" if str(trained) == str(skeleton) else ""
        raise UserError(
            f"{path} was trained on the skeleton {trained}, but the clips have {skeleton}{other}: use clips "
            "and a checkpoint of the same skeleton"
        )


def contrast_title(pairs: str) -> str:
    """Return the name of the contrast of ``--pairs``, for logs and results."""
    return "intra- and inter-skeleton" if pairs == "all" else f"{pairs}-skeleton"


def counted(number: int, noun: str) -> str:
    """Return ``1 epoch``, ``2 epochs``."""
    return f"{number:d} {noun}" if number == 1 else f"{number:d} {noun}s"


def read_pretraining(checkpoint: dict, path: str) -> EncoderCheckpoint:
    """Read the query encoders from ``checkpoint``, the content of a pretraining checkpoint ``path``."""
    if checkpoint.get("kind") != "pretraining":
        raise UserError(f"{path} is a checkpoint of a {checkpoint.get('kind')}, not of a pretraining run")
    names, state = checkpoint["representations"], checkpoint["state_dict"]
    pairs = "all" if checkpoint["flags"].get("pairs") == "all" else checkpoint["contrast"]
    title = f"{contrast_title(pairs)} {join_representations(names)}, {counted(checkpoint['epoch'], 'epoch')}"
    if checkpoint.get("step"):  # saved within an epoch
        title += f" and {counted(checkpoint['step'], 'step')}"
    try:
        sizes = complete_sizes(checkpoint["sizes"])
    except UserError as error:
        raise UserError(f"{path}: {error}; use the version of the code that wrote the checkpoint") from error
    weights = {name: submodule_weights(state, f"encoders.query.{name}.") for name in names}
    skeleton, normalized = stored_skeleton(checkpoint, path), checkpoint.get("normalized", True)
    return EncoderCheckpoint(path, title, dict.fromkeys(names, sizes), weights, skeleton, normalized)


def read_finetuned(checkpoint: dict, path: str) -> EncoderCheckpoint:
    """Read the encoders from ``checkpoint``, the content of a checkpoint of fine-tuning ``path``."""
    if "encoders" not in checkpoint:
        raise UserError(f"{path} was fine-tuned by an older version, which stored no encoder sizes")
    encoders, state = checkpoint["encoders"], checkpoint["state_dict"]
    weights = {name: submodule_weights(state, f"encoders.encoders.{name}.") for name in encoders["sizes"]}
    title = f"{encoders['title']}, fine-tuned for {counted(checkpoint['epoch'], 'epoch')}"
    skeleton = stored_skeleton(encoders, path)
    return EncoderCheckpoint(path, title, encoders["sizes"], weights, skeleton, encoders["normalized"])


def read_official(checkpoint: dict, path: str, names: Sequence[str], sizes: dict) -> EncoderCheckpoint:
    """Read the query encoders of ``names`` from an official checkpoint; sizes default to the paper's."""
    if not names:
        raise UserError(
            f"{path} was not written by this repository and does not store its representations: specify them "
            "with --pretrain-skeleton-representation"
        )
    state = checkpoint["state_dict"]
    prefixes = ("encoder_q.", "encoder_r.")  # of the query encoders of the first and second representation
    found = [weights for prefix in prefixes if (weights := submodule_weights(state, prefix))]
    if len(found) != len(names):
        raise UserError(
            f"{path} contains {len(found)} query encoders, but --pretrain-skeleton-representation lists "
            f"{len(names)}"
        )
    title, complete = f"official {join_representations(names)}", complete_sizes(sizes)
    return EncoderCheckpoint(path, title, dict.fromkeys(names, complete), dict(zip(names, found)))


def read_encoders(path: str, pretrain: str, stream: str | None, sizes: dict) -> EncoderCheckpoint:
    """Read the query encoders from a checkpoint of this repository, of the official code or of CMD.

    Raises ``UserError`` if a flag contradicts the checkpoint: ``--pretrain-skeleton-representation`` (or
    empty), ``--stream`` (or None) or the ``sizes`` that were given.
    """
    names, checkpoint = parse_representations(pretrain) if pretrain else (), load_checkpoint(Path(path))
    with checkpoint_errors(Path(path)):
        if is_cmd(checkpoint["state_dict"]):
            read = read_pretraining(convert_checkpoint(checkpoint), path)
        elif is_official(checkpoint):
            read = read_official(checkpoint, path, names, sizes)
        elif checkpoint.get("kind") == FINE_TUNING:
            read = read_finetuned(checkpoint, path)
        else:
            read = read_pretraining(checkpoint, path)
    stored = {
        **next(iter(read.sizes.values())),
        "pretrain_skeleton_representation": join_representations([*read.weights]),
        "stream": " and ".join(sorted({stream_of(name) for name in read.weights})),
    }
    given = {**sizes, "pretrain_skeleton_representation": join_representations(names), "stream": stream}
    for name, value in given.items():
        if value not in ("", None, stored[name]):
            raise UserError(
                f"{spelled(name, value)} contradicts {path}, which was trained with {stored[name]}; omit it"
            )
    return read


def select_representations(finetune: str | None, present: Sequence[str]) -> tuple[str, ...]:
    """Return the representations that ``finetune`` selects among those of the checkpoints; None: all.

    A name without a stream selects the joint stream or, if they contain one other stream only, that one.
    """
    if finetune is None:
        return tuple(present)
    selected = []
    for name in parse_representations(finetune):
        streams = [other for other in present if registry_entry(other) is registry_entry(name)]
        is_explicit = f"{name}:" in finetune or stream_of(name) != JOINT
        selected.append(streams[0] if len(streams) == 1 and not is_explicit else name)
    return tuple(selected)


def concatenate_encoders(checkpoints: list[EncoderCheckpoint], finetune: str | None) -> ConcatenatedEncoders:
    """Build the encoders of the representations ``finetune``, each from the checkpoint that contains it.

    ``finetune`` may be None if each checkpoint contains one encoder. Raises ``UserError`` if an encoder is in
    no checkpoint or in several, or if checkpoints do not fit each other.
    """
    contents = "; ".join(f"{c.path} contains {join_representations([*c.weights])}" for c in checkpoints)
    if finetune is None and any(len(checkpoint.weights) > 1 for checkpoint in checkpoints):
        raise UserError(f"{contents}: choose what to evaluate with --finetune-skeleton-representation")
    present = sort_representations({name for checkpoint in checkpoints for name in checkpoint.weights})
    selected = select_representations(finetune, present)
    sources = {name: [c for c in checkpoints if name in c.weights] for name in selected}
    used = [found[0] for found in sources.values() if len(found) == 1]
    if len(used) < len(selected) or not all(checkpoint in used for checkpoint in checkpoints):
        raise UserError(
            f"{join_representations(selected)}: each encoder must be in exactly one of the checkpoints, and "
            f"each checkpoint must be used; {contents}"
        )
    encoders = {name: found[0].build(name) for name, found in sources.items()}
    sizes = {name: found[0].sizes[name] for name, found in sources.items()}
    title, first = " + ".join(checkpoint.title for checkpoint in checkpoints), checkpoints[0]
    return ConcatenatedEncoders(encoders, sizes, title, first.skeleton, first.normalized)


def load_encoders(
    pretrained: str | Sequence[str],
    pretrain_representations: str | Sequence[str] | None = None,
    representations: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    *,
    frozen: bool = True,
    skeleton: Skeleton | None = None,
    stream: str | None = None,
) -> ConcatenatedEncoders:
    """Load the encoders of ``--pretrained``; the features of several are concatenated.

    Args:
        pretrained: ``random``, ``coordinates``, or paths of checkpoints or of folders of pretrainings.
        pretrain_representations: the representations in each checkpoint; required for official ones.
        representations: those to take from the checkpoints; optional if each contains one.
        sizes: the size flags, None for those that are not given.
        frozen: return the encoders in evaluation mode and without gradients, otherwise trainable.
        skeleton: the skeleton of the clips; None: that of the checkpoints, or Kinect v2 if there are none.
        stream: ``--stream``; None: that of the checkpoints, or joint if there are none.

    Raises ``UserError``, among others if a checkpoint was trained on another skeleton.
    """
    paths = last_checkpoints([pretrained] if isinstance(pretrained, str) else pretrained)
    given = pretrain_representations or ["" for _ in paths]
    names = [given] if isinstance(given, str) else list(given)
    sizes = {name: value for name, value in (sizes or {}).items() if value is not None}
    if len(names) != len(paths):
        raise UserError(
            f"--pretrain-skeleton-representation has {len(names)} entries for {len(paths)} checkpoints of "
            "--pretrained: give one entry per checkpoint, in the same order"
        )
    if paths == [COORDINATES]:
        if sizes or representations not in (None, SEQUENCE.name):
            raise UserError(
                f"--pretrained {COORDINATES} has no encoder: omit the size flags and "
                "--finetune-skeleton-representation"
            )
        skeleton, name = skeleton or KINECT_V2, with_stream(SEQUENCE.name, stream or JOINT)
        encoder, sizes = {name: Coordinates(skeleton)}, {name: {"num_frames": NUM_FRAMES}}
        return ConcatenatedEncoders(encoder, sizes, "normalized coordinates", skeleton)
    if paths == [RANDOM]:
        chosen = parse_representations(representations or names[0] or SEQUENCE.name, stream)
        skeleton, complete = skeleton or KINECT_V2, complete_sizes(sizes)
        untrained = {name: build_encoder(name, 1, skeleton, **complete) for name in chosen}
        encoders = ConcatenatedEncoders(untrained, dict.fromkeys(chosen, complete), "untrained", skeleton)
    else:
        checkpoints = [read_encoders(path, name, stream, sizes) for path, name in zip(paths, names)]
        for checkpoint in checkpoints:
            check_skeleton(checkpoint.skeleton, checkpoint.path, skeleton or checkpoints[0].skeleton)
        encoders = concatenate_encoders(checkpoints, representations)
    return encoders.requires_grad_(False).eval() if frozen else encoders
