"""Predictions along videos: smoothed ones, and those of temporal models."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from honne.batch import Batch, Prediction
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.data.windows import windows
from honne.errors import HonneError, WrongCall
from honne.evaluation import evaluate, picture, running
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks.clips import ClipNetwork
from honne.networks.face import FaceNetwork
from honne.smoothing import Smoothing, smoothed

SCHEMA = LabelSchema(("neutral", "happiness", "surprise"), (1, 12), True)
VIDEOS = {"a": 40, "b": 7, "c": 1, "d": 60}


# --- the filter ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["median:5", "median:4", "mean:5", "mean:4", "mean:50", "median:1", "exponential:0.3"])
def test_every_video_is_smoothed_by_itself(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    videos = np.repeat(np.arange(4), list(VIDEOS.values()))
    values = random.normal(size=(len(videos), 3)).astype(np.float32)
    smoothing = Smoothing.parse(text)
    found = smoothed(values, videos, smoothing)

    def expected(part: pd.DataFrame) -> pd.DataFrame:
        if smoothing.kind == "exponential":
            return part.ewm(alpha=smoothing.amount, adjust=False).mean()
        window = part.rolling(int(smoothing.amount), min_periods=1, center=True)
        return window.median() if smoothing.kind == "median" else window.mean()

    wanted = pd.concat([expected(part) for _, part in pd.DataFrame(values.astype(float)).groupby(videos)])
    if smoothing.kind == "exponential" or smoothing.amount <= 7:  # pandas has no window longer than its data
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    else:
        np.testing.assert_allclose(found[40:47], np.tile(values[40:47].mean(0), (7, 1)), atol=1e-6)
    monkeypatch.setattr("honne.smoothing.AT_ONCE", 40)
    np.testing.assert_array_equal(smoothed(values, videos, smoothing), found)
    assert found.dtype == np.float32


# --- evaluate -----------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Gives row r, whose image is of grey level r, line r of a table."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, batch: Batch) -> Prediction:
        assert batch.images is not None
        line = self.outputs[(batch.images[:, 0, 0, 0] * 255).round().long()]
        return Prediction(line[:, :3], line[:, 3:5], line[:, 5:].tanh())


def table(videos: bool = True) -> pd.DataFrame:
    """Rows of four videos, mixed, whose labels change slowly; the last row belongs to no video."""
    random = np.random.default_rng(2)
    rows = pd.DataFrame([(video, moment) for video, count in VIDEOS.items() for moment in range(count)])
    rows.columns = ["video", "moment"]
    phase = rows["moment"].to_numpy() / 12 + pd.factorize(rows["video"])[0]
    rows = rows.assign(
        id=rows["video"] + "/" + rows["moment"].astype(str),
        split="test",
        time=rows["moment"] / 30,
        expression=np.array(SCHEMA.expressions)[(phase % 3).astype(int)],
        au=[np.array([np.sin(p) > 0, np.cos(p) > 0], np.float32) for p in phase],
        valence=np.sin(phase) * 0.8,
        arousal=np.cos(phase) * 0.8,
    ).drop(columns="moment")
    rows.loc[len(rows) - 1, ["video", "time"]] = [None, np.nan]
    rows = rows.iloc[random.permutation(len(rows))].reset_index(drop=True)
    return rows if videos else rows.drop(columns=["video", "time"])


def noisy(rows: pd.DataFrame) -> Tensor:
    """The truth, and noise on it, in manifest order."""
    random = np.random.default_rng(3)
    classes = 2 * (rows["expression"].to_numpy()[:, None] == np.array(SCHEMA.expressions))
    affect = np.arctanh(rows[["valence", "arousal"]].to_numpy())
    truth = np.concatenate([classes, 4 * np.stack(rows["au"]) - 2, affect], 1)
    return torch.from_numpy(truth + random.normal(0, 1.5, truth.shape)).float()


def model(network: nn.Module, size: int = 8) -> Model:
    config = ModelConfig("oracle", "none", {}, SCHEMA, [0.0] * 3, [1.0] * 3, {"size": size}, 1.0)
    return Model(config, network, weights_sha256="oracle")


def prepared(root: Path, rows: pd.DataFrame, size: int = 8) -> Path:
    with ImageWriter(root / "images") as images:
        references = []
        for row in range(len(rows)):
            file = io.BytesIO()
            Image.fromarray(np.full((size, size), row, np.uint8)).save(file, "png")
            references.append(images.add(file.getvalue()))
    write_manifest(root, rows.assign(image=references), DataSchema("wild", "by hand", SCHEMA))
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "draw", lambda path, result, scored: path.touch())


def run(*arguments: Any, **options: Any) -> dict[str, Any]:
    return evaluate(*arguments, **{"replicates": 50, "show": False} | options)


def test_smoothing_goes_along_the_videos_and_its_gain_has_an_interval(tmp_path: Path) -> None:
    rows = table()
    root, one = prepared(tmp_path / "data", rows), model(Oracle(noisy(rows)))
    without = run(one, root, abaw="none")
    result = run(one, root, smooth="mean:5", out=tmp_path / "one.json")
    predicted = pq.read_table(tmp_path / "one.parquet").to_pandas()
    raw = one.network.outputs[:, 5].tanh().numpy()  # type: ignore[index]
    for video, count in VIDEOS.items():
        places = rows.index[rows["video"] == video].to_numpy()
        places = places[rows["time"].to_numpy()[places].argsort()]
        assert len(places) == count - (video == "d")
        wanted = pd.Series(raw[places]).rolling(5, min_periods=1, center=True).mean()
        np.testing.assert_allclose(predicted["valence"].to_numpy()[places], wanted, atol=1e-6)
    alone = rows.index[rows["video"].isna()]
    np.testing.assert_allclose(predicted["valence"].to_numpy()[alone], raw[alone], atol=1e-6)
    np.testing.assert_allclose(predicted[[f"p_{name}" for name in SCHEMA.expressions]].sum(1), 1, atol=1e-6)

    measures = result["smoothing"]["measures"]
    assert set(measures) == set(result["metrics"])
    for name, line in measures.items():
        assert line["without"] == pytest.approx(without["metrics"][name]["value"])
        assert line["with"] == result["metrics"][name]["value"]
        assert line["difference"]["value"] == pytest.approx(line["with"] - line["without"], abs=1e-9)
    assert measures["ccc"]["difference"]["low"] > 0
    assert measures["ccc"]["better"] == "with"
    assert measures["rmse_valence"]["better"] == "with"
    assert json.loads((tmp_path / "one.json").read_text())["smoothing"] == result["smoothing"]
    assert "smoothing" not in without


def test_what_cannot_be_smoothed_is_one_sentence(tmp_path: Path) -> None:
    rows = table(videos=False)
    root, one = prepared(tmp_path, rows), model(Oracle(noisy(rows)))
    with pytest.raises(HonneError, match="no row names its video, so nothing can be smoothed"):
        run(one, root, smooth="median:5")
    with pytest.raises(WrongCall, match="'median' is not a smoothing"):
        run(one, root, smooth="median")
    with pytest.raises(WrongCall, match="explanations are of single faces"):
        run(one, root, smooth="median:5", explanations="agreement")


# --- temporal models ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def temporal() -> Model:
    torch.manual_seed(0)
    frames = FaceNetwork(SCHEMA, "resnet10t", hidden=8)
    return model(ClipNetwork(SCHEMA, frames, length=8, hidden=4), 32)


def test_temporal_models_see_windows_in_time_order(tmp_path: Path, temporal: Model, monkeypatch: Any) -> None:
    rows = table()
    data = PreparedData(prepared(tmp_path, rows, 32))
    found = running.run_model(temporal, data, "test")
    greys = np.arange(len(rows), dtype=np.uint8)
    features = temporal.frame_features(np.tile(greys[:, None, None, None], (1, 32, 32, 3)))
    for video in VIDEOS:
        places = rows.index[rows["video"] == video].to_numpy()
        places = places[rows["time"].to_numpy()[places].argsort()]
        clips = torch.from_numpy(windows(np.zeros(len(places), int), 8, 4))
        wanted = temporal.over_time(features[places], clips).expression
        assert found.expression is not None
        assert wanted is not None
        torch.testing.assert_close(found.expression[places], wanted.softmax(1), rtol=1e-4, atol=1e-5)
    alone = rows.index[rows["video"].isna()].to_numpy(copy=True)
    assert found.affect is not None
    torch.testing.assert_close(found.affect[alone], temporal.over_time(features[alone]).valence_arousal)

    monkeypatch.setattr(running, "FRAMES_AT_ONCE", 10)
    other = running.run_model(temporal, data, "test", batch_size=7)
    flipped = running.run_model(temporal, data, "test", flips=True)  # grey pictures are their own mirror images
    for again in (other, flipped):
        for name in ("expression", "units", "affect", "uncertainty"):
            torch.testing.assert_close(getattr(again, name), getattr(found, name), rtol=1e-4, atol=1e-5)
        assert list(again.rows) == list(range(len(rows)))


def test_temporal_models_are_measured_with_and_without_videos(tmp_path: Path, temporal: Model) -> None:
    result = run(temporal, prepared(tmp_path / "with", table(), 32), smooth="median:3", abaw="none")
    assert result["metrics"].keys() == result["smoothing"]["measures"].keys()
    without = run(temporal, prepared(tmp_path / "without", table(videos=False), 32))
    assert without["rows"] == sum(VIDEOS.values())
    assert any("saw every face by itself" in note for note in without["notes"])
