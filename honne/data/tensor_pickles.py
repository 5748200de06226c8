"""Pickled tensors as `torch.save` writes them, read without running anything they name, and without PyTorch.

As `honne.data.pickles`, and tensors besides: what stands for PyTorch's classes while the program runs is our own.
Objects of classes that the caller names become dictionaries of their attributes; of the class itself nothing is known.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from honne.data.pickles import StandIn, Unpickler, Value, load_plain_pickle, opened
from honne.errors import HonneError

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # PyTorch before 1.6
_DAMAGE = (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, RuntimeError, struct.error)
"""What Python's zipfile raises for files that are damaged or that it does not read."""
_TYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}


def read_torch_pickle(path: Path, classes: Collection[str] = ()) -> Any:
    """What `torch.save` wrote, tensors as NumPy arrays that are not to be written to.

    Files of PyTorch 1.6 and later (a zip) and of before. Tensors are dense, of numbers that NumPy has; arrays of Python
    objects may hold plain data.

    Args:
        path: of the file.
        classes: full names of classes, as `src.dataset.Multimodal_Datasets`, whose objects become dictionaries of
            their attributes.

    Raises:
        HonneError: there is no such file, it is damaged, or it wants anything else, naming it.
    """
    path = Path(path)
    data = opened(path)
    if data[:4] != _ZIP:
        return load_plain_pickle(data, str(path), _with(classes, _LegacyUnpickler))
    try:
        with zipfile.ZipFile(path) as archive:
            records = _Records(archive, len(data))
            make = _with(classes, _ZipUnpickler, records)
            return load_plain_pickle(records.read("data.pkl"), str(path), make)
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        OSError,
        RuntimeError,
        NotImplementedError,
        struct.error,
    ) as error:
        reason = str(error).strip("'\"").rstrip(".")
        raise HonneError(f"{path}: not a file that can be read ({reason}).", "Copy the file again.") from None


def _with(classes: Collection[str], kind: Callable[..., Unpickler], *more: Any) -> Callable[[Any, str, str], Unpickler]:
    return lambda data, where, encoding: kind(data, where, encoding, frozenset(classes), *more)


class _Records:
    """The parts of a file of PyTorch 1.6 and later, by name; nothing is ever unpacked to disk."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed, as PyTorch never does")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("parts that are larger than the file")
        pickles = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("no data.pkl in it" if not pickles else "several data.pkl in it")
        self.prefix = pickles[0].removesuffix("data.pkl")

    def read(self, name: str) -> bytes:
        return self.archive.read(self.prefix + name)

    def has(self, name: str) -> bool:
        return self.prefix + name in self.archive.NameToInfo


class _Storage(StandIn):
    """The numbers of one tensor or several."""

    def __init__(self, dtype: np.dtype[Any], count: int) -> None:
        self.dtype, self.count = dtype, count
        self.data = b""

    def filled(self, data: bytes) -> _Storage:
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are not {self.count} numbers of {self.dtype.itemsize} bytes")
        self.data = data
        return self


class _Tensor(StandIn):
    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def value(self, plain: Value) -> np.ndarray:
        """A view of the storage: however many tensors share it, it is there once."""
        if not isinstance(self.storage, _Storage):
            raise ValueError("a tensor without a storage")
        numbers = np.frombuffer(self.storage.data, self.storage.dtype)
        if len(self.size) != len(self.stride) or min((self.offset, *self.size, *self.stride)) < 0:
            raise ValueError(f"a tensor of size {self.size}, stride {self.stride} and offset {self.offset}")
        count = math.prod(self.size)
        if not count:
            return np.zeros(self.size, numbers.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if last >= len(numbers) or count > len(numbers):
            raise ValueError(f"a tensor of size {self.size} that reaches beyond its storage of {len(numbers)}")
        steps = [step * numbers.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, steps, writeable=False)


class _Instance(StandIn):
    """An object of a class that the caller named."""

    attributes: Any = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state

    def value(self, plain: Value) -> dict[str, Any]:
        if not isinstance(self.attributes, dict):
            raise ValueError("an object without attributes")
        return {str(name): plain(item) for name, item in self.attributes.items()}


class _TensorUnpickler(Unpickler):
    objects = True

    def __init__(self, data: bytes | mmap.mmap, where: str, encoding: str, classes: frozenset[str]) -> None:
        super().__init__(data, where, encoding)
        self.classes = classes
        self.storages: dict[str, _Storage] = {}
        self.order = "<"

    def find_class(self, module: str, name: str) -> Any:
        """Only ever something of ours."""
        if f"{module}.{name}" in self.classes:
            return _Instance
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _Tensor
        if module == "torch" and name in _TYPES:
            return name
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ("storage", type, key, device, count), and before PyTorch 1.6 what it is a view of."""
        kind, name, key, _, count, *view = pid if isinstance(pid, tuple) and len(pid) >= 5 else (None,) * 5
        if kind != "storage" or name not in _TYPES or any(view):
            return super().persistent_load(pid)
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise ValueError(f"storage {key} of {count} numbers")
        if key not in self.storages:
            self.storages[key] = self.storage(key, _Storage(np.dtype(self.order + _TYPES[name]), count))
        return self.storages[key]

    def storage(self, key: str, empty: _Storage) -> _Storage:
        """The storage of that key, filled if its numbers have been read."""
        return empty


class _ZipUnpickler(_TensorUnpickler):
    def __init__(self, data: bytes, where: str, encoding: str, classes: frozenset[str], records: _Records) -> None:
        super().__init__(data, where, encoding, classes)
        self.records = records
        if records.has("byteorder") and records.read("byteorder") == b"big":
            self.order = ">"

    def storage(self, key: str, empty: _Storage) -> _Storage:
        return empty.filled(self.records.read(f"data/{key}"))


class _LegacyUnpickler(_TensorUnpickler):
    def load(self: Any) -> Any:
        """Five pickles, the fourth of which is the object, and then the numbers of every storage."""
        if super().load() != _MAGIC:
            raise ValueError("it does not begin as files of PyTorch do")
        super().load()
        if not super().load().get("little_endian", True):
            self.order = ">"
        found, keys = super().load(), super().load()
        for key in keys:
            (count,) = struct.unpack(self.order + "q", self._file_read(8))
            storage = self.storages[key]
            if count != storage.count:
                raise ValueError(f"storage {key} has {count} numbers, not {storage.count}")
            storage.filled(self._file_read(count * storage.dtype.itemsize))
        return found
