"""The reader of identity folders, from files to a prepared data set."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, identities
from honne.errors import HonneError

POINTS = np.array([[12, 15], [28, 14], [20, 24], [14, 31], [27, 32.5]])


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)).save(path)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    root = tmp_path / "people"
    for number in range(12):
        for seed in range(3):
            picture(root / f"m.{number:02d}" / f"{seed} face.png", 10 * number + seed)
    picture(root / "stray.png", 999)
    return root


def both(root: Path) -> tuple[list[Row], list[Bad]]:
    entries = list(identities.read(root))
    return [e for e in entries if isinstance(e, Row)], [e for e in entries if isinstance(e, Bad)]


def numbers() -> str:
    return " ".join(map(str, POINTS.ravel()))


def test_folders_are_people_in_order(people: Path, tmp_path: Path) -> None:
    rows, bad = both(people)
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert {row.subject for row in rows} == {f"m.{number:02d}" for number in range(12)}
    assert [entry.reason for entry in bad] == ["image outside the folders of people"]
    assert identities.alignment(people).kind == "box"
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as archive:
        for path in people.rglob("*.png"):
            archive.write(path, path.relative_to(people.parent))
    zipped, _ = both(tmp_path / "people.zip")
    assert [(row.id, row.subject) for row in zipped] == [(row.id, row.subject) for row in rows]


def test_a_first_level_may_be_the_split(people: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    root.mkdir()
    people.rename(root / "train")
    picture(root / "val" / "someone" / "0.png", 7)
    rows, _ = both(root)
    assert {row.split for row in rows if row.subject == "someone"} == {"valid"}
    assert {row.split for row in rows if row.subject != "someone"} == {"train"}


@pytest.mark.parametrize("form", ["{path} {numbers}", "{path} 17 {numbers}", "{path},{commas}"])
def test_a_list_gives_points(people: Path, form: str) -> None:
    line = form.format(path="m.03/1 face.png", numbers=numbers(), commas=numbers().replace(" ", ","))
    (people / "landmarks.txt").write_text(f"{line}\n\nm.03/9 face.png {numbers()}\nm.03/0 face.png 1 2 3\n")
    rows, bad = both(people)
    assert [row.id for row in rows] == ["m.03/1 face.png"]
    assert rows[0].subject == "m.03"
    np.testing.assert_allclose(rows[0].points, POINTS)
    assert [(entry.kind, entry.reason) for entry in bad] == [("image", "row without image"), ("label", "wrong line")]
    assert bad[1].where.endswith("landmarks.txt, line 4")
    assert identities.alignment(people).kind == "points"


def test_prepared_by_points_with_whole_people_in_each_split(people: Path, tmp_path: Path) -> None:
    lines = [f"{path.relative_to(people)} {numbers()}" for path in sorted(people.glob("*/*.png"))]
    (people / "landmarks.txt").write_text("\n".join(lines))
    prepare("identities", people, tmp_path / "data", size=32, valid_share=0.2, test_share=0.0)
    data = PreparedData(tmp_path / "data")
    assert data.rows.groupby("subject")["split"].nunique().max() == 1
    assert data.rows[data.rows["split"] == "valid"]["subject"].nunique() >= 2
    assert data.schema.labels == identities.schema(people)
    assert data.schema.source["landmarks.txt"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(HonneError, match="not the layout of reader 'identities'"):
        both(tmp_path)
    with pytest.raises(HonneError, match="no such file"):
        identities.alignment(tmp_path / "nowhere")
