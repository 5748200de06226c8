"""`honne evaluate` and `honne compare` on feature sequences labelled with emotions and sentiment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from honne import metrics
from honne.batch import Batch, Prediction
from honne.card import card_text
from honne.data.manifest import DataSchema, write_manifest
from honne.data.sequences import SequenceWriter
from honne.errors import HonneError, WrongCall
from honne.evaluation import compare, evaluate, picture
from honne.evaluation.picture import draw
from honne.evaluation.storing import read_evaluation
from honne.labels import LabelSchema
from honne.metrics.sentiment import SLIPS
from honne.models import Model, ModelConfig

ROWS = 150
DATA = LabelSchema(emotions=("neutral", "happy", "sad"), sentiment=3.0)
MODEL = LabelSchema(emotions=("sad", "neutral", "happy"), sentiment=3.0)


class Oracle(nn.Module):
    """Says of row r, whose text is r steps of the number r, line r of a table: logits of presence, then sentiment."""

    modalities = ("text",)

    def __init__(self, table: Tensor, schema: LabelSchema) -> None:
        super().__init__()
        self.table, self.schema = nn.Parameter(table), schema

    def forward(self, batch: Batch) -> Prediction:
        line = self.table[batch.sequences["text"][:, 0, 0].long()]
        presence = line[:, : len(self.schema.emotions)]
        return Prediction(
            emotions=torch.stack([-presence / 2, presence / 2], -1) if self.schema.emotions else None,
            sentiment=line[:, -1] if self.schema.sentiment else None,
        )


def labels() -> pd.DataFrame:
    random = np.random.default_rng(0)
    present = (random.random((ROWS, 3)) < (0.5, 0.2, 0.3)).astype(np.float32)
    present[random.random((ROWS, 3)) < 0.1] = np.nan
    sentiment = random.uniform(-3, 3, ROWS).round(1)
    sentiment[::6], sentiment[::11] = 0, np.nan
    return pd.DataFrame(
        {
            "id": [f"clip{row}" for row in range(ROWS)],
            "split": np.where(np.arange(ROWS) < 120, "test", "valid"),
            "video": [f"v{row // 4}" for row in range(ROWS)],
            "emotions": list(present),
            "sentiment": sentiment,
        }
    )


Make = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Make:
    def make(name: str = "talks", schema: LabelSchema = DATA, **columns: Any) -> Path:
        rows = labels().assign(**columns)
        with SequenceWriter(tmp_path / name / "sequences", {"text": 2, "audio": 1}) as sequences:
            rows["sequence"] = [
                sequences.add({"text": np.full((row % 5 + 1, 2), row), "audio": np.zeros((3, 1))})
                for row in range(ROWS)
            ]
        write_manifest(tmp_path / name, rows, DataSchema(name, "by hand", schema))
        return tmp_path / name

    return make


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One test draws; the others need not wait for it."""
    monkeypatch.setattr(picture, "draw", lambda path, result, scored: path.touch())


def model(seed: int = 0, skill: float = 1.0, schema: LabelSchema = MODEL) -> Model:
    """The better, the more skill it has."""
    truth, noise = labels(), torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(seed))
    present = torch.from_numpy(np.stack(truth["emotions"])).nan_to_num(0.5)[:, [2, 0, 1]]
    felt = torch.from_numpy(truth["sentiment"].to_numpy(np.float32, copy=True)).nan_to_num()
    table = noise / skill + torch.cat([4 * present - 2, felt[:, None]], 1)
    config = ModelConfig(f"oracle{seed}", "none", {"kind": "oracle", "options": {}}, schema, [0.0], [1.0], {})
    return Model(config, Oracle(table, schema), weights_sha256=str(seed))


def run(*arguments: Any, **options: Any) -> dict[str, Any]:
    return evaluate(*arguments, **{"replicates": 50, "show": False} | options)


