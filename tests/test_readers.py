"""Readers of the official layouts, on tiny imitations of them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from honne.data import readers
from honne.data.readers import Bad, Row, affectnet, fer2013, ferplus, folder, rafdb, table
from honne.data.votes import TargetMode
from honne.errors import HonneError, WrongCall

VOTES = {  # Image name -> usage, ten votes
    "fer0000000.png": ("Training", [8, 0, 0, 1, 0, 0, 0, 0, 1, 0]),  # neutral by majority
    "fer0000001.png": ("Training", [4, 0, 0, 4, 0, 0, 0, 0, 2, 0]),  # a tie: target, but no majority
    "fer0000007.png": ("PublicTest", [0, 9, 1, 0, 0, 0, 0, 0, 0, 0]),
    "fer0000008.png": ("PublicTest", [1, 1, 0, 0, 0, 0, 0, 0, 8, 0]),  # most say unknown
    "fer0000009.png": ("PrivateTest", [0, 0, 0, 0, 0, 0, 6, 4, 0, 0]),
}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (48, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, np.uint8)).save(path)


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def both(entries: Iterator[Row | Bad]) -> tuple[dict[str, Row], list[Bad]]:
    rows, bad = {}, []
    for entry in entries:
        if isinstance(entry, Row):
            rows[entry.id] = entry
        else:
            bad.append(entry)
    return rows, bad


@pytest.fixture
def ferplus_root(tmp_path: Path) -> Path:
    header = ",".join(["Usage", "Image name", *ferplus.COLUMNS])
    lines = [",".join([usage, name, *map(str, votes)]) for name, (usage, votes) in VOTES.items()]
    lines.insert(2, "Training,,0,0,0,0,0,0,0,0,0,10")
    lines += ["PrivateTest,fer0000010.png,9,1,0,0,0,0,0,0,0,0", "PrivateTest,fer0000010.png,0,0,0,0,0,0,0,0,0,10"]
    write(tmp_path / "fer2013new.csv", [header, *lines])
    for i, (name, (usage, _)) in enumerate(VOTES.items()):
        picture(tmp_path / ferplus.USAGES[usage][1] / name, i)
    picture(tmp_path / "data/FER2013Valid/fer0009999.png")
    return tmp_path


def test_ferplus(ferplus_root: Path) -> None:
    rows, bad = both(ferplus.read(ferplus_root))
    assert {name: (row.split, row.expression) for name, row in rows.items()} == {
        "fer0000000": ("train", "neutral"),
        "fer0000001": ("train", None),
        "fer0000007": ("valid", "happiness"),
        "fer0000009": ("test", "fear"),
    }
    np.testing.assert_array_equal(rows["fer0000001"].votes, [4, 0, 0, 4, 0, 0, 0, 0])
    np.testing.assert_allclose(rows["fer0000001"].target, [0.5, 0, 0, 0.5, 0, 0, 0, 0])
    assert sorted(entry.reason for entry in bad) == [
        "image name stands on two rows",
        "image name stands on two rows",
        "image without a row of votes",
        "no expression left by the rule 'votes'",
        "row without an image name (all voters saw no face)",
    ]
    assert {entry.kind for entry in bad} == {"rule"}


@pytest.mark.parametrize(
    ("mode", "target"),
    [
        ("majority", None),
        ("probability", [0.5, 0, 0, 0.5]),
        ("crossentropy", [0.5, 0, 0, 0.5]),
        ("multi_target", [1, 0.001, 0.001, 1]),
    ],
)
def test_ferplus_target_modes(ferplus_root: Path, mode: TargetMode, target: list[float] | None) -> None:
    rows, _ = both(ferplus.read(ferplus_root, target_mode=mode))
    assert rows["fer0000000"].expression == "neutral"
    if target is None:
        assert "fer0000001" not in rows
    else:
        np.testing.assert_allclose(rows["fer0000001"].target[:4], target, rtol=1e-6)


def test_ferplus_from_zip_pixels_and_label_csv_alike(
    ferplus_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted, _ = both(ferplus.read(ferplus_root))
    other = tmp_path_factory.mktemp("other")

    with zipfile.ZipFile(other / "all.zip", "w") as archive:
        for path in ferplus_root.rglob("*.*"):
            archive.write(path, f"FERPlus/{path.relative_to(ferplus_root)}")
    zipped, _ = both(ferplus.read(other / "all.zip"))
    assert {name: row.target.tolist() for name, row in zipped.items()} == {
        n: r.target.tolist() for n, r in wanted.items()
    }
    assert zipped["fer0000000"].image == wanted["fer0000000"].image.read_bytes()

    (other / "fer2013new.csv").write_bytes((ferplus_root / "fer2013new.csv").read_bytes())
    with (other / "fer2013.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for line in list(csv.reader((other / "fer2013new.csv").open()))[1:]:
            image = wanted[line[1][:-4]].image if line[1][:-4] in wanted else None
            pixels = np.asarray(Image.open(image)) if image else np.zeros((48, 48), int)
            writer.writerow([0, " ".join(map(str, pixels.ravel())), line[0]])
    from_pixels, _ = both(ferplus.read(other))
    assert from_pixels.keys() == wanted.keys()
    np.testing.assert_array_equal(from_pixels["fer0000009"].image, np.asarray(Image.open(wanted["fer0000009"].image)))

    for usage, (_, place) in ferplus.USAGES.items():
        lines = [f'{n},"(0, 0, 48, 48)",{",".join(map(str, v))}' for n, (u, v) in VOTES.items() if u == usage]
        write(ferplus_root / place / "label.csv", lines)
    labelled, _ = both(ferplus.read(ferplus_root, votes_from="label.csv"))
    assert labelled.keys() == wanted.keys()


def test_ferplus_reports_what_is_wrong(ferplus_root: Path) -> None:
    (ferplus_root / "data/FER2013Train/fer0000001.png").unlink()
    file = ferplus_root / "fer2013new.csv"
    file.write_text(file.read_text().replace("PrivateTest,fer0000009.png,0", "PrivateTest,fer0000009.png,x"))
    _, bad = both(ferplus.read(ferplus_root))
    assert [(entry.kind, entry.reason) for entry in bad if entry.kind != "rule"] == [
        ("label", "wrong votes"),
        ("image", "row without image"),
    ]
    assert next(entry for entry in bad if entry.kind == "label").where == f"{file}, line 7"
    file.write_text(file.read_text().replace("contempt", "scorn"))
    with pytest.raises(HonneError, match="no column 'contempt'"):
        list(ferplus.read(ferplus_root))


@pytest.mark.parametrize("reader", ["ferplus", "fer2013", "rafdb", "affectnet", "folder", "table"])
def test_a_missing_root_names_the_expected_layout(reader: str, tmp_path: Path) -> None:
    module = readers.get(reader)
    with pytest.raises(HonneError, match="no such file or folder") as missing:
        list(module.read(tmp_path / "nothing"))
    assert module.INFO.expects in str(missing.value)
    with pytest.raises(HonneError):
        list(module.read(tmp_path))


def test_unknown_reader() -> None:
    with pytest.raises(WrongCall, match="Did you mean 'rafdb'"):
        readers.get("raf-db")


def test_fer2013(tmp_path: Path) -> None:
    pixels = " ".join(["7"] * 48 * 48)
    lines = [
        "emotion, pixels, Usage",
        f"3,{pixels},Training",
        f"6,{pixels},PublicTest",
        f"9,{pixels},PrivateTest",
        "0,1 2,Training",
    ]
    rows, bad = both(fer2013.read(write(tmp_path / "fer2013.csv", lines).parent))
    assert [(row.split, row.expression) for row in rows.values()] == [("train", "happiness"), ("valid", "neutral")]
    assert [(entry.kind, entry.where[-6:]) for entry in bad] == [("label", "line 4"), ("image", "line 5")]

    picture(tmp_path / "folders/train/angry/a.png")
    picture(tmp_path / "folders/test/surprise/a.png")
    rows, _ = both(fer2013.read(tmp_path / "folders"))
    assert [(row.split, row.expression) for row in rows.values()] == [("test", "surprise"), ("train", "anger")]


def test_rafdb(tmp_path: Path) -> None:
    root = tmp_path / "basic"
    names = ["train_00001.jpg 4", "test_0001.jpg 7", "train_00002.jpg 8", "train_00003.jpg 1"]
    write(root / "EmoLabel/list_patition_label.txt", names)
    write(root / "Annotation/boundingbox/train_00001_boundingbox.txt", ["10 20 40 60 "])
    write(
        root / "Annotation/manual/train_00001_manu_attri.txt",
        ["30\t30", "20\t30", "25\t40", "21\t50", "29\t50", "0", "1", "2"],
    )
    for name in ("train_00001", "test_0001", "train_00009"):
        picture(root / f"Image/aligned/{name}_aligned.jpg")
        picture(root / f"Image/original/{name}.jpg")
    rows, bad = both(rafdb.read(tmp_path))
    assert [(row.id, row.split, row.expression) for row in rows.values()] == [
        ("train_00001", "train", "happiness"),
        ("test_0001", "test", "neutral"),
    ]
    assert [(entry.kind, entry.reason) for entry in bad] == [
        ("label", "unknown label"),
        ("image", "row without image"),
        ("rule", "image without a label"),
    ]
    original = both(rafdb.read(root, images="original"))[0]["train_00001"]
    np.testing.assert_array_equal(original.box, [10, 20, 30, 40])
    np.testing.assert_array_equal(original.points[0], [20, 30])
    assert rafdb.alignment(root, images="original").kind == "points"


def test_affectnet_csv(tmp_path: Path) -> None:
    points = ";".join(str(i) for i in range(136))
    lines = [
        ",".join(affectnet.CSV_HEADER),
        f"1/a.jpg,1,2,30,40,{points},1,0.5,-0.25",
        f"1/b.jpg,1,2,30,40,{points},8,-2,-2",
        "1/c.jpg,NULL,NULL,NULL,NULL,,7,-2,-2",
        f"1/d.jpg,1,2,30,40,{points},3,1.5,0",
    ]
    write(tmp_path / "Manually_Annotated_file_lists/training.csv", lines)
    write(tmp_path / "Manually_Annotated_file_lists/validation.csv", lines[1:2])  # without a header, as distributed
    for name in "abcd":
        picture(tmp_path / f"Manually_Annotated_Images/1/{name}.jpg")
    rows, bad = both(affectnet.read(tmp_path))
    row = rows["train/1/a.jpg"]
    assert (row.expression, row.valence, row.arousal, row.box.tolist()) == ("happiness", 0.5, -0.25, [1, 2, 30, 40])
    assert row.landmarks[67].tolist() == [134, 135]
    assert (rows["train/1/c.jpg"].expression, rows["train/1/c.jpg"].valence, rows["train/1/c.jpg"].box) == (
        "contempt",
        None,
        None,
    )
    assert rows["test/1/a.jpg"].split == "test"
    assert [(entry.kind, entry.where[-6:]) for entry in bad] == [("rule", "line 3"), ("label", "line 5")]
    assert "train/1/c.jpg" not in both(affectnet.read(tmp_path, label_set="affectnet7"))[0]
    assert affectnet.alignment(tmp_path).kind == "box"


def test_affectnet_npy_and_listed(tmp_path: Path) -> None:
    for split in ("train_set", "val_set"):
        picture(tmp_path / f"npy/{split}/images/5.jpg")
        (tmp_path / f"npy/{split}/annotations").mkdir()
        for key, value in {"exp": "2", "val": "0.1", "aro": "-2", "lnd": np.arange(136.0)}.items():
            np.save(tmp_path / f"npy/{split}/annotations/5_{key}.npy", value)
    picture(tmp_path / "npy/train_set/images/6.jpg")
    np.save(tmp_path / "npy/train_set/annotations/6_exp.npy", np.array([{"a": 1}], object))  # a pickle inside
    rows, bad = both(affectnet.read(tmp_path / "npy"))
    row = rows["train/5"]
    assert (row.expression, row.valence, row.arousal, row.landmarks[1].tolist()) == ("sadness", 0.1, None, [2, 3])
    assert [entry.reason for entry in bad] == ["image without a readable expression"]

    picture(tmp_path / "listed/train_set/images/1.jpg")
    write(tmp_path / "listed/train_set/all_exp_annotation.txt", ["images/1.jpg,2", "images/2.jpg,1"])
    rows, bad = both(affectnet.read(tmp_path / "listed"))
    assert [row.expression for row in rows.values()] == ["surprise"]  # 2 in the AU-cue order, not AffectNet's
    assert [entry.reason for entry in bad] == ["row without image"]
    assert affectnet.schema(tmp_path / "listed").expressions[2] == "sadness"


def test_folder(tmp_path: Path) -> None:
    for path in ("train/Happy/S01_1.jpg", "val/sad/S02_1.jpg", "train/Happy/.hidden.jpg", "loose.jpg"):
        picture(tmp_path / path)
    rows, bad = both(folder.read(tmp_path, subject_pattern=r"(S\d+)_"))
    assert [(row.split, row.expression, row.subject) for row in rows.values()] == [
        ("train", "happiness", "S01"),
        ("valid", "sadness", "S02"),
    ]
    assert [entry.reason for entry in bad] == ["image outside the class folders"]
    assert folder.schema(tmp_path).expressions == ("happiness", "sadness")

    picture(tmp_path / "train/4/1.jpg")
    with pytest.raises(HonneError, match="'4' is not the name of an expression"):
        list(folder.read(tmp_path))
    _, bad = both(folder.read(tmp_path, label_set="rafdb"))
    assert not [entry for entry in bad if entry.kind == "label"]
    _, bad = both(folder.read(tmp_path, label_set="happy,sad"))
    assert [entry.reason for entry in bad if entry.kind == "label"] == ["unknown class folder"]
    with pytest.raises(HonneError, match="groups"):
        list(folder.read(tmp_path, label_set="rafdb", subject_pattern="S01"))


def everything() -> dict[str, list[Any]]:
    return {
        "path": ["a.png", "b.png", "b.png"],
        "label": ["Happy", "", "sad"],
        "valence": [0.5, -5, float("nan")],
        "arousal": [-1, -5, float("nan")],
        "AU01_c": [1, -1, 0],
        "AU12_c": [0, 9, 1],
        "AU12_r": [2.5, float("nan"), 5],
        "subject": ["p1", "p2", "p2"],
        "split": ["train", "Validation", "test"],
        "time": [0.0, 0.04, 0.08],
        "box_x": [1, 1, 1],
        "box_y": [2, 2, 2],
        "box_w": [30, 30, 30],
        "box_h": [40, 40, 40],
    }


@pytest.mark.parametrize("kind", ["csv", "semicolon", "parquet"])
def test_table(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("t.parquet" if kind == "parquet" else "t.csv")
    frame = pd.DataFrame(everything())
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep=";" if kind == "semicolon" else ",")
    rows, bad = both(table.read(path))
    assert not bad
    schema = table.schema(path)
    assert (schema.expressions, schema.action_units, schema.valence_arousal) == (
        ("happiness", "sadness"),
        (1, 12),
        True,
    )
    first, second, third = rows.values()
    assert (first.expression, first.split, first.valence, first.time) == ("happiness", "train", 0.5, 0.0)
    assert first.image == tmp_path / "a.png"
    assert (second.expression, second.split, second.valence, second.au) == (None, "valid", None, None)
    assert third.id == "b.png#2"
    np.testing.assert_array_equal(third.au, [0, 1])
    np.testing.assert_array_equal(first.au_intensity, [np.nan, 2.5])
    np.testing.assert_array_equal(first.box, [1, 2, 30, 40])


def test_table_with_votes_and_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["file,Joy,sad,xy", f"a.png,3,1,{' '.join(['1.5'] * 136)}", "b.png,,,"])
    columns = {"path": "file", "votes": "Joy,sad", "landmarks": "xy"}
    first, second = both(table.read(path, columns=columns))[0].values()
    assert table.schema(path, columns=columns).expressions == ("happiness", "sadness")
    assert (first.votes.tolist(), first.landmarks.shape, second.votes, second.landmarks) == (
        [3, 1],
        (68, 2),
        None,
        None,
    )
    reordered = both(table.read(path, columns=columns, label_set="sad,joy"))[0]["a.png"]
    assert reordered.votes.tolist() == [1, 3]

    pd.DataFrame({"path": ["a.png"], "votes": [[1, 2]]}).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(WrongCall, match="of which classes"):
        list(table.read(tmp_path / "v.parquet"))
    assert both(table.read(tmp_path / "v.parquet", label_set="sad,joy"))[0]["a.png"].votes.tolist() == [1, 2]
    with pytest.raises(WrongCall, match="Did you mean 'path'"):
        list(table.read(path, columns={"pth": "file"}))
    with pytest.raises(HonneError, match="no column 'emotion'"):
        list(table.read(path, columns={"path": "file", "label": "emotion"}))


@pytest.mark.parametrize(
    ("header", "cells", "says"),
    [
        ("path,label", "a.png,9", "'9' is not an expression of 'affwild2'"),
        ("path,valence", "a.png,1.5", "valence 1.5 is not in"),
        ("path,valence", "a.png,much", "valence: 'much' is not a number"),
        ("path,AU12", "a.png,3", "AU12 is 3"),
        ("path,AU12_r", "a.png,6", "AU12_r is 6"),
        ("path,split", "a.png,third", "'third' is not a split"),
        ("path,box", "a.png,1 2 3", "box: 3 numbers instead of 4"),
        ("path,box", "a.png,1 2 0 5", "box is 0 x 5"),
        ("path,label", ",1", "no image path"),
        ("path,label", "a.png,1,2", "not as many cells"),
    ],
)
def test_wrong_cells_are_named_with_their_line(tmp_path: Path, header: str, cells: str, says: str) -> None:
    path = write(tmp_path / "t.csv", [header, cells])
    (bad,) = both(table.read(path, label_set="affwild2"))[1]
    assert says in bad.detail or says in bad.reason
    assert (bad.kind, bad.where) == ("label", f"{path}, line 2")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-8"])
def test_tables_in_usual_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("path,label,subject\r\na.png,sad,Jörg\r\n".encode(encoding))
    assert both(table.read(tmp_path / "t.csv"))[0]["a.png"].subject == "Jörg"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("path,subject\na,Jörg\n".encode() + "b,Jörg\n".encode("cp1252"), "line 3: the file mixes UTF-8"),
        (b"path,subject\na,J\x81rg\n", "line 2: neither UTF-8 nor Windows-1252"),
        ("path\na\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_other_encodings_are_named_with_their_line(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(HonneError, match=says):
        list(table.read(tmp_path / "t.csv"))


@pytest.mark.parametrize("read", [ferplus.read, fer2013.read, rafdb.read, affectnet.read, folder.read])
def test_a_damaged_zip_is_refused(tmp_path: Path, read: Callable[[Path], Iterator[Row | Bad]]) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(HonneError, match="not a readable zip"):
        list(read(tmp_path / "data.zip"))
