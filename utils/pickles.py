"""Read pickles of arrays and plain data without executing them.

A pickle is a program that may call any function that it names. This reader finds only what lists,
dictionaries, strings, numbers and arrays of numbers and strings need. It holds the whole file in memory.

Accepts all protocols, and the arrays and numbers of all NumPy versions, also as written by Python 2.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError, parse_errors

_DTYPE = re.compile(r"[<>|=]?(?:\?|b1|[iu][1248]|f[248]|c8|c16|[US]\d{1,6}|O8?)")


class _Dtype:
    """The dtype of an array as its pickle describes it: a code such as ``f4``, then the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]
        if any(part is not None for part in state[2:5]):
            raise ValueError("it contains an array of structures")

    def dtype(self) -> np.dtype:
        """Return the dtype; raises ``ValueError`` unless it is one of numbers, strings or objects."""
        if not _DTYPE.fullmatch(f"{self.order}{self.code}"):
            raise ValueError(f"it contains an array of type {self.code!r:.40}")
        return np.dtype(f"{self.order}{self.code}")


class _Array(np.ndarray):
    """An array whose state is checked: NumPy trusts the flags of a pickled dtype."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, is_fortran, data = state[-4:]
        super().__setstate__((1, shape, dtype.dtype(), is_fortran, data))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _empty_array(*_: Any) -> np.ndarray:
    return np.empty(0, np.uint8).view(_Array)  # its state follows in the pickle


def _array_from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(data, dtype.dtype()).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return np.frombuffer(_bytes(data), dtype.dtype(), 1)[0].item()


def _bytes(text: Any = b"", *_: Any) -> bytes:
    """Return bytes, which Python 2 does not distinguish from text."""
    return text.encode("latin-1") if isinstance(text, str) else b"" + text


_FOUND: dict[str, Callable[..., Any] | str] = {
    "numpy.ndarray": "an argument of _reconstruct, not to be called",
    "numpy.dtype": _Dtype,
    "collections.OrderedDict": dict,
    "_codecs.encode": _bytes,  # how protocol 2 writes bytes in Python 3
    "builtins.bytes": _bytes,
    "__builtin__.bytes": _bytes,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")  # numpy 2 writes numpy._core
        for name, function in (
            ("multiarray._reconstruct", _empty_array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _array_from_buffer),
        )
    },
}


class SafeUnpickler(pickle.Unpickler):
    """Rejects every class and function except those of ``_FOUND``, which have no side effects."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a class or function."""
        path = f"{module}.{name}"
        if path not in _FOUND:
            raise pickle.UnpicklingError(f"it contains {path!r:.100}")
        return _FOUND[path]


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle file.

    Raises ``UserError`` if it cannot be read, is damaged, or contains anything but arrays and plain data.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file")
    with parse_errors(f"{path} was not loaded"), open(path, "rb") as file:
        try:
            return SafeUnpickler(file, encoding="latin1").load()
        except MemoryError as error:  # a damaged size can be anything
            raise ValueError("it is damaged, or larger than the memory") from error
