"""MulT's files as prepared feature sequences."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.sequences import SequenceReader
from honne.errors import HonneError, WrongCall

COUNTS = {"train": 4, "valid": 2, "test": 3}
WIDTHS = {"text": 4, "audio": 3, "vision": 2}


def arrays(name: str, count: int, seed: int = 0, steps: tuple[int, int, int] = (6, 6, 6)) -> dict[str, Any]:
    """One split: two zero steps in front, none behind."""
    rng = np.random.default_rng(seed)
    split: dict[str, Any] = {}
    for (kind, width), length in zip(WIDTHS.items(), steps, strict=True):
        split[kind] = rng.normal(size=(count, length, width))
        split[kind][:, :2] = 0
    if name == "iemocap":
        split["labels"] = np.eye(2)[rng.integers(0, 2, (count, 4))]
    else:
        split["labels"] = rng.uniform(-3, 3, (count, 1, 1))
        split["id"] = np.array([[f"v{seed}{i // 2}", f"{i}.0", f"{i}.5"] for i in range(count)])
    return split


def write(root: Path, name: str = "mosi", suffix: str = "", **changes: Any) -> dict[str, dict[str, Any]]:
    root.mkdir(parents=True, exist_ok=True)
    steps = (6, 9, 8) if suffix else (6, 6, 6)
    held = {split: arrays(name, count, i, steps) | changes for i, (split, count) in enumerate(COUNTS.items())}
    (root / f"{name}_data{suffix}.pkl").write_bytes(pickle.dumps(held, 2))
    return held


def row(data: PreparedData, split: str, number: int) -> tuple[pd.Series, dict[str, np.ndarray]]:
    found = data.rows.loc[data.split(split)[number]]
    return found, SequenceReader(data.root / "sequences").read(found["sequence"])


def test_sentiment_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = write(tmp_path / "root")
    held["train"]["audio"][1, 3, 2], held["train"]["audio"][1, 3, 1] = -np.inf, np.nan
    held["train"]["vision"][2] = 0  # lacks it
    held["train"]["text"][3, 5] = held["train"]["audio"][3, 5] = 0  # but not padding: vision has something
    held["test"]["id"] = np.char.encode(held["test"]["id"])
    (tmp_path / "root/mosi_data.pkl").write_bytes(pickle.dumps(held))
    assert prepare("mult", tmp_path / "root", tmp_path / "data") == 0
    data = PreparedData(tmp_path / "data")
    assert data.schema.counts == COUNTS
    assert data.schema.labels.sentiment == 3
    assert data.schema.options == {"dataset": "mosi", "timing": "aligned", "padding": "strip"}
    assert set(data.schema.features) == set(WIDTHS)
    assert list(data.schema.source) == ["root", "mosi_data.pkl"]
    assert SequenceReader(data.root / "sequences").widths() == WIDTHS
    first, sequences = row(data, "test", 1)
    assert (first["id"], first["video"]) == ("v20[1.0-1.5]", "v20")
    assert first["sentiment"] == pytest.approx(held["test"]["labels"][1, 0, 0])
    for kind in WIDTHS:
        np.testing.assert_array_equal(sequences[kind], held["test"][kind][1, 2:].astype(np.float32))
    _, mended = row(data, "train", 1)
    assert mended["audio"][1, 1:].tolist() == [0, 0]
    assert mended["audio"][1, 0] == np.float32(held["train"]["audio"][1, 3, 0])
    assert [len(found) for found in row(data, "train", 2)[1].values()] == [4, 4, 0]
    assert [len(found) for found in row(data, "train", 3)[1].values()] == [4, 4, 4]
    card = (data.root / "card.md").read_text()
    assert "audio: 2 values that are not finite became 0." in card
    assert "text: padded in front in 9 samples and behind in 1 of 9" in card
    assert "| vision | 2 | 4 | 4 | 4 | 1 |" in card
    assert "Sentiment in [-3, 3]" in card
    assert "all rows" in capsys.readouterr().out


def test_all_steps_can_be_kept(tmp_path: Path) -> None:
    held = write(tmp_path)
    prepare("mult", tmp_path / "mosi_data.pkl", tmp_path / "data", padding="keep")
    _, sequences = row(PreparedData(tmp_path / "data"), "valid", 0)
    np.testing.assert_array_equal(sequences["text"], held["valid"]["text"][0].astype(np.float32))


def test_emotions_and_unaligned_steps(tmp_path: Path) -> None:
    held = write(tmp_path, "iemocap", "_noalign")
    prepare("mult", tmp_path, tmp_path / "data")
    data = PreparedData(tmp_path / "data")
    assert data.schema.labels.emotions == ("neutral", "happiness", "sadness", "anger")
    first, sequences = row(data, "train", 2)
    assert first["id"] == "train/00002"
    assert "video" not in data.rows
    assert first["emotions"].tolist() == held["train"]["labels"][2, :, 1].tolist()
    assert {kind: len(found) for kind, found in sequences.items()} == {"audio": 7, "text": 4, "vision": 6}
    present = int(held["train"]["labels"][:, 1, 1].sum())
    assert f"| happiness | {present} |" in (data.root / "card.md").read_text()


@pytest.mark.parametrize("legacy", [False, True])
def test_caches_of_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    kind = type("Multimodal_Datasets", (torch.utils.data.Dataset,), {"__module__": "src.dataset"})
    module = types.ModuleType("src.dataset")
    module.Multimodal_Datasets = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.dataset", module)
    (tmp_path / "pickle").mkdir()
    (tmp_path / "cache").mkdir()
    for split, own in write(tmp_path / "pickle").items():
        made = kind()
        made.__dict__ |= {key: torch.tensor(own[key]).float() for key in (*WIDTHS, "labels")}
        made.meta, made.data, made.n_modalities = own["id"], "mosi", 3
        torch.save(made, tmp_path / f"cache/mosi_{split}_a.dt", _use_new_zipfile_serialization=not legacy)
    for name in ("pickle", "cache"):
        prepare("mult", tmp_path / name, tmp_path / f"data_{name}")
    one, two = (PreparedData(tmp_path / f"data_{name}") for name in ("pickle", "cache"))
    pd.testing.assert_frame_equal(one.rows, two.rows)
    for kind_, found in row(one, "test", 2)[1].items():
        np.testing.assert_array_equal(found, row(two, "test", 2)[1][kind_])


def test_which_file_is_meant(tmp_path: Path) -> None:
    for name, suffix in (("mosi", ""), ("mosi", "_noalign"), ("iemocap", "")):
        write(tmp_path, name, suffix)
    with pytest.raises(WrongCall, match="holds more than one data set: iemocap and mosi"):
        prepare("mult", tmp_path, tmp_path / "data")
    with pytest.raises(WrongCall, match="holds more than one timing: aligned and unaligned"):
        prepare("mult", tmp_path, tmp_path / "data", dataset="mosi")
    with pytest.raises(WrongCall, match="holds aligned, not unaligned"):
        prepare("mult", tmp_path, tmp_path / "data", dataset="iemocap", timing="unaligned")
    assert prepare("mult", tmp_path, tmp_path / "data", dataset="mosi", timing="unaligned") == 0
    (tmp_path / "mosi_data_noalign.pkl").rename(tmp_path / "mine.pkl")
    with pytest.raises(WrongCall, match="does not say which data set"):
        prepare("mult", tmp_path / "mine.pkl", tmp_path / "data2")
    with pytest.raises(HonneError, match=r"not equally many steps \(text 6, audio 9, vision 8\)"):
        prepare("mult", tmp_path / "mine.pkl", tmp_path / "data2", dataset="mosi")
    with pytest.raises(HonneError, match="not the layout of reader 'mult'"):
        prepare("mult", tmp_path / "data", tmp_path / "data2")


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("mosi", {"labels": np.full((4, 1, 1), 3.5)}, "train, sample 0: 3.5 is no sentiment in"),
        ("mosi", {"labels": np.full((4, 1, 1), np.nan)}, "train, sample 0: nan is no sentiment"),
        ("mosi", {"labels": np.zeros((4, 4, 2))}, "not one number for each of 4 samples"),
        ("mosi", {"text": np.zeros((4, 6))}, r"text: float64 of shape \(4, 6\), not numbers"),
        ("mosi", {"text": np.full((4, 6, 4), "a")}, "text: <U1 of shape"),
        ("mosi", {"text": np.zeros((3, 6, 4))}, "not equally many samples of every modality"),
        ("mosi", {"id": np.array(["a"])}, "1 ids for 4 samples"),
        ("mosi", {"regression_labels": np.zeros(4)}, "in the layout of MMSA"),
        ("iemocap", {"labels": np.ones((4, 4, 2))}, "are no pairs of absent and present"),
        ("iemocap", {"labels": np.zeros((4, 1, 1))}, r"labels of shape \(4, 1, 1\), not \(4, 4, 2\)"),
    ],
)
def test_what_can_be_wrong_in_it(tmp_path: Path, name: str, changes: dict[str, Any], sentence: str) -> None:
    write(tmp_path, name, **changes)
    with pytest.raises(HonneError, match=sentence):
        prepare("mult", tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_wrong_labels_can_be_skipped_and_empty_samples_are_left_out(tmp_path: Path) -> None:
    held = write(tmp_path)
    held["train"]["labels"][0] = 4
    for kind in WIDTHS:
        held["test"][kind][0] = 0
    held["valid"]["id"][1] = held["valid"]["id"][0]
    (tmp_path / "mosi_data.pkl").write_bytes(pickle.dumps(held))
    assert prepare("mult", tmp_path, tmp_path / "data", skip_bad=True) == 3
    data = PreparedData(tmp_path / "data")
    assert data.schema.counts == {"train": 3, "valid": 2, "test": 2}
    assert data.rows["id"][data.split("valid")].tolist() == ["v10[0.0-0.5]", "v10[0.0-0.5]#2"]
    reasons = pd.read_csv(data.root / "problems.csv")["reason"].tolist()
    assert sorted(reasons) == ["no features of any modality", "wrong label"]


def test_copies_and_videos_of_several_splits(tmp_path: Path) -> None:
    held = write(tmp_path)
    for key in (*WIDTHS, "id", "labels"):
        held["test"][key][0] = held["train"][key][0]
    (tmp_path / "mosi_data.pkl").write_bytes(pickle.dumps(held))
    prepare("mult", tmp_path, tmp_path / "data")
    data = PreparedData(tmp_path / "data")
    assert data.schema.counts == COUNTS | {"test": 2}
    card = (data.root / "card.md").read_text()
    assert "1 test rows are exact copies of train rows." in card
    assert "1 videos stand in several splits (v00 ...)." in card
    assert "exact copy of a train sample in test" in card
    with pytest.raises(HonneError, match="1 rows are exact copies of rows in another split"):
        prepare("mult", tmp_path, tmp_path / "other", copies="refuse")
    with pytest.raises(HonneError, match="1 videos stand in several splits"):
        prepare("mult", tmp_path, tmp_path / "other", subjects="refuse")


def test_options_of_pictures_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for option in ({"align": "box"}, {"size": 64}, {"landmarks": "mesh"}, {"encoding": "png"}):
        with pytest.raises(WrongCall, match=f"--{next(iter(option))} is for pictures"):
            prepare("mult", tmp_path, tmp_path / "data", **option)  # type: ignore[arg-type]
    with pytest.raises(WrongCall, match="has no option --features"):
        prepare("mult", tmp_path, tmp_path / "data", features={"audio": "mfcc"})
    with pytest.raises(WrongCall, match="this one has its own"):
        prepare("mult", tmp_path, tmp_path / "data", cross_validation="1/3")
