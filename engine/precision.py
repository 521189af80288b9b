"""Number formats of a run: mixed precision and TF32.

Mixed precision is torch's autocast around the encoders. Weights, the momentum update, the loss and
its softmax over the queue stay in float32.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Callable, ContextManager, Mapping

import torch
from torch import Tensor, nn

from options.errors import UserError

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_amp(amp: str, device: torch.device) -> None:
    """Refuse a format that the device does not compute in."""
    if amp == "fp16" and device.type != "cuda":
        raise UserError("--amp fp16 needs a GPU; --amp bf16 also runs on a CPU")
    if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            f"--amp bf16: {torch.cuda.get_device_name(device)} does not compute in it; use --amp fp16"
        )


def autocast(amp: str, device: torch.device) -> ContextManager:
    """Mixed precision ``off``, ``bf16`` or ``fp16`` for the encoders called inside."""
    if amp == "off":
        return nullcontext()
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp])


def use_tf32(allow: bool) -> None:
    """Let GPUs that can (Ampere and later) round the factors of float32 products to TF32."""
    torch.set_float32_matmul_precision("high" if allow else "highest")
    torch.backends.cudnn.allow_tf32 = allow


def in_precision(encode: nn.Module, amp: str, device: torch.device) -> Callable:
    """``encode``, called in mixed precision."""

    def call(*views: Mapping[str, Tensor]):
        with autocast(amp, device):
            return encode(*views)

    return call
