"""A simulated GPU for tests on machines without one: real arithmetic on the CPU, with placement checked.

Inside ``fake_cuda()`` PyTorch reports one GPU. Every tensor stays in host memory, but its storage is
marked with the device on which it would be. A dispatch mode inspects each operation of the forward
and the backward pass:

- operands on two devices raise an error, as on a GPU;
- operations that make the host wait for the GPU are listed in ``FakeCuda.waits``;
- copies from the host to the GPU are listed in ``FakeCuda.copies``.

Results are those of the CPU, so whole scripts run. Kernels, timing and several devices are not
simulated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REPOSITORY = Path(__file__).resolve().parents[1]
GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten

# Operations that read values back to the host, or whose output shape depends on values.
WAITING = {
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
}
WAITING_OVERLOADS = {aten.repeat_interleave.Tensor}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPYING = {aten._to_copy, aten.copy_}


def place(tensor: Tensor) -> torch.device:
    """Return the device on which a tensor would be."""
    return GPU if getattr(tensor.untyped_storage(), "on_gpu", False) else HOST


def put_on_gpu(tensor: Tensor) -> Tensor:
    """Mark the storage of a tensor; its views share the mark."""
    tensor.untyped_storage().on_gpu = True
    return tensor


def caller() -> str:
    """Return the innermost line of the repository on the call stack, ``file.py:line``."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(REPOSITORY)) and name != __file__:
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


@dataclass(frozen=True)
class Copy:
    """A copy from the host to the GPU."""

    size: int  # bytes
    non_blocking: bool
    pinned: bool
    where: str

    @property
    def waits(self) -> bool:
        """Whether the host waits: always for pageable memory above the staging buffer of 64 KB."""
        return not self.non_blocking or (self.size > 2**16 and not self.pinned)


@dataclass
class FakeCuda:
    """What the host did with the GPU; both lists can be cleared between two steps."""

    waits: list[str] = field(default_factory=list)  # "operation, file.py:line"
    copies: list[Copy] = field(default_factory=list)

    def wait(self, what: str) -> None:
        """Record that the host waited for the GPU."""
        self.waits.append(f"{what}, {caller()}")

    def transfer(self, source: Tensor, target: torch.device, non_blocking: bool) -> None:
        """Record a copy between host and GPU."""
        if target == GPU:
            pinned = getattr(source.untyped_storage(), "pinned", False)
            self.copies.append(Copy(source.nbytes, non_blocking, pinned, caller()))
        else:
            self.wait(f"copy of {tuple(source.shape)} to the host")


class Placement(TorchDispatchMode):
    """The mode that runs operations on the CPU and follows where their results would be."""

    def __init__(self, fake: FakeCuda) -> None:
        super().__init__()
        self.fake = fake

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == "cuda":
            kwargs["device"] = HOST
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func.overloadpacket in COPYING:
            return self.copy(func, args, kwargs, wanted)
        on_gpu = [x for x in tensors if place(x) == GPU]
        if on_gpu:
            self.check(func, tensors)
        result = func(*args, **kwargs)
        # A derivative formula that creates a tensor from nothing uses the device of its graph.
        in_backward = torch._C._current_autograd_node() is not None
        if on_gpu or kwargs.get("device") is not wanted or (in_backward and not tensors):
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    put_on_gpu(x)
        return result

    def check(self, func: Any, tensors: list[Tensor]) -> None:
        """Raise if the operands are on two devices, and record waits."""
        packet = func.overloadpacket
        indexed = packet in INDEXING and place(tensors[0]) == GPU
        if any(place(x) == HOST and x.dim() > 0 for x in tensors):
            if not indexed:
                raise RuntimeError(f"{func}: tensors on cuda:0 and on the CPU, {caller()}")
            self.fake.wait("index on the host")
        if packet in WAITING or func in WAITING_OVERLOADS:
            self.fake.wait(str(func))
        if indexed and any(x.dtype in (torch.bool, torch.uint8) for x in tensors[1:]):
            self.fake.wait("index by a mask")

    def copy(self, func: Any, args: tuple, kwargs: dict, wanted: torch.device | None) -> Any:
        """Copy, possibly between host and GPU, or convert the dtype."""
        if func.overloadpacket is aten.copy_:
            source, target = args[1], place(args[0])
            non_blocking = bool(kwargs.get("non_blocking", len(args) > 2 and args[2]))
        else:
            source, non_blocking = args[0], bool(kwargs.get("non_blocking"))
            # A derivative formula names the CPU, which is where PyTorch sees the tensor.
            keep = wanted is None or torch._C._current_autograd_node() is not None
            target = place(source) if keep else GPU if torch.device(wanted).type == "cuda" else HOST
        if place(source) != target:
            self.fake.transfer(source, target, non_blocking)
        result = func(*args, **kwargs)
        return put_on_gpu(result) if target == GPU else result


