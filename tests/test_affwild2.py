"""The readers of Aff-Wild2 and s-Aff-Wild2, on imitations of their layouts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from honne.data.affwild2 import TASKS
from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, affwild2, saffwild2
from honne.errors import HonneError, WrongCall
from honne.faces.media import Media
from honne.labels import ACTION_UNIT_SETS, EXPRESSION_SETS

AU8, AU12 = (",".join(f"AU{unit}" for unit in ACTION_UNIT_SETS[name]) for name in ("affwild2", "abaw"))
SEVEN = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
FRAMES = {"a": [1, 2, 4], "b_left": [1, 2, 3], "c": [2, 3, 5]}


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (112, 112, 3), np.uint8)).save(path)


def faces(root: Path, frames: dict[str, list[int]]) -> None:
    for v, (video, numbers) in enumerate(frames.items()):
        for number in numbers:
            picture(root / "cropped_aligned" / video / f"{number:05d}.jpg", 100 * v + number)


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """2020's layout: `a` is trained on for all tasks but validates valence and arousal; `c` is tested."""
    root = tmp_path / "aff"
    faces(root, FRAMES)
    base = root / "annotations"
    text(
        base / "AU_Set/Training_Set/a.txt",
        AU8,
        "1,0,0,0,0,0,0,1",
        "0,-1,0,0,1,0,0,0",
        "-1,0,0,0,0,0,0,0",
        ",".join(["-1"] * 8),
    )
    text(base / "AU_Set/Training_Set/b_left.txt", AU8, *["0,0,0,0,0,0,0,0"] * 3)
    text(base / "EXPR_Set/Training_Set/a.txt", SEVEN, "4", "-1", "0", "0")
    text(base / "EXPR_Set/Validation_Set/b_left.txt", SEVEN, "6", "0", "-1")
    text(base / "VA_Set/Validation_Set/a.txt", "valence,arousal", "0.5,-1", "-5,0.1", "0,0", "-5,-5")
    text(base / "VA_Set/Training_Set/b_left.txt", "valence,arousal", "-5,-5", "0.25,0.75", "1,1")
    return root


def both(entries: Iterable[Row | Bad]) -> tuple[dict[str, Row], list[Bad]]:
    entries = list(entries)
    return {e.id: e for e in entries if isinstance(e, Row)}, [e for e in entries if isinstance(e, Bad)]


def test_one_task(root: Path) -> None:
    rows, bad = both(affwild2.read(root, task="action_units"))
    assert list(rows) == ["a/00001", "a/00002", "b_left/00001", "b_left/00002", "b_left/00003"]
    np.testing.assert_array_equal(rows["a/00002"].au, [0, np.nan, 0, 0, 1, 0, 0, 0])
    row = rows["b_left/00003"]
    assert (row.split, row.video, row.subject, row.time, row.expression) == ("train", "b_left", "b", 2 / 30, None)
    assert row.image == root / "cropped_aligned/b_left/00003.jpg"
    assert {(entry.reason, entry.detail, entry.kind) for entry in bad} == {
        ("video with labelled frames that have no picture", "1 of 3 frames", "rule"),
        ("video with pictures marked as not labelled", "1 of 3 pictures", "rule"),
    }
    assert list(both(affwild2.read(root, task="action_units", partial="drop"))[0]) == [
        *("a/00001", "b_left/00001", "b_left/00002", "b_left/00003")
    ]


def test_all_tasks_join_and_no_video_is_trained_on_that_validates_another_task(root: Path) -> None:
    rows, bad = both(affwild2.read(root, fps=10))
    assert {name: (row.split, row.expression, row.valence, row.au is not None) for name, row in rows.items()} == {
        "a/00001": ("valid", None, 0.5, False),
        "b_left/00001": ("valid", "surprise", None, False),
        "b_left/00002": ("valid", "neutral", None, False),
    }
    lost = [entry for entry in bad if "held out for another task" in entry.reason]
    assert sorted((entry.where, entry.detail.partition(";")[0]) for entry in lost) == [
        ("a", "2 frames with action units"),
        ("a", "2 frames with expression"),
        ("b_left", "2 frames with valence arousal"),
        ("b_left", "3 frames with action units"),
    ]
    schema = affwild2.schema(root)
    assert schema.expressions == EXPRESSION_SETS["affwild2"].expressions
    assert schema.action_units == ACTION_UNIT_SETS["affwild2"]
    assert schema.valence_arousal


