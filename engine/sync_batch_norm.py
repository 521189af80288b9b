"""BatchNorm over the batches of all processes, without host-device synchronization.

PyTorch's layer counts the values of each process and waits for the result in every forward pass. Here the
shards of a batch are equally large, so the statistics of the whole batch are means over the processes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.batch_norm import update_statistics

from .distributed import Group


def per_channel(x: Tensor, like: Tensor) -> Tensor:
    """Reshape ``(C,)`` so that it broadcasts with ``(N, C, ...)``."""
    return x.reshape(1, -1, *[1] * (like.dim() - 2))


class Normalize(torch.autograd.Function):
    """Normalization by the mean and the variance over the batches of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group) -> Any:
        """Return the output and the mean and biased variance (C,) of the whole batch; x is (N, C, ...)."""
        axes = [0, *range(2, x.dim())]
        variances, means = torch.var_mean(x.float(), axes, correction=0)
        variances, means = group.gather(torch.stack([variances, means])[None]).unbind(1)  # (processes, C)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.group, ctx.axes = group, axes
        ctx.mark_non_differentiable(mean, variance)
        factor = scale * weight
        output = x.float() * per_channel(factor, x) + per_channel(bias - mean * factor, x)
        return output.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        """Return the gradients of x, weight and bias; the latter two of this process only, as DDP expects."""
        x, weight, mean, scale = ctx.saved_tensors
        gradient = gradient.float()
        normalized = (x.float() - per_channel(mean, x)) * per_channel(scale, x)
        sums = torch.stack([gradient.sum(ctx.axes), (gradient * normalized).sum(ctx.axes)])
        values = ctx.group.size * x.numel() / x.shape[1]  # per channel, in the whole batch
        mean_gradient, mean_product = ctx.group.sum(sums) / values
        centered = gradient - per_channel(mean_gradient, x) - normalized * per_channel(mean_product, x)
        return (centered * per_channel(scale * weight, x)).to(x.dtype), sums[1], sums[0], None, None


class SyncBatchNorm(_BatchNorm):
    """A BatchNorm layer that takes over the parameters and running statistics of another one."""

    def __init__(self, layer: _BatchNorm, group: Group) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum)
        assert layer.momentum is not None, "cumulative averages are not supported"
        self._parameters, self._buffers = layer._parameters, layer._buffers
        self.group = group

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``(N, C, ...)``; in evaluation mode by the running statistics."""
        if not self.training:
            return super().forward(input)
        output, mean, variance = Normalize.apply(input, self.weight, self.bias, self.eps, self.group)
        update_statistics(self, mean, variance, self.group.size * input.numel() / input.shape[1])
        return output


def convert_sync_batch_norm(module: nn.Module, group: Group) -> None:
    """Replace the BatchNorm layers below ``module``; the names in its state dict remain."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SyncBatchNorm(child, group))
        else:
            convert_sync_batch_norm(child, group)
