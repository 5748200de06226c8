"""Negative or positive pictures with their scene: layouts, keys, strata, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import honne
from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, scenes
from honne.data.readers.scenes import Scene, key, picture, read_scenes, scene_strata
from honne.errors import HonneError, WrongCall

ROWS = {"train": 16, "test": 6}
"""Every third picture of a list is outdoor, the others in two scenes with names."""
NAMES = ("cemetery", "shower", "outdoor")


def rows(dataset: str, split: str) -> list[str]:
    """Lines of a list."""
    folder = {"emotion6": "joy/", "webemo": "", "sentiment": ""}[dataset]
    return [f"{folder}{split}{number}.png" for number in range(ROWS[split])]


def scene(dataset: str, number: int) -> str:
    return (*scenes.STRATA[dataset][:2], "outdoor")[number % 3]  # type: ignore[index]


def write(root: Path, dataset: Any, seed: int = 0) -> Path:
    """The official layout; what is negative is dark."""
    random = np.random.default_rng(seed)
    emotions, strata = {}, {}
    for split, count in ROWS.items():
        file = f"{split}_ids.csv"
        lines = rows(dataset, split)
        for number, line in enumerate(lines):
            path = picture(dataset, line, file)
            (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 100, (20, 24, 3), np.uint8) + np.uint8(150 * (number % 2))
            Image.fromarray(pixels).save(root / "images" / path)
            emotions[key(dataset, path)] = ("Negative", "Positive")[number % 2]
            strata[key(dataset, path)] = scene(dataset, number)
        assert len(lines) == count
        (root / file).write_text("\n".join(lines))
    (root / "emotion_labels.pkl").write_bytes(pickle.dumps(emotions, 2))
    (root / "scene_labels.pkl").write_bytes(pickle.dumps(strata))
    return root


def change(root: Path, file: str, **labels: str | None) -> None:
    path = root / file
    table = pickle.loads(path.read_bytes()) | labels
    path.write_bytes(pickle.dumps({name: label for name, label in table.items() if label is not None}))


def found(root: Path, dataset: Any, **options: Any) -> list[tuple[Any, ...]]:
    entries = [entry for entry in scenes.read(root, dataset=dataset, **options) if isinstance(entry, Row)]
    return [(entry.id, entry.split, entry.domain, entry.expression) for entry in entries]


def test_keys_wherever_the_root_lies() -> None:
    assert key("emotion6", picture("emotion6", "joy/x.y.jpg", "train_ids.csv")) == "joy_x"
    assert key("webemo", picture("webemo", "00012.jpg", "ids_train_2.csv")) == "train_00012"
    assert key("webemo", picture("webemo", "00012.jpg", "valid.csv")) == "test_00012"
    assert key("sentiment", picture("sentiment", "a.b.jpg", "test.csv")) == "a.b"


@pytest.mark.parametrize("dataset", ["emotion6", "webemo", "sentiment"])
def test_official_layout(tmp_path: Path, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "honne.faces.finders", None)  # nobody looks for faces
    root = write(tmp_path / "some" / "deep" / "root", dataset)
    assert prepare("scenes", root, tmp_path / "data", dataset=dataset, encoding="png") == 0
    data = PreparedData(tmp_path / "data")
    assert data.schema.labels.expressions == ("negative", "positive")
    assert data.schema.counts == {"train": 16, "valid": 0, "test": 6}
    assert data.rows["domain"].tolist() == [scene(dataset, n) for count in ROWS.values() for n in range(count)]
    assert data.rows["expression"].tolist() == ["negative", "positive"] * 11
    assert data.rows["id"].iat[0] == "images/" + picture(dataset, rows(dataset, "train")[0], "train_ids.csv")
    stored = np.asarray(Image.open(io.BytesIO(data.image_bytes(0))))
    whole = Image.open(root / data.rows["id"].iat[0]).resize((256, 256), Image.Resampling.BILINEAR)
    assert (stored == np.asarray(whole)).all()

    for name, dump in (("emotion_labels", json.dumps), ("scene_labels", as_csv)):
        labels = pickle.loads((root / f"{name}.pkl").read_bytes())
        (root / f"{name}.pkl").unlink()
        (root / f"{name}.{'json' if dump is json.dumps else 'csv'}").write_text(dump(labels))
    zipped = shutil.make_archive(str(tmp_path / "set"), "zip", root.parent, root.name)
    assert prepare("scenes", Path(zipped), tmp_path / "again", dataset=dataset) == 0
    columns = ["id", "split", "domain", "expression"]
    assert PreparedData(tmp_path / "again").rows[columns].equals(data.rows[columns])


def as_csv(labels: dict[str, str]) -> str:
    return "key,label\n" + "\n".join(f"{name},{label}" for name, label in labels.items())


def test_trained_on_one_set_and_measured_on_another(tmp_path: Path) -> None:
    for seed, dataset in enumerate(("emotion6", "webemo")):
        root = write(tmp_path / dataset, dataset, seed)
        assert prepare("scenes", root, tmp_path / f"{dataset}-data", dataset=dataset, valid_share=0.25) == 0
    options = {
        "model.backbone": "face_resnet",
        "model.backbone_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
        "data.size": 16,
        "data.batch_size": 6,
        "data.workers": 0,
        "trainer.epochs": 1,
        "trainer.accelerator": "cpu",
    }
    honne.train("erm", data=tmp_path / "emotion6-data", out=tmp_path / "run", overrides=options)
    result = honne.evaluate(str(tmp_path / "run/model"), data=tmp_path / "webemo-data", split="test")
    assert result["rows"] == 6


def spoilt(root: Path, **kinds: Any) -> None:
    for name, value in kinds.items():
        match name:
            case "emotion":
                change(root, "emotion_labels.pkl", joy_train3=value)
            case "scene":
                change(root, "scene_labels.pkl", joy_train3=value)
            case "list":
                (root / "train_ids.csv").write_text(value)
            case "absent":
                (root / value).unlink()
            case "emotions":
                (root / "emotion_labels.pkl").write_bytes(value)


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("kinds", "what"),
    [
        (
            {"emotion": "Angry"},
            r"_ids\.csv, line 4: 'joy_train3' is 'angry' in .*emotion_labels\.pkl, neither Negative",
        ),
        ({"emotion": None}, r"_ids\.csv, line 4: .*emotion_labels\.pkl has no 'joy_train3'"),
        ({"scene": None}, r"_ids\.csv, line 4: .*scene_labels\.pkl has no 'joy_train3'"),
        ({"scene": "sky"}, r"scene of 'joy_train3' in .*scene_labels\.pkl, 'sky', is none of beauty_salon, .*outdoor"),
        ({"list": "joy/train1.png\njoy/train1.png"}, r"line 2: images/joy/train1\.png stands in .*, line 1 too"),
        ({"emotions": pickle.dumps(Runs())}, r"emotion_labels\.pkl: the pickle wants \w+\.system"),
        ({"emotions": pickle.dumps(["a"])}, r"emotion_labels\.pkl: holds a list, not a dictionary"),
        ({"absent": "emotion_labels.pkl"}, "not the layout of reader 'scenes'"),
        ({"absent": "scene_labels.pkl"}, r"no scene_labels\.pkl, \.csv or \.json"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any], what: str) -> None:
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "root", "emotion6")
    spoilt(root, **kinds)
    with pytest.raises(HonneError, match=what):
        prepare("scenes", root, tmp_path / "data", dataset="emotion6")
    assert not Path("ran").exists()


def test_missing_pictures_and_stray_lines(tmp_path: Path) -> None:
    root = write(tmp_path, "emotion6")
    spoilt(root, absent="images/joy/train3.png", list="path\n\njoy/train1.png\njoy/train3.png")
    bad = [entry for entry in scenes.read(root, dataset="emotion6") if isinstance(entry, Bad)]
    assert [(entry.kind, entry.reason, entry.where.rpartition("/")[2], entry.detail) for entry in bad] == [
        ("rule", "line that names no picture", "train_ids.csv, line 1", "path"),
        ("image", "row without image", "train_ids.csv, line 4", "images/joy/train3.png is missing"),
    ]
    for options in ({}, {"dataset": "rafdb"}):
        with pytest.raises(WrongCall, match="--dataset is"):
            list(scenes.read(root, **options))  # type: ignore[arg-type]
    (root / "train_ids2.csv").write_text("joy/train1.png")
    with pytest.raises(HonneError, match=r"both train_ids\.csv and train_ids2\.csv may be the train list"):
        list(scenes.read(root, dataset="emotion6"))


def test_strata_are_the_most_one_sided_scenes() -> None:
    counts = {"bar": (20, 20), "grave": (29, 1), "beach": (1, 29), "attic": (5, 0), "shop": (10, 30)}  # - and +
    names = [name for name, pair in counts.items() for _ in range(sum(pair))]
    positive = np.array(
        [is_positive for pair in counts.values() for is_positive in [False] * pair[0] + [True] * pair[1]]
    )
    assert scene_strata(names, positive) == ("grave", "beach", "shop", "bar")  # 30, 30, 40, 40 pictures; attic: 5
    assert scene_strata(names, positive, named=2, least=1) == ("grave", "beach")
    assert scene_strata([], np.zeros(0, bool)) == ()


def test_scenes_of_a_classifier(tmp_path: Path) -> None:
    """Rows of the test list do not count for the strata, however one-sided."""
    root = write(tmp_path / "root", "emotion6")
    table = tmp_path / "scenes.csv"
    lines = [["path", "scene", "probability", "setting"]]
    for split, count in ROWS.items():
        for number in range(count):
            path = f"{root}/images/joy/{split}{number}.png"
            lines += [[path, "bar", "0.1", "indoor"], [path, "/b/beach" if number % 2 else "/l/lake", "0.8", "outdoor"]]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    assert {row[2] for row in found(root, "emotion6", scenes=str(table))} == {"outdoor"}  # 8 pictures are too few
    assert read_scenes(table, "emotion6")["joy_test1"] == Scene("beach", "outdoor")

    (root / "train_ids.csv").write_text("\n".join(f"joy/more{n}.png" for n in range(60)))
    emotions = {f"joy_more{n}": ("Negative", "Positive")[n >= 25] for n in range(60)}
    emotions |= {f"joy_test{n}": "Negative" for n in range(6)}
    (root / "emotion_labels.pkl").write_bytes(pickle.dumps(emotions))
    more = [f"joy/more{n}.png,{'cave' if n < 25 else 'garden'}" for n in range(60)]
    table.write_text("\n".join(["path, scene", *more, *(f"images/joy/test{n}.png,street" for n in range(6))]))
    for n in range(60):
        shutil.copy(root / "images/joy/train0.png", root / f"images/joy/more{n}.png")
    strata = {(split, domain) for _, split, domain, _ in found(root, "emotion6", scenes=str(table))}
    assert strata == {("train", "cave"), ("train", "garden"), ("test", "other")}
    assert prepare("scenes", root, tmp_path / "data", dataset="emotion6", scenes=str(table), copies="report") == 0
    assert set(PreparedData(tmp_path / "data").rows["domain"]) == {"cave", "garden", "other"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,place\na.png,bar", "no column 'scene'"),
        ("path,scene,probability\na.png,bar,high", "line 2: probability 'high' is no number"),
        ("path,scene,setting\na.png,bar,inside", "line 2: setting 'inside' is neither indoor nor outdoor"),
        ("path,scene\na.png,bar,1", "line 2: not as many cells as columns"),
        ("path,scene\na.png,", "line 2: no scene"),
    ],
)
def test_wrong_tables_of_scenes(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "scenes.csv").write_text(text)
    with pytest.raises(HonneError, match=what):
        read_scenes(tmp_path / "scenes.csv", "sentiment")