def test_test_lists_fill_gaps_and_come_last(root: Path) -> None:
    text(root / "annotations/VA_Set/Test_Set/va_test_set.txt", "c")
    rows, _ = both(affwild2.read(root, task="valence_arousal"))
    assert list(rows)[-5:] == [f"c/{number:05d}" for number in range(1, 6)]
    shown = [row.image for row in rows.values() if row.split == "test"]
    assert [Path(str(image)).name for image in shown] == [f"{number:05d}.jpg" for number in (2, 2, 3, 3, 5)]
    assert all(row.valence is None for row in rows.values() if row.split == "test")
    # a list of frames is taken in its order; a video of it is nothing else
    text(
        root / "annotations/VA_Set/Test_Set/va_test_set.txt",
        "image_location,",
        "c/00004.jpg,",
        "a/00003.jpg,",
        "x/00001.jpg,",
    )
    rows, bad = both(affwild2.read(root, task="valence_arousal"))
    assert list(rows)[-2:] == ["c/00004", "a/00003"]
    assert {row.split for row in rows.values() if row.video == "a"} == {"test"}
    assert {"video of a test list: its labels left out", "video without pictures"} <= {entry.reason for entry in bad}


def test_test_videos_are_as_long_as_their_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text(root / "annotations/VA_Set/Test_Set/va_test_set.txt", "c")
    text(root / "videos/batch1/c.mp4", "no video, but asked only for its length")
    monkeypatch.setattr(affwild2, "open_media", lambda path: Media(str(path), "video", 6))
    rows, _ = both(affwild2.read(root, task="valence_arousal"))
    assert [row.id for row in rows.values() if row.split == "test"] == [f"c/{number:05d}" for number in range(1, 8)]


def test_later_layout(tmp_path: Path) -> None:
    faces(tmp_path, {"a": [1, 2], "b": [1]})
    text(tmp_path / "AU_Detection_Challenge/Train_Set/a.txt", AU12, ",".join(["1"] * 12), ",".join(["0"] * 11 + ["-1"]))
    text(tmp_path / "EXPR_Recognition_Challenge/Validation_Set/b.txt", SEVEN + ",Other", "7")
    rows, _ = both(affwild2.read(tmp_path))
    assert affwild2.schema(tmp_path).action_units == ACTION_UNIT_SETS["abaw"]
    assert [(row.split, row.expression) for row in rows.values()] == [
        ("train", None),
        ("train", None),
        ("valid", "other"),
    ]
    labels = affwild2.read_affwild2_task(tmp_path, "action_units")
    assert labels.path.tolist() == ["a/00001.jpg", "a/00002.jpg"]
    assert labels.mask["action_units"].sum(1).tolist() == [12, 11]


def test_published_thinning(tmp_path: Path) -> None:
    faces(tmp_path, {"a": list(range(1, 13)), "v": list(range(1, 13))})
    for video, split in (("a", "Training_Set"), ("v", "Validation_Set")):
        text(tmp_path / "EXPR_Set" / split / f"{video}.txt", SEVEN, *["0"] * 12)
        text(tmp_path / "VA_Set" / split / f"{video}.txt", "valence,arousal", *["0,0"] * 12)
    rows, _ = both(affwild2.read(tmp_path, thin="published"))
    trained = {row.id: (row.expression, row.valence) for row in rows.values() if row.split == "train"}
    assert trained == {"a/00001": ("neutral", 0), "a/00006": (None, 0), "a/00011": ("neutral", 0)}
    assert sum(row.split == "valid" for row in rows.values()) == 12


