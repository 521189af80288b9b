"""Query encoders out of a checkpoint: ours, which says what it holds, or the authors', which does not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor, nn

from options.datasets import NUM_COORDINATES, NUM_FRAMES, NUM_JOINTS, NUM_PEOPLE
from options.errors import UserError
from models.representations import (
    REPRESENTATIONS,
    build_encoder,
    complete_sizes,
    join_representations,
    parse_representations,
)

from .checkpoint import checkpoint_errors, is_official, load_checkpoint

RANDOM = "random"  # --pretrained random: an untrained encoder
COORDINATES = "coordinates"  # --pretrained coordinates: no encoder, the normalised input itself

# The authors' names of the query encoders of the first and second representation.
OFFICIAL_QUERY_ENCODERS = ("encoder_q", "encoder_r")


class Encoders(nn.Module):
    """Encoders of one clip's representations; features side by side."""

    def __init__(self, encoders: dict[str, nn.Module], num_frames: int, title: str) -> None:
        super().__init__()
        self.num_frames = num_frames  # of the views that they take
        self.title = title  # in words, for results
        for encoder in encoders.values():
            encoder.fc = nn.Identity()  # the head of the contrast; features come from before it
        self.encoders = nn.ModuleDict(encoders)
        self.representations = tuple(encoders)
        self.num_features = sum(encoder.num_features for encoder in encoders.values())

    def forward(self, views: dict[str, Tensor]) -> Tensor:
        """``representation -> batch`` to features ``(N, num_features)``."""
        features = [self.encoders[name].forward_features(views[name]) for name in self.encoders]
        return torch.cat(features, dim=1).float()  # whatever the encoders computed in


class Coordinates(nn.Module):
    """The baseline without an encoder: the sequence layout itself, ``(N, T * 150)``."""

    title = "normalised coordinates"
    representations = ("seq-based",)
    num_frames = NUM_FRAMES
    num_features = NUM_FRAMES * NUM_JOINTS * NUM_COORDINATES * NUM_PEOPLE

    def forward(self, views: dict[str, Tensor]) -> Tensor:
        return views["seq-based"].flatten(start_dim=1)


def load_strictly(encoder: nn.Module, weights: dict[str, Tensor], path: str, role: str) -> None:
    """Copy ``weights`` into ``encoder``, whose ``fc`` is left out; name whatever does not fit."""
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
            f"{path} does not fit {role}: {len(problems)} weights differ ({shown}); check the "
            "representation and size flags"
        )
    encoder.load_state_dict(weights, strict=False)


