"""MixBasic: published folds, labels rebuilt from them, raw and prepared layouts, alignment by the eyes."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from honne.data.cropping import ARCFACE_TEMPLATE, points_of
from honne.data.manifest import PreparedData
from honne.data.mixbasic import DATASETS, EXPRESSIONS, FoldFiles, file_name, held_out
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, mixbasic, mixbasic_sources
from honne.errors import HonneError, WrongCall
from honne.faces.align import EYE_TEMPLATE, Alignment
from honne.faces.face import Face
from honne.faces.geometry import transform_points

EACH = 2
"""Sequences of every data set and expression."""


def sequences(dataset: int, expression: int) -> list[str]:
    """Published names without the frame. Subjects take several expressions, as in the real data."""
    if DATASETS[dataset] == "OuluCASIA":
        return [f"P{number + 1:03d}_{EXPRESSIONS[expression].capitalize()}" for number in range(EACH)]
    return [f"S{(expression + 3 * number) % 5 + 1:03d}_{10 * expression + number + 1:03d}" for number in range(EACH)]


def rows_of(dataset: int, stem: str) -> list[str]:
    digits = 8 if DATASETS[dataset] == "CKPlus" else 3
    return [f"MixBasic/{DATASETS[dataset]}/images/{stem}_{frame:0{digits}d}.png" for frame in (7, 8, 9)]


def write_rows(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows), encoding="ascii")


def fold_files(folder: Path) -> Path:
    """The twelve files of small data: with bias 100 by name, with bias 90 by data set and emotion; one of two moves."""
    cells = list(np.ndindex(len(DATASETS), len(EXPRESSIONS)))
    for fold in (1, 2, 3):
        held = held_out(fold)
        parts: dict[tuple[str, int], list[str]] = {}
        for cell in cells:
            for number, stem in enumerate(sequences(*cell)):
                tested = {100: held[cell], 90: held[cell] and number != 1}
                for bias, test in tested.items():
                    parts.setdefault(("test" if test else "train", bias), []).extend(rows_of(cell[0], stem))
        for (split, bias), rows in parts.items():
            write_rows(folder / file_name(split, bias, fold), sorted(rows) if bias == 100 else rows)  # type: ignore[arg-type]
    return folder


def every_row() -> Iterator[tuple[str, str]]:
    for dataset, expression in np.ndindex(len(DATASETS), len(EXPRESSIONS)):
        for stem in sequences(dataset, expression):
            for row in rows_of(dataset, stem):
                yield row, EXPRESSIONS[expression]


def key(row: str) -> str:
    parts = Path(row).parts
    return f"{parts[1].lower()}_{Path(row).stem}"


@pytest.fixture
def delivered(tmp_path: Path) -> Path:
    """Prepared pictures, and the fold files beside them."""
    for number, (row, _) in enumerate(every_row()):
        path = tmp_path / row
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(path)
    fold_files(tmp_path / "MixBasic")
    return tmp_path


def labels(root: Path, **changed: str) -> None:
    pickled = {key(row): expression.capitalize() for row, expression in every_row()} | changed
    (root / "MixBasic/emotion_labels.pkl").write_bytes(pickle.dumps(pickled))


def problems(folder: Path) -> list[dict[str, str]]:
    with (folder / "problems.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_labels_follow_from_the_fold_files(delivered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("mixbasic", delivered, delivered / "DATA", fold=2, bias=90, size=16) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Labels: rebuilt from the fold files" in shown
    assert (
        "12 of 12 fold files are not as published: train_ids_bias100v1.csv has 72 rows instead of 1977, and more"
        in shown
    )
    data = PreparedData(delivered / "DATA")
    assert dict(zip(data.rows["id"], data.rows["expression"], strict=True)) == dict(every_row())
    assert data.schema.labels.expressions == EXPRESSIONS
    assert data.schema.options == {"fold": 2, "bias": 90, "fold_files": None}
    assert data.schema.counts == {"train": 90, "valid": 0, "test": 18}
    for number, (dataset, rows) in enumerate(data.rows.groupby("domain")):
        assert dataset == DATASETS[number]
        tested = rows[rows["split"] == "test"]
        assert set(tested["expression"]) == {EXPRESSIONS[code] for code in np.flatnonzero(held_out(2)[number])}
    one = data.rows.set_index("id").loc["MixBasic/OuluCASIA/images/P002_Fear_008.png"]
    assert (one["subject"], one["video"], one["domain"]) == ("OuluCASIA/P002", "OuluCASIA/P002_Fear", "OuluCASIA")
    assert set(data.rows.groupby("video")["split"].nunique()) == {1}
    assert Alignment.from_dict(data.schema.alignment) == Alignment("eyes", 16, template=EYE_TEMPLATE)


def test_without_a_fold_and_with_a_validation_part(delivered: Path) -> None:
    assert not {row.split for row in mixbasic.read(delivered) if isinstance(row, Row)} - {None}
    assert prepare("mixbasic", delivered, delivered / "DATA", size=16, fold=1, valid_share=0.2) == 0
    rows = PreparedData(delivered / "DATA").rows
    assert (rows["split"] == "test").sum() == 36
    subjects = rows.groupby("split")["subject"].agg(set)
    assert subjects["valid"]
    assert not subjects["valid"] & subjects["train"]
    with pytest.raises(WrongCall, match="--fold 1, 2 or 3"):
        prepare("mixbasic", delivered, delivered / "NO", bias=90)


def test_own_labels_are_compared_with_the_folds(delivered: Path) -> None:
    first, second = "mmi_S001_001_008", "ckplus_S002_011_00000007"
    labels(delivered, **{first: "Sadness", second: "Surprise", "mmi_S999_001_001": "Anger"})
    sentence = r"ckplus_S002_011_00000007: labelled surprise, but CKPlus/S002_011 is disgust .*\(1 of 2 such labels\)"
    with pytest.raises(HonneError, match=sentence):
        prepare("mixbasic", delivered, delivered / "DATA", size=16, fold=1)
    assert prepare("mixbasic", delivered, delivered / "DATA", size=16, fold=1, skip_bad=True) == 3
    found = {line["where"].rpartition(", ")[2]: line["reason"] for line in problems(delivered / "DATA")}
    contradicted = dict.fromkeys((first, second), "label contradicted")
    assert found == contradicted | {"mmi_S999_001_001": "row without image"}
    assert len(PreparedData(delivered / "DATA")) == 106


def test_labels_without_fold_files(delivered: Path) -> None:
    for path in (delivered / "MixBasic").glob("*.csv"):
        path.unlink()
    with pytest.raises(HonneError, match="no labels"):
        list(mixbasic.read(delivered))
    with pytest.raises(HonneError, match=r"train_ids_bias100v3\.csv: no such file"):
        list(mixbasic.read(delivered, fold=3))
    labels(delivered, mmi_S001_001_009="Fear", mmi_S001_001_008="Contentment")
    entries = list(mixbasic.read(delivered))
    wrong = {entry.reason: entry.detail for entry in entries if isinstance(entry, Bad)}
    assert "but MMI/S001_001 is anger in another picture" in wrong["label contradicted"]
    assert "'Contentment' is not an expression" in wrong["unknown emotion"]
    assert len(entries) == 108
    path = delivered / "MixBasic/emotion_labels.pkl"
    path.write_bytes(pickle.dumps(["Anger"]))
    with pytest.raises(HonneError, match="not a dictionary"):
        list(mixbasic.read(delivered))
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(HonneError, match=r"wants os\.system"):
        list(mixbasic.read(delivered))


def test_labels_of_each_data_set(delivered: Path) -> None:
    own = {Path(row).stem: name.capitalize() for row, name in every_row() if "/MMI/" in row}
    (delivered / "MixBasic/MMI/emotion_labels.pkl").write_bytes(pickle.dumps(own))
    rows = [row for row in mixbasic.read(delivered) if isinstance(row, Row)]
    assert {row.id: row.expression for row in rows} == dict(every_row())


def changed(old: str, new: str, name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="ascii")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="ascii")

    return change


def moved(stem: str, source: str, target: str) -> Callable[[Path], None]:
    """Also list a sequence in another file; `source` holds it."""

    def change(folder: Path) -> None:
        rows = [row for row in (folder / source).read_text(encoding="ascii").splitlines() if f"/{stem}_" in row]
        with (folder / target).open("a", encoding="ascii") as file:
            file.write("\n" + "\n".join(rows))

    return change


def reordered(folder: Path) -> None:
    path = folder / "train_ids_bias90v1.csv"
    path.write_text("\n".join(sorted(path.read_text(encoding="ascii").splitlines())), encoding="ascii")


WRONG = {
    "'MixBasic/Jaffe/images/S1_1_1.png' is not a picture": changed(
        "MixBasic/MMI/images/S001_001_007.png", "MixBasic/Jaffe/images/S1_1_1.png", "test_ids_bias100v3.csv"
    ),
    "2 pictures of the sequence": changed("MixBasic/MMI/images/S001_001_007.png\n", "", "test_ids_bias100v3.csv"),
    "stands on line 1 too": changed(
        "MixBasic/CKPlus/images/S001_001_00000008.png",
        "MixBasic/CKPlus/images/S001_001_00000007.png",
        "test_ids_bias100v1.csv",
    ),
    "two folds with bias 100 test MMI/S001_001": moved("S001_001", "test_ids_bias100v3.csv", "test_ids_bias100v1.csv"),
    "CKPlus is not listed emotion by emotion": reordered,
    "stands in train_ids_bias100v2.csv and in test_ids_bias100v2.csv": moved(
        "S002_011", "test_ids_bias100v2.csv", "train_ids_bias100v2.csv"
    ),
    "no such file": lambda folder: (folder / "test_ids_bias100v2.csv").unlink(),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_fold_files_that_are_wrong(tmp_path: Path, sentence: str) -> None:
    WRONG[sentence](fold_files(tmp_path))
    files = FoldFiles(tmp_path)
    with pytest.raises(HonneError, match=sentence):
        (files.labels(), files.splits(100, 2))


def test_pictures_that_are_not_there(delivered: Path) -> None:
    (delivered / "MixBasic/MMI/images/S001_001_008.png").unlink()
    (delivered / "MixBasic/MMI/images/S004_002_007.png").write_bytes(b"\x89PNG cut off")
    Image.new("L", (16, 16)).save(delivered / "MixBasic/MMI/images/holiday.png")
    Image.new("L", (16, 16)).save(delivered / "MixBasic/MMI/images/S077_001_001.png")
    folds = delivered / "MixBasic"
    assert prepare("mixbasic", delivered, delivered / "DATA", size=16, fold=1, fold_files=str(folds)) == 3
    found = {Path(line["where"]).name: line["reason"] for line in problems(delivered / "DATA")}
    assert found == {
        "S001_001_008.png": "row without image",
        "S004_002_007.png": "unreadable image",
        "holiday.png": "not named as a picture of MixBasic",
        "S077_001_001.png": "image without a label",
    }
    (delivered / "MixBasic/MMI/images").rename(delivered / "MixBasic/MMI/elsewhere")
    with pytest.raises(HonneError, match="need all three data sets; MMI is not there"):
        prepare("mixbasic", delivered, delivered / "NO", fold=1)
    assert prepare("mixbasic", delivered, delivered / "TWO", size=16) == 0
    assert "MMI is not there" in (delivered / "TWO/card.md").read_text(encoding="utf-8")
    with pytest.raises(HonneError, match="none of the published fold files"):
        prepare("mixbasic", delivered, delivered / "NO", fold_files=str(tmp := delivered / "TWO"))
    with pytest.raises(HonneError, match="not the layout of reader 'mixbasic'"):
        prepare("mixbasic", tmp, delivered / "NO")


def frame(path: Path, value: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def film(path: Path, count: int, size: tuple[int, int] = (48, 32)) -> None:
    """Frame n is grey 8 n, but for a white upper left quarter."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "bgr24"
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), 8 * number, np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def session(root: Path, name: str, xml: str, count: int = 9) -> None:
    film(root / f"Sessions/{name}/{name}.avi", count)
    (root / f"Sessions/{name}/{name}.xml").write_text(xml, encoding="utf-8")


