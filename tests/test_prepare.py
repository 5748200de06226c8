"""`honne prepare`: from a layout to a prepared data set, or to one clear sentence."""

from __future__ import annotations

import errno
import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from honne.data import prepare as module
from honne.data.cropping import ARCFACE_TEMPLATE, Cropper, cropped, points_of
from honne.data.leaks import copies, shared_subjects
from honne.data.manifest import ImageWriter, PreparedData
from honne.data.prepare import list_readers, prepare
from honne.data.readers import Bad, Row
from honne.data.splits import assign_splits
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.faces.face import Face


def noise(seed: int, *shape: int) -> np.ndarray:
    """Smooth noise, so that JPEG keeps it about as it is."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return np.array(Image.fromarray(small).resize(shape[::-1], Image.Resampling.BICUBIC))


def picture(path: Path, seed: int = 0, side: int = 32, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, side, side)).save(path, **options)
    return path


def pixels(data: PreparedData, row: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data.image_bytes(row))).convert("RGB"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders with 10 pictures each."""
    for i in range(20):
        picture(tmp_path / f"root/{'happy' if i % 2 else 'sad'}/p{i // 4}_{i}.png", i)
    return tmp_path / "root"


def problems(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "problems.csv", keep_default_na=False)


def test_a_folder_end_to_end(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert prepare("folder", Path(), tmp_path / "data", size=32, align="none") == 0
    data = PreparedData(tmp_path / "data")
    assert data.schema.name == f"folder ({root.name})"
    assert data.schema.counts == {"train": 14, "valid": 2, "test": 4}
    assert data.schema.labels.expressions == ("happiness", "sadness")
    assert Alignment.from_dict(data.schema.alignment) == Alignment("none", 32)
    assert data.rows["expression"].value_counts().to_dict() == {"happiness": 10, "sadness": 10}
    assert not {"votes", "valence", "subject", "landmarks"} & set(data.rows.columns)
    row = int(np.flatnonzero(data.rows["id"] == "happy/p0_1.png")[0])
    assert bytes(data.image_bytes(row)) == (root / "happy/p0_1.png").read_bytes()  # unchanged, so not encoded anew
    assert "sadness | 7" in (tmp_path / "data/card.md").read_text()
    shown = capsys.readouterr().out
    assert "all rows" in shown
    assert "Splits drawn by picture" in shown
    assert not list(tmp_path.glob(".*"))


def test_workers_and_runs_give_the_same(root: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 0), ("again", 0), ("two", 2)):
        prepare("folder", root, tmp_path / name, workers=workers, size=48, encoding="jpeg", align="none")
    first = PreparedData(tmp_path / "one")
    for name in ("again", "two"):
        other = PreparedData(tmp_path / name)
        pd.testing.assert_frame_equal(first.rows, other.rows)
        assert all(first.image_bytes(row) == other.image_bytes(row) for row in range(len(first)))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16", "exif"])
def test_every_kind_of_picture(tmp_path: Path, mode: str) -> None:
    face = noise(1, 40, 40)
    face[:8, :8] = 255
    image, path, options = Image.fromarray(face), tmp_path / "root/sad/a.png", {}
    path.parent.mkdir(parents=True)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "exif":
        path, exif = path.with_suffix(".jpg"), Image.Exif()
        exif[0x0112] = 6  # stored turned to the left: show it turned to the right
        image, options = image.rotate(90), {"exif": exif, "quality": 95, "subsampling": 0}
    else:
        image = image.convert(mode)
        path = path.with_suffix(".jpg") if mode == "CMYK" else path
    image.save(path, **options)
    assert prepare("folder", tmp_path / "root", tmp_path / "data", size=40, align="none") == 0
    stored = pixels(PreparedData(tmp_path / "data"), 0).astype(float)
    wanted = (
        face if mode in ("RGB", "RGBA", "CMYK", "exif") else np.asarray(Image.fromarray(face).convert("L"))[..., None]
    )
    assert np.abs(stored - wanted).mean() < (20 if mode == "CMYK" else 4)


