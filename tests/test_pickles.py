"""Pickles of plain data are read; whatever else a pickle wants is refused, and nothing of it runs."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from honne.data.pickles import load_plain_pickle, read_plain_pickle
from honne.errors import HonneError

SHARED = ["joy", 1]
PLAIN = {
    "anger_12": "Negative",
    "numbers": [1, -(2**70), 2.5, True, None, float("inf")],
    "bytes": (b"\x00\xff", b""),
    "sets": ({1, 2}, frozenset({"a"})),
    "twice": [SHARED, SHARED],
    "arrays": {
        "grey": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.array([1, 256], ">i4"),
        "text": np.array(["sad", "fröhlich"]),
        "old text": np.array([b"sad"]),
        "none": np.zeros((0, 3), np.float32),
        "truth": np.array([True, False]),
        "no axis": np.array(3.0),
    },
    np.int64(7): np.float32(0.5),
}


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, (np.ndarray, np.generic)):
        return type(found) is type(wanted) and found.dtype == wanted.dtype and np.array_equal(found, wanted)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, (list, tuple)):
        return type(found) is type(wanted) and all(map(same, found, wanted))
    return bool(type(found) is type(wanted) and found == wanted)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(PLAIN, protocol))
    found = read_plain_pickle(tmp_path / "labels.pkl")
    assert same(found, PLAIN)
    assert found["twice"][0] is found["twice"][1]
    found["arrays"]["grey"][0, 0] = 9  # of its own, and may be changed
    assert load_plain_pickle(pickle.dumps(collections.OrderedDict(b=1, a=2), protocol), "x") == {"b": 1, "a": 2}


def test_text_and_arrays_of_python_2() -> None:
    def old(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + old(b"b") + b"tR"
        b"(K\x01K\x02\x85cnumpy\ndtype\n(" + old(b"i2") + b"K\x00K\x01tR(K\x03" + old(b"<") + b"NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89" + old(b"\xc3\xa9\xff\x01") + b"tb"
    )
    assert load_plain_pickle(b"\x80\x02" + old("fröhlich".encode()) + b".", "x") == "fröhlich"
    np.testing.assert_array_equal(load_plain_pickle(b"\x80\x02" + array + b".", "x"), np.array([-22077, 511], "<i2"))
    latin = array.replace(b"\xff\x01", b"a\x01")  # bytes that happen to be UTF-8
    np.testing.assert_array_equal(load_plain_pickle(b"\x80\x02" + latin + b".", "x"), np.array([-22077, 353], "<i2"))


class Wants:
    """Pickles as a call."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Wants(os.system, "touch ran"), r"(posix|nt)\.system"),
        (Wants(eval, "open('ran', 'w')"), r"builtins\.eval"),
        ({"a": [Wants(os.mkdir, "ran")]}, r"(posix|nt)\.mkdir"),
        (Path("a"), r"pathlib\.\w*Path"),
        (np.array([{}, None]), "an array of Python objects"),
        (np.zeros(2, "i4,f8"), "an array with fields"),
        (np.array(["2020-01-01"], "M8[D]"), "an array of type 'M8'"),
        (set, r"'<class 'set'>'"),
        (1j, r"builtins\.complex"),
    ],
)
def test_anything_else_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, wanted: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.pkl").write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(HonneError, match=rf"labels\.pkl: the pickle wants {wanted}, which is no plain data"):
        read_plain_pickle(Path("labels.pkl"))
    assert not Path("ran").exists()


def dozens(depth: int) -> bytes:
    """A list of ten references to a list of ten references ..."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value] * 10
    return pickle.dumps(value)


def endless() -> bytes:
    value: list[Any] = []
    value.append(value)
    return pickle.dumps(value)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"path,label\n", "not a pickle that can be read"),
        (b"", "not a pickle that can be read"),
        (pickle.dumps(PLAIN)[:-9], "not a pickle that can be read"),
        (pickle.dumps(np.arange(3)).replace(b"K\x03", b"K\x09"), "not a pickle that can be read"),
        (endless(), "values inside values without end"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "wants an object that lies outside it"),
        (b"\x80\x05\x96" + struct.pack("<q", 1 << 50) + b".", "not a pickle that can be read"),
        (b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b"h\x00.", "not a pickle that can be read"),
        (b"cbuiltins\nbytes\n(L99999999999999L\ntR.", "not a pickle that can be read"),
    ],
)
def test_damage_and_memory_bombs(data: bytes, what: str) -> None:
    with pytest.raises(HonneError, match=f"^labels: .*{what}"):
        load_plain_pickle(data, "labels")


def test_references_cost_nothing() -> None:
    assert len(load_plain_pickle(dozens(30), "x")) == 10


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HonneError, match=r"labels\.pkl: cannot be read \(No such file or directory\)"):
        read_plain_pickle(tmp_path / "labels.pkl")
