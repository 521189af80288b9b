"""BatchNorm of batches with equal samples, of which only one is computed.

Where nobody has a second person, half of the samples of the graph encoder are equal: the absent people. They
count in the statistics of every layer. On a CPU this is also the faster BatchNorm: PyTorch's spends most of
its forward pass on the statistics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .representation import is_exported

PRECISIONS = (torch.float32,)  # with mixed precision, PyTorch's layer decides


def normalize(norm: nn.Module, x: Tensor, repeats: int = 1) -> Tensor:
    """Apply a BatchNorm layer to ``(N, C, ...)``, whose last sample stands for ``repeats`` equal ones."""
    if not (isinstance(norm, _BatchNorm) and norm.training and is_supported(norm, x)):
        return norm(x)
    output, mean, variance = Normalize.apply(x, norm.weight, norm.bias, norm.eps, repeats)
    update_statistics(norm, mean, variance, (len(x) - 1 + repeats) * x[0, 0].numel())
    return output


def update_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: float) -> None:
    """Update the running statistics by the mean and biased variance (C,) of ``count`` values per channel."""
    statistics, momentum = dict(norm.named_buffers()), norm.momentum or 0.0
    statistics["running_mean"].lerp_(mean, momentum)
    statistics["running_var"].lerp_(variance * (count / (count - 1)), momentum)
    statistics["num_batches_tracked"].add_(1)


def is_supported(norm: nn.Module, x: Tensor) -> bool:
    """Return whether ``normalize`` can count repeated samples: single precision, CPU, PyTorch's layer."""
    plain = type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d) and not is_exported()
    return plain and x.device.type == "cpu" and x.dtype in PRECISIONS


class Normalize(torch.autograd.Function):
    """Normalization by the statistics of a batch whose last sample counts ``repeats`` times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, repeats: int) -> Any:
        """Return the output, and the mean and the biased variance (C,)."""
        x = x.contiguous()
        rows = x.flatten(2)  # N x C x values
        count = (len(x) - 1 + repeats) * rows.shape[2]

        def total(sums: Tensor) -> Tensor:  # N x C -> C
            return sums.sum(0) + (repeats - 1) * sums[-1]

        mean = total(rows.sum(2)) / count
        variance = total(torch.linalg.vector_norm(rows - mean[:, None], dim=2).square()) / count
        output = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.repeats, ctx.count = eps, repeats, count
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        """Return the gradients of x, weight and bias; that of the last sample is the sum of its copies."""
        x, weight, mean, variance = ctx.saved_tensors
        constant = (x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        backward = torch.ops.aten.native_batch_norm_backward
        grad, grad_weight, grad_bias = backward(gradient.contiguous(), *constant)
        # That is for constant statistics; the rest is the gradient through them.
        scale = (variance + ctx.eps).rsqrt()
        slope = -weight * scale.square() * grad_weight / ctx.count
        offset = -weight * scale * grad_bias / ctx.count - slope * mean
        shape = (-1, *[1] * (x.dim() - 2))
        slope, offset = slope.view(shape), offset.view(shape)
        grad.addcmul_(x, slope).add_(offset)
        if ctx.repeats > 1:
            grad[-1] += (ctx.repeats - 1) * (x[-1] * slope + offset)
        return grad, grad_weight, grad_bias, None, None
