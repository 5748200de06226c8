"""The cache of the published DMUE code: label file beside an LMDB or image folders."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from honne import prepare
from honne.data.manifest import PreparedData
from honne.data.readers import Bad, Row, dmue_cache
from honne.errors import HonneError

FACE = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
LINES = "train_0/a_b.jpg 3\r\ntest_1/c d.jpg 0\ntrain_basic/train_0001_aligned.jpg  7"
KEYS = ("train_0/a_b.jpg", "test_1/c d.jpg", "train_basic/train_0001_aligned.jpg")


def cache(root: Path, lines: str, values: dict[str, bytes] | None = None) -> Path:
    (root / "lb2.txt").write_bytes(lines.encode())
    with lmdb.open(str(root / "faces.lmdb"), map_size=2**24) as environment, environment.begin(write=True) as writing:
        for key, value in ({key: FACE.tobytes() for key in KEYS} if values is None else values).items():
            writing.put(key.encode(), value)
    return root


def test_lines_of_any_usual_form_are_read(tmp_path: Path) -> None:
    rows = list(dmue_cache.read(cache(tmp_path, LINES)))
    assert all(isinstance(row, Row) for row in rows)
    assert [(row.id, row.split, row.expression) for row in rows] == [  # type: ignore[union-attr]
        (KEYS[0], "train", "surprise"),
        (KEYS[1], "test", "neutral"),
        (KEYS[2], "train", "contempt"),
    ]
    assert all(np.array_equal(row.image, FACE) for row in rows)  # type: ignore[union-attr, arg-type]
    other = list(dmue_cache.read(tmp_path, label_set="rafdb"))
    assert [row.expression for row in other if isinstance(row, Row)] == ["happiness", "surprise"]
    assert [row.detail.partition("one of")[0] for row in other if isinstance(row, Bad)] == ["label '7' is not "]


def test_bad_lines_and_values_are_said_one_by_one(tmp_path: Path) -> None:
    lines = [
        "train_0/a.jpg 1",
        "train_0/a.jpg 1",
        "train_0/a.jpg 2",
        "valid_0/b.jpg 1",
        "train_0/c.jpg",
        "train_0/d.jpg 12",
        "train_0/e.jpg 1",
        "train_0/f.jpg 1",
        f"train_{'g' * 600}.jpg 1",
        "",
    ]
    values = {"train_0/a.jpg": FACE.tobytes(), "train_0/f.jpg": FACE.tobytes()[:-1]}
    row, *bad = dmue_cache.read(cache(tmp_path, "\n".join(lines), values))
    assert isinstance(row, Row)
    assert [(b.where.rpartition(" ")[2], b.reason, b.kind) for b in bad if isinstance(b, Bad)] == [
        ("2", "line repeated", "rule"),
        ("3", "two labels", "label"),
        ("4", "unknown split", "label"),
        ("5", "unknown label", "label"),
        ("6", "unknown label", "label"),
        ("7", "key not in the LMDB", "image"),
        ("8", "value in the LMDB is not 256 x 256 RGB", "image"),
        ("9", "key not in the LMDB", "image"),
    ]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    (tmp_path / "lb2.txt").write_text("train_0/a.png 1\ntest_0/b.png 2\ntrain_0/missing.png 2\n")
    (tmp_path / "0").mkdir()
    for name, face in (("a", FACE), ("b", FACE[::-1])):
        Image.fromarray(face).save(tmp_path / f"0/{name}.png")
    return tmp_path


def test_image_folders_are_prepared(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out") / "data"
    assert prepare("dmue_cache", folders, out) == 3  # one picture is missing
    data = PreparedData(out)
    assert data.rows["expression"].tolist() == ["happiness", "sadness"]
    assert data.schema.alignment["kind"] == "points"
    assert data.schema.alignment["size"] == 256
    assert "row without image" in (out / "problems.csv").read_text()


def test_unreadable_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HonneError, match="not the layout of reader 'dmue_cache'"):
        list(dmue_cache.read(tmp_path))
    cache(tmp_path, LINES)
    monkeypatch.setattr(builtins, "__import__", without("lmdb", builtins.__import__))
    with pytest.raises(HonneError, match=r"needs the package lmdb.\n.*pip install 'honne\[dmue\]'"):
        list(dmue_cache.read(tmp_path))
    monkeypatch.undo()
    (tmp_path / "faces.lmdb/data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(HonneError, match="not a readable LMDB"):
        list(dmue_cache.read(tmp_path))


def without(package: str, real: Callable[..., object]) -> Callable[..., object]:
    def imported(name: str, *arguments: object, **options: object) -> object:
        if name == package:
            raise ImportError(name)
        return real(name, *arguments, **options)

    return imported