def emotion(value: object) -> str:
    return f'<Session><Metatag Name="Subject" Value="1"/><Metatag Name="Emotion" Value="{value}"/></Session>'


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The owners' layouts, each in a folder of its own."""
    codes = {"S005/001": "   3.0000000e+00", "S010/002": "2.0000000e+00", "S010/003": None}
    for take, code in codes.items():
        for number in range(1, 6):
            name = f"{take.replace('/', '_')}_{number:08d}.png"
            frame(tmp_path / f"ck/cohn-kanade-images/{take}/{name}", 10 * number)
        if code:
            path = tmp_path / f"ck/Emotion/{take}/{take.replace('/', '_')}_00000005_emotion.txt"
            path.parent.mkdir(parents=True)
            path.write_text(code + "\n", encoding="ascii")
    (tmp_path / "ck/cohn-kanade-images/.DS_Store").touch()
    for number in range(4):
        frame(tmp_path / f"oulu/B_OriginalImg/VL/Strong/P037/Surprise/{number:03d}.jpeg", 50 * number + 7)
    for name, value in {
        "S001-104": 5,
        "S006-001": 1,
        "S050-007": 4,
        "S053-001": 2,
        "S021-001": 1,
        "S051-001": 8,
    }.items():
        session(tmp_path / "mmi", name, emotion(value))
    return tmp_path


