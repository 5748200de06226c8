"""Pickled pandas tables, read without running anything they name and without pandas.

As `honne.data.pickles`, and tables besides: what stands for pandas' and pyarrow's classes while the program runs is
our own, and a table becomes a dictionary of its columns. Row labels are not kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from honne.data.pickles import StandIn, Unpickler, Value, load_plain_pickle
from honne.errors import HonneError


def read_tables_pickle(path: Path) -> Any:
    """What a pickle of plain data and pandas tables holds; a `DataFrame` becomes a dictionary column -> (N,) array.

    Written by pandas 0.25 to 3, with columns of numbers and text. Arrays of Python objects may hold plain data.

    Raises:
        HonneError: there is no such file, it is no pickle or cut off, or it wants anything else, naming it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise HonneError(f"{path}: cannot be read ({error.strerror}).", "Check the path.") from None
    return load_plain_pickle(data, str(path), _TableUnpickler)


class _Table(StandIn):
    """A DataFrame."""

    manager: Any = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.manager = state.get("_mgr", state.get("_data"))

    def value(self, plain: Value) -> dict[str, np.ndarray]:
        if not isinstance(self.manager, _Blocks):
            raise ValueError("a table without its columns")
        return self.manager.columns(plain)


class _Blocks(StandIn):
    """What holds the columns of a table: blocks of columns of one type."""

    def __init__(self, blocks: Any = (), axes: Any = ()) -> None:
        self.blocks, self.axes = blocks, axes

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """As pandas before 1.3 has it."""
        inside = state[3]["0.14.1"]
        self.axes = inside["axes"]
        self.blocks = [_Block(block["values"], block["mgr_locs"]) for block in inside["blocks"]]

    def columns(self, plain: Value) -> dict[str, np.ndarray]:
        names = [str(name) for name in plain(self.axes[0])]
        found: dict[int, np.ndarray] = {}
        for block in self.blocks:
            values = np.atleast_2d(plain(block.values))
            places = block.places.of(len(names)) if isinstance(block.places, _Slice) else plain(block.places)
            found |= dict(zip(np.atleast_1d(places).tolist(), values, strict=True))
        if sorted(found) != list(range(len(names))) or len({len(column) for column in found.values()}) > 1:
            raise ValueError("a table whose columns do not fit each other")
        return {name: found[i] for i, name in enumerate(names)}


class _Block(StandIn):
    def __init__(self, values: Any, places: Any, dimensions: int = 2) -> None:
        self.values, self.places = values, places


class _Slice(StandIn):
    def __init__(self, *ends: int | None) -> None:
        self.ends = ends

    def of(self, count: int) -> np.ndarray:
        return np.arange(count)[slice(*self.ends)]


class _Index(StandIn):
    """Names of columns; other indexes are made, and not asked."""

    def __init__(self, kind: str, state: dict[str, Any]) -> None:
        self.names = state.get("data")

    def value(self, plain: Value) -> Any:
        return plain(self.names)


class _Text(StandIn):
    """A column of text, as pandas 3 has it."""

    array: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.array = state.get("_pa_array", state.get("_ndarray"))
        else:
            self.array = state[1]

    def value(self, plain: Value) -> np.ndarray:
        return np.asarray(plain(self.array), object)


class _Arrow(StandIn):
    """An array of pyarrow; only text."""

    def __init__(self, state: tuple[Any, ...]) -> None:
        self.kind, self.length, _, self.offset, self.buffers = state[:5]

    def value(self, plain: Value) -> np.ndarray:
        buffers = [None if buffer is None else pa.py_buffer(plain(buffer)) for buffer in self.buffers]
        kind = {"large_string": pa.large_string(), "string": pa.string()}[self.kind]
        array = pa.Array.from_buffers(kind, self.length, buffers, offset=self.offset)
        array.validate(full=True)
        return np.array(array.to_pylist(), object)


class _ArrowChunks(StandIn):
    def __init__(self, chunks: list[Any], *_: Any) -> None:
        self.chunks = chunks

    def value(self, plain: Value) -> np.ndarray:
        return np.concatenate([np.zeros(0, object), *(plain(chunk) for chunk in self.chunks)])


def _backed(kind: type[_Text], *_: Any) -> _Text:
    return kind()


def _same(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> None:
    return None


_INDEXES = ("Index", "RangeIndex", "Int64Index", "Float64Index", "UInt64Index")
_KNOWN: dict[str, Any] = {
    **dict.fromkeys(("pandas.DataFrame", "pandas.core.frame.DataFrame"), _Table),
    **dict.fromkeys(("pandas.core.internals.managers.BlockManager", "pandas.core.internals.BlockManager"), _Blocks),
    "pandas._libs.internals._unpickle_block": _Block,
    "pandas.core.indexes.base._new_Index": _Index,
    **{f"pandas.{name}": name for name in _INDEXES},
    **{f"pandas.core.indexes.{part}.{name}": name for part in ("base", "range", "numeric") for name in _INDEXES},
    **dict.fromkeys(
        (
            *("pandas.arrays.ArrowStringArray", "pandas.core.arrays.string_arrow.ArrowStringArray"),
            *("pandas.core.arrays.string_arrow.ArrowStringArrayNumpySemantics", "pandas.arrays.StringArray"),
            *("pandas.core.arrays.string_.StringArray", "pandas.core.arrays.string_.StringArrayNumpySemantics"),
        ),
        _Text,
    ),
    **dict.fromkeys(("pandas.StringDtype", "pandas.core.arrays.string_.StringDtype"), _nothing),
    "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked": _backed,
    "pandas.NA": "pandas.NA",
    "pandas._libs.missing.NA": "pandas.NA",
    "pyarrow.lib._restore_array": _Arrow,
    "pyarrow.lib.chunked_array": _ArrowChunks,
    "pyarrow.lib.type_for_alias": _same,
    "pyarrow.lib.py_buffer": _same,
    "builtins.slice": _Slice,
    "builtins.bytearray": _same,
}
"""What a pickle may name beside plain data -> what stands for it."""


class _TableUnpickler(Unpickler):
    objects = True

    def find_class(self, module: str, name: str) -> Any:
        """Only ever something of ours."""
        known = _KNOWN.get(f"{module.replace('__builtin__', 'builtins')}.{name}")
        return super().find_class(module, name) if known is None else known
