"""What missing modalities and steps cost, and what modalities contribute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import honne
from honne.batch import Batch
from honne.data.manifest import DataSchema, PreparedData, write_manifest
from honne.data.missing import without_modalities, without_steps
from honne.data.sequences import SequenceWriter
from honne.data.world import World, make_world
from honne.errors import HonneError, WrongCall
from honne.evaluation.missing import subsets as removed
from honne.explain.contributions import Samples, contributions, shapley_values, subsets
from honne.explain.explaining import explain
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks import build

WIDTHS = {"text": 3, "audio": 2, "constant": 1}
SCHEMA = LabelSchema(("neutral", "anger", "fear"))
SENTIMENT = LabelSchema(sentiment=3.0)
EMOTIONS = LabelSchema(emotions=("sad", "glad"))
ROWS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    out = tmp_path_factory.mktemp("sequences") / "data"
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, ROWS)
    rows = pd.DataFrame({
        "id": [f"clip{row}" for row in range(ROWS)],
        "split": ["test"] * ROWS,
        "subject": [f"s{row % 12}" for row in range(ROWS)],
        "expression": np.array(SCHEMA.expressions)[classes],
        "sentiment": random.uniform(-3, 3, ROWS),
        "emotions": list(random.integers(0, 2, (ROWS, 2)).astype(np.float32)),
    })  # fmt: skip
    with SequenceWriter(out / "sequences", WIDTHS) as sequences:
        rows["sequence"] = [
            sequences.add({
                "text": random.normal(classes[row], 1, (random.integers(1, 6), 3)),
                "audio": None if row % 10 == 3 else random.normal(size=(4, 2)),
                "constant": np.ones((1, 1)),
            })
            for row in range(ROWS)
        ]  # fmt: skip
    labels = LabelSchema(SCHEMA.expressions, emotions=EMOTIONS.emotions, sentiment=3.0)
    write_manifest(out, rows, DataSchema("clips", "test", labels))
    return PreparedData(out)


def model(schema: LabelSchema, kind: str = "early_fusion", **more: Any) -> Model:
    torch.manual_seed(2)
    options: dict[str, Any] = {"modalities": WIDTHS} | more
    options |= (
        {"backbone": {"kind": "early_fusion", "options": {"width": 4}}} if kind == "counterfactual" else {"width": 4}
    )
    network: Any = build(kind, options, schema)
    network.standardise.set("constant", torch.ones(1), torch.zeros(1))  # as the training data have it
    for parameter in network.parameters():
        parameter.data *= 2
    config = ModelConfig("tiny", "erm", {"kind": kind, "options": options}, schema, [0.5] * 3, [0.5] * 3, {})
    return Model(config, network)


# --- missing ---------------------------------------------------------------------------------------------------------


def test_taking_away() -> None:
    torch.manual_seed(0)
    sequences = {"text": torch.randn(4, 5, 2), "audio": torch.randn(4, 3, 2)}
    lengths = {"text": torch.tensor([5, 4, 3, 2]), "audio": torch.full((4,), 3)}
    given = Batch(sequences=sequences, lengths=lengths, index=torch.tensor([3, 9, 5, 7]))
    absent, zeros = without_modalities(given, ["text"]), without_modalities(given, ["text"], "zeros")
    assert (absent.sequences["text"] == 0).all()
    assert (zeros.sequences["text"] == 0).all()
    assert absent.lengths["text"].tolist() == [0] * 4
    assert zeros.lengths["text"].tolist() == [5, 4, 3, 2]
    assert torch.equal(absent.sequences["audio"], sequences["audio"])
    thin = without_steps(given, 0.5, 1)
    some = Batch(
        sequences={name: values[1:3] for name, values in sequences.items()},
        lengths={name: values[1:3] for name, values in lengths.items()},
        index=given.index[1:3] if given.index is not None else None,
    )
    for name, values in without_steps(some, 0.5, 1).sequences.items():
        assert torch.equal(values, thin.sequences[name][1:3])
    gone = (thin.sequences["text"] == 0).all(2).float().mean().item()
    assert 0.1 < gone < 0.9
    assert list(removed(("a", "b"))) == [("a",), ("b",)]
    assert len(list(removed(tuple("abc")))) == 6
    assert max(map(len, removed(tuple("abcde")))) == 2


@pytest.mark.parametrize("schema", [SCHEMA, SENTIMENT, EMOTIONS])
def test_evaluation_without(schema: LabelSchema, data: PreparedData, tmp_path: Path) -> None:
    given = model(schema)
    out = tmp_path / "e.json"
    result = honne.evaluate(given, data=data, out=out, missing="full", replicates=50, show=False)
    found = json.loads(out.read_text())["missing"]
    assert found == result["missing"]
    assert (tmp_path / "e_missing.png").stat().st_size > 1000
    assert [line["without"] for line in found["subsets"]][:3] == [["text"], ["audio"], ["constant"]]
    assert len(found["subsets"]) == 6
    assert len(found["steps"]) == 9
    for name, value in found["measures"].items():
        assert result["metrics"][name]["value"] == pytest.approx(value)
        sign = -1 if name == "mae" else 1
        for line in found["subsets"]:
            entry = line["measures"][name]
            assert entry["drop"]["value"] == pytest.approx(sign * (value - entry["value"]))
            assert entry["drop"]["low"] <= entry["drop"]["value"] <= entry["drop"]["high"] or name in (
                "corr",
                "macro_f1",
            )
        single = [line["measures"][name]["drop"]["value"] for line in found["subsets"][:3]]
        assert found["drop_std"][name]["population"] == pytest.approx(np.std(single))
        assert single[2] == 0  # what never varies says nothing
    again = honne.evaluate(given, data=data, missing="steps", replicates=50, show=False, batch_size=7)
    assert again["missing"]["steps_mean"] == pytest.approx(found["steps_mean"])


def test_a_branch_may_be_untreated(data: PreparedData) -> None:
    given = model(SCHEMA, "counterfactual", constant=0.7)
    network: Any = given.network
    options = {"data": data, "missing": "subsets", "replicates": 20, "show": False}
    usual, constant = (honne.evaluate(given, missing_as=how, **options) for how in ("absent", "constant"))
    assert network.absent == "zeros"  # as before
    assert usual["missing"]["subsets"] != constant["missing"]["subsets"]
    with pytest.raises(WrongCall, match="has no branches"):
        honne.evaluate(model(SCHEMA), missing_as="constant", **options)


def test_faces_have_no_modalities(tmp_path: Path) -> None:
    faces = make_world(tmp_path / "faces", World(n=40, size=32, subjects=6, classes=("neutral", "happiness")))
    drop = "surprise,sadness,anger,disgust,fear,contempt"
    with pytest.raises(HonneError, match="goes by pictures of faces"):
        honne.evaluate("default", data=faces, missing="subsets", drop=drop, show=False, replicates=5)


# --- contributions ---------------------------------------------------------------------------------------------------


def test_shapley_values_of_games() -> None:
    there = subsets(3).double()
    additive = there @ torch.tensor([[1.0, 5.0], [2.0, 0.0], [-3.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(shapley_values(additive), torch.tensor([[1.0, 5], [2, 0], [-3, 1]]).double())
    glove = (there[:, 0] * there[:, 1:].amax(1))[:, None]  # one left glove, two right ones
    torch.testing.assert_close(shapley_values(glove).flatten(), torch.tensor([4, 1, 1]).double() / 6)
    torch.manual_seed(0)
    values = torch.randn(16, 5, dtype=torch.float64)
    torch.testing.assert_close(shapley_values(values).sum(0), values[-1] - values[0])


@pytest.mark.parametrize("schema", [SCHEMA, SENTIMENT, EMOTIONS])
@pytest.mark.parametrize("value", ["prob", "accuracy", "neg_loss"])
def test_contributions(schema: LabelSchema, value: Any, data: PreparedData) -> None:
    found = contributions(model(schema), data, value=value, repeats=2, batch_size=16)
    assert found.shapley.shape == (3, ROWS)
    torch.testing.assert_close(found.shapley.sum(0), found.whole - found.nothing)
    if value != "accuracy":  # which counts modalities, useful or not
        assert found.shapley[2].abs().max() == 0  # what never varies contributes nothing
    assert found.permuted[2].abs().max() == 0
    assert found.shapley[0].abs().max() > 0
    assert float(found.shares.sum()) == pytest.approx(1)
    assert found.direct is None
    other = contributions(model(schema), data, value=value, repeats=2, batch_size=60)
    torch.testing.assert_close(found.shapley, other.shapley, atol=1e-6, rtol=1e-5)
    assert found.labels[0]
    assert found.said == other.said


def test_hidden_state_and_direct_effects(data: PreparedData) -> None:
    found = contributions(model(SCHEMA, "counterfactual", constant=0.3), data, level="hidden", repeats=1)
    torch.testing.assert_close(found.shapley.sum(0), found.whole - found.nothing)
    assert found.direct is not None
    assert found.direct.shape == (3, ROWS)
    assert found.direct[2].std() > 0  # by its constant
    with pytest.raises(WrongCall, match="--value output is for numbers"):
        contributions(model(SCHEMA), data, value="output")


def test_samples_without_labels(data: PreparedData) -> None:
    given = model(SCHEMA)
    samples = Samples.of(given, data, "test", limit=8)
    samples.labels = lambda places: honne.batch.Labels()  # type: ignore[attr-defined]
    found = contributions(given, samples, repeats=1)
    assert found.labels == [""] * 8
    assert (found.whole >= 1 / 3).all()  # of what is predicted


def test_explaining_a_data_set(data: PreparedData, tmp_path: Path) -> None:
    given: Any = model(SCHEMA, "counterfactual", constant=0.3)
    result: Any = explain(given, [str(data.root)], out=tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out" / "contributions.parquet")
    assert list(rows["id"]) == list(data.rows["id"])
    assert rows["shapley_constant"].abs().max() < 0.2
    summary = json.loads((tmp_path / "out" / "contributions.json").read_text())
    assert summary == result.summary
    assert summary["modalities"]["text"]["shapley"]["value"] == pytest.approx(rows["shapley_text"].mean())
    assert (tmp_path / "out" / "contributions.png").stat().st_size > 1000
    with pytest.raises(HonneError, match="holds an explanation already"):
        explain(given, [str(data.root)], out=tmp_path / "out")
    with pytest.raises(WrongCall, match="--map is for models of faces"):
        explain(given, [str(data.root)], out=tmp_path / "other", map="layercam")
    with pytest.raises(WrongCall, match="one data set, or clips"):
        explain(given, [str(data.root), "clip.mp4"], out=tmp_path / "other")
    with pytest.raises(HonneError, match="needs features that honne does not make"):
        explain(given, ["clip.mp4"], out=tmp_path / "other")