def test_raw_layouts(raw: Path) -> None:
    session(raw / "mmi", "S052-001", "<Session><Metatag Name='Subject' Value='1'/></Session>")
    session(raw / "mmi", "S052-002", emotion(3), count=2)
    session(raw / "mmi", "S052-003", emotion(3))
    (raw / "mmi/Sessions/S052-003/S052-003.avi").write_bytes(b"RIFF broken")
    assert prepare("mixbasic", raw, raw / "DATA", align="none", size=32, encoding="png") == 3
    data = PreparedData(raw / "DATA")
    told = data.rows.groupby("video")["expression"].first().to_dict()
    assert told == {
        "CKPlus/S005_001": "disgust",
        "MMI/S001_104": "sadness",
        "MMI/S006_001": "anger",
        "MMI/S050_007": "happiness",
        "MMI/S053_001": "disgust",
        "OuluCASIA/P037_Surprise": "surprise",
    }
    names = [Path(row).name for row in data.rows["id"]]
    assert names[:3] == [f"S005_001_{number:08d}.png" for number in (3, 4, 5)]  # the last three
    assert names[3:6] == [f"S001_104_{number:03d}.png" for number in (3, 4, 5)]  # the middle of nine
    assert names[-3:] == [f"P037_Surprise_{number:03d}.png" for number in (1, 2, 3)]
    pixels = [mixed(bytes(data.image_bytes(row))) for row in range(len(data))]
    assert [int(each[-1, 0]) for each in pixels[:3]] == [30, 40, 50]
    corners = {
        name: np.argwhere(pixels[names.index(f"{name}_004.png")][[4, 4, -4, -4], [4, -4, 4, -4]] > 200)
        for name in ("S001_104", "S006_001", "S050_007", "S053_001")
    }
    white = {name: where.ravel().tolist() for name, where in corners.items()}  # upper left, upper right, lower ...
    assert white == {"S001_104": [], "S006_001": [0, 1], "S050_007": [1], "S053_001": [0]}
    found = {(line["reason"], Path(line["where"]).name.partition(".")[0]) for line in problems(raw / "DATA")}
    assert found == {
        ("not one of the six emotions", "S010_002_00000005_emotion"),
        ("sequence without an emotion label", "003"),
        ("subject S021 is left out, as published", "S021-001"),
        ("not one of the six emotions", "S051-001"),
        ("sequence without an emotion label", "S052-001"),
        ("unreadable video", "S052-002"),
        ("unreadable video", "S052-003"),
    }