def test_pictures_that_cannot_be_used_are_left_out_and_named(root: Path, tmp_path: Path) -> None:
    (root / "sad/text.jpg").write_text("not a picture")
    (root / "sad/empty.jpg").write_bytes(b"")
    whole = picture(root / "sad/cut.jpg", 50, 200).read_bytes()
    (root / "sad/cut.jpg").write_bytes(whole[: len(whole) // 2])
    picture(root / "sad/tiny.png", 51, 1)
    assert prepare("folder", root, tmp_path / "data", align="none") == 3
    assert len(PreparedData(tmp_path / "data")) == 20
    found = problems(tmp_path / "data").set_index("where")
    assert {Path(name).name: line.reason for name, line in found.iterrows()} == {
        "text.jpg": "unreadable image",
        "empty.jpg": "unreadable image",
        "cut.jpg": "unreadable image",
        "tiny.png": "image too small",
    }
    assert "not a picture" in found.loc[str(root / "sad/text.jpg"), "detail"]
    assert "1 x 1 px" in found.loc[str(root / "sad/tiny.png"), "detail"]


def test_wrong_labels_stop_the_run_unless_skipped(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"path,label\n{root}/sad/p0_0.png,3\n{root}/sad/p0_2.png,9\n{root}/sad/none.png,2\n")
    with pytest.raises(
        HonneError, match=r"(?s)t\.csv, line 3: '9' is not an expression .*6 surprise\)\.\n.* --skip-bad"
    ) as error:
        prepare("table", table, tmp_path / "data", label_set="affwild2", align="none")
    assert "\n" not in error.value.what
    assert not (tmp_path / "data").exists()
    assert (
        prepare(
            "table",
            table,
            tmp_path / "data",
            label_set="affwild2",
            skip_bad=True,
            valid_share=0,
            test_share=0,
            align="none",
        )
        == 3
    )
    assert problems(tmp_path / "data")["kind"].tolist() == ["label", "image"]


def test_nothing_usable_and_wrong_calls(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    (tmp_path / "bad/sad").mkdir(parents=True)
    (tmp_path / "bad/sad/a.jpg").write_text("text")
    with pytest.raises(HonneError, match=r"no usable rows: unreadable image \(1\)"):
        prepare("folder", tmp_path / "bad", out, align="none")
    for wrong, says in (
        ({"reader": "folder"}, "needs READER, ROOT and --out"),
        ({"reader": "rafdb", "root": root, "out": out, "target_mode": "majority"}, "no option --target-mode"),
        ({"reader": "folder", "root": root, "out": out, "margin": 1.5}, "--margin goes with"),
        ({"reader": "folder", "root": root, "out": out, "size": 4}, "--size 4 is too small"),
        ({"reader": "folder", "root": root, "out": out, "valid_share": 1.5}, "not a share"),
    ):
        with pytest.raises(WrongCall, match=says):
            prepare(**wrong)
    assert not out.exists()


def test_data_is_replaced_only_on_request_and_only_by_whole_data(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "data"
    prepare("folder", root, out, limit=3, align="none")
    before = (out / "manifest.parquet").read_bytes()
    with pytest.raises(HonneError, match="already exists"):
        prepare("folder", root, out, align="none")

    def full(self: ImageWriter, encoded: bytes) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(entries: Iterator[object]) -> Iterator[object]:
        yield next(entries)
        raise KeyboardInterrupt

    for name, broken, error in ((ImageWriter, full, OSError), (module, interrupted, KeyboardInterrupt)):
        with monkeypatch.context() as patch:
            patch.setattr(name, "add" if name is ImageWriter else "_watched", broken)
            with pytest.raises(error):
                prepare("folder", root, out, overwrite=True, align="none")
        assert (out / "manifest.parquet").read_bytes() == before
        assert not list(tmp_path.glob(".*"))
    (tmp_path / ".data.part").mkdir()  # what a killed run leaves behind
    out.rename(tmp_path / ".data.old")  # killed at the very last step
    with pytest.raises(HonneError, match="already exists"):
        prepare("folder", root, out, align="none")
    prepare("folder", root, out, overwrite=True, align="none")
    assert len(PreparedData(out)) == 20
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """train a, b, b; valid c, a, d; test d, a, e: by pixels."""
    for path, seed in {"train": [1, 2, 2], "valid": [3, 1, 4], "test": [4, 1, 5]}.items():
        for i, s in enumerate(seed):
            picture(tmp_path / f"root/{path}/sad/{i}.{'bmp' if i else 'png'}", s)  # other bytes, same pixels
    return tmp_path / "root"


def test_copies_across_splits(leaky: Path, tmp_path: Path) -> None:
    prepare("folder", leaky, tmp_path / "drop", size=32, align="none")
    assert PreparedData(tmp_path / "drop").rows["id"].tolist() == [
        "test/sad/0.png",
        "test/sad/2.bmp",
        "train/sad/0.png",
        "train/sad/1.bmp",
        "train/sad/2.bmp",
        "valid/sad/0.png",
    ]
    left_out = problems(tmp_path / "drop")
    assert sorted(left_out["reason"]) == [
        "exact copy of a test picture in valid",
        "exact copy of a train picture in test",
        "exact copy of a train picture in valid",
    ]
    assert prepare("folder", leaky, tmp_path / "report", copies="report", align="none") == 0
    assert len(PreparedData(tmp_path / "report")) == 9
    assert "1 valid rows are exact pixel copies of test rows" in (tmp_path / "report/card.md").read_text()
    with pytest.raises(HonneError, match="3 rows are exact pixel copies"):
        prepare("folder", leaky, tmp_path / "refuse", copies="refuse", align="none")


def test_subjects_across_splits(tmp_path: Path) -> None:
    rows = [
        f"{picture(tmp_path / f'{i}.png', i)},sad,{s},{split}"
        for i, (s, split) in enumerate([("p1", "train"), ("p1", "test")])
    ]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,subject,split", *rows]))
    prepare("table", tmp_path / "t.csv", tmp_path / "data", align="none")
    card = (tmp_path / "data/card.md").read_text()
    assert "1 subjects stand in several splits (p1" in card
    assert "Split 'valid' is empty." in card
    with pytest.raises(HonneError, match="1 subjects stand"):
        prepare("table", tmp_path / "t.csv", tmp_path / "other", subjects="refuse", align="none")


def test_leak_checks_alone() -> None:
    rows = pd.DataFrame(
        {"image": ["a", "b", "a", "b", "c", "c"], "split": ["valid", "test", "train", "valid", "valid", "valid"]}
    )
    found = copies(rows)
    assert found.across.tolist() == [True, False, False, True, False, False]
    assert found.within.tolist() == [False, False, False, False, False, True]
    assert found.original.tolist() == [2, 1, 2, 1, 4, 4]
    assert shared_subjects(rows) == []
    assert shared_subjects(rows.assign(subject=["p", None, "p", None, "q", "q"])) == ["p"]


def test_drawn_splits_keep_subjects_and_copies_together() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"image": [f"{i // 2}" for i in range(400)], "expression": rng.choice(["sad", "happy"], 400, p=[0.1, 0.9])}
    )
    split = assign_splits(rows, 0.1, 0.2, seed=3)
    assert rows.assign(split=split).groupby("image")["split"].nunique().max() == 1
    assert np.mean(split == "test") == pytest.approx(0.2, abs=0.02)
    assert np.mean(split[rows["expression"] == "sad"] == "test") == pytest.approx(0.2, abs=0.1)
    assert (split == assign_splits(rows, 0.1, 0.2, seed=3)).all()
    assert (split != assign_splits(rows, 0.1, 0.2, seed=4)).any()
    people = rows.assign(subject=[f"p{i % 3}" for i in range(400)], image=[str(i) for i in range(400)])
    split = assign_splits(people, 0.1, 0.1)
    assert people.assign(split=split).groupby("subject")["split"].nunique().max() == 1
    assert set(split) == {"train", "valid", "test"}


def test_a_validation_split_is_taken_from_training_rows_only_on_request(root: Path, tmp_path: Path) -> None:
    picture(root.parent / "official/test/sad/1.png", 90)
    (root / "train").mkdir(parents=True)
    for name in ("sad", "happy"):
        (root / name).rename(root / "train" / name)
    (root.parent / "official/test").rename(root / "test")
    prepare("folder", root, tmp_path / "as_is", align="none")
    assert PreparedData(tmp_path / "as_is").schema.counts == {"train": 20, "valid": 0, "test": 1}
    prepare("folder", root, tmp_path / "taken", valid_share=0.2, align="none")
    assert PreparedData(tmp_path / "taken").schema.counts == {"train": 16, "valid": 4, "test": 1}
    with pytest.raises(WrongCall, match="--test-share is for layouts without"):
        prepare("folder", root, tmp_path / "more", test_share=0.2, align="none")


def test_crops_follow_box_points_and_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(3, 80, 100)
    landmarks = np.random.default_rng(0).uniform(20, 60, (68, 2))
    box = Cropper(Alignment("box", 64, 1.0))(Row("a", image, box=np.array([10, 20, 40, 40]), landmarks=landmarks))
    np.testing.assert_allclose(box.row.landmarks, (landmarks - [10, 20]) * 64 / 40, atol=1e-3)
    np.testing.assert_allclose(box.row.box, [0, 0, 64, 64], atol=1e-3)

    eyes = np.zeros((68, 2))
    eyes[36:42], eyes[42:48], eyes[30], eyes[48], eyes[54] = (30, 30), (50, 30), (40, 45), (32, 55), (48, 55)
    points = Cropper(Alignment("points", 112, template=ARCFACE_TEMPLATE))(Row("a", image, landmarks=eyes))
    assert np.abs(points_of(points.row.landmarks) - 112 * np.array(ARCFACE_TEMPLATE)).max() < 10

    faces = [Face(np.array([0, 0, 50, 50.0])), Face(np.array([60, 40, 20, 20.0]))]
    finders = types.SimpleNamespace(finder=lambda name: types.SimpleNamespace(find=lambda image: faces))
    monkeypatch.setitem(sys.modules, "honne.faces.finders", finders)
    entries: list[Row | Bad] = [Row("largest", image), Bad("x", "y")]
    largest, passed = cropped(entries, Cropper(Alignment("box", 32, 1.0)))
    assert np.abs(np.asarray(Image.open(io.BytesIO(largest.encoded))) - image[:50, :50].mean()).mean() < 100
    assert passed == entries[1]
    near = Row("near", image, box=np.array([62, 42, 16, 16]))
    np.testing.assert_allclose(
        Cropper(Alignment("points", 32, template=ARCFACE_TEMPLATE))(near).row.box, [3.2, 3.2, 25.6, 25.6], atol=0.01
    )
    faces.clear()
    assert Cropper(Alignment("box", 32))(Row("none", image)).reason == "no face found"


def test_grey_crops_stay_grey_and_lossless(tmp_path: Path) -> None:
    face = noise(1, 48, 48)
    stored = Cropper(Alignment("none", 48, grey=True))(Row("a", face))
    image = Image.open(io.BytesIO(stored.encoded))
    assert (image.format, image.mode) == ("PNG", "L")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.fromarray(face).convert("L")))
    again = Cropper(Alignment("none", 48, grey=True))(Row("b", stored.encoded))
    assert (again.encoded, again.fingerprint) == (stored.encoded, stored.fingerprint)


