"""The ExpW reader, on an imitation of its layout."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from honne.codes import SETS
from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, drawn_split, expw
from honne.errors import HonneError

LINES = (
    "party.jpg 0 10 20 40 50 60.5 3",  # image, face, top, left, right, bottom, confidence, label
    "party.jpg 1 20 60 80 40 12.25 0",
    "party.jpg 2 45 5 35 75 -1.0 6",
    "two words.jpg 0 0 0 30 30 22.9 5",
    "gone.jpg 0 0 0 30 30 22.9 1",
)


def write(root: Path, lines: Sequence[str] = LINES) -> Path:
    for folder in ("label", "image/origin/part2"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "label/label.lst").write_text("\n".join(lines) + "\n")
    for number, name in enumerate(("party.jpg", "part2/two words.jpg", "part2/unlabelled.jpg")):
        small = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(small).resize((90, 80), Image.Resampling.NEAREST).save(root / "image/origin" / name, quality=95)
    return root


def read(root: Path, **options: object) -> tuple[dict[str, Row], list[Bad]]:
    entries = list(expw.read(root, **options))  # type: ignore[arg-type]
    return {e.id: e for e in entries if isinstance(e, Row)}, [e for e in entries if isinstance(e, Bad)]


def test_every_face_of_an_image_is_a_row(tmp_path: Path) -> None:
    rows, bad = read(write(tmp_path))
    assert {name: row.expression for name, row in rows.items()} == {
        "party.jpg#0": "happiness",
        "party.jpg#1": "anger",
        "party.jpg#2": "neutral",
        "two words.jpg#0": "surprise",
    }
    np.testing.assert_array_equal(rows["party.jpg#1"].box, [60, 20, 20, 20])
    assert {row.split for name, row in rows.items() if name.startswith("party")} == {drawn_split("party.jpg")}
    assert [(entry.reason, entry.kind) for entry in bad] == [
        ("row without image", "image"),
        ("image without a label", "rule"),
    ]
    assert tuple(SETS["expw"]) == tuple("0123456")
    some, bad = read(tmp_path, min_confidence=20, splits="train")
    assert list(some) == ["party.jpg#0", "two words.jpg#0"]
    assert {row.split for row in some.values()} == {"train"}
    assert sum(entry.reason == "confidence below 20" for entry in bad) == 2


def test_drawn_splits_are_stable_and_about_70_10_20() -> None:
    names = [f"image{number}.jpg" for number in range(4000)]
    splits = [drawn_split(name) for name in names]
    shares = [splits.count(split) / len(splits) for split in ("train", "valid", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.02)
    assert splits[:6] == ["train", "valid", "test", "test", "train", "train"]


def test_end_to_end(tmp_path: Path) -> None:
    root = write(tmp_path / "ExpW", LINES[:4])
    assert prepare("expw", root, tmp_path / "data", encoding="png") == 0
    data = PreparedData(tmp_path / "data")
    rows = data.rows.set_index("id")
    assert len(rows) == 4
    assert rows["image"].nunique() == 4  # no face took the place of another
    source = np.asarray(Image.open(root / "image/origin/party.jpg").convert("RGB"), float)
    for name, (top, left, side) in {"party.jpg#0": (10, 20, 20), "party.jpg#1": (20, 60, 20)}.items():
        row = int(np.flatnonzero(data.rows["id"] == name)[0])
        crop = np.asarray(Image.open(io.BytesIO(data.image_bytes(row))), float)
        box = rows.loc[name, "box"]
        x, y, width, height = box
        inner = crop[round(y) : round(y + height), round(x) : round(x + width)]
        assert max(width, height) == pytest.approx(112, abs=0.01)
        assert np.abs(inner.mean((0, 1)) - source[top : top + 40, left : left + side].mean((0, 1))).max() < 40
    notes = (tmp_path / "data/card.md").read_text()
    assert "1 of 2 images have several labelled faces" in notes
    assert "by a hash of the image's name" in notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("party.jpg 0 10 20 40 50 60.5 7", "'7' is not an expression of 'expw'"),
        ("party.jpg 0 10 40 20 50 60.5 3", "not the box of a face: top 10, left 40, right 20, bottom 50"),
        ("party.jpg 0 10 20 40 50 60.5", "not a name, a face, four sides"),
        ("party.jpg 0 10 x 40 50 60.5 3", "not a name, a face, four sides"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, message: str) -> None:
    root = write(tmp_path / "ExpW", [LINES[0], line])
    with pytest.raises(HonneError, match=rf"label\.lst, line 2: {message}"):
        prepare("expw", root, tmp_path / "data")
    assert prepare("expw", root, tmp_path / "data", skip_bad=True) == 3
    (root / "label/label.lst").unlink()
    with pytest.raises(HonneError, match=r"expects label/label\.lst"):
        list(expw.read(root))
