"""The SFEW 2.0 reader, on imitations of its layouts."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, sfew
from honne.errors import HonneError

FRAMES = [
    "Train/Angry/Airheads_000519240_00000005.png",
    "Train/Angry/Airheads_000519240_00000009.png",
    "Train/Happy/21_Grams_001234560_00000001.png",
    "Val/Surprise/BlackSwan_000228440_00000008.png",
    "Test/Hitch_000100000_00000002.png",
]
FOLDERS = {"Train": "Train/Train_Aligned_Faces", "Val": "Val_Aligned_Faces_new/Val_Aligned_Faces"}
FACES = [f"{FOLDERS.get(split, 'Test_Aligned_Faces')}/{rest}" for split, _, rest in (f.partition("/") for f in FRAMES)]


def write(root: Path, paths: list[str]) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (60, 48, 3), np.uint8)
        Image.fromarray(pixels).save(root / path)
    return root


def rows(root: Path) -> tuple[dict[str, Row], list[Bad]]:
    entries = list(sfew.read(root))
    return {e.id: e for e in entries if isinstance(e, Row)}, [e for e in entries if isinstance(e, Bad)]


@pytest.mark.parametrize(("paths", "kind"), [(FRAMES, "points"), (FACES, "none")])
def test_frames_and_aligned_faces(tmp_path: Path, paths: list[str], kind: str) -> None:
    found, bad = rows(write(tmp_path, paths))
    assert [(row.split, row.expression, row.video) for row in found.values()] == [
        ("train", "anger", "Airheads"),
        ("train", "anger", "Airheads"),
        ("train", "happiness", "21_Grams"),
        ("valid", "surprise", "BlackSwan"),
    ]
    assert [(entry.reason, entry.kind) for entry in bad] == [("test image without a label", "rule")]
    assert sfew.alignment(tmp_path).kind == kind


def test_frames_go_before_faces_and_a_zip_is_the_same(tmp_path: Path) -> None:
    root = write(tmp_path / "SFEW", FRAMES + FACES)
    found, _ = rows(root)
    assert not any("Aligned" in str(row.image) for row in found.values())
    with zipfile.ZipFile(tmp_path / "sfew.zip", "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    assert list(rows(tmp_path / "sfew.zip")[0]) == list(found)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, [*FRAMES, "Val/Bored/Hitch_000100000_00000003.png"])
    _, bad = rows(root)
    assert [(entry.reason, entry.kind) for entry in bad if "Bored" in entry.where] == [
        ("unknown class folder", "label")
    ]
    with pytest.raises(HonneError, match="Bored"):
        prepare("sfew", root, tmp_path / "data", align="none")
    with pytest.raises(HonneError, match="expects Train/CLASS"):
        list(sfew.read(root / "Val"))
