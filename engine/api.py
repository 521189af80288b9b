"""The interface for notebooks: features and classes of arrays, without a store.

    from engine.api import classify, load_classifier, prepare_clips

    classifier = load_classifier("runs/mine/linear")
    clips = prepare_clips({"new": array}, classifier.skeleton)  # (frames, joints, 3, people)
    probabilities = classify(classifier, clips)  # clips x classes

``prepare_clips`` takes a few frames as well as a long clip, so a live program passes the latest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.clips import ClipSet
from dataset.raw_clips import prepare_clips
from facts.class_names import default_class_names
from facts.skeletons import Skeleton
from models.registry import join_representations, lay_out, size_flags
from utils.errors import UserError

from .checkpoint import checkpoint_errors, load_checkpoint
from .classifier import FINETUNE_FILE, PROBE_FILE, LinearProbe, fingerprint
from .encoders import (
    FINE_TUNING,
    ConcatenatedEncoders,
    check_skeleton,
    concatenate_encoders,
    load_encoders,
    read_finetuned,
    stored_skeleton,
    submodule_weights,
)
from .features import FeatureExtractor
from .randomness import WEIGHTS, seed_globally

__all__ = ["Classifier", "classify", "encode", "load_classifier", "load_encoders", "prepare_clips"]


class Classifier(nn.Module):
    """Encoders and the linear classifier ``head`` that was trained on their features, frozen.

    ``normalized``: whether the clips of the training are normalized, see ``prepare_clips``.
    """

    def __init__(
        self, encoders: ConcatenatedEncoders, head: nn.Linear, class_names: Sequence[str], normalized: bool
    ) -> None:
        super().__init__()
        self.encoders, self.head = encoders, head
        self.class_names, self.normalized = tuple(class_names), normalized
        self.requires_grad_(False).eval()

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of the clips."""
        return self.encoders.skeleton

    def forward(self, view: Tensor) -> Tensor:
        """Classify a view ``(N, T, V, 3, M)``, T being ``encoders.num_frames``; returns logits ``(N, C)``."""
        return self.head(self.encoders(lay_out(view, self.encoders.representations, self.skeleton)))


def encode(encoders: ConcatenatedEncoders, clips: ClipSet) -> Tensor:
    """Return the features ``(N, D)`` of the center crops of ``clips``, on the device of the encoders.

    Raises ``UserError`` if the encoders were trained on another skeleton.
    """
    check_skeleton(encoders.skeleton, encoders.title, clips.skeleton)
    weight = next(chain(encoders.parameters(), encoders.buffers()), torch.empty(0))
    return FeatureExtractor(encoders, weight.device).center_crop_features(clips, "features")


def classify(classifier: Classifier, clips: ClipSet) -> Tensor:
    """Return the probabilities ``(N, C)`` of the classes of ``clips``.

    Raises ``UserError`` if they have another skeleton, or are not normalized as those of the training.
    """
    if clips.normalized != (taken := classifier.normalized):
        raise UserError(f"the classifier takes clips that are prepared with normalize={taken}")
    features = encode(classifier.encoders, clips).to(classifier.head.weight.device)
    return classifier.head(features).softmax(dim=1)


def load_classifier(path: str | Path, pretrained: Sequence[str] = ()) -> Classifier:
    """Load a linear probe or a fine-tuned model, on the CPU.

    Args:
        path: ``probe_last.pth.tar``, ``finetune_last.pth.tar``, or the folder of one of them.
        pretrained: the encoders of a probe, if they have moved; those of a fine-tuned model are in its file.

    Raises ``UserError`` if it is not such a file, or the encoders of the probe are missing or others.
    """
    files = (Path(path, FINETUNE_FILE), Path(path, PROBE_FILE))
    path = next(filter(Path.is_file, files), Path(path))
    checkpoint = load_checkpoint(path)
    if checkpoint.get("kind") not in (LinearProbe.kind, FINE_TUNING):
        raise UserError(f"{path} is no classifier: give {PROBE_FILE} or {FINETUNE_FILE} of a run")
    with checkpoint_errors(path), torch.random.fork_rng(devices=[]):  # random numbers of the caller stay
        weights = checkpoint["state_dict"]
        if checkpoint["kind"] == FINE_TUNING:
            read = read_finetuned(checkpoint, str(path))
            encoders = concatenate_encoders([read], join_representations([*read.sizes]))
            weights = submodule_weights(weights, "head.")
        else:
            encoders = probed_encoders(checkpoint, path, pretrained)
        num_classes = len(weights["bias"])
        head = nn.Linear(encoders.num_features, num_classes)
        head.load_state_dict(weights)
        default = default_class_names(checkpoint["flags"]["dataset"], num_classes)
        names = checkpoint.get("class_names", default)
        return Classifier(encoders, head, names, checkpoint.get("normalized", encoders.normalized))


def probed_encoders(checkpoint: dict, path: Path, pretrained: Sequence[str]) -> ConcatenatedEncoders:
    """Load the encoders on which the linear probe ``path`` was trained; see ``load_classifier``."""
    flags, stored = checkpoint["flags"], checkpoint.get("encoders")
    paths = [*pretrained] or flags["pretrained"]
    advice = f"{path} needs the encoders that it was trained on; give their place with --pretrained"
    try:
        seed_globally(checkpoint["seed"], WEIGHTS)  # of --pretrained random
        encoders = load_encoders(
            paths,
            flags.get("pretrain_skeleton_representation"),
            flags.get("finetune_skeleton_representation"),
            {name: flags.get(name) for name in size_flags()},
            skeleton=stored_skeleton(stored, str(path)) if stored else None,
            stream=flags.get("stream"),
        )
    except UserError as error:
        raise UserError(f"{advice} ({error})") from error
    if fingerprint(encoders) != checkpoint["encoder_sha256"]:
        raise UserError(f"{advice} (the weights in {' '.join(paths)} are others)")
    return encoders