def test_ferplus_and_its_card(tmp_path: Path) -> None:
    root = tmp_path / "ferplus"
    names = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    lines = [f"Usage,Image name,{names}"]
    for i, usage in enumerate(["Training", "Training", "PublicTest", "PublicTest"]):
        lines.append(f"{usage},fer{i}.png,{4 + i},{6 - i},0,0,0,0,0,0,0,0")
        folder = "FER2013Train" if usage == "Training" else "FER2013Valid"
        (root / f"data/{folder}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(min(i, 2), 48, 48)).convert("L").save(root / f"data/{folder}/fer{i}.png")
    (root / "fer2013new.csv").write_text("\n".join(lines))
    assert prepare("ferplus", root, tmp_path / "data", target_mode="crossentropy") == 0
    data = PreparedData(tmp_path / "data")
    assert data.rows["id"].tolist() == ["fer0", "fer1", "fer2"]  # fer3 shows the same as fer2
    assert data.rows["expression"].fillna("").tolist() == ["happiness", "", "neutral"]
    np.testing.assert_allclose(data.stack("target")[1, :2], 0.5)
    np.testing.assert_array_equal(data.stack("votes")[2, :2], [6, 4])
    assert data.schema.options == {"target_mode": "crossentropy", "votes_from": "fer2013new.csv"}
    assert set(data.schema.source) == {"root", "fer2013new.csv"}
    assert Alignment.from_dict(data.schema.alignment).grey


def test_list_names_every_reader(capsys: pytest.CaptureFixture[str]) -> None:
    list_readers()
    shown = capsys.readouterr().out
    for name in ("ferplus", "fer2013", "rafdb", "affectnet", "folder", "table", "on request"):
        assert name in shown
