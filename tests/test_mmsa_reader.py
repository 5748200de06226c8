"""MMSA's files as prepared feature sequences."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from honne.data.manifest import PreparedData
from honne.data.missing import without_frames, without_tokens
from honne.data.prepare import prepare
from honne.data.sequences import SequenceReader
from honne.errors import HonneError, WrongCall

STEPS = {"text": 5, "audio": 8, "vision": 7}


def arrays(count: int, seed: int, largest: float, aligned: bool) -> dict[str, Any]:
    """One split of clips with 3 steps of text, 4 of audio and 2 of vision."""
    rng = np.random.default_rng(seed)
    split: dict[str, Any] = {
        kind: rng.normal(size=(count, 5 if aligned else steps, 3)).astype(np.float32) for kind, steps in STEPS.items()
    }
    tokens = np.zeros((count, 3, 5))
    tokens[:, 0], tokens[:, 1, :3] = 7, 1
    split |= {
        "raw_text": [f"wörd {i}" for i in range(count)],
        "id": [f"vid{seed}$_${i}" for i in range(count)],
        "text_bert": tokens,
        "annotations": np.array(["Positive"] * count, object),
        "classification_labels": np.zeros(count),
        "regression_labels": rng.uniform(-largest, largest, count).astype(np.float32),
    }
    if not aligned:
        split |= {"audio_lengths": [4] * count, "vision_lengths": np.full(count, 2)}
    return split


def write(file: Path, largest: float = 3, aligned: bool = False, drop: str = "", **changes: Any) -> dict[str, Any]:
    file.parent.mkdir(parents=True, exist_ok=True)
    held = {
        name: arrays(count, seed, largest, aligned) | changes
        for seed, (name, count) in enumerate({"train": 4, "valid": 2, "test": 2}.items())
    }
    for split in held.values():
        split.pop(drop, None)
    file.write_bytes(pickle.dumps(held, 4))
    return held


def test_lengths_text_and_labels(tmp_path: Path) -> None:
    held = write(tmp_path / "MOSI/Processed/unaligned_50.pkl")
    assert prepare("mmsa", tmp_path / "MOSI", tmp_path / "data") == 0
    data = PreparedData(tmp_path / "data")
    assert data.schema.counts == {"train": 4, "valid": 2, "test": 2}
    assert data.schema.labels.sentiment == 3
    first = data.rows.loc[data.split("valid")[1]]
    assert (first["id"], first["video"], first["text"]) == ("vid1$_$1", "vid1", "wörd 1")
    assert first["sentiment"] == held["valid"]["regression_labels"][1]
    sequences = SequenceReader(data.root / "sequences").read(first["sequence"])
    for kind, steps in (("text", 3), ("audio", 4), ("vision", 2)):
        np.testing.assert_array_equal(sequences[kind], held["valid"][kind][1, :steps])
    assert "The tokens of `text_bert` are left out" in (data.root / "card.md").read_text()


def test_steps_of_aligned_files_go_together(tmp_path: Path) -> None:
    held = write(tmp_path / "aligned_50.pkl", aligned=True)
    for split in held.values():
        split["vision"][:, 2:] = split["audio"][:, 4:] = 0
    (tmp_path / "aligned_50.pkl").write_bytes(pickle.dumps(held))
    prepare("mmsa", tmp_path, tmp_path / "data")
    data = PreparedData(tmp_path / "data")
    sequences = SequenceReader(data.root / "sequences").read(data.rows["sequence"][0])
    assert {kind: len(found) for kind, found in sequences.items()} == {"text": 4, "audio": 4, "vision": 4}


@pytest.mark.parametrize(("file", "changes"), [("SIMS/unaligned_39.pkl", {}), ("x.pkl", {"regression_labels_T": [0]})])
def test_the_scale_of_sims(tmp_path: Path, file: str, changes: dict[str, Any]) -> None:
    write(tmp_path / file, 1, **changes)
    prepare("mmsa", tmp_path / file, tmp_path / "data")
    assert PreparedData(tmp_path / "data").schema.labels.sentiment == 1


def test_which_file_is_meant(tmp_path: Path) -> None:
    for name in ("aligned_50", "unaligned_50"):
        write(tmp_path / f"{name}.pkl", aligned=name == "aligned_50")
    with pytest.raises(WrongCall, match=r"holds aligned_50\.pkl and unaligned_50\.pkl"):
        prepare("mmsa", tmp_path, tmp_path / "data")
    assert prepare("mmsa", tmp_path, tmp_path / "data", timing="unaligned") == 0
    assert PreparedData(tmp_path / "data").schema.options["timing"] == "unaligned"


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("drop", "changes", "sentence"),
    [
        ("text", {}, r"text as BERT's tokens alone \(`text_bert`\), and honne runs no BERT"),
        ("regression_labels", {"labels": np.zeros((4, 1, 1))}, "in the layout of MulT"),
        ("vision", {}, "no 'vision'; there are annotations"),
        ("", {"audio_lengths": [9] * 4}, "audio_lengths, sample 0: 9 steps of 8"),
        ("", {"audio_lengths": [1]}, "audio_lengths: not a number for each of 4 samples"),
        ("", {"raw_text": ["a"]}, "1 of 'raw_text' for 4 samples"),
        ("", {"regression_labels": np.full(4, 3.2)}, r"3\.2 is no sentiment in \[-3, 3\]"),
        ("", {"raw_text": [Runs()] * 4}, r"the pickle wants (posix|nt)\.system"),
    ],
)
def test_what_can_be_wrong_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drop: str, changes: dict[str, Any], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "unaligned_50.pkl", drop=drop, **changes)
    with pytest.raises(HonneError, match=sentence):
        prepare("mmsa", tmp_path, tmp_path / "data")
    assert not (tmp_path / "ran").exists()


def test_features_that_go_missing() -> None:
    frames, kept = without_frames(np.ones((2, 1000, 2), np.float32), np.array([1000, 10]), 0.3)
    assert kept[0].mean() == pytest.approx(0.7, abs=0.05)
    assert kept[1, 10:].sum() == 0
    np.testing.assert_array_equal(frames, np.repeat(kept[..., None], 2, 2))
    tokens, kept = without_tokens(np.full((1, 50), 9), np.arange(50)[None] < np.array([[30]]), 1.0)
    assert np.flatnonzero(kept).tolist() == [0, 29]
    assert tokens[0].tolist() == [9, *[100] * 28, 9, *[0] * 20]
