"""The published folds of the AU-cue work, and RAF-DB and AffectNet under the published protocol."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from honne.data.cropping import Cropper
from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, affectnet, au_cues, rafdb
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.faces.face import Face

NAMES = ("Neutral", "Happiness", "Surprise", "Fear", "Anger", "Disgust", "Sadness")
FOLDS = "folds/wsol-done-right-splits"


def picture(path: Path, seed: int, side: int = 224) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    Image.fromarray(small).resize((side, side)).save(path)


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def folds(root: Path, name: str = "RAF-DB", valid: tuple[int, ...] = (4, 5)) -> Path:
    """Six pictures: 0 to 3 for training, 4 and 5 for the test; picture 1 without landmarks."""
    base = root / FOLDS / name
    write(base / "class_id.yaml", [f"{label}: {code}" for code, label in enumerate(NAMES)])
    for number in range(6):
        picture(root / f"{name}/images/{number}.jpg", number)
    for split, members in {"train": (0, 1, 2, 3), "val": valid, "test": (4, 5)}.items():
        paths = [f"{name}/images/{number}.jpg" for number in members]
        write(base / f"{split}/image_ids.txt", paths)
        write(base / f"{split}/class_labels.txt", [f"{path},{n}" for path, n in zip(paths, members, strict=True)])
        cells = {n: ",".join([str(v) for v in range(68)] + [str(v + n) for v in range(68)]) for n in members}
        cells |= {1: ",".join(["inf"] * 136)}
        lines = [f"{path},{cells[n]}" for path, n in zip(paths, members, strict=True)]
        write(base / f"{split}/landmarks.txt", lines[::-1])  # in an order of their own
    return root


def test_folds_clean_and_as_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folds(tmp_path / "root")
    assert prepare("au_cues", root, tmp_path / "clean") == 0
    clean = PreparedData(tmp_path / "clean")
    assert clean.schema.counts == {"train": 4, "valid": 0, "test": 2}
    assert clean.schema.options["dataset"] == "rafdb"
    assert clean.schema.labels.expressions == tuple(name.lower() for name in NAMES)
    assert clean.rows["expression"].tolist() == list(clean.schema.labels.expressions[:6])
    landmarks = clean.stack("landmarks").reshape(-1, 68, 2)
    assert landmarks[2, 67].tolist() == [67, 69]
    assert np.isnan(landmarks[1]).all()
    assert bytes(clean.image_bytes(0)) == (root / "RAF-DB/images/0.jpg").read_bytes()

    capsys.readouterr()
    assert prepare("au_cues", root, tmp_path / "published", protocol="published", limit=2) == 0
    published = PreparedData(tmp_path / "published")
    assert published.schema.counts == {"train": 2, "valid": 2, "test": 2}
    test, valid = (published.rows[published.rows["split"] == split] for split in ("test", "valid"))
    assert test["image"].tolist() == valid["image"].tolist()
    assert valid["id"].tolist() == [f"valid/{name}" for name in test["id"]]
    assert "the validation rows are the test rows" in " ".join(capsys.readouterr().out.split())
    assert "the validation rows are the test rows" in (tmp_path / "published/card.md").read_text()
    for options in ({"copies": "drop"}, {"valid_share": 0.1}):
        with pytest.raises(WrongCall):
            prepare("au_cues", root, tmp_path / "no", protocol="published", **options)


def test_folds_choose_the_data_set_and_keep_a_true_validation_part(tmp_path: Path) -> None:
    folds(tmp_path)
    folds(tmp_path, "AffectNet", valid=(2, 3))
    with pytest.raises(WrongCall, match="--dataset rafdb"):
        list(au_cues.read(tmp_path))
    assert {row.split for row in au_cues.read(tmp_path, dataset="affectnet")} == {"train", "valid", "test"}
    with pytest.raises(WrongCall, match="validation part of their own"):
        list(au_cues.read(tmp_path, dataset="affectnet", protocol="published"))


@pytest.mark.parametrize(
    ("file", "number", "text", "what"),
    [
        (
            "test/class_labels.txt",
            1,
            "RAF-DB/images/4.jpg,7",
            r"class_labels\.txt, line 2: '7' is not one of the codes",
        ),
        ("test/class_labels.txt", 1, "RAF-DB/images/9.jpg,1", r"class_labels\.txt, line 2: .*9\.jpg does not stand"),
        (
            "train/class_labels.txt",
            1,
            "",
            r"class_labels\.txt: no line for RAF-DB/images/1\.jpg \(image_ids\.txt, line 2",
        ),
        ("train/image_ids.txt", 1, "RAF-DB/images/0.jpg", r"image_ids\.txt, line 2: .* stands on line 1 too"),
        ("train/landmarks.txt", 2, "RAF-DB/images/1.jpg,1,2", r"landmarks\.txt, line 3: 3 fields, not 137"),
        ("train/landmarks.txt", 2, "", r"landmarks\.txt: no line for RAF-DB/images/1\.jpg"),
        ("class_id.yaml", 1, "Happiness: 9", r"class_id\.yaml: the codes are not 0 to 6"),
    ],
)
def test_contradictions_between_files(tmp_path: Path, file: str, number: int, text: str, what: str) -> None:
    path = folds(tmp_path) / FOLDS / "RAF-DB" / file
    lines = path.read_text().splitlines()
    lines[number] = text
    write(path, lines)
    with pytest.raises(HonneError, match=what):
        list(au_cues.read(tmp_path))


def test_missing_images_are_named(tmp_path: Path) -> None:
    (folds(tmp_path) / "RAF-DB/images/2.jpg").unlink()
    bad = [entry for entry in au_cues.read(tmp_path) if isinstance(entry, Bad)]
    assert [(entry.reason, entry.where.rpartition("/")[2]) for entry in bad] == [
        ("row without image", "image_ids.txt, line 3")
    ]


def basic(root: Path) -> Path:
    """RAF-DB basic with original images, boxes and hand-placed points."""
    names = ("train_00001", "test_0001")
    write(
        root / "EmoLabel/list_patition_label.txt",
        [f"{name}.jpg {code}" for name, code in zip(names, (4, 7), strict=True)],
    )
    for seed, name in enumerate(names):
        picture(root / f"Image/original/{name}.jpg", seed, 100)
        write(root / f"Annotation/boundingbox/{name}_boundingbox.txt", ["10.0 20.0 50.0 80.0"])
        write(root / f"Annotation/manual/{name}_manu_attri.txt", ["20 40", "40 40", "30 50", "22 60", "38 60"])
    return root


def test_rafdb_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = basic(tmp_path / "basic")
    given = {row.id: row for row in rafdb.read(root, images="original")}
    found = {row.id: row for row in rafdb.read(root, images="original", points="found", protocol="published")}
    assert given["train_00001"].points is not None
    assert found["train_00001"].points is None
    assert found["train_00001"].box.tolist() == [10, 20, 40, 60]
    assert found["valid/test_0001"].split == "valid"

    points = np.array([[20, 40], [40, 40], [30, 50], [22, 60], [38, 60.0]])
    faces = [Face(np.array([0, 0, 99, 99.0]), points=points), Face(np.array([12, 22, 36, 56.0]), points=points + 1)]
    finders = types.SimpleNamespace(finder=lambda name: types.SimpleNamespace(find=lambda image: faces))
    monkeypatch.setitem(sys.modules, "honne.faces.finders", finders)
    options = {"images": "original", "points": "found", "fallback": "box", "protocol": "published"}
    assert prepare("rafdb", root, tmp_path / "data", **options) == 0
    data = PreparedData(tmp_path / "data")
    assert data.schema.counts == {"train": 1, "valid": 1, "test": 1}
    alignment = Alignment.from_dict(data.schema.alignment)
    pixels = np.asarray(Image.open(root / "Image/original/train_00001.jpg").convert("RGB"))
    stored = np.asarray(Image.open(io.BytesIO(data.image_bytes(0)))).astype(int)
    assert np.abs(stored - alignment.crop(pixels, faces[1])).mean() < 3  # the face that fits the official box
    np.testing.assert_allclose(
        np.array(alignment.template) * 112,
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    )


def test_without_a_face_the_official_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finders = types.SimpleNamespace(finder=lambda name: types.SimpleNamespace(find=lambda image: []))
    monkeypatch.setitem(sys.modules, "honne.faces.finders", finders)
    image = np.zeros((100, 60, 3), np.uint8)
    image[20:80, 10:50] = 250
    row = Row("a", image, box=np.array([10, 20, 40, 60.0]))
    cropper = Cropper(Alignment("points", 64), encoding="png")
    assert isinstance(cropper(row), Bad)
    for fallback, share in (("box", 1.0), ("swapped", 0.5)):  # swapped: left 20, top 10, right 80, bottom 50
        cropper.fallback = fallback
        stored = np.asarray(Image.open(io.BytesIO(cropper(row).encoded)))
        assert stored.shape == (64, 64, 3)
        assert abs((stored > 200).mean() - share) < 0.2, fallback


def test_affectnet_as_published(tmp_path: Path) -> None:
    for split in ("train_set", "val_set"):
        picture(tmp_path / f"AffectNet/{split}/images/1.jpg", len(split))
        lines = [f"AffectNet/{split}/images/1.jpg,5"]  # written from the folder above
        write(tmp_path / f"AffectNet/{split}/all_exp_annotation.txt", lines)
    rows = list(affectnet.read(tmp_path / "AffectNet", protocol="published"))
    assert [(row.split, row.expression) for row in rows] == [
        ("train", "disgust"),
        ("test", "disgust"),
        ("valid", "disgust"),
    ]