def move(fake: FakeCuda, x: Tensor, device: torch.device, non_blocking: bool) -> Tensor:
    """Return ``x`` on ``device``; works in any thread, with or without the dispatch mode."""
    device = GPU if device.type == "cuda" else HOST
    if place(x) == device:
        return x
    if x.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError("a differentiable copy between devices")
    fake.transfer(x, device, non_blocking)
    with torch._C._DisableTorchDispatch():
        copied = x.detach().clone()
    return put_on_gpu(copied) if device == GPU else copied


def tensor_patches(fake: FakeCuda) -> dict[str, Any]:
    """Return the attributes of ``torch.Tensor`` that depend on the device."""
    plain = {name: getattr(Tensor, name) for name in ("to", "tolist", "numpy", "__array__")}

    def to(x: Tensor, *args: Any, non_blocking: bool = False, copy: bool = False, **kwargs: Any) -> Tensor:
        x = x.clone() if copy else x
        devices = [a for a in (*args, kwargs.pop("device", None)) if isinstance(a, (str, torch.device))]
        rest = [a for a in args if not isinstance(a, (str, torch.device)) and a is not None]
        for device in devices:
            x = move(fake, x, torch.device(device), non_blocking or any(a is True for a in rest))
        # Without the flags, only a dtype or another tensor is left to convert to.
        dtypes = [a for a in rest if isinstance(a, (torch.dtype, Tensor))]
        return plain["to"](x, *dtypes, **kwargs) if dtypes or kwargs else x

    def read(name: str) -> Callable:
        def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if place(x) == GPU and name != "tolist":
                raise TypeError(f"can't convert cuda:0 device type tensor to numpy, {caller()}")
            if place(x) == GPU:
                fake.wait("tolist")
            return plain[name](x, *args, **kwargs)

        return call

    def pin_memory(x: Tensor) -> Tensor:
        copied = x.clone()
        copied.untyped_storage().pinned = True
        return copied

    return {
        "to": to,
        "cpu": lambda x, **kwargs: move(fake, x, HOST, False),
        "cuda": lambda x, *args, **kwargs: move(fake, x, GPU, bool(kwargs.get("non_blocking"))),
        "device": property(place),
        "is_cuda": property(lambda x: place(x) == GPU),
        "pin_memory": pin_memory,
        **{name: read(name) for name in ("tolist", "numpy", "__array__")},
    }


def cuda_patches() -> dict[str, Any]:
    """Return functions of ``torch.cuda`` that describe the GPU."""
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *device: "simulated GPU",
        "get_device_capability": lambda *device: (9, 0),
        "mem_get_info": lambda *device: (80 * 2**30, 80 * 2**30),
        "manual_seed_all": lambda seed: None,
    }


def group_by_place(group: Callable) -> Callable:
    """Return PyTorch's grouping of an optimizer's tensors with the device on which they would be."""

    def grouped(lists: list, with_indices: bool = False) -> dict:
        return {
            (place(tensors[0][0]), dtype): (tensors, indices)
            for (_, dtype), (tensors, indices) in group(lists, with_indices).items()
        }

    return grouped


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Simulate one GPU inside the ``with`` block."""
    fake, tensor = FakeCuda(), torch.tensor
    autocast, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    submit = ThreadPoolExecutor.submit

    def on_cpu(kind: str) -> str:
        return "cpu" if kind == "cuda" else kind

    def create(data: Any, device: torch.device | str | None = None, **kwargs: Any) -> Tensor:
        return move(fake, tensor(data, **kwargs), torch.device(device or HOST), False)

    def submit_with_mode(pool: ThreadPoolExecutor, function: Callable, *args: Any) -> Any:
        def call() -> Any:  # dispatch modes belong to a thread
            with Placement(fake):
                return function(*args)

        return submit(pool, call)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in cuda_patches().items():
            patch.setattr(torch.cuda, name, value)
        for name, value in tensor_patches(fake).items():
            patch.setattr(Tensor, name, value, raising=False)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch, "tensor", create)
        patch.setattr(torch, "autocast", lambda kind, *a, **k: autocast(on_cpu(kind), *a, **k))
        patch.setattr(torch, "is_autocast_enabled", lambda kind="cuda": enabled(on_cpu(kind)))
        patch.setattr(torch, "get_autocast_dtype", lambda kind="cuda": dtype(on_cpu(kind)))
        patch.setattr(torch, "cudnn_is_acceptable", lambda x: x.is_cuda)
        patch.setattr(torch, "_cudnn_rnn_flatten_weight", lambda *args: None)
        patch.setattr(torch.backends.cudnn, "version", lambda: 92400)
        optimizer, name = import_module("torch.optim.optimizer"), "_group_tensors_by_device_and_dtype"
        patch.setattr(optimizer, name, group_by_place(getattr(optimizer, name)))
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            patch.setattr(
                torch.optim.Optimizer, name, lambda optimizer: None, raising=False
            )  # reads the stream
        patch.setattr(ThreadPoolExecutor, "submit", submit_with_mode)
        with Placement(fake):
            yield fake