def submodule_weights(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def check_contradictions(stored: dict, given: dict, path: str) -> None:
    """A flag that says otherwise than the checkpoint is an error that names it."""
    stored = complete_sizes(stored)
    for name, value in given.items():
        if value is not None and value != stored[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {value} contradicts {path}, which was trained with {stored[name]}; "
                f"leave {flag} out"
            )


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Query encoders as a checkpoint holds them."""

    path: str
    title: str  # in words
    sizes: dict  # every field of EncoderSizes
    weights: dict[str, dict[str, Tensor]]  # representation -> weights of its encoder

    def encoder(self, name: str) -> nn.Module:
        """One of them, built and filled."""
        encoder = build_encoder(name, 1, **self.sizes)
        load_strictly(encoder, self.weights[name], self.path, f"the {name} encoder")
        return encoder


def open_ours(checkpoint: dict, path: str, pretrain: str | None, sizes: dict) -> Pretrained:
    """What our own checkpoint holds, at the sizes it carries."""
    if checkpoint.get("kind") != "pretraining":
        raise UserError(f"{path} is of a {checkpoint.get('kind')}, not of a pretraining")
    held = tuple(checkpoint["representations"])
    if pretrain is not None and parse_representations(pretrain) != held:
        raise UserError(
            f"--pretrain-skeleton-representation {pretrain} contradicts {path}, which holds "
            f"{join_representations(held)}; leave the flag out"
        )
    check_contradictions(checkpoint["sizes"], sizes, path)
    state = checkpoint["state_dict"]
    weights = {name: submodule_weights(state, f"encoders.query.{name}.") for name in held}
    title = f"{checkpoint['contrast']}-skeleton {join_representations(held)}, {checkpoint['epoch']} epochs"
    if checkpoint.get("step"):  # stopped in mid-epoch
        title += f" and {checkpoint['step']} steps"
    return Pretrained(path, title, complete_sizes(checkpoint["sizes"]), weights)


def open_official(checkpoint: dict, path: str, pretrain: str | None, sizes: dict) -> Pretrained:
    """What one of the authors' checkpoints holds; its contents the flags must name."""
    if pretrain is None:
        raise UserError(
            f"{path} was not written by this program and does not say what it holds: name it with "
            "--pretrain-skeleton-representation"
        )
    held = parse_representations(pretrain)
    state = {k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()}
    present = [name for name in OFFICIAL_QUERY_ENCODERS if submodule_weights(state, f"{name}.")]
    if len(present) != len(held):
        raise UserError(
            f"{path} holds {len(present)} query encoders, --pretrain-skeleton-representation "
            f"{pretrain} names {len(held)}"
        )
    encoders = zip(held, OFFICIAL_QUERY_ENCODERS)
    weights = {name: submodule_weights(state, f"{encoder}.") for name, encoder in encoders}
    return Pretrained(path, f"released {join_representations(held)}", complete_sizes(sizes), weights)


def open_pretrained(path: str, pretrain: str | None, sizes: dict) -> Pretrained:
    """What a checkpoint holds, whoever wrote it."""
    checkpoint = load_checkpoint(Path(path))
    with checkpoint_errors(Path(path)):
        return (open_official if is_official(checkpoint) else open_ours)(checkpoint, path, pretrain, sizes)


def choose_encoders(files: list[Pretrained], finetune: str | None) -> dict[str, Pretrained]:
    """``representation -> the checkpoint to take it from``, for those that ``finetune`` names.

    Each must be in exactly one checkpoint, and no checkpoint may be left over.
    """
    shown = " and ".join(file.path for file in files)
    held = {name: [file for file in files if name in file.weights] for name in REPRESENTATIONS}
    present = tuple(name for name in held if held[name])
    if finetune is None and any(len(file.weights) > 1 for file in files):
        raise UserError(
            f"{shown} holds {join_representations(present)}: say which to evaluate with "
            "--finetune-skeleton-representation"
        )
    chosen = {}
    for name in parse_representations(finetune) if finetune else present:
        if not held[name]:
            raise UserError(
                f"--finetune-skeleton-representation {finetune}: {shown} holds "
                f"{join_representations(present)} and no {name} encoder; choose what it holds, or "
                "another checkpoint"
            )
        if len(held[name]) > 1:
            raise UserError(
                f"--pretrained: {held[name][0].path} and {held[name][1].path} both hold a {name} "
                "encoder; give one of them"
            )
        chosen[name] = held[name][0]
    for file in files:
        if file not in chosen.values():
            raise UserError(
                f"--pretrained {file.path} holds nothing of --finetune-skeleton-representation "
                f"{finetune}; leave it out"
            )
    return chosen


def load_encoders(
    pretrained: str | Sequence[str], pretrain: str | Sequence[str] | None, finetune: str | None,
    sizes: dict, frozen: bool = True,
) -> Encoders | Coordinates:
    """What ``--pretrained`` names, its features side by side.

    Args:
        pretrained: ``random``, ``coordinates``, or the paths of one or several checkpoints.
        pretrain: what each checkpoint holds, None where not given.
        finetune: which of their encoders to take, None where not given.
        sizes: fields of ``EncoderSizes``, None where not given.
        frozen: without gradients and in evaluation mode; otherwise as a module to train.
    """
    paths = [pretrained] if isinstance(pretrained, str) else list(pretrained)
    names = [pretrain] if isinstance(pretrain, str) else list(pretrain or [])
    check_lists(paths, names)
    if paths == [COORDINATES]:
        given = [k for k, v in sizes.items() if v is not None]
        if given or finetune not in (None, *Coordinates.representations):
            raise UserError(
                f"--pretrained {COORDINATES} has no encoder: leave out the size flags and "
                "--finetune-skeleton-representation"
            )
        return Coordinates()
    if paths == [RANDOM]:
        encoders = untrained(finetune or (names[0] if names else "seq-based"), sizes)
    else:
        files = [open_pretrained(path, name, sizes) for path, name in zip_longest(paths, names)]
        encoders = concatenated(files, finetune)
    return encoders.requires_grad_(False).eval() if frozen else encoders


def check_lists(paths: list[str], names: list[str]) -> None:
    """Refuse several ``--pretrained`` of which one is no checkpoint, or with too few names."""
    for alone in (RANDOM, COORDINATES):
        if alone in paths and len(paths) > 1:
            raise UserError(f"--pretrained {alone} stands alone: leave the others out")
    if names and len(names) != len(paths):
        raise UserError(
            f"--pretrain-skeleton-representation names {len(names)} checkpoints, --pretrained "
            f"{len(paths)}: say of each what it holds, in the same order"
        )


def untrained(names: str, sizes: dict) -> Encoders:
    """Encoders as they are initialised."""
    chosen = complete_sizes(sizes)
    encoders = {name: build_encoder(name, 1, **chosen) for name in parse_representations(names)}
    return Encoders(encoders, chosen["num_frames"], "untrained")


def concatenated(files: list[Pretrained], finetune: str | None) -> Encoders:
    """The encoders that ``finetune`` names, out of one or several checkpoints."""
    frames = {file.sizes["num_frames"] for file in files}
    if len(frames) > 1:
        raise UserError(
            f"--pretrained: the checkpoints take views of {' and '.join(map(str, sorted(frames)))} "
            "frames (--num-frames); side by side they must agree"
        )
    chosen = choose_encoders(files, finetune)
    encoders = {name: file.encoder(name) for name, file in chosen.items()}
    return Encoders(encoders, frames.pop(), " beside ".join(file.title for file in files))
