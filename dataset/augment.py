"""Augmentations of a view: the paper's (section 3.4), and those that later methods use.

An augmentation is a dataclass whose fields are its flags (``utils.class_flags``): ``sample`` returns random
parameters for a batch, ``apply`` is pure and runs on the device of the clips. To add one, write a class
and add it to ``AUGMENTATIONS``.

A coordinate that is exactly zero is absent, like those of a second person in a clip of one, and stays
zero.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from facts.skeletons import Skeleton
from utils.class_flags import flag

AXES = "xyz"
CENTER_RATIO = 0.95  # fraction of a clip that the evaluation crop keeps
MIN_BLUR = 0.1  # frames
STAGED_BYTES = 2**16  # CUDA stages smaller copies from pageable memory


@dataclass(frozen=True)
class Parameters:
    """Sampled parameters of a batch: tensors whose first dimension is the clip."""

    def __getitem__(self, rows: slice | Tensor) -> Any:
        return type(self)(*(getattr(self, item.name)[rows] for item in fields(self)))


@dataclass(frozen=True)
class CropParameters(Parameters):
    """Temporal crops: first frame and length in frames, ``(N,)`` integers each."""

    start: Tensor
    length: Tensor


@dataclass(frozen=True)
class RandomCrop:
    """Temporal crop of random length and position.

    The length of a clip of n frames is ``min(max(floor(n u), min_crop_frames), n)`` with
    ``u ~ U[min_crop_ratio, 1]``; the start is uniform over the valid positions.
    """

    name: ClassVar[str] = "crop"
    min_crop_ratio: float = flag(
        0.1, "shortest temporal crop as a fraction of the clip (Table 9)", above=0.0, maximum=1.0
    )
    min_crop_frames: int = flag(
        64, "shortest temporal crop in frames; shorter clips are not cropped", minimum=1
    )

    def sample(self, num_frames: Tensor, generator: Generator | None) -> CropParameters:
        """Sample crops of clips of ``num_frames`` (N,)."""
        u, v = torch.rand(2, len(num_frames), generator=generator, dtype=torch.float64)
        ratio = self.min_crop_ratio + (1.0 - self.min_crop_ratio) * u
        length = (num_frames * ratio).floor().long().clamp(min=self.min_crop_frames)
        length = torch.minimum(length, num_frames)
        start = (v * (num_frames - length + 1)).floor().long()
        return CropParameters(start, length)


@dataclass(frozen=True)
class CenterCrop:
    """The evaluation crop: the same number of frames is cut from both ends; nothing is random."""

    ratio: float = CENTER_RATIO

    def sample(self, num_frames: Tensor, generator: Generator | None = None) -> CropParameters:
        """Return center crops of clips of ``num_frames`` (N,)."""
        start = ((1.0 - self.ratio) * num_frames.double() / 2.0).long()
        return CropParameters(start, num_frames - 2 * start)


@dataclass(frozen=True)
class WholeClip(CenterCrop):
    """No crop; nothing is random."""

    ratio: float = 1.0


Crop = RandomCrop | CenterCrop


@dataclass(frozen=True)
class ViewShape:
    """The shape ``(N, T, V, 3, M)`` of a batch of views: clips, frames, joints of a skeleton."""

    count: int
    num_frames: int
    skeleton: Skeleton

    @property
    def num_joints(self) -> int:
        return self.skeleton.num_joints


class Augmentation:
    """The interface of an augmentation of resized views; a random crop comes before it."""

    name: ClassVar[str]  # the value of ``--augmentations``

    def check(self, skeleton: Skeleton) -> None:
        """Raise ``ValueError`` if the augmentation is impossible for clips of this skeleton."""

    def sample(self, shape: ViewShape, generator: Generator | None) -> Any:
        """Sample the parameters of a batch of this shape, on the CPU: a tensor or ``Parameters``."""
        raise NotImplementedError

    def apply(self, batch: Tensor, parameters: Any) -> Tensor:
        """Return the augmented batch ``(N, T, V, 3, M)``, without changing ``batch``."""
        raise NotImplementedError

    def describe(self, parameters: Any, clip: int) -> str:
        """Describe the augmentation of one clip of the batch for a caption."""
        return self.name


@dataclass(frozen=True)
class JointMaps(Parameters):
    """Linear maps of the joint coordinates: ``matrix @ x`` for the selected joints of each clip."""

    matrix: Tensor  # N x 3 x 3
    joints: Tensor  # N x V, bool

    @classmethod
    def of_all_joints(cls, matrix: Tensor, shape: ViewShape) -> JointMaps:
        """Return the same map ``(N, 3, 3)`` for all joints of a clip."""
        return cls(matrix, torch.ones(shape.count, shape.num_joints, dtype=torch.bool))

    def by_joint(self) -> Tensor:
        """Return the map of every joint, ``(N, V, 3, 3)``; the identity for joints that are not selected."""
        identity = torch.eye(3, device=self.matrix.device)
        return torch.where(self.joints[:, :, None, None], self.matrix[:, None], identity)


class LinearAugmentation(Augmentation):
    """An augmentation whose parameters are ``JointMaps``, the same for all frames and both people.

    ``Composition`` multiplies the maps of several of them, so that together they cost as much as one.
    """

    def apply(self, batch: Tensor, parameters: JointMaps) -> Tensor:
        """Return the augmented batch ``(N, T, V, 3, M)``."""
        return map_joints(batch, parameters.by_joint())


@dataclass(frozen=True)
class PoseAugmentation(LinearAugmentation):
    """Shear of all joints (eq. 3): ones on the diagonal of the matrix, U[-1, 1] elsewhere."""

    name: ClassVar[str] = "pose"

    def sample(self, shape: ViewShape, generator: Generator | None) -> JointMaps:
        """Sample one shear per clip."""
        shear = torch.rand(shape.count, 3, 3, generator=generator) * 2.0 - 1.0
        shear.diagonal(dim1=1, dim2=2).fill_(1.0)
        return JointMaps.of_all_joints(shear, shape)

    def describe(self, parameters: JointMaps, clip: int) -> str:
        """Describe the shear."""
        return "pose: sheared"


def jittered_joints(skeleton: Skeleton) -> int:
    """Return the default number of jittered joints: 60%, 15 of the 25 of Kinect v2 (Table 8)."""
    return round(0.6 * skeleton.num_joints)


@dataclass(frozen=True)
class JointJitter(LinearAugmentation):
    """Random linear map of a random subset of the joints (eq. 4), or their coordinates set to zero.

    The matrix is zero with probability ``jitter_zero_prob``, else its entries are U[-1, 1]. The official
    code multiplies row vectors, ``x M``; the sampled matrix is the transpose, for column vectors.
    """

    name: ClassVar[str] = "jitter"
    jitter_joints: int | None = flag(
        None,
        "joints changed by jittering (Table 8; default: 60% of the joints, 15 of the 25 of Kinect v2)",
        type=int,
        minimum=1,
    )
    jitter_zero_prob: float = flag(
        0.5,
        "probability that jittering sets the joints to zero; 0.5 in the official code, 0 in the paper",
        minimum=0.0,
        maximum=1.0,
    )

    def check(self, skeleton: Skeleton) -> None:
        """Raise ``ValueError`` if there are fewer joints than are to be jittered."""
        if self.jitter_joints is not None and self.jitter_joints > skeleton.num_joints:
            raise ValueError(
                f"--jitter-joints {self.jitter_joints} must be at most {skeleton.num_joints}, the joints of "
                f"{skeleton.name}"
            )

    def sample(self, shape: ViewShape, generator: Generator | None) -> JointMaps:
        """Sample one matrix and one subset of the joints per clip."""
        jittered = self.jitter_joints or jittered_joints(shape.skeleton)
        matrix = torch.rand(shape.count, 3, 3, generator=generator) * 2.0 - 1.0
        is_zero = torch.rand(shape.count, generator=generator) < self.jitter_zero_prob
        matrix = matrix.masked_fill(is_zero[:, None, None], 0.0)
        order = torch.rand(shape.count, shape.num_joints, generator=generator).argsort(dim=1)
        joints = torch.zeros(shape.count, shape.num_joints, dtype=torch.bool)
        joints.scatter_(1, order[:, :jittered], True)
        return JointMaps(matrix.transpose(1, 2), joints)

    def describe(self, parameters: JointMaps, clip: int) -> str:
        """Say how many joints changed, and how."""
        joints = int(parameters.joints[clip].sum())
        return f"jitter: {joints} joints " + ("moved" if parameters.matrix[clip].any() else "set to zero")


@dataclass(frozen=True)
class Rotation(LinearAugmentation):
    """Rotation of the clip by a random angle about a random axis; of a 2D skeleton, in the image plane."""

    name: ClassVar[str] = "rotate"
    rotate_degrees: float = flag(30.0, "largest angle of a rotation", minimum=0.0, maximum=180.0)

    def sample(self, shape: ViewShape, generator: Generator | None) -> JointMaps:
        """Sample one rotation per clip: the angle uniformly, the axis uniformly on the sphere."""
        axis = F.normalize(torch.randn(shape.count, 3, generator=generator), dim=1)
        if shape.skeleton.dimensions == 2:
            axis = torch.tensor([0.0, 0.0, 1.0]).expand_as(axis)
        degrees = self.rotate_degrees * (torch.rand(shape.count, generator=generator) * 2.0 - 1.0)
        # The exponential of the cross product with the axis, times the angle.
        cross = torch.linalg.cross(axis[:, None], torch.eye(3).expand(shape.count, 3, 3), dim=2)
        return JointMaps.of_all_joints(
            torch.matrix_exp(torch.deg2rad(degrees)[:, None, None] * cross.transpose(1, 2)), shape
        )

    def describe(self, parameters: JointMaps, clip: int) -> str:
        """Say the angle."""
        cosine = (parameters.matrix[clip].trace().item() - 1) / 2
        return f"rotate: {math.degrees(math.acos(min(max(cosine, -1.0), 1.0))):.0f} degrees"


@dataclass(frozen=True)
class AxisMask(LinearAugmentation):
    """The coordinates along random axes set to zero, for all joints: a projection."""

    name: ClassVar[str] = "axis-mask"
    axis_mask_axes: int = flag(1, "number of axes that are set to zero", minimum=1, maximum=2)

    def check(self, skeleton: Skeleton) -> None:
        """Raise ``ValueError`` if no axis would be left."""
        if self.axis_mask_axes >= skeleton.dimensions:
            raise ValueError(
                f"--axis-mask-axes {self.axis_mask_axes} leaves no axis of {skeleton.name}: it must be below "
                f"{skeleton.dimensions}"
            )

    def sample(self, shape: ViewShape, generator: Generator | None) -> JointMaps:
        """Sample the axes of each clip."""
        order = torch.rand(shape.count, shape.skeleton.dimensions, generator=generator).argsort(dim=1)
        kept = torch.ones(shape.count, 3).scatter_(1, order[:, : self.axis_mask_axes], 0.0)
        return JointMaps.of_all_joints(torch.diag_embed(kept), shape)

    def describe(self, parameters: JointMaps, clip: int) -> str:
        """Name the axes."""
        kept = parameters.matrix[clip].diagonal()
        return f"axis-mask: {', '.join(AXES[i] for i in range(3) if not kept[i])} set to zero"


@dataclass(frozen=True)
class FlipParameters(Parameters):
    """Mirror images: where each joint comes from, ``(N, V)``, and the sign of x, ``(N,)``."""

    source: Tensor
    sign: Tensor


@dataclass(frozen=True)
class Flip(Augmentation):
    """The mirror image: x is negated, and left and right joints are exchanged."""

    name: ClassVar[str] = "flip"
    flip_prob: float = flag(1.0, "probability that a chosen view is mirrored", minimum=0.0, maximum=1.0)

    def check(self, skeleton: Skeleton) -> None:
        """Raise ``ValueError`` if the skeleton does not define left and right."""
        if not skeleton.left_right:
            raise ValueError(
                f"--augmentations flip: {skeleton.name} has no left and right joints; define its 'arms' and "
                "'legs'"
            )

    def sample(self, shape: ViewShape, generator: Generator | None) -> FlipParameters:
        """Sample which clips are mirrored."""
        is_flipped = torch.rand(shape.count, generator=generator) < self.flip_prob
        mirrored = list(range(shape.num_joints))
        for left, right in shape.skeleton.left_right:
            mirrored[left], mirrored[right] = right, left
        source = torch.where(is_flipped[:, None], torch.tensor(mirrored), torch.arange(shape.num_joints))
        return FlipParameters(source, 1.0 - 2.0 * is_flipped)

    def apply(self, batch: Tensor, parameters: FlipParameters) -> Tensor:
        """Return the mirrored batch ``(N, T, V, 3, M)``."""
        source, sign = on_device_of(batch, parameters.source, parameters.sign)
        result = torch.take_along_dim(batch, source[:, None, :, None, None], dim=2)
        result[..., 0, :] *= sign[:, None, None, None]
        return result

    def describe(self, parameters: FlipParameters, clip: int) -> str:
        """Say whether the clip is mirrored."""
        return "flip: mirrored" if parameters.sign[clip] < 0 else "flip: unchanged"


@dataclass(frozen=True)
class Noise(Augmentation):
    """Gaussian noise, independent for every coordinate, joint and frame."""

    name: ClassVar[str] = "noise"
    noise_std: float = flag(
        0.01, "standard deviation of the noise in the unit of the coordinates: meters in 3D", minimum=0.0
    )

    def sample(self, shape: ViewShape, generator: Generator | None) -> Tensor:
        """Sample what is added to the coordinates, ``(N, T, V, 3, M)``."""
        size = (shape.count, shape.num_frames, *shape.skeleton.frame_shape)
        return torch.randn(size, generator=generator) * self.noise_std

    def apply(self, batch: Tensor, parameters: Tensor) -> Tensor:
        """Return the noisy batch ``(N, T, V, 3, M)``."""
        (noise,) = on_device_of(batch, parameters)
        return torch.where(batch == 0, batch, batch + noise)

    def describe(self, parameters: Tensor, clip: int) -> str:
        """Say the standard deviation."""
        return f"noise: standard deviation {self.noise_std:g}"


@dataclass(frozen=True)
class Blur(Augmentation):
    """Gaussian blur over time: every coordinate is a weighted mean over the frames in which it is present."""

    name: ClassVar[str] = "blur"
    blur_sigma: float = flag(
        2.0, "largest standard deviation of the temporal blur, in frames of the view", minimum=MIN_BLUR
    )

    def sample(self, shape: ViewShape, generator: Generator | None) -> Tensor:
        """Sample the standard deviations of the Gaussian windows, ``(N,)``, uniformly."""
        u = torch.rand(shape.count, generator=generator)
        return MIN_BLUR + (self.blur_sigma - MIN_BLUR) * u

    def apply(self, batch: Tensor, parameters: Tensor) -> Tensor:
        """Return the blurred batch ``(N, T, V, 3, M)``."""
        (sigma,) = on_device_of(batch, parameters)
        time = torch.arange(batch.shape[1], device=batch.device)
        distance = (time[:, None] - time) / sigma[:, None, None]
        window = torch.exp(-0.5 * distance.square())  # N x T x T
        values = batch.flatten(2)  # N x T x 3VM
        present = (values != 0).to(batch.dtype)
        # The tiny constant is for coordinates that are never present: 0 / 0.
        mean = window.bmm(values) / (window.bmm(present) + torch.finfo(batch.dtype).tiny)
        return (mean * present).view_as(batch)

    def describe(self, parameters: Tensor, clip: int) -> str:
        """Say the standard deviation."""
        return f"blur: standard deviation {parameters[clip]:.1f} frames"


@dataclass(frozen=True)
class Reverse(Augmentation):
    """The frames in reverse order."""

    name: ClassVar[str] = "reverse"
    reverse_prob: float = flag(1.0, "probability that a chosen view runs backward", minimum=0.0, maximum=1.0)

    def sample(self, shape: ViewShape, generator: Generator | None) -> Tensor:
        """Sample which clips run backward, ``(N,)`` booleans."""
        return torch.rand(shape.count, generator=generator) < self.reverse_prob

    def apply(self, batch: Tensor, parameters: Tensor) -> Tensor:
        """Return the batch ``(N, T, V, 3, M)``, in reverse order where it is chosen."""
        (is_reversed,) = on_device_of(batch, parameters)
        return torch.where(is_reversed[:, None, None, None, None], batch.flip(1), batch)

    def describe(self, parameters: Tensor, clip: int) -> str:
        """Say the direction."""
        return f"reverse: {'backward' if parameters[clip] else 'forward'}"


# The order in which augmentations are applied if there are several; linear ones together.
AUGMENTATIONS: dict[str, Any] = {
    kind.name: kind
    for kind in (RandomCrop, PoseAugmentation, JointJitter, Rotation, AxisMask, Flip, Noise, Blur, Reverse)
}
PAPER_SPATIAL = (PoseAugmentation, JointJitter)  # always sampled, in this order


@dataclass(frozen=True)
class CompositionParameters(Parameters):
    """Which of the enabled augmentations each clip undergoes, and the parameters of all of them."""

    applied: Tensor  # N x A, bool
    parts: tuple[Any, ...]

    def __getitem__(self, rows: slice | Tensor) -> CompositionParameters:
        return CompositionParameters(self.applied[rows], tuple(part[rows] for part in self.parts))


@dataclass(frozen=True)
class Composition:
    """One of the enabled augmentations per view, with equal probability, or several in sequence.

    Every augmentation samples from a generator of its own, except the paper's two, which are always
    sampled from the given one. So enabling an augmentation changes the parameters of no other one.
    """

    enabled: tuple[Augmentation, ...]
    compose: str = flag(
        "one",
        "one: after the crop, a view undergoes one of the augmentations, as in the paper; all: each of "
        "them with --augmentation-prob, as in AimCLR",
        choices=("one", "all"),
    )
    augmentation_prob: float = flag(
        0.5, "probability of each augmentation with --compose all", minimum=0.0, maximum=1.0
    )

    def sample(self, shape: ViewShape, generator: Generator | None) -> CompositionParameters:
        """Sample the parameters of a batch."""
        chosen = (torch.rand(shape.count, generator=generator) * len(self.enabled)).long()
        by_name = {augmentation.name: augmentation for augmentation in self.enabled}
        parts: dict[str, Any] = {}
        for kind in PAPER_SPATIAL:
            parts[kind.name] = by_name.get(kind.name, kind()).sample(shape, generator)
        applied = []
        for number, augmentation in enumerate(self.enabled):
            if self.compose == "one":
                applied.append(chosen == number)
            else:
                own = fork(generator, f"--compose all: {augmentation.name}")
                applied.append(torch.rand(shape.count, generator=own) < self.augmentation_prob)
            if augmentation.name not in parts:
                parts[augmentation.name] = augmentation.sample(shape, fork(generator, augmentation.name))
        return CompositionParameters(torch.stack(applied, dim=1), tuple(parts[name] for name in by_name))

    def apply(self, batch: Tensor, parameters: CompositionParameters) -> Tensor:
        """Return the augmented batch ``(N, T, V, 3, M)``."""
        maps = None  # N x V x 3 x 3, of the linear augmentations so far
        for augmentation, rows, part in zip(self.enabled, parameters.applied.t(), parameters.parts):
            if isinstance(part, JointMaps):
                chosen = JointMaps(part.matrix, part.joints & rows[:, None]).by_joint()
                maps = chosen if maps is None else chosen @ maps
                continue
            if maps is not None:
                batch, maps = map_joints(batch, maps), None
            if rows.all():
                batch = augmentation.apply(batch, part)
            elif rows.any():
                (index,) = on_device_of(batch, rows.nonzero()[:, 0])
                batch = batch.index_copy(0, index, augmentation.apply(batch[index], part[rows]))
        return batch if maps is None else map_joints(batch, maps)

    def applied_to(self, parameters: CompositionParameters, clip: int) -> list[tuple[Augmentation, Any]]:
        """Return the augmentations that one clip of the batch undergoes, with their parameters."""
        pairs = zip(parameters.applied[clip], self.enabled, parameters.parts)
        return [(augmentation, part) for is_applied, augmentation, part in pairs if is_applied]

    def changed_joints(self, parameters: CompositionParameters, clip: int, num_joints: int) -> Tensor:
        """Return the joints of one clip of the batch that the augmentations change, ``(V,)`` booleans."""
        changed = torch.zeros(num_joints, dtype=torch.bool)
        for _, part in self.applied_to(parameters, clip):
            changed |= part.joints[clip] if isinstance(part, JointMaps) else True
        return changed

    def describe(self, parameters: CompositionParameters, clip: int) -> list[str]:
        """Describe the augmentations of one clip of the batch in caption lines."""
        return [x.describe(part, clip) for x, part in self.applied_to(parameters, clip)]


def fork(generator: Generator | None, name: str) -> Generator:
    """Return a new generator for ``name``, seeded by the state of ``generator``, which does not advance."""
    copy = Generator()
    copy.set_state((generator or torch.default_generator).get_state())
    seed = int(torch.randint(2**62, (), generator=copy))
    return Generator().manual_seed(seed ^ zlib.crc32(name.encode()))


def on_device_of(batch: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``tensors`` on the device of ``batch``, without waiting for the work that is queued there.

    A copy of more than ``STAGED_BYTES`` to a GPU is asynchronous only from pinned memory.
    """
    if batch.is_cuda:
        tensors = tuple(x.pin_memory() if x.is_cpu and x.nbytes > STAGED_BYTES else x for x in tensors)
    return tuple(x.to(batch.device, non_blocking=True) for x in tensors)


def map_joints(batch: Tensor, maps: Tensor) -> Tensor:
    """Apply ``maps`` (N, V, 3, 3) to a batch ``(N, T, V, 3, M)``: the same for all frames and people.

    Acting on a frame's flattened coordinates, the maps are banded: every number becomes a weighted
    sum of numbers at most two coordinates away. Five products with a shifted copy take half the time
    of the batched 3 x 3 matrix products.
    """
    n, t, v, c, m = batch.shape
    (maps,) = on_device_of(batch, maps)
    reach = (c - 1) * m
    padded = F.pad(batch.reshape(-1), (reach, reach))  # values read from the padding have weight zero
    mapped = batch.new_zeros(n, t, v * c * m)
    for shift in range(1 - c, c):
        band = maps.diagonal(offset=shift, dim1=2, dim2=3)  # N x V x (c - |shift|)
        band = F.pad(band, (max(-shift, 0), max(shift, 0))).repeat_interleave(m, dim=2)
        start = reach + shift * m
        neighbor = padded[start : start + batch.numel()].view_as(mapped)
        mapped.addcmul_(neighbor, band.view(n, 1, -1))
    return mapped.view(n, t, v, c, m)
