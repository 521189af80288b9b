"""Read pickles of numpy arrays without executing them, and without loading the arrays.

A pickle is a program for a stack machine, and ``pickle.load`` runs it, including any function that the
program names. This module interprets the same instructions but calls nothing. It creates ``None``, booleans,
numbers, strings, lists, tuples and dictionaries, and represents a numpy array by a ``PickledArray``, whose
values stay in the file until ``load``. Any other object raises ``BadPickle``. Memory thus grows with the
number of objects in a pickle, not with its size.

Accepts protocols 2 to 5, and the arrays and numbers of all numpy versions, also as written by Python 2.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

PROTOCOLS = range(2, 6)
MAX_LOADED = 1024  # bytes; longer strings stay in the file
# Names that a pickle may contain. numpy 2 writes numpy._core for numpy.core.
_ARRAY_TYPES = ("numpy.ndarray",)
_ENCODE = ("_codecs.encode",)  # how protocol 2 writes bytes in Python 3: as text, with this call
_EMPTY_BYTES = ("builtins.bytes", "__builtin__.bytes")
_DTYPE = ("numpy.dtype",)
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_DICTIONARY = ("collections.OrderedDict",)
_NAMES = frozenset(
    _ARRAY_TYPES + _ENCODE + _EMPTY_BYTES + _DTYPE + _RECONSTRUCT + _SCALAR + _FROM_BUFFER + _DICTIONARY
)
_NUMERIC = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)


class BadPickle(Exception):
    """A pickle that is damaged, or contains something other than arrays and plain containers."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes that stay in the file. ``is_text``: stored as UTF-8 text, one character per byte."""

    offset: int
    length: int
    is_text: bool

    def load(self, file: BinaryIO) -> bytes:
        file.seek(self.offset)
        data = file.read(self.length)
        return data.decode("utf-8").encode("latin-1") if self.is_text else data


