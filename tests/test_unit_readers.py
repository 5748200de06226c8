"""Readers of data sets with action units, on imitations of their layouts."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, bp4d, disfa, emotionet
from honne.data.readers.frame_tables import fold_split
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment

FRAMES = 5


def picture(path: Path, seed: int, side: int = 112) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def both(entries: Iterator[Row | Bad]) -> tuple[dict[str, Row], list[Bad]]:
    found = list(entries)
    return {e.id: e for e in found if isinstance(e, Row)}, [e for e in found if isinstance(e, Bad)]


def reasons(bad: list[Bad]) -> list[tuple[str, str]]:
    return [(entry.reason, entry.kind) for entry in bad]


# --- DISFA -------------------------------------------------------------------------------------------------------


def intensity(subject: int, unit: int, frame: int) -> int:
    return (subject + unit + frame) % 6


def disfa_root(root: Path, subjects: tuple[int, ...] = (1, 2), lost: tuple[int, ...] = (2,)) -> Path:
    """Every subject has `FRAMES` labelled frames; the pictures of the frames `lost` are not there."""
    for subject in subjects:
        name = f"SN{subject:03d}"
        for unit in disfa.UNITS:
            lines = [f"{frame},{intensity(subject, unit, frame)}" for frame in range(1, FRAMES + 1)]
            write(root / f"ActionUnit_Labels/{name}/{name}_au{unit}.txt", *lines)
        for frame in set(range(1, FRAMES + 1)) - set(lost):
            folder = root / f"LeftVideo{name}_comp/LeftVideo{name}_comp_aligned"
            picture(folder / f"frame_det_00_{frame:06d}.bmp", 100 * subject + frame)
    return root


def test_disfa_joins_by_the_number_of_the_frame(tmp_path: Path) -> None:
    rows, bad = both(disfa.read(disfa_root(tmp_path)))
    assert list(rows) == [f"SN00{subject}/{frame:06d}" for subject in (1, 2) for frame in (1, 3, 4, 5)]
    for name, row in rows.items():
        subject, frame = int(name[4]), int(name[-1])
        wanted = np.array([intensity(subject, unit, frame) for unit in disfa.UNITS])
        np.testing.assert_array_equal(row.au_intensity, wanted)
        np.testing.assert_array_equal(row.au, wanted >= 2)
        assert str(row.image).endswith(f"SN00{subject}_comp_aligned/frame_det_00_{frame:06d}.bmp")
        assert (row.subject, row.video, row.split) == (f"SN00{subject}", f"SN00{subject}", None)
        assert row.time == pytest.approx((frame - 1) / 20)
    assert reasons(bad) == [("label without a picture", "rule")] * 2
    assert disfa.alignment(tmp_path) == Alignment("none", 112)


def test_disfa_presence() -> None:
    np.testing.assert_array_equal(disfa.present(np.array([[0, 1, 2], [5, np.nan, 3]])), [[0, 0, 1], [1, np.nan, 1]])
    np.testing.assert_array_equal(disfa.present(np.arange(6), 3), [0, 0, 0, 1, 1, 1])


def test_disfa_folds_share_no_subject(tmp_path: Path) -> None:
    everyone = [name for part in disfa.FOLDS for name in part]
    assert len(set(everyone)) == 27
    root = disfa_root(tmp_path, (2, 13, 18, 3, 99), lost=())
    for fold in (1, 2, 3):
        splits = {name: fold_split(name, fold, disfa.FOLDS) for name in everyone}
        assert {name for name in everyone if splits[name] == "test"} == set(disfa.FOLDS[fold - 1])
        assert sum(split == "valid" for split in splits.values()) == 3
    rows, bad = both(disfa.read(root, fold=1, present_from=3))
    found = {row.subject: row.split for row in rows.values()}
    assert found == {"SN002": "test", "SN013": "valid", "SN018": "train", "SN003": "train"}
    assert reasons(bad) == [("subject in none of the folds", "rule")]
    np.testing.assert_array_equal(rows["SN002/000001"].au, rows["SN002/000001"].au_intensity >= 3)
    with pytest.raises(WrongCall, match="--present-from 6"):
        list(disfa.read(root, present_from=6))


def test_disfa_prefers_aligned_pictures_of_the_left_camera(tmp_path: Path) -> None:
    root = disfa_root(tmp_path, (1,), lost=())
    picture(root / "LeftVideoSN001_comp/SN001_000001.png", 1)
    picture(root / "RightVideoSN001_comp/RightVideoSN001_comp_aligned/frame_det_00_000001.bmp", 2)
    picture(root / "LeftVideoSN001_comp/LeftVideoSN001_comp_aligned/frame_det_01_000001.bmp", 3)
    rows, bad = both(disfa.read(root))
    assert len(rows) == FRAMES
    assert reasons(bad) == [("second picture of a frame", "rule")]
    for path in root.rglob("*_aligned/*"):
        path.unlink()
    rows, bad = both(disfa.read(root))
    assert list(rows) == ["SN001/000001"]
    assert disfa.alignment(root).kind == "points"


def test_disfa_reads_its_videos_where_there_are_no_pictures(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    root = disfa_root(tmp_path, (1,), lost=tuple(range(1, FRAMES + 1)))
    with av.open(str(root / "LeftVideoSN001_comp.avi"), "w") as file:
        stream = file.add_stream("mjpeg", rate=20)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        for frame in range(FRAMES + 1):
            pixels = np.full((32, 32, 3), 40 * frame, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    rows, bad = both(disfa.read(root))
    assert list(rows) == [f"SN001/{frame:06d}" for frame in range(1, FRAMES + 1)]
    assert [round(float(row.image.mean()) / 40) for row in rows.values()] == list(range(FRAMES))
    assert reasons(bad) == [("picture without a label", "rule")]


def test_disfa_names_what_is_wrong(tmp_path: Path) -> None:
    root = disfa_root(tmp_path, (1,), lost=())
    file = root / "ActionUnit_Labels/SN001/SN001_au4.txt"
    write(file, "1,0", "2,7", "3,1", "4,1")  # nothing for frame 5
    rows, bad = both(disfa.read(root))
    assert reasons(bad) == [("wrong intensity", "label")]
    assert "AU4 is 7" in bad[0].detail
    assert "frame 2" in bad[0].where
    last = rows["SN001/000005"]
    assert np.isnan([last.au[2], last.au_intensity[2]]).all()
    with pytest.raises(HonneError, match=r"au4\.txt, frame 2.*AU4 is 7"):
        prepare("disfa", root, tmp_path / "data")
    for lines, message in (
        (["1,0", "", "x,2"], "line 3: not 2 numbers"),
        (["1,0", "1,2"], "line 2: frame 1 is no whole number, or"),
        (["1,0", "1.5,2"], "line 2: frame 1.5"),
        ([""], "no rows"),
    ):
        write(file, *lines)
        with pytest.raises(HonneError, match=message):
            list(disfa.read(root))
    with pytest.raises(HonneError, match="expects ActionUnit_Labels"):
        list(disfa.read(root / "LeftVideoSN001_comp"))


def test_disfa_end_to_end(tmp_path: Path) -> None:
    root = disfa_root(tmp_path / "DISFA", (2, 13, 18))
    with zipfile.ZipFile(tmp_path / "disfa.zip", "w") as archive:
        for path in root.rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path))
    for number, source in enumerate((root, tmp_path / "disfa.zip")):
        out = tmp_path / f"data{number}"
        assert prepare("disfa", source, out, fold=1) == 0
        data = PreparedData(out)
        assert data.schema.labels.action_units == disfa.UNITS
        assert data.schema.counts == {"train": 4, "valid": 4, "test": 4}
        assert {"video", "time", "au", "au_intensity", "subject"} <= set(data.rows.columns)
    assert "Published fold 1: tested on SN002" in (tmp_path / "data0/card.md").read_text()
    assert prepare("disfa", root, tmp_path / "all", valid_share=0, test_share=0) == 0
    assert PreparedData(tmp_path / "all").schema.counts["train"] == 12


# --- BP4D --------------------------------------------------------------------------------------------------------


def bp4d_root(root: Path) -> Path:
    units = [*range(1, 26)]
    for number, subject in enumerate(("F001", "M011", "F003")):
        lines = [",".join(["0", *map(str, units)])]
        for frame in (8, 9, 10, 11):
            codes = [9 if unit == 4 or frame == 10 else (unit + frame) % 2 for unit in units]
            lines.append(",".join(map(str, [frame, *codes])))
        write(root / f"AUCoding/{subject}_T1.csv", *lines)
        for frame in (7, 8, 9, 10):
            picture(root / f"2D/{subject}/T1/{frame:04d}.jpg", 20 * number + frame)
    write(root / "AU-Intensity-Codes3.0/AU06/F001_T1_AU06.csv", "8,3", "9,9", "10,0")
    return root


def test_bp4d(tmp_path: Path) -> None:
    rows, bad = both(bp4d.read(bp4d_root(tmp_path), fold=1))
    splits = {"F001": "test", "M011": "valid", "F003": "train"}
    assert {name: row.split for name, row in rows.items()} == {
        f"{subject}/T1/{frame}": split for subject, split in sorted(splits.items()) for frame in (8, 9)
    }
    row = rows["F001/T1/8"]
    wanted = [np.nan if unit == 4 else (unit + 8) % 2 for unit in bp4d.UNITS]
    np.testing.assert_array_equal(row.au, wanted)
    np.testing.assert_array_equal(row.au_intensity, [3 if unit == 6 else np.nan for unit in bp4d.UNITS])
    assert (row.subject, row.video, row.time) == ("F001", "F001/T1", 8 / 25)
    assert Path(row.image).name == "0008.jpg"
    assert rows["F001/T1/9"].au_intensity is None
    assert sorted(set(reasons(bad))) == [
        ("frame without a coded action unit", "rule"),
        ("picture without a label", "rule"),
        ("row without image", "image"),
    ]
    assert len(bad) == 9
    assert len({name for part in bp4d.FOLDS for name in part}) == 41


def test_bp4d_names_what_is_wrong(tmp_path: Path) -> None:
    root = bp4d_root(tmp_path)
    write(root / "AUCoding/F001_T1.csv", "0,1,12", "8,1,2", "9,1,0")
    write(root / "AU-Intensity-Codes3.0/AU06/F001_T1_AU06.csv", "frame,AU06", "9,6")
    _, bad = both(bp4d.read(root))
    assert [entry.detail for entry in bad if entry.kind == "label"] == [
        "AU12 is 2, none of 0, 1, 9",
        "AU6 is 6, none of 0, 1, 2, 3, 4, 5, 9",
    ]
    write(root / "AUCoding/F001_T1.csv", "0,3,8", "8,1,0")
    with pytest.raises(HonneError, match=r"F001_T1\.csv: no column of any of the action units"):
        list(bp4d.read(root))
    with pytest.raises(HonneError, match="expects AUCoding"):
        list(bp4d.read(root / "2D"))


def test_bp4d_end_to_end(tmp_path: Path) -> None:
    root = bp4d_root(tmp_path / "BP4D")
    assert prepare("bp4d", root, tmp_path / "data", align="none", size=32) == 3  # three labelled frames have no picture
    data = PreparedData(tmp_path / "data")
    assert len(data.rows) == 6
    assert sum("F001_T1" in name for name in data.schema.source) == 2
    assert data.rows.groupby("subject")["split"].nunique().max() == 1


# --- EmotioNet ---------------------------------------------------------------------------------------------------


def emotionet_root(root: Path) -> Path:
    write(
        root / "labels.csv",
        "URL, orig_url, 'AU 1', \"'AU12'\", AU51,AU2",
        "'http://a.org/x/one.jpg?s=3',http://a.org,1,0,1,999",
        "http://a.org/two%20b.jpg,http://a.org,999,1.0,0,999",
        "http://a.org/three.jpg,http://a.org,999,999,1,999",
        "http://a.org/four.jpg,http://a.org,1,1,0,999",
        "http://a.org/twice.jpg,http://a.org,1,1,0,999",
        "http://b.org/twice.jpg,http://b.org,0,0,0,999",
    )
    write(root / "more.tsv", "path\tAU_12\tAU04", "deep/five.png\t0\t1")
    write(root / "readme.txt", "Nothing about action units, but a comma.")
    for number, name in enumerate(("a/one.jpg", "a/two b.jpg", "three.jpg", "twice.jpg", "deep/five.png")):
        picture(root / name, number, 40)
    return root


def test_emotionet(tmp_path: Path) -> None:
    root = emotionet_root(tmp_path)
    assert emotionet.schema(root).action_units == (1, 4, 12)
    rows, bad = both(emotionet.read(root))
    nan = np.nan
    np.testing.assert_array_equal(
        [row.au for row in rows.values()], [[1, nan, 0], [nan, nan, 1], [nan, 1, 0]]
    )  # AU1, AU4, AU12
    assert list(rows) == ["a/one.jpg", "a/two b.jpg", "deep/five.png"]
    assert reasons(bad) == [
        ("row without a coded action unit", "rule"),
        ("row without image", "image"),
        ("name of several pictures", "image"),
        ("name of several pictures", "image"),
    ]
    assert emotionet.notes(root) == [
        "Columns left out, because nothing is coded in them or honne has no such action unit: AU2, AU51."
    ]


def test_emotionet_end_to_end_and_what_is_wrong(tmp_path: Path) -> None:
    root = emotionet_root(tmp_path / "EmotioNet")
    assert prepare("emotionet", root, tmp_path / "data", align="none", size=32) == 3
    data = PreparedData(tmp_path / "data")
    assert (len(data.rows), data.schema.labels.action_units) == (3, (1, 4, 12))
    for line, message in (
        ("a/one.jpg\t2\t0", r"more\.tsv, line 2: AU12 is neither 1 nor 0 nor 999"),
        ("a/one.jpg\t1", r"more\.tsv, line 2: 2 cells instead of 3"),
    ):
        write(root / "more.tsv", "path\tAU12\tAU4", line)
        with pytest.raises(HonneError, match=message):
            prepare("emotionet", root, tmp_path / "other", align="none")
    write(root / "more.tsv", "where\tAU12\tAU4")
    with pytest.raises(HonneError, match="no column of paths or links"):
        list(emotionet.read(root))
    with pytest.raises(HonneError, match="expects CSV or TSV"):
        list(emotionet.read(root / "deep"))
