"""The sequence encoder: a three-layer recurrent network over frames (paper section 3.2, "BiGRU").

The published network is bidirectional in its weights only. It was fed one frame at a time, so its
"reverse" cells also run forward in time: every layer is two causal GRUs that read the concatenated
outputs of the layer below. This module computes them over whole sequences, layer by layer, with the
parameter names of the official checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facts.skeletons import Skeleton

from .recurrence import parallel_grus
from .representation import Representation, Size, is_exported

CUDNN_WITH_BFLOAT16_GRU = 91300  # version from which PyTorch uses cuDNN for a GRU in bfloat16


def has_cudnn_gru(x: Tensor) -> bool:
    """Return whether PyTorch computes a GRU on ``x`` with cuDNN, by the condition of ``torch.gru``."""
    if not torch.cudnn_is_acceptable(x):
        return False
    return x.dtype != torch.bfloat16 or (
        torch.backends.cudnn.version() >= CUDNN_WITH_BFLOAT16_GRU
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
    )


def recurrent_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which the recurrence of ``x`` is computed.

    Under autocast it is the autocast dtype if cuDNN has a GRU for it on this device, else float32:
    without cuDNN each frame is a separate kernel launch. Autocast would always pick float16 here.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x.dtype
    dtype = torch.get_autocast_dtype(device)
    return dtype if has_cudnn_gru(x.new_empty(1, dtype=dtype)) else torch.float32


def contiguous_copies(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return copies of ``weights`` in ``dtype`` that follow each other in one block of memory.

    cuDNN reads the weights of a GRU from one block. Separate tensors would be copied into one in
    every call, after hundreds of queries of its layout.
    """
    block = torch.cat([weight.flatten() for weight in weights]).to(dtype)
    parts = block.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


class CausalBiGRU(nn.Module):
    """Stacked pairs of causal GRUs: ``(N, T, input_size) -> (N, 2 * hidden_size)``.

    The parameters are those of a bidirectional ``nn.GRU``, so that their names and shapes are those
    of the official checkpoints. Its forward pass is not used.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, num_layers, batch_first=True, bidirectional=True)

    def weights(self, layer: int, suffix: str) -> list[Tensor]:
        """Return weight_ih, weight_hh, bias_ih and bias_hh of one of the two GRUs of a layer."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self.gru, f"{name}_l{layer}{suffix}") for name in names]

    def in_one_call(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        """Run one causal GRU over whole sequences with PyTorch's: ``(N, T, C) -> (N, T, hidden_size)``.

        On a GPU that is cuDNN, in inference mode if there are no gradients (key encoders, evaluation).
        """
        start = x.new_zeros(1, x.shape[0], self.gru.hidden_size)
        output, _ = torch.gru(
            x,
            start,
            contiguous_copies(weights, x.dtype),
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=torch.is_grad_enabled(),
            bidirectional=False,
            batch_first=True,
        )
        return output

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(recurrent_dtype(x))
        with torch.autocast(x.device.type, enabled=False):
            for layer in range(self.gru.num_layers):
                pair = [self.weights(layer, suffix) for suffix in ("", "_reverse")]
                if x.is_cuda or is_exported():
                    x = torch.cat([self.in_one_call(x, weights) for weights in pair], dim=2)  # N x T x 2H
                else:
                    x = parallel_grus(x.transpose(0, 1), pair).transpose(0, 1)  # N x T x 2H
        return x[:, -1]  # N x 2H: both GRUs of the last layer after the last frame


class GRUEncoder(nn.Module):
    """Sequence encoder: ``forward_features`` maps ``(N, T, input_size)`` to ``(N, 2 * hidden_size)``.

    Args:
        num_classes: outputs of the last layer, ``fc``.
        input_size: numbers per frame.
        hidden_size: hidden size of each GRU.
        num_layers: layers of two GRUs each.
        input_norm: ``batch``: BatchNorm over the coordinates of a frame, as in CMD (ECCV 2022).
    """

    def __init__(
        self,
        num_classes: int,
        input_size: int,
        hidden_size: int = 1024,
        num_layers: int = 3,
        input_norm: str = "none",
    ) -> None:
        super().__init__()
        self.num_features = 2 * hidden_size
        self.encoder = CausalBiGRU(input_size, hidden_size, num_layers)
        self.fc = nn.Linear(self.num_features, num_classes)
        self.input_norm = nn.BatchNorm1d(input_size) if input_norm == "batch" else nn.Identity()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the features that precede ``fc``."""
        x = self.input_norm(x.flatten(0, 1)).view_as(x)  # statistics over clips and frames
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x))


def sequence_layout(batch: Tensor) -> Tensor:
    """Lay out ``(N, T, V, 3, M) -> (N, T, 3 V M)`` in the order joint, coordinate, person."""
    return batch.flatten(start_dim=2)


def build(
    num_classes: int,
    num_frames: int,
    skeleton: Skeleton,
    gru_hidden_size: int,
    gru_num_layers: int,
    gru_input_norm: str,
) -> GRUEncoder:
    """Build the encoder of the ``seq-based`` representation, which accepts any number of frames."""
    numbers = math.prod(skeleton.frame_shape)
    return GRUEncoder(num_classes, numbers, gru_hidden_size, gru_num_layers, gru_input_norm)


SEQUENCE = Representation(
    name="seq-based",
    layout=sequence_layout,
    build=build,
    sizes={
        "gru_hidden_size": Size(1024, "hidden size of the GRU"),
        "gru_num_layers": Size(3, "layers of the sequence encoder"),
        "gru_input_norm": Size(
            "none", "BatchNorm over the coordinates of a frame, as in CMD", choices=("none", "batch")
        ),
    },
    compile=False,  # its recurrence is a single library call
)
