"""Label files that were pickled, read without running anything they name.

A pickle is a program. Here it may only build dictionaries, lists, tuples, sets, text, bytes, numbers, None and NumPy
arrays of numbers or text; what stands for an array while the program runs is a class of our own, so that not even
NumPy's own rebuilding sees its contents. A pickle that names anything else is refused where it names it.
"""

from __future__ import annotations

import io
import mmap
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from honne.errors import HonneError

_LEAVES = (str, bytes, bytearray, int, float, bool, type(None))
_HINT = "Only dictionaries, lists, text, numbers and plain arrays are read; save them so, or as CSV or JSON."


def read_plain_pickle(path: Path, objects: bool = False) -> Any:
    """What a pickle of plain data holds.

    Protocols 0 to 5, written by Python 2 or 3, with NumPy of any version. Text of Python 2 is read as UTF-8 or, where
    that does not go, as Latin-1. An `OrderedDict` becomes a dictionary.

    Args:
        path: of the file.
        objects: whether arrays may hold Python objects, as text of several lengths; they are plain data again.

    Raises:
        HonneError: there is no such file, it is no pickle or cut off, or it wants anything that is not plain data,
            naming it.
    """
    return load_plain_pickle(opened(path), str(path), _ObjectUnpickler if objects else Unpickler)