def mixed(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("L"))


@pytest.mark.parametrize(
    ("path", "content", "sentence"),
    [
        ("ck/Emotion/S005/001/S005_001_00000005_emotion.txt", "9.0", "'9.0' is not one of CK"),
        ("ck/Emotion/S005/001/S005_001_00000005_emotion.txt", "happy", "'happy' is not one of CK"),
        ("mmi/Sessions/S001-104/S001-104.xml", emotion("joy"), "'joy' is not an emotion code of MMI"),
        ("mmi/Sessions/S001-104/S001-104.xml", "<Session>", "cannot be read as XML"),
        ("oulu/B_OriginalImg/VL/Strong/P037/Boredom/000.jpeg", "", "'Boredom' is not an expression"),
    ],
)
def test_raw_labels_that_are_wrong(raw: Path, path: str, content: str, sentence: str) -> None:
    (raw / path).parent.mkdir(exist_ok=True)
    (raw / path).write_text(content, encoding="utf-8")
    with pytest.raises(HonneError, match=sentence):
        prepare("mixbasic", raw, raw / "DATA", align="none", size=32)


def test_the_folds_name_frames_of_a_video_and_contradict_a_raw_label(raw: Path) -> None:
    write_rows(raw / "folds/train_ids_bias100v1.csv", [f"MixBasic/MMI/images/S050_007_{n:03d}.png" for n in (5, 6, 7)])
    rows = [f"MixBasic/CKPlus/images/S005_001_{n:08d}.png" for n in (2, 3, 4)]
    write_rows(raw / "folds/test_ids_bias100v1.csv", rows)
    entries = list(mixbasic.read(raw, fold=1))
    given = {Path(entry.id).name: entry for entry in entries if isinstance(entry, Row)}
    assert [name for name in given if "S050" in name] == [f"S050_007_{n:03d}.png" for n in (5, 6, 7)]
    assert {row.split for row in given.values()} == {"train", "test"}
    absent = [entry.where for entry in entries if isinstance(entry, Bad) and entry.reason == "row without image"]
    assert absent == [rows[0]]
    assert "not in fold 1" in {entry.reason for entry in entries if isinstance(entry, Bad)}

    clip = mixbasic_sources.Clip("MMI", "S050_007", "happiness", raw / "S050-007.xml", (raw,))
    label = mixbasic._Label(clip.name, clip.expression, "S050-007.xml")
    wrong = mixbasic._contradictions({clip: label}, {"MMI/S050_007": "fear"})
    assert "labelled happiness, but MMI/S050_007 is fear by the fold files" in wrong[clip].detail