@pytest.mark.parametrize(
    ("file", "lines", "what"),
    [
        (
            "VA_Set/Training_Set/b_left.txt",
            ["valence,arousal", "0,0", "0,2"],
            r"b_left\.txt, line 3: 2 is not in -1\.\.1",
        ),
        ("EXPR_Set/Training_Set/a.txt", [SEVEN, "7"], r"a\.txt, line 2: 7 is not 0 to 6, or -1"),
        ("AU_Set/Training_Set/a.txt", [AU8, "0,0,1"], r"line 2: 3 numbers where the header names 8"),
        ("AU_Set/Training_Set/a.txt", [AU8, "0,0,0,0,x,0,0,0"], r"line 2: '0,0,0,0,x,0,0,0' is not numbers"),
        ("AU_Set/Training_Set/a.txt", ["0,0,0,0,0,0,0,0"], r"line 1: .* does not name action units"),
        ("AU_Set/Training_Set/a.txt", [AU12, ",".join("0" * 12)], r"b_left\.txt, line 1: another header"),
        ("EXPR_Set/Validation_Set/a.txt", [SEVEN, "0"], "both label one video for one task"),
    ],
)
def test_wrong_labels_are_named(root: Path, file: str, lines: list[str], what: str) -> None:
    text(root / "annotations" / file, *lines)
    with pytest.raises(HonneError, match=what):
        prepare("affwild2", root, root.parent / "out")


def test_pictures_and_rows_that_do_not_fit(root: Path) -> None:
    text(root / "annotations/AU_Set/Training_Set/a.txt", AU8, "1,0,0,0,0,0,0,1", "")
    text(root / "annotations/AU_Set/Training_Set/z.txt", AU8, "1,0,0,0,0,0,0,1")
    rows, bad = both(affwild2.read(root, task="action_units"))
    assert [name for name in rows if name.startswith("a/")] == ["a/00001"]
    wrong = {entry.reason: entry.detail for entry in bad if entry.kind == "image"}
    assert (
        wrong["video with pictures without a row of labels"]
        == "2 pictures, the first a/00002.jpg; there are 1 rows of labels"
    )
    assert "no pictures of z" in wrong["video without pictures"]
    picture(root / "other_aligned/a/00001.jpg", 1)
    with pytest.raises(HonneError, match="both may hold the faces of a"):
        both(affwild2.read(root))
    with pytest.raises(HonneError, match="expects AU_Set"):
        both(affwild2.read(root / "cropped_aligned"))
    with pytest.raises(WrongCall, match="--fps 0"):
        both(affwild2.read(root, fps=0))


def test_prepare_end_to_end(root: Path, tmp_path: Path) -> None:
    text(root / "annotations/EXPR_Set/Test_Set/expression_test_set.txt", "c")
    assert prepare("affwild2", root, tmp_path / "data", task="expression") == 0
    data = PreparedData(tmp_path / "data")
    table = data.rows
    assert table["id"].tolist()[:4] == ["a/00001", "a/00004", "b_left/00001", "b_left/00002"]
    assert table["split"].tolist() == ["train"] * 2 + ["valid"] * 2 + ["test"] * 5
    assert table["image"].nunique() == 7  # a picture that stands in for others is stored once
    assert data.schema.options["task"] == "expression"
    assert "annotations/EXPR_Set/Training_Set/a.txt" in data.schema.source
    assert bytes(data.image_bytes(0)) == (root / "cropped_aligned/a/00001.jpg").read_bytes()


# --- s-Aff-Wild2 -------------------------------------------------------------------------------------------------