def opened(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file, mapped: files of features are as large as memory.

    Raises:
        HonneError: there is no such file.
    """
    try:
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.seek(0, io.SEEK_END) else b""
    except OSError as error:
        raise HonneError(f"{path}: cannot be read ({error.strerror}).", "Check the path.") from None


def load_plain_pickle(
    data: bytes | mmap.mmap, where: str, unpickler: Callable[[Any, str, str], Unpickler] | None = None
) -> Any:
    """`read_plain_pickle` for the bytes of a file; `where` names it in messages, `unpickler` may know more names."""
    make = unpickler or Unpickler
    try:
        try:
            return _plain(_built(make(data, where, "utf-8")), where, {})
        except ValueError:  # the text of Python 2 is not UTF-8; or it is the bytes of an array
            return _plain(_built(make(data, where, "latin1")), where, {})
    except HonneError:
        raise
    except RecursionError:
        raise HonneError(f"{where}: a pickle with values inside values without end.", _HINT) from None
    except Exception as error:  # a damaged program fails in any way
        reason = f"{type(error).__name__}: {error}".rstrip(": .")
        raise HonneError(f"{where}: not a pickle that can be read ({reason}).", "Copy the file again.") from None


def _built(unpickler: Any) -> Any:
    """What the program builds; of what else it remembered nothing stays."""
    try:
        return unpickler.load()
    finally:
        unpickler.memo.clear()


Value = Callable[[Any], Any]
"""Turns a part of what a pickle built into what it stands for."""


class StandIn:
    """Stands for an object of some library while the program runs."""

    def value(self, plain: Value) -> Any:
        """What it is."""
        raise ValueError(f"a {type(self).__name__} by itself")


class _DType:
    """A dtype as a pickle builds it: a code, as f8, and then the order of its bytes."""

    def __init__(self, where: str, code: str, objects: bool = False) -> None:
        self.where, self.code, self.order, self.objects = where, code, "=", objects

    @property
    def of_objects(self) -> bool:
        return self.objects and self.code[:1] == "O"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.order, subarray, names, fields, *_ = state
        if subarray or names or fields:
            raise _refused(self.where, "an array with fields")

    def dtype(self) -> np.dtype[Any]:
        if not re.fullmatch(r"[biufcSU]\d+", self.code) or self.order not in ("<", ">", "=", "|"):
            what = "an array of Python objects" if self.code[:1] == "O" else f"an array of type '{self.code}'"
            raise _refused(self.where, what)
        return np.dtype(self.order + self.code)


class _Array(StandIn):
    """An array as a pickle builds it, or a scalar (no shape): some of what it is comes late."""

    def __init__(self, dtype: _DType | None = None, shape: Any = None, data: Any = b"", order: str = "C") -> None:
        self.type, self.shape, self.data, self.order = dtype, shape, data, order

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.shape, self.type, fortran, self.data = state[-4:]
        self.order = "F" if fortran else "C"

    def value(self, plain: Value) -> Any:
        """What it is; a ValueError where the text of Python 2 was read in the wrong encoding."""
        assert self.type is not None
        if self.type.of_objects:
            objects = np.empty(len(self.data), object)
            objects[:] = [plain(item) for item in self.data]
            return objects.reshape(self.shape, order="F" if self.order == "F" else "C")
        dtype, shape = self.type.dtype(), () if self.shape is None else self.shape
        data = self.data.encode("latin1") if isinstance(self.data, str) else bytes(self.data)
        self.data = b""  # asked once, and it may be large
        if len(data) != np.prod(shape, dtype=object) * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are no array of shape {shape}")
        array = np.ndarray(shape, dtype, data, order="F" if self.order == "F" else "C").copy("K")
        return array[()] if self.shape is None else array


class Unpickler(pickle._Unpickler):
    """Python's own, which keeps its memory in a dictionary: the one in C makes room for any number a file names.

    Attributes:
        objects: whether arrays may hold Python objects, which are plain data again.
    """

    objects: ClassVar[bool] = False
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes | mmap.mmap, where: str, encoding: str) -> None:
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        file.seek(0)
        super().__init__(file, encoding=encoding)
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        """Only ever something of ours, or a container."""
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        match f"{module}.{name}":
            case "numpy.core.multiarray._reconstruct":
                return self.empty_array
            case "numpy.core.multiarray.scalar":
                return self.scalar
            case "numpy.core.numeric._frombuffer":
                return self.array_of_buffer
            case "numpy.ndarray":
                return "numpy.ndarray"
            case "numpy.dtype":
                return self.dtype
            case "_codecs.encode":
                return self.bytes_of_text
            case "builtins.bytes":
                return self.no_bytes
            case "builtins.set":
                return set
            case "builtins.frozenset":
                return frozenset
            case "collections.OrderedDict":
                return dict
        raise _refused(self.where, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _refused(self.where, "an object that lies outside it")

    def load_bytearray(self: Any) -> None:
        """As the original, which makes room for any length before it reads."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray

    def load_build(self: Any) -> None:
        """As the original, which lets a pickle set any attribute of anything, as of our own classes."""
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, (StandIn, _DType)) or not hasattr(made, "__setstate__"):
            raise _refused(self.where, f"attributes of a {type(made).__name__}")
        made.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build

    def dtype(self, code: str, *_: Any) -> _DType:
        return _DType(self.where, code, self.objects)

    def empty_array(self, kind: str, *_: Any) -> _Array:
        return _Array()

    def scalar(self, dtype: _DType, data: Any = b"") -> _Array:
        return _Array(dtype, data=data)

    def array_of_buffer(self, data: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
        return _Array(dtype, shape, data, order)

    def bytes_of_text(self, text: str, encoding: str = "latin1") -> bytes:
        return text.encode("latin1")

    def no_bytes(self) -> bytes:
        return b""


class _ObjectUnpickler(Unpickler):
    objects = True


def _refused(where: str, what: str) -> HonneError:
    return HonneError(f"{where}: the pickle wants {what}, which is no plain data; nothing of it was run.", _HINT)


def _plain(value: Any, where: str, seen: dict[int, Any]) -> Any:
    """The value with real arrays; each object once, however often it is referred to."""
    if type(value) in _LEAVES:
        return value
    if id(value) not in seen:
        seen[id(value)] = _converted(value, where, seen)
    return seen[id(value)]


def _converted(value: Any, where: str, seen: dict[int, Any]) -> Any:
    if isinstance(value, StandIn):
        return value.value(lambda part: _plain(part, where, seen))
    if isinstance(value, dict):
        return {_plain(key, where, seen): _plain(item, where, seen) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(_plain(item, where, seen) for item in value)
    raise _refused(where, f"'{value}'" if isinstance(value, type) else type(value).__name__)
