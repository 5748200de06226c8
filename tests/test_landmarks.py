"""Landmarks at preparation: found on crops, read from files, written to files, kept when prepared again."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from honne.data.cropping import Cropper
from honne.data.landmarks import LandmarkFile, MeshLandmarks, write_landmarks
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.data.prepare import prepare
from honne.data.readers import Row
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.faces.face import Face
from honne.labels import LabelSchema

POINTS = np.random.default_rng(0).uniform(5, 40, (68, 2)).round(2)


def line(path: str, points: np.ndarray | None) -> str:
    cells = ["inf"] * 136 if points is None else [str(value) for value in points.T.ravel()]
    return ",".join([path, *cells])


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> list[Face]:
    """Faces that a stand-in for the default finder will answer with; it remembers what it was shown."""
    faces: list[Face] = []

    def find(image: np.ndarray) -> list[Face]:
        find.shown = image  # type: ignore[attr-defined]
        return faces

    made = types.SimpleNamespace(finder=lambda name, min_score=0.5: types.SimpleNamespace(find=find), find=find)
    monkeypatch.setitem(sys.modules, "honne.faces.finders", made)
    return faces


def test_small_crops_are_enlarged_and_the_face_that_fills_them_is_taken(finder: list[Face]) -> None:
    scale, margin = 4, 48  # 48 px -> 192 px, and a quarter of that around
    fitting = Face(np.array([60, 60, 160, 160.0]), landmarks=POINTS * scale + margin)
    finder.extend([Face(np.array([0, 0, 40, 300.0]), landmarks=POINTS), fitting])
    crop = np.full((48, 48, 3), 200, np.uint8)
    np.testing.assert_allclose(MeshLandmarks()(crop), POINTS, atol=1e-4)
    shown = sys.modules["honne.faces.finders"].find.shown
    assert shown.shape == (288, 288, 3)
    assert (shown[48:240, 48:240] == 200).all()
    assert not shown[:48].any()
    large = np.zeros((224, 200, 3), np.uint8)
    np.testing.assert_allclose(MeshLandmarks()(large), POINTS * scale + margin - 56, atol=1e-4)  # not enlarged
    finder.clear()
    assert MeshLandmarks()(crop) is None


def test_known_landmarks_are_not_looked_for_again(finder: list[Face]) -> None:
    crop = np.zeros((48, 48, 3), np.uint8)
    cropper = Cropper(Alignment("none", 48), landmarks=lambda crop: POINTS)
    np.testing.assert_array_equal(cropper(Row("a", crop, landmarks=POINTS + 1)).row.landmarks, np.float32(POINTS + 1))
    np.testing.assert_array_equal(cropper(Row("b", crop)).row.landmarks, POINTS)
    finder.append(Face(np.array([4, 4, 40, 40.0]), landmarks=POINTS))
    found = Cropper(Alignment("box", 80, 1.0), landmarks=lambda crop: POINTS)(Row("c", crop))
    np.testing.assert_allclose(found.row.landmarks, (POINTS - 4) * 2, atol=1e-4)  # the finder that cropped had them


def test_a_file_is_matched_by_the_ends_of_paths(tmp_path: Path) -> None:
    paths = [
        "RAF-DB/basic/Image/our_aligned/train_00001_aligned.jpg",
        "A/train_set/images/0.jpg",
        "A/val_set/images/0.jpg",
    ]
    points = [POINTS, None, POINTS + 2]
    file = tmp_path / "landmarks.txt"
    file.write_text("\n".join(map(line, paths, points)) + "\n")
    landmarks = LandmarkFile(file)
    np.testing.assert_allclose(landmarks("train_00001"), POINTS, atol=1e-5)
    np.testing.assert_allclose(landmarks("x", "/data/A/val_set/images/0.jpg"), POINTS + 2, atol=1e-5)
    assert landmarks("A/train_set/images/0.jpg") is None
    assert landmarks("0") is None  # of two
    assert landmarks("B/test/images/0.jpg") is None
    for wrong, what in ((line("a", POINTS) + ",1", "138 fields"), ("a" + ",x" * 136, "not a path and 136 numbers")):
        file.write_text("\n".join([line("b", None), wrong]))
        with pytest.raises(HonneError, match=rf"landmarks\.txt, line 2: {what}"):
            LandmarkFile(file)


def test_a_table_of_landmarks(tmp_path: Path) -> None:
    names = [f"{axis}_{number}" for axis in "xy" for number in range(68)]
    cells = ",".join(str(value) for value in POINTS.T.ravel())
    (tmp_path / "t.csv").write_text(f"source,{','.join(names)}\na.png,{cells}\n")
    landmarks = LandmarkFile(tmp_path / "t.csv")
    np.testing.assert_allclose(landmarks("Happy/a.png"), POINTS, atol=1e-5)
    assert landmarks("Happy/b.png") is None


def pictures(root: Path, count: int) -> Path:
    for number in range(count):
        path = root / f"{('happy', 'sad')[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (48, 48), np.uint8)).save(path)
    return root


def test_prepared_again_with_landmarks(tmp_path: Path, finder: list[Face], capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "root", 12)
    prepare("folder", root, tmp_path / "first", align="none", size=48)
    first = PreparedData(tmp_path / "first")
    finder.append(Face(np.array([60, 60, 160, 160.0]), landmarks=POINTS * 4 + 48))
    assert prepare("prepared", tmp_path / "first", tmp_path / "second", landmarks="mesh") == 0
    assert "Landmarks: 12 of 12 rows; 0 have none." in capsys.readouterr().out
    second = PreparedData(tmp_path / "second")
    assert [bytes(second.image_bytes(n)) for n in range(12)] == [bytes(first.image_bytes(n)) for n in range(12)]
    assert second.rows.drop(columns="landmarks").equals(first.rows)
    assert (second.schema.labels, second.schema.reader) == (first.schema.labels, "folder")
    assert Alignment.from_dict(second.schema.alignment) == Alignment.from_dict(first.schema.alignment)
    np.testing.assert_allclose(second.stack("landmarks")[3].reshape(68, 2), POINTS, atol=1e-4)

    assert write_landmarks(second, tmp_path / "l.txt") == 12
    given = str(tmp_path / "l.txt")
    for source, origin in (("folder", root), ("prepared", tmp_path / "first")):
        size = 48 if source == "folder" else None
        prepare(source, origin, tmp_path / f"{source}_file", align="none", size=size, landmarks=given)
        np.testing.assert_allclose(
            PreparedData(tmp_path / f"{source}_file").stack("landmarks"), second.stack("landmarks"), atol=1e-3
        )
    prepare("prepared", tmp_path / "second", tmp_path / "none", landmarks="none")
    assert "landmarks" not in PreparedData(tmp_path / "none").rows
    with pytest.raises(HonneError, match="no landmarks"):
        write_landmarks(first, tmp_path / "no.txt")
    (tmp_path / "l.txt").write_text(line("other", POINTS))
    with pytest.raises(HonneError, match="no landmarks for any of the 12 rows"):
        prepare("folder", root, tmp_path / "fails", align="none", landmarks=given)


def test_prepared_keeps_votes_targets_subjects_and_missing_values(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(buffer, "png")
    root = tmp_path / "data"
    with ImageWriter(root / "images") as images:
        place = images.add(buffer.getvalue())
    rows = pd.DataFrame(
        {
            "id": ["a", "b"],
            "split": ["train", "valid"],
            "subject": ["p", None],
            "time": [0.5, np.nan],
            "image": [place, place],
            "expression": [None, "sadness"],
            "votes": [[3.0, 1.0], None],
            "target": [None, [0.25, 0.75]],
            "valence": [np.nan, 0.5],
        }
    )
    framing = Alignment("upright", 48, template=((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.4, 0.8), (0.6, 0.8)), grey=True)
    schema = DataSchema("d", "ferplus", LabelSchema(("happiness", "sadness")), framing.to_dict(), licence="research")
    write_manifest(root, rows, schema)
    prepare("prepared", root, tmp_path / "again", landmarks="none")
    one, two = PreparedData(root), PreparedData(tmp_path / "again")
    pd.testing.assert_frame_equal(one.rows, two.rows)  # copies stay: they were judged before
    assert bytes(one.image_bytes(0)) == bytes(two.image_bytes(0))
    assert Alignment.from_dict(two.schema.alignment) == framing
    assert (two.schema.reader, two.schema.licence) == ("ferplus", "research")