@dataclass(slots=True)
class PickledArray:
    """An array in a pickle. Its attributes are as found in the file, and are checked by ``load``."""

    shape: Any = None
    dtype: Any = None
    is_fortran: Any = False
    data: Any = None

    def has_shape(self, dimensions: int) -> bool:
        """Return whether the shape is valid and has this number of dimensions."""
        return (
            isinstance(self.shape, tuple)
            and len(self.shape) == dimensions
            and all(type(size) is int and size >= 0 for size in self.shape)
        )

    def load(self, file: BinaryIO) -> np.ndarray:
        """Read the array from its file. Raises ``BadPickle`` if it is not a valid array of numbers."""
        if not isinstance(self.dtype, PickledDtype) or not isinstance(self.shape, tuple):
            raise BadPickle("the array is incomplete")
        if not self.has_shape(len(self.shape)):
            raise BadPickle("the shape of the array is invalid")
        dtype = self.dtype.numeric()
        try:
            data = self.data.load(file) if isinstance(self.data, Span) else _as_bytes(self.data)
        except _MALFORMED as error:
            raise BadPickle("the values of the array are damaged") from error
        expected = math.prod(self.shape) * dtype.itemsize
        if len(data) != expected:
            raise BadPickle(f"an array of shape {self.shape} has {len(data)} bytes instead of {expected}")
        return np.frombuffer(data, dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


@dataclass(slots=True)
class PickledDtype:
    """The type of an array's values: ``f4`` and similar, and the byte order."""

    code: Any
    byte_order: Any = "="

    def numeric(self) -> np.dtype:
        """Return the dtype. Raises ``BadPickle`` if it is not a type of numbers."""
        text = f"{self.byte_order}{self.code}" if isinstance(self.code, str) else ""
        if not _NUMERIC.fullmatch(text):
            raise BadPickle("an array does not contain numbers")
        return np.dtype(text)


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle file, with a ``PickledArray`` in place of every array.

    Raises:
        OSError: the file cannot be read.
        BadPickle: it is not a pickle of protocols 2 to 5, is damaged, or contains something else.
    """
    with open(path, "rb") as file:
        machine = _Machine(file)
        try:
            return machine.run()
        except _MALFORMED as error:
            raise BadPickle(f"the pickle is damaged near byte {file.tell():,}") from error


def _as_bytes(text: Any) -> bytes:
    """Return the bytes of a string of bytes, which Python 2 does not distinguish from text."""
    return text.encode("latin-1") if isinstance(text, str) else bytes(memoryview(text))


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or function that the pickle names; never imported."""

    text: str


class _Machine:
    """The stack machine. Errors in the pickle surface as any of ``_MALFORMED`` or as ``BadPickle``."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Interpret the instructions up to the end of the pickle and return its value."""
        head = self.file.read(2)
        if head[:1] != b"\x80" or head[1:] == b"" or head[1] not in PROTOCOLS:
            raise BadPickle(
                f"it is not a pickle of protocol {PROTOCOLS[0]} to {PROTOCOLS[-1]}, which Python 3 writes"
            )
        read = self.file.read
        while True:
            code = read(1)
            if code == b".":
                return self.stack[-1]
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                if not code:
                    raise BadPickle("the pickle is truncated")
                raise BadPickle(f"the pickle has the instruction {code!r}, which arrays do not need")
            instruction(self)

    def number(self, format: str) -> Any:
        """Read one number of the ``struct`` format."""
        return struct.unpack(format, self.file.read(struct.calcsize(format)))[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        """Remove and return everything above the last mark."""
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def push_string(self, length: int, is_text: bool, decode: Callable[[bytes], Any]) -> None:
        """Push the next ``length`` bytes: decoded, or as a ``Span`` if they are many."""
        offset = self.file.tell()
        if not 0 <= length <= self.size - offset:
            raise BadPickle("the pickle is truncated")
        if length <= MAX_LOADED:
            self.push(decode(self.file.read(length)))
        else:
            self.push(Span(offset, length, is_text))
            self.file.seek(length, os.SEEK_CUR)

    def push_name(self, module: Any, name: Any) -> None:
        text = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        if text not in _NAMES:
            raise BadPickle(
                f"it contains {text[:80]!r}, which is not an array of numpy; nothing was executed"
            )
        self.push(_Name(text))

    def read_line(self) -> str:
        line = self.file.readline(MAX_LOADED)
        if not line.endswith(b"\n"):
            raise BadPickle("the pickle is truncated")
        return line[:-1].decode("utf-8")

    def append(self, values: list[Any]) -> None:
        _of_type(self.stack[-1], list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = _of_type(self.stack[-1], dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int)):  # hashing nested tuples could exhaust the C stack
                raise BadPickle("a key of a dictionary is neither a string nor a number")
            target[key] = value

    def make_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def reduce(self) -> None:
        """Interpret a call: push what it creates."""
        arguments = _of_type(self.stack.pop(), tuple)
        name = _of_type(self.stack.pop(), _Name).text
        self.push(_create(name, arguments))

    def build(self) -> None:
        """Interpret ``__setstate__`` of an array or a dtype."""
        state = _of_type(self.stack.pop(), tuple)
        target = self.stack[-1]
        if isinstance(target, PickledArray):
            target.shape, target.dtype, target.is_fortran, target.data = state[-4:]
        elif isinstance(target, PickledDtype):
            _, target.byte_order, subtype, names, fields = state[:5]
            if subtype is not None or names is not None or fields is not None:
                target.code = None
        else:
            raise TypeError


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _create(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the value that a call in the pickle stands for; the arguments are as numpy writes them."""
    if name in _RECONSTRUCT:
        if _of_type(arguments[0], _Name).text not in _ARRAY_TYPES:
            raise TypeError
        return PickledArray()
    if name in _FROM_BUFFER:
        data, dtype, shape, order = arguments
        return PickledArray(shape, dtype, order == "F", data)
    if name in _DTYPE:
        return PickledDtype(arguments[0])
    if name in _SCALAR:
        dtype, data = arguments
        return np.frombuffer(_as_bytes(data), _of_type(dtype, PickledDtype).numeric(), 1)[0].item()
    if name in _ENCODE:
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise ValueError
        return text if isinstance(text, Span) else _of_type(text, str).encode("latin-1")
    if name in _EMPTY_BYTES and arguments == ():
        return b""
    if name in _DICTIONARY and arguments == ():
        return {}
    raise TypeError


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def _text(data: bytes) -> str:
    return data.decode("utf-8")


def _memoize(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _global_in_stack(machine: _Machine) -> None:
    name = machine.stack.pop()
    machine.push_name(machine.stack.pop(), name)


# The names of the instructions are those of the standard module pickletools.
_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x95": lambda m: m.number("<Q"),  # FRAME: the size of what follows, not needed
    b"(": lambda m: m.marks.append(len(m.stack)),  # MARK
    b"0": lambda m: m.stack.pop(),  # POP
    b"1": lambda m: m.pop_to_mark(),  # POP_MARK
    b"N": lambda m: m.push(None),  # NONE
    b"\x88": lambda m: m.push(True),  # NEWTRUE
    b"\x89": lambda m: m.push(False),  # NEWFALSE
    b"K": lambda m: m.push(m.number("<B")),  # BININT1
    b"M": lambda m: m.push(m.number("<H")),  # BININT2
    b"J": lambda m: m.push(m.number("<i")),  # BININT
    b"\x8a": lambda m: m.push(int.from_bytes(m.file.read(m.number("<B")), "little", signed=True)),  # LONG1
    b"G": lambda m: m.push(m.number(">d")),  # BINFLOAT
    b"U": lambda m: m.push_string(m.number("<B"), False, _latin),  # SHORT_BINSTRING
    b"T": lambda m: m.push_string(m.number("<i"), False, _latin),  # BINSTRING
    b"C": lambda m: m.push_string(m.number("<B"), False, bytes),  # SHORT_BINBYTES
    b"B": lambda m: m.push_string(m.number("<I"), False, bytes),  # BINBYTES
    b"\x8e": lambda m: m.push_string(m.number("<Q"), False, bytes),  # BINBYTES8
    b"\x96": lambda m: m.push_string(m.number("<Q"), False, bytes),  # BYTEARRAY8
    b"\x8c": lambda m: m.push_string(m.number("<B"), True, _text),  # SHORT_BINUNICODE
    b"X": lambda m: m.push_string(m.number("<I"), True, _text),  # BINUNICODE
    b"\x8d": lambda m: m.push_string(m.number("<Q"), True, _text),  # BINUNICODE8
    b"]": lambda m: m.push([]),  # EMPTY_LIST
    b"a": lambda m: m.append([m.stack.pop()]),  # APPEND
    b"e": lambda m: m.append(m.pop_to_mark()),  # APPENDS
    b"}": lambda m: m.push({}),  # EMPTY_DICT
    b"s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),  # SETITEM
    b"u": lambda m: m.set_items(m.pop_to_mark()),  # SETITEMS
    b")": lambda m: m.push(()),  # EMPTY_TUPLE
    b"\x85": lambda m: m.make_tuple(1),  # TUPLE1
    b"\x86": lambda m: m.make_tuple(2),  # TUPLE2
    b"\x87": lambda m: m.make_tuple(3),  # TUPLE3
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),  # TUPLE
    b"q": lambda m: _memoize(m, m.number("<B")),  # BINPUT
    b"r": lambda m: _memoize(m, m.number("<I")),  # LONG_BINPUT
    b"\x94": lambda m: _memoize(m, len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.push(m.memo[m.number("<B")]),  # BINGET
    b"j": lambda m: m.push(m.memo[m.number("<I")]),  # LONG_BINGET
    b"c": lambda m: m.push_name(m.read_line(), m.read_line()),  # GLOBAL
    b"\x93": _global_in_stack,  # STACK_GLOBAL
    b"R": lambda m: m.reduce(),  # REDUCE
    b"b": lambda m: m.build(),  # BUILD
}