HEADER = "image,valence,arousal,expression,aus"
NONE, ZERO = ",".join(["-1"] * 12), ",".join(["0"] * 12)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    root = tmp_path / "small"
    faces(root, {"v1_1": [1, 2, 3], "v2": [1], "t": [3, 5]})
    text(root / "train_set.txt", HEADER, f"v1_1/00001.jpg,0.1,-0.2,7,{ZERO}", f"v1_1/00003.jpg,-5,-5,-1,{ZERO[:-1]}-1")
    text(root / "x/validation_set.txt", HEADER, f"v2/00001.jpg,-5,-5,0,{NONE}", f"v1_1/00002.jpg,-5,-5,-1,{NONE}")
    text(root / "MTL_Challenge_test_set_release.txt", HEADER, *(f"t/{n:05d}.jpg," for n in (5, 4, 1)))
    return root


def test_small(small: Path, tmp_path: Path) -> None:
    rows, bad = both(saffwild2.read(small))
    assert [(name, row.split, row.expression) for name, row in rows.items()] == [
        ("v1_1/00001", "train", "other"),
        ("v1_1/00003", "train", None),
        ("v2/00001", "valid", "neutral"),
        *((f"t/{number:05d}", "test", None) for number in (5, 4, 1)),
    ]
    assert rows["v1_1/00001"].valence == pytest.approx(0.1)
    np.testing.assert_array_equal(rows["v1_1/00003"].au, [0] * 11 + [np.nan])
    assert [Path(str(rows[f"t/{number:05d}"].image)).name for number in (5, 4, 1)] == [
        *("00005.jpg", "00003.jpg", "00003.jpg")
    ]
    assert [entry.reason for entry in bad] == ["list with frames marked as not labelled"]
    assert "v1_1/00003" not in both(saffwild2.read(small, partial="drop"))[0]
    labels = saffwild2.read_saffwild2(small / "train_set.txt")
    assert [labels.mask[task].any(1).tolist() for task in TASKS] == [[True, False], [True, True], [True, False]]
    assert prepare("saffwild2", small, tmp_path / "data") == 0
    assert PreparedData(tmp_path / "data").rows["id"].tolist() == list(rows)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (f"v1_1/00001.jpg,0.1,-0.2,8,{ZERO}", "line 3: 8 is not 0 to 7"),
        (f"v1_1/00001.jpg,0.1,-0.2,1,{ZERO},0", "line 3: 16 numbers where the header names 15"),
        (f"v1_1.jpg,0.1,-0.2,1,{ZERO}", "line 3: 'v1_1.jpg' is not named as video/00001.jpg"),
    ],
)
def test_small_wrong_labels(small: Path, tmp_path: Path, line: str, what: str) -> None:
    text(small / "train_set.txt", HEADER, f"v1_1/00001.jpg,0.1,-0.2,7,{ZERO}", line)
    with pytest.raises(HonneError, match=what):
        prepare("saffwild2", small, tmp_path / "data")
    with pytest.raises(HonneError, match=what):
        saffwild2.read_saffwild2(small / "train_set.txt")


@pytest.mark.parametrize(
    ("name", "lines", "what"),
    [
        ("train_set.txt", ["a,b", "c,d"], "line 1: not the header"),
        ("train_set.txt", [HEADER, "v2/00001.jpg,0,0,0,1"], "line 2: 1 action units"),
        ("y/train_set.txt", [HEADER, f"v2/00001.jpg,0,0,0,{ZERO}"], "both may be the train list"),
        ("MTL_Challenge_test_set_release.txt", [HEADER, "t/00001.jpg,", "t/00001.jpg,"], "line 3: .* listed twice"),
    ],
)
def test_small_wrong_files(small: Path, name: str, lines: list[str], what: str) -> None:
    text(small / name, *lines)
    with pytest.raises(HonneError, match=what):
        both(saffwild2.read(small))


def test_small_without_a_picture(small: Path) -> None:
    (small / "cropped_aligned/v1_1/00003.jpg").unlink()
    rows, bad = both(saffwild2.read(small))
    assert "v1_1/00003" not in rows
    wrong: list[Any] = [(entry.where, entry.reason) for entry in bad if entry.kind == "image"]
    assert wrong == [(f"{small / 'train_set.txt'}, line 3", "row without image")]
