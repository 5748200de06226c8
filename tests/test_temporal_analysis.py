"""Temporal models in the analysis: windows along each face's track, whatever cuts the rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from honne import analysis
from honne.analysis import inputs, parts, pipeline, run, table
from honne.analysis.over_time import over_time
from honne.batch import Batch, Prediction
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.faces.face import Face
from honne.faces.media import Frame
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig

LAYOUT = table.Layout(LabelSchema((), (), True))


class Means(nn.Module):
    """Valence: the mean level of the window(s) that show a row. Arousal: its own. A level is the crop's brightness."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.scale = nn.Parameter(torch.ones(1))

    def features(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None] * self.scale

    def over_time(self, features: Tensor, clips: Tensor | None = None) -> Prediction:
        level = features[:, 0]
        clips = torch.arange(len(level))[:, None] if clips is None else clips
        there = clips >= 0
        means = torch.where(there, level[clips], 0).sum(1) / there.sum(1)
        total, times = torch.zeros(len(level)), torch.zeros(len(level))
        for window, mean in zip(clips, means, strict=True):
            total[window[window >= 0]] += mean
            times[window[window >= 0]] += 1
        return Prediction(valence_arousal=torch.stack([total / times, level], 1))

    def forward(self, batch: Batch) -> Prediction:
        return self.over_time(self.features(batch.images), batch.clips)


def model(length: int) -> Model:
    alignment = Alignment("box", 16, 1.0).to_dict()
    config = ModelConfig("means", "multitask", {}, LAYOUT.labels, [0.0] * 3, [1.0] * 3, alignment)
    return Model(config, Means(length))


