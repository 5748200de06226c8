"""Tables of features, folds of them, and clips."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import ReaderInfo, Row, get
from honne.data.sequences import SequenceReader
from honne.data.splits import cross_validated
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema

MODALITIES = {"audio": "f0:loudness,jitter", "face": "smile", "text": "constant"}
COLUMNS = {"label": "emotion", "subject": "actor", "id": "file"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(24, 5)), columns=["f0", "loudness", "jitter", "never", "smile"])
    frame.loc[3, "f0"] = frame.loc[4, "smile"] = np.nan
    frame["never"] = np.nan
    frame["file"] = [f"clip{i}" for i in range(24)]
    frame["emotion"] = ["happy", "fearful"] * 12
    frame["actor"] = np.arange(24) // 4
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet")
    return tmp_path / "table.csv"


def test_a_table_end_to_end(table: Path, tmp_path: Path) -> None:
    for path in (table, table.with_suffix(".parquet")):
        modalities = MODALITIES | {"audio": "f0:never"}
        out = tmp_path / path.suffix[1:]
        assert prepare("feature_table", path, out, modalities=modalities, columns=COLUMNS, cross_validation="2/3") == 0
        data = PreparedData(out)
        assert data.schema.labels.expressions == ("happiness", "fear")
        assert data.schema.features["audio"] == "columns f0, loudness, jitter"
        assert data.schema.features["text"] == "constant 1"
        reader = SequenceReader(out / "sequences")
        assert reader.widths() == {"audio": 3, "face": 1, "text": 1}
        sequences = [reader.read(reference) for reference in data.rows["sequence"]]
        frame = pd.read_csv(table).fillna(0)
        audio = np.stack([found["audio"] for found in sequences])
        np.testing.assert_allclose(audio[:, 0], frame[["f0", "loudness", "jitter"]], rtol=1e-6)
        assert [len(found["face"]) for found in sequences] == [1, 1, 1, 1, 0, *[1] * 19]
        assert all(found["text"].tolist() == [[1]] for found in sequences)
        card = (out / "card.md").read_text()
        assert "audio: 1 columns without a number are dropped: never." in card
        assert "audio: empty cells became 0: f0 1." in card
        assert "Fold 2 of 3, drawn by subject: it is test, fold 3 valid, seed 0." in card
        assert data.rows.groupby("subject")["split"].nunique().max() == 1
        assert data.schema.counts == {"train": 8, "valid": 8, "test": 8}


@pytest.mark.parametrize(
    ("modalities", "sentence"),
    [
        (None, "needs --modalities"),
        ({"audio": "f0:lodness"}, r"no column 'lodness'.*\n.*Did you mean 'loudness'"),
        ({"audio": "loudness:f0"}, "loudness stands after f0"),
        ({"audio": "f0:jitter,loudness"}, "column 'loudness' is named twice"),
        ({"../audio": "f0"}, "is no name"),
        ({"audio": "never"}, "no number in any of its 1 columns"),
        ({"audio": "f0,emotion"}, r"line 2: emotion: 'happy' is not a number"),
    ],
)
def test_modalities_that_cannot_be(table: Path, modalities: dict[str, str] | None, sentence: str) -> None:
    with pytest.raises(HonneError, match=sentence):
        prepare("feature_table", table, table.parent / "data", modalities=modalities, columns=COLUMNS)


def test_columns_that_cannot_be(table: Path) -> None:
    for columns, sentence in (({"path": "file"}, "has no 'path'"), ({"label": "emotoin"}, "Did you mean 'emotion'")):
        with pytest.raises(HonneError, match=sentence):
            prepare("feature_table", table, table.parent / "data", modalities=MODALITIES, columns=columns)


def test_every_group_is_tested_once() -> None:
    rows = pd.DataFrame({"sequence": map(str, range(40)), "subject": [f"s{i // 3}" for i in range(40)]})
    splits = np.stack([cross_validated(rows, fold, 5, seed=3) for fold in range(1, 6)])
    assert ((splits == "test").sum(0) == 1).all()
    assert ((splits == "valid").sum(0) == 1).all()
    np.testing.assert_array_equal(splits[0] == "valid", splits[1] == "test")
    sizes = (splits == "test").sum(1)
    assert sizes.max() - sizes.min() <= 3
    for subject in rows["subject"].unique():
        assert len({tuple(column) for column in splits.T[rows["subject"] == subject]}) == 1
    assert (splits[0] != cross_validated(rows, 1, 5, seed=4)).any()
    single = pd.DataFrame({"image": map(str, range(40)), "expression": ["a"] * 10 + ["b"] * 30})
    test = cross_validated(single, 1, 5) == "test"
    assert single["expression"][test].value_counts().to_dict() == {"b": 6, "a": 2}
    with pytest.raises(HonneError, match="2 groups of rows are too few for 3 folds"):
        cross_validated(rows[:6], 1, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cross_validation": "9/8"}, "is no fold"),
        ({"cross_validation": "1/2"}, "is no fold"),
        ({"cross_validation": "one"}, "is no fold"),
        ({"cross_validation": "1/3", "test_share": 0.1}, "takes the place of --test-share"),
    ],
)
def test_folds_that_cannot_be(table: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(WrongCall, match=sentence):
        prepare("feature_table", table, table.parent / "data", modalities=MODALITIES, columns=COLUMNS, **options)  # type: ignore[arg-type]


class StubExtractor:
    widths = {"audio": 2, "text": 1}  # noqa: RUF012
    settings = {"audio": {"kind": "stub"}, "text": {"kind": "stub"}}  # noqa: RUF012

    def __init__(self, features: dict[str, str]) -> None:
        assert features in ({}, {"audio": "stub"})

    def __call__(self, clip: Path | None, text: str | None) -> dict[str, np.ndarray | None]:
        if clip is not None and clip.stem == "broken":
            raise HonneError(f"{clip}: not a film.", "Copy it again.")
        audio = None if clip is None else np.full((len(clip.stem), 2), len(clip.stem), np.float32)
        if clip is not None and clip.stem == "wide":
            audio = np.zeros((1, 3), np.float32)
        return {"audio": audio, "text": np.ones((len(text.split()), 1), np.float32) if text else None}


def test_clips_become_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(root: Path) -> Iterator[Row]:
        for i, name in enumerate(("a", "broken", "bb", "wide", "ccc")):
            yield Row(name, split="train", sentiment=0.5, text="two words" if i else None, clip=root / f"{name}.mp4")
        yield Row("spoken", split="train", sentiment=1, text="hello")
        yield Row("nothing", split="train", sentiment=1)

    clips = types.ModuleType("clips")
    clips.__dict__.update(
        CLIPS=True,
        INFO=ReaderInfo("clips", "clips", "clips", "you", "none"),
        read=read,
        schema=lambda root: LabelSchema(sentiment=1),
    )
    stub = types.ModuleType("honne.features")
    stub.Extractor = StubExtractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "honne.features", stub)
    monkeypatch.setattr("honne.data.readers.get", lambda name: clips if name == "clips" else get(name))
    assert prepare("clips", tmp_path, tmp_path / "data", features={"audio": "stub"}) == 3
    data = PreparedData(tmp_path / "data")
    assert data.rows["id"].tolist() == ["a", "bb", "ccc", "spoken"]
    assert data.schema.features["audio"] == {"kind": "stub"}
    reader = SequenceReader(data.root / "sequences")
    found = [reader.read(reference) for reference in data.rows["sequence"]]
    assert [(len(each["audio"]), len(each["text"])) for each in found] == [(1, 0), (2, 2), (3, 2), (0, 1)]
    problems = pd.read_csv(data.root / "problems.csv").set_index("where")
    assert problems.loc[str(tmp_path / "broken.mp4"), "detail"].endswith("not a film.")
    assert problems.loc["wide", "reason"] == "features that cannot be stored"
    assert problems.loc["nothing", "detail"] == "of any modality"
    with pytest.raises(WrongCall, match="--size is for pictures"):
        prepare("clips", tmp_path, tmp_path / "data2", size=64)