def test_figures_tables_and_files(data: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle, rows = model(), labels()[:120]
    result = run(oracle, data(), out=tmp_path / "one.json", show=True, batch_size=7)
    line = oracle.network.table[:120]  # type: ignore[index]
    chance, coded = line[:, [1, 2, 0]].sigmoid(), torch.from_numpy(np.stack(rows["emotions"]))
    felt = torch.from_numpy(rows["sentiment"].to_numpy(np.float32))
    each, overall = metrics.emotion_scores(chance, coded), metrics.sentiment_scores(line[:, 3], felt)
    wanted = {f"emotion_{name}": values.mean().item() for name, values in each.items()}
    wanted |= {name: value.item() for name, value in overall.items()}
    assert {name: entry["value"] for name, entry in result["metrics"].items()} == pytest.approx(wanted, rel=1e-5)
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in result["metrics"].values())
    assert result["labelled"] == {"emotions": int((~coded.isnan()).any(1).sum()), "sentiment": felt.isfinite().sum()}
    assert (result["resampled"], result["clusters"]) == ("video", 30)
    assert list(result["emotions"]) == ["neutral", "happy", "sad"]
    happy = result["emotions"]["happy"]
    assert (happy["rows"], happy["present"]) == (coded[:, 1].isfinite().sum(), coded[:, 1].nansum())
    assert happy["accuracy_majority"]["value"] == pytest.approx(1 - happy["present"] / happy["rows"])
    shown = capsys.readouterr().out
    assert "By emotion" in shown
    assert all(line in shown for line in ("acc7", "F1 binary positive", "MAE", "majority"))

    stored = json.loads((tmp_path / "one.json").read_text())
    assert {key: stored[key] for key in result} == result
    table = pq.read_table(tmp_path / "one.parquet").to_pandas()
    np.testing.assert_allclose(table["emotion_sad"], chance[:, 2], atol=1e-6)
    np.testing.assert_array_equal(table["true_emotion_sad"], coded[:, 2])
    np.testing.assert_allclose(table["sentiment"], line[:, 3], atol=1e-6)
    np.testing.assert_array_equal(table["true_sentiment"], felt)


def test_the_picture(data: Make, tmp_path: Path) -> None:
    result = run(model(), data(), out=tmp_path / "one.json")
    _, scored = read_evaluation(tmp_path / "one.json")
    draw(tmp_path / "drawn.png", result, scored)
    panels = np.array_split(np.asarray(Image.open(tmp_path / "drawn.png").convert("L")), 2, axis=1)
    assert all((panel < 200).mean() > 0.01 for panel in panels)


def test_two_models_are_compared(data: Make, tmp_path: Path) -> None:
    root, weak, good = data(), tmp_path / "weak.json", tmp_path / "good.json"
    run(model(1, 0.5), root, out=weak)
    run(model(2, 2.0), root, out=good)
    lines = compare(weak, good, replicates=100, show=False)["metrics"]
    assert not [name for name in lines if "majority" in name]  # of the labels, not of a model
    assert lines["mae"]["difference"]["high"] < 0
    assert {lines[name]["better"] for name in ("mae", "corr", "acc7", "emotion_f1", "emotion_accuracy")} == {"B"}
    only = LabelSchema(emotions=MODEL.emotions)
    run(model(2, 2.0, only), root, out=good)
    assert all(name.startswith("emotion_") for name in compare(weak, good, replicates=20, show=False)["metrics"])


