"""Load query encoders from checkpoints of this repository or of the official code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
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
from utils.errors import UserError

from .checkpoint import checkpoint_errors, is_official, load_checkpoint, newest_checkpoint

RANDOM = "random"  # --pretrained random: untrained encoders
COORDINATES = "coordinates"  # --pretrained coordinates: no encoder, the normalized coordinates

# Names in official checkpoints of the query encoders of the first and the second representation.
OFFICIAL_QUERY_ENCODERS = ("encoder_q", "encoder_r")


class ConcatenatedEncoders(nn.Module):
    """One or several encoders whose features are concatenated.

    Args:
        encoders: representation -> encoder. ``fc``, the projection head of the contrast, is removed.
        num_frames: frames of the views that the encoders take.
        title: where the encoders come from, for logs and results.
        skeleton: the skeleton of the clips that the encoders take.
        normalized: whether these clips are normalized, or stored with ``--keep_coordinates``.
    """

    encoders: Any  # a ModuleDict, whose values torch types as Module

    def __init__(
        self,
        encoders: dict[str, Any],
        num_frames: int,
        title: str,
        skeleton: Skeleton = KINECT_V2,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        self.num_frames, self.title = num_frames, title
        self.skeleton, self.normalized = skeleton, normalized
        for encoder in encoders.values():
            encoder.fc = nn.Identity()
        self.encoders = nn.ModuleDict(encoders)
        self.representations = tuple(encoders)
        self.widths = [encoder.num_features for encoder in encoders.values()]
        self.num_features = sum(self.widths)

    def forward(self, views: Mapping[str, Tensor]) -> Tensor:
        """Encode ``views`` (representation -> batch); returns features ``(N, num_features)`` float32."""
        features = [self.encoders[name].forward_features(views[name]) for name in self.encoders]
        return torch.cat(features, dim=1).float()  # mixed precision computes in another format


class CoordinateBaseline(nn.Module):
    """The baseline without an encoder: the flattened sequence layout, ``(N, T * 3 V M)``."""

    title = "normalized coordinates"
    num_frames = NUM_FRAMES
    normalized = True

    def __init__(self, skeleton: Skeleton, stream: str = JOINT) -> None:
        super().__init__()
        self.skeleton = skeleton
        self.representations = (with_stream(SEQUENCE.name, stream),)
        self.num_features = NUM_FRAMES * math.prod(skeleton.frame_shape)
        self.widths = [self.num_features]

    def forward(self, views: Mapping[str, Tensor]) -> Tensor:
        """Flatten the sequence view."""
        return views[self.representations[0]].flatten(start_dim=1)


@dataclass(frozen=True, eq=False)
class EncoderCheckpoint:
    """The query encoders of one checkpoint: all encoder sizes, weights per representation, kind of clips."""

    path: str
    title: str
    sizes: dict[str, Any]
    weights: dict[str, dict[str, Tensor]]
    skeleton: Skeleton = KINECT_V2
    normalized: bool = True

    def build(self, representation: str) -> nn.Module:
        """Build one of the encoders and load its weights."""
        encoder = build_encoder(representation, 1, self.skeleton, **self.sizes)
        load_weights(encoder, self.weights[representation], self.path, f"the {representation} encoder")
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


def load_weights(encoder: nn.Module, weights: dict[str, Tensor], path: str, role: str) -> None:
    """Copy ``weights`` into ``encoder``, except ``fc``; raises ``UserError`` listing any mismatch."""
    expected = {k: v for k, v in encoder.state_dict().items() if not k.startswith("fc.")}
    weights = {k: v for k, v in weights.items() if not k.startswith("fc.")}
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in expected]
    problems += [
        f"{name} is {tuple(weights[name].shape)} in the file, {tuple(tensor.shape)} in the encoder"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:4]) + ("; ..." if len(problems) > 4 else "")
        raise UserError(
            f"{path} does not fit {role}: {len(problems)} weights differ ({shown}); check the representation "
            "and size flags"
        )
    encoder.load_state_dict(weights, strict=False)


def submodule_weights(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of ``state`` that start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def check_contradictions(stored: dict, given: dict, path: str) -> None:
    """Raise ``UserError`` if a size flag in ``given`` differs from the sizes stored in a checkpoint.

    Sizes that the checkpoint ``path`` does not store have their defaults; flags that were not given are
    None.
    """
    sizes = stored_sizes(stored, path)
    for name, value in given.items():
        if value is not None and value != sizes[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {value} contradicts {path}, which was trained with {sizes[name]}; omit {flag}"
            )


def stored_sizes(stored: dict, path: str) -> dict[str, Any]:
    """Return all encoder sizes of the checkpoint ``path``; a size that it does not store is the default.

    Raises:
        UserError: a size is unknown or not allowed.
    """
    try:
        return complete_sizes(stored)
    except UserError as error:
        raise UserError(f"{path}: {error}; use the version of the code that wrote the checkpoint") from error


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


def read_pretraining(checkpoint: dict, path: str, pretrain: str | None, sizes: dict) -> EncoderCheckpoint:
    """Read the query encoders from a pretraining checkpoint of this repository.

    Args:
        checkpoint: the content of ``path``.
        pretrain: ``--pretrain-skeleton-representation``, or None; must agree with the checkpoint.
        sizes: the size flags, None if not given; must agree with the checkpoint.
    """
    if checkpoint.get("kind") != "pretraining":
        raise UserError(f"{path} is a checkpoint of a {checkpoint.get('kind')}, not of a pretraining run")
    stored = tuple(checkpoint["representations"])
    if pretrain is not None and parse_representations(pretrain) != stored:
        raise UserError(
            f"--pretrain-skeleton-representation {pretrain} contradicts {path}, which contains "
            f"{join_representations(stored)}; omit the flag"
        )
    check_contradictions(checkpoint["sizes"], sizes, path)
    state = checkpoint["state_dict"]
    weights = {name: submodule_weights(state, f"encoders.query.{name}.") for name in stored}
    contrast = contrast_title(checkpoint["flags"].get("pairs", checkpoint["contrast"]))
    title = f"{contrast} {join_representations(stored)}, {checkpoint['epoch']} epochs"
    if checkpoint.get("step"):  # saved within an epoch
        title += f" and {checkpoint['step']} steps"
    complete = stored_sizes(checkpoint["sizes"], path)
    skeleton, normalized = stored_skeleton(checkpoint, path), checkpoint.get("normalized", True)
    return EncoderCheckpoint(path, title, complete, weights, skeleton, normalized)


def read_official(checkpoint: dict, path: str, pretrain: str | None, sizes: dict) -> EncoderCheckpoint:
    """Read the query encoders from an official checkpoint, whose content the flags must specify.

    The arguments are those of ``read_pretraining``; sizes that are not given are the paper's.
    """
    if pretrain is None:
        raise UserError(
            f"{path} was not written by this repository and does not store its representations: specify them "
            "with --pretrain-skeleton-representation"
        )
    names = parse_representations(pretrain)
    state = checkpoint["state_dict"]
    present = [name for name in OFFICIAL_QUERY_ENCODERS if submodule_weights(state, f"{name}.")]
    if len(present) != len(names):
        raise UserError(
            f"{path} contains {len(present)} query encoders, but --pretrain-skeleton-representation "
            f"{pretrain} lists {len(names)}"
        )
    encoders = zip(names, OFFICIAL_QUERY_ENCODERS)
    weights = {name: submodule_weights(state, f"{encoder}.") for name, encoder in encoders}
    return EncoderCheckpoint(path, f"official {join_representations(names)}", complete_sizes(sizes), weights)


def read_encoders(path: str, pretrain: str | None, sizes: dict) -> EncoderCheckpoint:
    """Read the query encoders from a checkpoint of this repository, of the official code or of CMD."""
    checkpoint = load_checkpoint(Path(path))
    read = read_official if is_official(checkpoint) else read_pretraining
    with checkpoint_errors(Path(path)):
        if is_cmd(checkpoint["state_dict"]):
            return read_pretraining(convert_checkpoint(checkpoint), path, pretrain, sizes)
        return read(checkpoint, path, pretrain, sizes)


def choose_checkpoints(
    checkpoints: list[EncoderCheckpoint], finetune: str | None
) -> dict[str, EncoderCheckpoint]:
    """Return which checkpoint to take each representation's encoder from.

    Args:
        checkpoints: those of ``--pretrained``.
        finetune: ``--finetune-skeleton-representation``; None is allowed if each checkpoint contains one
            encoder.

    Raises:
        UserError: a representation is in no checkpoint or in several, or a checkpoint is not used.
    """
    paths = " and ".join(checkpoint.path for checkpoint in checkpoints)
    present = sort_representations({name for checkpoint in checkpoints for name in checkpoint.weights})
    sources = {name: [c for c in checkpoints if name in c.weights] for name in present}
    if finetune is None and any(len(checkpoint.weights) > 1 for checkpoint in checkpoints):
        raise UserError(
            f"{paths} contains {join_representations(present)}: choose what to evaluate with "
            "--finetune-skeleton-representation"
        )
    chosen = {}
    for name in select_representations(finetune, present) if finetune else present:
        if name not in sources:
            raise UserError(
                f"--finetune-skeleton-representation {finetune}: {paths} contains "
                f"{join_representations(present)} but no {name} encoder; choose from these or use another "
                "checkpoint"
            )
        if len(sources[name]) > 1:
            raise UserError(
                f"--pretrained: {sources[name][0].path} and {sources[name][1].path} both contain a {name} "
                "encoder; give one of them"
            )
        chosen[name] = sources[name][0]
    for checkpoint in checkpoints:
        if checkpoint not in chosen.values():
            raise UserError(
                f"--pretrained {checkpoint.path} contains none of --finetune-skeleton-representation "
                f"{finetune}; omit it"
            )
    return chosen


def select_representations(finetune: str, present: Sequence[str]) -> tuple[str, ...]:
    """Return the representations that ``finetune`` selects among those of the checkpoints.

    A name without a stream selects the joint stream or, if the checkpoints contain another stream of this
    representation only, that one.
    """
    selected = []
    for name in parse_representations(finetune):
        streams = [other for other in present if registry_entry(other) is registry_entry(name)]
        is_explicit = f"{name}:" in finetune or stream_of(name) != JOINT
        selected.append(streams[0] if len(streams) == 1 and not is_explicit else name)
    return tuple(selected)


def check_stream(stream: str | None, checkpoints: Sequence[EncoderCheckpoint]) -> None:
    """Raise ``UserError`` if ``--stream`` is given and a checkpoint contains another stream."""
    for checkpoint in checkpoints:
        for name in checkpoint.weights:
            if stream not in (None, stream_of(name)):
                raise UserError(
                    f"--stream {stream} contradicts {checkpoint.path}, which contains {name}; omit --stream"
                )


def load_encoders(
    pretrained: str | Sequence[str],
    pretrain_representations: str | Sequence[str] | None = None,
    representations: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    *,
    frozen: bool = True,
    skeleton: Skeleton | None = None,
    stream: str | None = None,
) -> ConcatenatedEncoders | CoordinateBaseline:
    """Load the encoders of ``--pretrained``; the features of several are concatenated.

    Args:
        pretrained: ``random``, ``coordinates``, or the paths of one or several checkpoints.
        pretrain_representations: the representations in each checkpoint; required for official ones.
        representations: those to take from the checkpoints; optional if each contains one.
        sizes: the size flags, None for those that are not given.
        frozen: return the encoders in evaluation mode and without gradients, otherwise trainable.
        skeleton: the skeleton of the clips; None: that of the checkpoints, or Kinect v2 if there are none.
        stream: ``--stream``; None: that of the checkpoints, or joint if there are none.

    Raises:
        UserError: among others, a checkpoint was trained on another skeleton.
    """
    paths = [pretrained] if isinstance(pretrained, str) else list(pretrained)
    stored = pretrain_representations
    names = [stored] if isinstance(stored, str) else list(stored or [])
    sizes = {name: value for name, value in (sizes or {}).items() if value is not None}
    check_pretrained_flags(paths, names)
    if paths == [COORDINATES]:
        if sizes or representations not in (None, SEQUENCE.name):
            raise UserError(
                f"--pretrained {COORDINATES} has no encoder: omit the size flags and "
                "--finetune-skeleton-representation"
            )
        return CoordinateBaseline(skeleton or KINECT_V2, stream or JOINT)
    if paths == [RANDOM]:
        chosen = parse_representations(representations or (names or [SEQUENCE.name])[0], stream)
        encoders = random_encoders(chosen, sizes, skeleton or KINECT_V2)
    else:
        checkpoints = [read_encoders(path, name, sizes) for path, name in zip_longest(paths, names)]
        check_stream(stream, checkpoints)
        for checkpoint in checkpoints:
            check_skeleton(checkpoint.skeleton, checkpoint.path, skeleton or checkpoints[0].skeleton)
        encoders = concatenate_encoders(checkpoints, representations)
    return encoders.requires_grad_(False).eval() if frozen else encoders


def check_pretrained_flags(paths: list[str], names: list[str]) -> None:
    """Raise ``UserError`` if ``--pretrained`` and ``--pretrain-skeleton-representation`` do not match."""
    for word in (RANDOM, COORDINATES):
        if word in paths and len(paths) > 1:
            raise UserError(f"--pretrained {word} cannot be combined with other checkpoints: omit the others")
    if names and len(names) != len(paths):
        raise UserError(
            f"--pretrain-skeleton-representation has {len(names)} entries for {len(paths)} checkpoints of "
            "--pretrained: give one entry per checkpoint, in the same order"
        )


def random_encoders(names: Sequence[str], sizes: dict, skeleton: Skeleton) -> ConcatenatedEncoders:
    """Build untrained encoders of the representations ``names``."""
    complete = complete_sizes(sizes)
    encoders = {name: build_encoder(name, 1, skeleton, **complete) for name in names}
    return ConcatenatedEncoders(encoders, complete["num_frames"], "untrained", skeleton)


def concatenate_encoders(checkpoints: list[EncoderCheckpoint], finetune: str | None) -> ConcatenatedEncoders:
    """Build the encoders of the representations ``finetune`` from one or several checkpoints."""
    frames = {checkpoint.sizes["num_frames"] for checkpoint in checkpoints}
    if len(frames) > 1:
        raise UserError(
            f"--pretrained: the checkpoints take views of {' and '.join(map(str, sorted(frames)))} frames "
            "(--num-frames); to be concatenated they must agree"
        )
    chosen = choose_checkpoints(checkpoints, finetune)
    encoders = {name: checkpoint.build(name) for name, checkpoint in chosen.items()}
    title = " + ".join(checkpoint.title for checkpoint in checkpoints)
    first = checkpoints[0]
    return ConcatenatedEncoders(encoders, frames.pop(), title, first.skeleton, first.normalized)
