"""Query encoders out of a checkpoint: ours, which says what it holds, or the authors', which does not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.crop import NUM_FRAMES
from models.build import EncoderSizes, build_encoder
from options.datasets import NUM_COORDINATES, NUM_JOINTS, NUM_PEOPLE
from options.errors import UserError
from options.representations import join_representations, parse_representations

from .checkpoint import is_ours, load_checkpoint

RANDOM = "random"  # --pretrained random: an untrained encoder
COORDINATES = "coordinates"  # --pretrained coordinates: no encoder, the normalised input itself

# The authors' names of the query encoders of the first and second representation.
RELEASED_QUERY_ENCODERS = ("encoder_q", "encoder_r")


class FrozenEncoders(nn.Module):
    """Encoders of one clip's representations, in evaluation mode for good; features side by side."""

    def __init__(self, encoders: dict[str, nn.Module], num_frames: int, title: str) -> None:
        super().__init__()
        self.num_frames = num_frames  # of the views that they take
        self.title = title  # in words, for results
        for encoder in encoders.values():
            encoder.fc = nn.Identity()  # the head of the contrast; features come from before it
        self.encoders = nn.ModuleDict(encoders)
        self.representations = tuple(encoders)
        self.num_features = sum(encoder.num_features for encoder in encoders.values())
        self.requires_grad_(False)
        self.eval()

    def forward(self, views: dict[str, Tensor]) -> Tensor:
        """``representation -> batch`` to features ``(N, num_features)``."""
        features = [self.encoders[name].forward_features(views[name]) for name in self.encoders]
        return torch.cat(features, dim=1)


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


def complete_sizes(given: dict) -> dict:
    """All sizes: those given, and the paper's for those that are None."""
    try:
        return asdict(EncoderSizes(**{k: v for k, v in given.items() if v is not None}))
    except ValueError as error:
        raise UserError(f"the encoder sizes do not fit together: {error}")


def build(name: str, num_outputs: int, **sizes) -> nn.Module:
    """``build_encoder`` for sizes that a user chose: what cannot be built is a sentence."""
    try:
        return build_encoder(name, num_outputs, **sizes)
    except ValueError as error:
        raise UserError(f"the {name} encoder cannot be built: {error}")


def submodule_weights(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def refuse_contradictions(stored: dict, given: dict, path: str) -> None:
    """A flag that says otherwise than the checkpoint is an error that names it."""
    for name, value in given.items():
        if value is not None and value != stored[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {value} contradicts {path}, which was trained with {stored[name]}; "
                f"leave {flag} out"
            )


def wanted_representations(held: tuple[str, ...], finetune: str | None, path: str) -> tuple[str, ...]:
    """Which of the checkpoint's encoders to evaluate; all members of ``finetune`` must be held."""
    if finetune is None:
        if len(held) > 1:
            raise UserError(
                f"{path} holds {join_representations(held)}: say which to evaluate with "
                "--finetune-skeleton-representation"
            )
        return held
    wanted = parse_representations(finetune)
    for name in wanted:
        if name not in held:
            raise UserError(
                f"--finetune-skeleton-representation {finetune}: {path} holds "
                f"{join_representations(held)} and no {name} encoder; choose what it holds, or "
                "another checkpoint"
            )
    return wanted


def load_ours(
    checkpoint: dict, path: str, pretrain: str | None, finetune: str | None, sizes: dict
) -> FrozenEncoders:
    """Query encoders of our own checkpoint, rebuilt at the sizes it carries."""
    if checkpoint.get("kind") != "pretraining":
        raise UserError(f"{path} is of a {checkpoint.get('kind')}, not of a pretraining")
    held = tuple(checkpoint["representations"])
    if pretrain is not None and parse_representations(pretrain) != held:
        raise UserError(
            f"--pretrain-skeleton-representation {pretrain} contradicts {path}, which holds "
            f"{join_representations(held)}; leave the flag out"
        )
    refuse_contradictions(checkpoint["sizes"], sizes, path)
    encoders = {}
    for name in wanted_representations(held, finetune, path):
        encoders[name] = build(name, 1, **checkpoint["sizes"])
        weights = submodule_weights(checkpoint["state_dict"], f"encoders.query.{name}.")
        load_strictly(encoders[name], weights, path, f"the {name} encoder")
    contrast = f"{checkpoint['contrast']}-skeleton {join_representations(held)}"
    title = f"{contrast}, {checkpoint['epoch']} epochs"
    return FrozenEncoders(encoders, checkpoint["sizes"]["num_frames"], title)


def load_released(
    checkpoint: dict, path: str, pretrain: str | None, finetune: str | None, sizes: dict
) -> FrozenEncoders:
    """Query encoders of one of the authors' checkpoints, whose contents the flags must name."""
    if pretrain is None:
        raise UserError(
            f"{path} was not written by this program and does not say what it holds: name it with "
            "--pretrain-skeleton-representation"
        )
    held = parse_representations(pretrain)
    state = {k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()}
    present = [name for name in RELEASED_QUERY_ENCODERS if submodule_weights(state, f"{name}.")]
    if len(present) != len(held):
        raise UserError(
            f"{path} holds {len(present)} query encoders, --pretrain-skeleton-representation "
            f"{pretrain} names {len(held)}"
        )
    sizes = complete_sizes(sizes)
    encoders = {}
    for name in wanted_representations(held, finetune, path):
        encoders[name] = build(name, 1, **sizes)
        weights = submodule_weights(state, RELEASED_QUERY_ENCODERS[held.index(name)] + ".")
        load_strictly(encoders[name], weights, path, f"the {name} encoder")
    return FrozenEncoders(encoders, sizes["num_frames"], f"released {join_representations(held)}")


def load_encoders(
    pretrained: str, pretrain: str | None, finetune: str | None, sizes: dict
) -> FrozenEncoders | Coordinates:
    """What ``--pretrained`` names, frozen.

    Args:
        pretrained: a checkpoint's path, ``random`` or ``coordinates``.
        pretrain, finetune: the two representation flags, None where not given.
        sizes: fields of ``EncoderSizes``, None where not given.
    """
    if pretrained == COORDINATES:
        given = [k for k, v in sizes.items() if v is not None]
        if given or finetune not in (None, *Coordinates.representations):
            raise UserError(
                f"--pretrained {COORDINATES} has no encoder: leave out the size flags and "
                "--finetune-skeleton-representation"
            )
        return Coordinates()
    if pretrained == RANDOM:
        names = parse_representations(finetune or pretrain or "seq-based")
        chosen = complete_sizes(sizes)
        encoders = {name: build(name, 1, **chosen) for name in names}
        return FrozenEncoders(encoders, chosen["num_frames"], "untrained")
    checkpoint = load_checkpoint(Path(pretrained))
    load = load_ours if is_ours(checkpoint) else load_released
    return load(checkpoint, pretrained, pretrain, finetune, sizes)