def test_sentiment_as_published_code_measures_it(data: Make, tmp_path: Path) -> None:
    oracle, root, felt = model(), data(), torch.from_numpy(labels()["sentiment"].to_numpy(np.float32)[:120])
    oracle.network.table[:6, 3] = 0  # type: ignore[index]
    meant = run(oracle, root, out=tmp_path / "meant.json")["metrics"]
    positive = {"acc2_positive", "f1_positive", "f1_binary_positive"}
    for compat, expected in (("mult", {"f1_positive", "f1_nonnegative"}), ("causalmer", positive)):
        result = run(oracle, root, compat=compat, out=tmp_path / f"{compat}.json", missing="steps")
        wanted = metrics.sentiment_scores(oracle.network.table[:120, 3], felt, compat=compat)  # type: ignore[index, arg-type]
        found = {name: result["metrics"][name]["value"] for name in wanted}
        assert found == pytest.approx({name: value.item() for name, value in wanted.items()}, rel=1e-5)
        changed = {name for name in wanted if found[name] != meant[name]["value"]}
        assert changed == expected
        assert result["missing"]["measures"]["acc2_positive"] == pytest.approx(found["acc2_positive"])
        assert "slips included" in result["notes"][0]
        both = compare(tmp_path / "meant.json", tmp_path / f"{compat}.json", replicates=20, show=False)
        assert not SLIPS & both["metrics"].keys()
        assert "do not repeat the same slips" in both["notes"][-1]
        same = compare(tmp_path / f"{compat}.json", tmp_path / f"{compat}.json", replicates=20, show=False)
        assert changed < same["metrics"].keys()
    with pytest.raises(HonneError, match="goes by text alone; without it nothing is left"):
        run(oracle, root, missing="full")
    with pytest.raises(WrongCall, match="only sentiment is measured otherwise"):
        run(model(schema=LabelSchema(emotions=MODEL.emotions)), root, compat="mult")


def test_what_is_not_in_both_is_said(data: Make) -> None:
    result = run(model(schema=LabelSchema(sentiment=3.0)), data())
    assert result["notes"] == ["Not measured: emotions (only the data have it)."]
    result = run(model(), data("silent", emotions=None))
    assert result["notes"] == ["Not measured: emotions (no row of split 'test' is labelled with it)."]
    assert "emotions" not in result
    with pytest.raises(HonneError, match=r"emotions \[sad, neutral, happy\] against \[neutral, angry\]"):
        run(model(), data("four", LabelSchema(emotions=("neutral", "angry"))))
    with pytest.raises(HonneError, match="sentiment from -3 to 3 against -1 to 1"):
        run(model(), data("sims", LabelSchema(sentiment=1.0)))
    with pytest.raises(WrongCall, match="needs images; these are feature sequences"):
        run(model(), data(), flips=True)


def test_what_is_not_a_number_is_not_measured(data: Make) -> None:
    oracle = model()
    oracle.network.table[5, 3] = torch.nan  # type: ignore[index]
    with pytest.raises(HonneError, match="predicts sentiment of 1 of 120 rows that are not numbers"):
        run(oracle, data())


def test_the_scale_of_sims(data: Make) -> None:
    schema = LabelSchema(sentiment=1.0)
    result = run(model(schema=schema), data("sims", schema, sentiment=labels()["sentiment"] / 3))
    assert set(result["metrics"]) == {"acc2", "acc3", "acc5", "f1", "mae", "corr"}


def test_the_card_names_them(data: Make) -> None:
    oracle = model()
    text = card_text(oracle, [run(oracle, data(), split="valid")])
    assert "| emotions, each present or absent | sad, neutral, happy |" in text
    assert "| sentiment | -3 (negative) to 3 (positive) |" in text
    assert "| MAE |" in text


def test_the_data_must_have_what_the_model_reads(data: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, root = model(), data()
    monkeypatch.setattr(Model, "modalities", ("text", "vision"), raising=False)
    with pytest.raises(HonneError, match=r"reads vision, which .*talks does not have \(audio, text\)"):
        run(oracle, root)
    monkeypatch.setattr(Model, "modalities", ())
    with pytest.raises(HonneError, match=r"'oracle0' reads images; .*talks has none"):
        run(oracle, root)
    monkeypatch.setattr(Model, "modalities", ("text",))
    assert "| input | feature sequences: text |" in card_text(oracle, [run(oracle, root)])