def test_raw_labels_are_needed_and_pyav(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HonneError, match="needs PyAV"):
        list(mixbasic.read(raw))
    (raw / "ck/Emotion").rename(raw / "ck/Emoticons")
    with pytest.raises(HonneError, match=r"Emotion: no such folder"):
        list(mixbasic.read(raw))


def landmarks() -> np.ndarray:
    """(68, 2) with the eye centres at (60, 50) and (100, 80), nose and mouth anywhere."""
    points = np.random.default_rng(0).uniform(20, 120, (68, 2))
    for eye, centre in ((slice(36, 42), (60, 50)), (slice(42, 48), (100, 80))):
        points[eye] += np.array(centre) - points[eye].mean(0)
    return points


def test_faces_of_a_table_are_cropped_by_their_eyes(raw: Path) -> None:
    """One picture is in the table, one has no row; both stay out of exceptions, and analysis crops the same."""
    for dataset in ("mmi", "ck"):
        (raw / dataset).rename(raw.parent / f"{raw.name}-{dataset}")
    folder = raw / "oulu/B_OriginalImg/VL/Strong/P037/Surprise"
    for number in range(4):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (150, 160, 3), np.uint8)).save(
            folder / f"{number:03d}.jpeg"
        )
    points = landmarks()
    columns = {f"{axis}_{n}": [points[n, i]] for n in range(68) for i, axis in enumerate("xy")}
    pd.DataFrame({"source": ["003.jpeg"], "frame": [0], **columns}).to_csv(raw / "faces.csv", index=False)
    assert prepare("mixbasic", raw, raw / "DATA", finder=f"table:{raw / 'faces.csv'}", encoding="png") == 3
    assert [line["reason"] for line in problems(raw / "DATA")] == ["no face found"] * 2
    data = PreparedData(raw / "DATA")
    alignment = Alignment.from_dict(data.schema.alignment)
    assert alignment == Alignment("eyes", 256, template=EYE_TEMPLATE)
    face = Face(np.zeros(4), points=points_of(points)[:2])  # eye centres are enough
    picture = np.asarray(Image.open(folder / "003.jpeg"))
    stored = np.asarray(Image.open(io.BytesIO(bytes(data.image_bytes(0)))))
    np.testing.assert_array_equal(stored, alignment.crop(picture, face))
    eyes = transform_points(alignment.matrix(picture, face), points_of(points)[:2])
    np.testing.assert_allclose(eyes, 256 * np.array([[0.35, 0.35], [0.65, 0.35]]))
    mapped = data.stack("landmarks").reshape(68, 2)
    np.testing.assert_allclose(mapped[36:42].mean(0), eyes[0], rtol=1e-5)
    outside = alignment.crop(
        np.full((150, 160, 3), 255, np.uint8), Face(np.zeros(4), points=np.array([[2, 2], [40, 9.0]]))
    )
    assert not outside[0, 0].any()
    with pytest.raises(HonneError, match="eyes coincide"):
        alignment.crop(picture, Face(np.zeros(4), points=np.ones((5, 2))))


def test_align_chooses_the_template_that_goes_with_it(raw: Path) -> None:
    from honne.data.prepare import _alignment

    default = mixbasic.alignment(raw)
    assert _alignment(default, "default", None, None) == default
    assert _alignment(default, "points", None, None).template == ARCFACE_TEMPLATE
    assert _alignment(Alignment("points", 224), "eyes", 256, None) == default