def expected(stretches: list[np.ndarray], levels: np.ndarray, length: int) -> np.ndarray:
    """Written from the words: windows at steps of half a window, the last at the end; means of the windows' means."""
    values = np.full(len(levels), np.nan)
    step = max(length // 2, 1)
    for rows in stretches:
        starts = sorted({*range(0, max(len(rows) - length, 0), step), max(len(rows) - length, 0)})
        shown = [rows[start : start + length] for start in starts]
        for row in rows:
            values[row] = np.mean([levels[window].mean() for window in shown if row in window])
    return values


def raw(faces: list[int | None], positions: list[int], times: list[float], levels: np.ndarray) -> pa.Table:
    count = len(faces)
    columns: dict[str, object] = dict.fromkeys(LAYOUT.raw_schema.names, [None] * count)
    columns |= {"_position": positions, "frame": positions, "time": times, "face": faces, "status": ["ok"] * count}
    rows = pa.table({name: pa.array(columns[name], LAYOUT.raw_schema.field(name).type) for name in columns})
    features = [None if face is None else [level] for face, level in zip(faces, levels, strict=True)]
    return rows.append_column(table.FEATURES, pa.array(features, pa.list_(pa.float32())))


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_windows_follow_each_face_however_rows_are_cut(length: int) -> None:
    """Face 0 is away twice: for 0.8 s, which is no end, and for 1.2 s; face 1 comes late and is short."""
    frames = [n for n in range(200) if not 30 <= n < 38 and not 110 <= n < 122]
    seen = [(n, 0) for n in frames] + [(n, 1) for n in range(105, 109)]
    seen = sorted(seen + [(n, None) for n in range(200) if n not in {frame for frame, _ in seen}], key=lambda s: s[0])
    levels = np.random.default_rng(0).uniform(-1, 1, len(seen)).astype(np.float32)
    positions, faces = [n for n, _ in seen], [face for _, face in seen]
    rows = raw(faces, positions, [n / 10 for n in positions], levels)
    own = np.flatnonzero([face == 0 for face in faces])
    cut = int(np.searchsorted(np.array(positions)[own], 115))
    stretches = [own[:cut], own[cut:], np.flatnonzero([face == 1 for face in faces])]
    wanted = expected(stretches, levels, length)
    for size in (1, 7, 1000):
        pieces = [rows.slice(start, size) for start in range(0, len(rows), size)]
        result = pa.concat_tables(over_time(pieces, model(length), LAYOUT))
        assert result.column_names == LAYOUT.raw_schema.names
        assert result["_position"].to_pylist() == positions
        assert result["face"].to_pylist() == faces
        assert np.allclose(result["valence"].to_numpy(), wanted, atol=1e-6, equal_nan=True), size
        assert np.allclose(result["arousal"].to_numpy(), np.where(pd.isna(faces), np.nan, levels), equal_nan=True)


def test_rows_leave_early_and_a_rare_sampling_is_no_absence() -> None:
    levels = np.linspace(-1, 1, 500).astype(np.float32)
    rows = raw([0] * 500, list(range(500)), [2.0 * n for n in range(500)], levels)  # a frame every two seconds
    left: list[int] = []

    def pieces() -> object:
        for start in range(0, 500, 20):
            assert start - sum(left) < 8 * 4 + 2 * 8 + 20  # what waits is bounded
            yield rows.slice(start, 20)

    found = []
    for each in over_time(pieces(), model(8), LAYOUT):
        left.append(len(each))
        found.append(each)
    assert len(left) > 10
    wanted = expected([np.arange(500)], levels, 8)
    assert np.allclose(pa.concat_tables(found)["valence"].to_numpy(), wanted, atol=1e-6)


class Whole:
    """The whole picture is a face, but black ones have none; stops at one picture if told to."""

    shown, stop_at = 0, -1

    def find(self, image: np.ndarray) -> list[Face]:
        Whole.shown += 1
        if Whole.shown == Whole.stop_at:
            raise KeyboardInterrupt
        return [Face(np.array([0, 0, 16, 16], float), 0.9)] if image.any() else []


class Film:
    """120 frames, 25 a second, whose brightness tells their number; nobody in frames 50 to 59."""

    length = 120

    def frames(self, start_index: int = 0):
        for number in range(start_index, self.length):
            level = 0 if 50 <= number < 60 else number + 100
            yield Frame(number, number / 25, np.full((16, 16, 3), level, np.uint8))


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Whole.shown, Whole.stop_at = 0, -1
    monkeypatch.setattr(pipeline, "make_finder", lambda name: Whole())
    monkeypatch.setattr(pipeline, "quality", lambda image, face: 0.9)
    monkeypatch.setattr(inputs, "_kind", lambda file: "video")
    for module in (inputs, run):
        monkeypatch.setattr(module, "open_media", lambda source, fps=None: Film())
    monkeypatch.setattr("honne.faces.media.open_media", lambda source, fps=None: Film())
    (tmp_path / "film.mp4").write_bytes(b"a film")
    return tmp_path / "film.mp4"


def shorten(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    for module in (parts, pipeline, run):
        monkeypatch.setattr(module, "PART_FRAMES", frames)


def test_every_frame_gets_its_own_prediction(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analysis.analyze([str(clip)], model=model(8))
    seen = whole[whole["status"] == "ok"]
    numbers = (seen["arousal"] * 255 - 100).round().astype(int)  # what the network says which frame it saw
    assert numbers.tolist() == seen["frame"].tolist() == [*range(50), *range(60, 120)]
    wanted = expected([np.arange(110)], (seen["frame"].to_numpy() + 100) / 255, 8)
    assert np.allclose(seen["valence"], wanted, atol=1e-6)
    assert whole.loc[whole["status"] == "no_face", ["valence", "arousal"]].isna().all(axis=None)
    for frames, batch in ((1000, 1), (7, 3), (64, 40)):
        shorten(monkeypatch, frames)
        again = analysis.analyze([str(clip)], model=model(8), batch_size=batch)
        pd.testing.assert_frame_equal(again, whole, rtol=0, atol=1e-6)
    smooth = analysis.analyze([str(clip)], model=model(8), smooth="mean:3", baseline="first:1s")
    assert smooth["valence"][1] == pytest.approx(whole["valence"][:3].mean(), abs=1e-6)
    assert "valence_baseline_corrected" in smooth


@pytest.mark.parametrize("stage", ["reading", "finishing"])
def test_interruption_changes_nothing(stage: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, 16)
    analysis.analyze([str(clip)], model=model(8), out=tmp_path / "whole")
    wanted = (tmp_path / "whole" / "film.parquet").read_bytes()
    written = run.write_table
    if stage == "reading":
        Whole.shown, Whole.stop_at = 0, 70
    else:
        monkeypatch.setattr(run, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        analysis.analyze([str(clip)], model=model(8), out=tmp_path / "broken")
    Whole.stop_at = -1
    monkeypatch.setattr(run, "write_table", written)
    analysis.analyze([str(clip)], model=model(8), out=tmp_path / "broken")
    assert (tmp_path / "broken" / "film.parquet").read_bytes() == wanted
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["film.json", "film.parquet"]


def test_stills_stand_alone_and_maps_are_refused(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_kind", lambda file: "stills")
    rows = analysis.analyze([str(clip)], model=model(8))  # as if its frames were pictures
    seen = rows[rows["status"] == "ok"]
    assert np.allclose(seen["valence"], seen["arousal"])
    with pytest.raises(HonneError, match="by the frames around it"):
        analysis.analyze([str(clip)], model=model(8), explain=True)


def test_a_saved_clip_network_gives_what_its_windows_give(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three tasks, thresholds, abstention; and drawing the timeline asks the network no second time."""
    from honne.networks import build

    labels = LabelSchema(("neutral", "happiness", "surprise"), (1, 12), True)
    torch.manual_seed(0)
    backbone = {"layers": (1, 1, 1, 1), "channels": (4, 4, 4, 4)}
    options = {"frames": {"backbone": "face_resnet", "backbone_options": backbone, "hidden": 4}, "length": 8}
    config = ModelConfig(
        *("clips", "multitask", {"kind": "clips", "options": options}, labels, [0.5] * 3, [0.25] * 3),
        *(Alignment("box", 48, 1.0).to_dict(), 1.0, {1: 0.0, 12: 1.0}, 0.0),
    )
    made = Model(config, build("clips", options, labels))
    asked = []
    judge = Model.over_time
    monkeypatch.setattr(Model, "over_time", lambda self, *given: asked.append(1) or judge(self, *given))
    out = tmp_path / "out"
    analysis.analyze([str(clip)], model=made, out=out, timeline=True, format="csv")
    rows = pd.read_csv(out / "film.csv")
    seen = rows[rows["status"] != "no_face"]
    assert set(seen["status"]) == {"abstained"}
    assert seen["au01_on"].eq(True).all()
    assert seen["au12_on"].eq(False).all()
    probabilities = seen[[f"p_{name}" for name in labels.expressions]].to_numpy()
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert seen["expression"].tolist() == [labels.expressions[k] for k in probabilities.argmax(1)]
    assert json.loads((out / "film.json").read_text())["timeline"] == "film_timeline.png"
    once = len(asked)
    crops = np.stack([np.full((48, 48, 3), level + 100, np.uint8) for level in range(8)])
    first = made.over_time(made.frame_features(crops), torch.arange(8)[None])
    assert np.allclose(probabilities[:4], first.expression.softmax(1)[:4], atol=1e-4)  # in the first window alone
    asked.clear()
    analysis.analyze([str(clip)], model=made, out=tmp_path / "plain")
    assert len(asked) == once
