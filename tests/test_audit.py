"""`honne audit --ambiguity` with a model whose every answer is known."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from honne import cli, metrics
from honne.audit import audit, faces
from honne.audit.mining import Mined
from honne.batch import Batch, Prediction
from honne.card import RESPONSIBLE_USE
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.errors import HonneError, WrongCall
from honne.labels import EXPRESSION_SETS, LabelSchema
from honne.metrics.ambiguity import label_error, others
from honne.models import Model, ModelConfig

CLASSES = ("neutral", "happiness", "anger")
ROWS, SIDE = 200, 8
SPLIT = np.where(np.arange(ROWS) < 120, "train", np.where(np.arange(ROWS) < 150, "valid", "test"))
RANDOM = np.random.default_rng(0)
MIXTURE = RANDOM.dirichlet(np.full(3, 0.4), ROWS)
TRUTH = MIXTURE.argmax(1)
PLANTED = (RANDOM.random(ROWS) < 0.2) & (SPLIT == "train")
LABEL = np.where(PLANTED, (TRUTH + 1) % 3, TRUTH)
VOTES = RANDOM.multinomial(10, MIXTURE).astype(np.float32)


class Oracle(nn.Module):
    """Gives row r, whose image is of grey level r, line r of a table of logits."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.from_numpy(logits).float())

    def forward(self, batch: Batch) -> Prediction:
        assert batch.images is not None
        return Prediction(self.logits[(batch.images[:, 0, 0, 0] * 255).round().long()])


def _model(folder: Path | None = None, method: str = "erm", classes: tuple[str, ...] = CLASSES) -> Model:
    """Knows the mixtures, roughly."""
    logits = np.log(MIXTURE + 0.02) + np.random.default_rng(1).normal(0, 0.3, MIXTURE.shape)
    config = ModelConfig("oracle", method, {}, LabelSchema(classes), [0.0] * 3, [1.0] * 3, {"size": SIDE})
    return Model(config, Oracle(logits), folder, "oracle")


def _data(root: Path, labels: Any = None, votes: bool = True, truth: bool = False) -> PreparedData:
    rows = pd.DataFrame(
        {
            "id": [f"face{row}" for row in range(ROWS)],
            "split": SPLIT,
            "subject": [f"s{row // 4}" for row in range(ROWS)],
            "expression": [CLASSES[label] for label in LABEL] if labels is None else labels,
            "target": list(np.eye(3, dtype=np.float32)[LABEL]),
        }
    )
    if votes:
        rows["votes"] = list(VOTES)
    with ImageWriter(root / "images") as images:
        references = []
        for row in range(ROWS):
            file = io.BytesIO()
            Image.fromarray(np.full((SIDE, SIDE), row, np.uint8)).save(file, "png")
            references.append(images.add(file.getvalue()))
    write_manifest(root, rows.assign(image=references), DataSchema("faces", "by hand", LabelSchema(CLASSES)))
    if truth:
        names = [CLASSES[number] for number in TRUTH]
        pq.write_table(pa.table({"expression": names, "mixture": list(MIXTURE)}), root / "truth.parquet")
    return PreparedData(root)


def _audit(model: Model, data: PreparedData, out: Path, **options: Any) -> dict[str, Any]:
    found = audit(model, data, out=out, **{"replicates": 30, "show": False, "shown": 3} | options)
    return found["ambiguity"]


def _mine(model: Model, data: PreparedData, split: str, **_: Any) -> Mined:
    """As `honne.audit.mining.mine`: the votes' own answer, flattened; the last row is left out."""
    rows = data.split(split)[:-1]
    labels = np.array([CLASSES.index(name) for name in data.rows["expression"].iloc[rows]])
    mined = others(torch.from_numpy(VOTES[rows] + 0.2), torch.from_numpy(labels)).numpy()
    return Mined(rows, labels, mined, MIXTURE[rows, labels] * 0.9 + 0.05)


def test_ranks_lists_and_corrects(tmp_path: Path) -> None:
    data, out = _data(tmp_path / "data", truth=True), tmp_path / "audit"
    result = _audit(_model(), data, out)
    table = pq.read_table(out / "ambiguity.parquet").to_pandas()
    assert sorted(table["id"]) == sorted(data.rows["id"])
    assert table["uncertainty"].is_monotonic_decreasing
    p = table[[f"p_{name}" for name in CLASSES]].to_numpy(float, copy=True)
    assert table["uncertainty"].to_numpy() == pytest.approx(-(p * np.log(p)).sum(1) / np.log(3), abs=1e-5)
    labels = torch.tensor([CLASSES.index(name) for name in table["label"]])
    assert table["label_error"].to_numpy() == pytest.approx(label_error(torch.from_numpy(p), labels).numpy(), abs=1e-5)
    np.testing.assert_array_equal(table[[f"votes_{name}" for name in CLASSES]], VOTES[table["row"]])

    train, test = result["splits"]["train"], result["splits"]["test"]
    assert train["truth"]["labels"]["wrong"] == PLANTED.sum()
    assert train["truth"]["labels"]["auc"]["value"] > 0.8
    assert train["truth"]["auc_uncertainty"]["value"] > 0.8
    assert train["votes"]["order"]["uncertainty_entropy"]["value"] > 0.5
    assert "mined" not in train["votes"]["all"]
    assert "auc" not in test["truth"]["labels"]
    assert train["labels"]["likely_errors"] == np.sum(train["labels"]["suggested"]) - np.trace(
        train["labels"]["suggested"]
    )
    assert json.loads((out / "ambiguity.json").read_text()) == result

    page = (out / "audit.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|<script", page)
    assert RESPONSIBLE_USE in page
    assert page.count("data:image/jpeg") == 6

    corrected, changes = PreparedData(out / "corrected"), pd.read_csv(out / "corrected" / "changes.csv")
    differs = np.flatnonzero((corrected.rows["expression"] != data.rows["expression"]).to_numpy())
    assert sorted(changes["id"]) == sorted(data.rows["id"].iloc[differs])
    assert len(differs) == train["labels"]["likely_errors"] == result["corrected"]["labels"]
    assert set(SPLIT[differs]) == {"train"}
    at = [int(name.removeprefix("face")) for name in changes["id"]]
    assert list(corrected.rows["expression"].iloc[at]) == list(changes["to"])
    assert list(data.rows["expression"].iloc[at]) == list(changes["from"])
    assert changes["score"].is_monotonic_decreasing
    assert corrected.rows["target"].isna().to_numpy().nonzero()[0].tolist() == differs.tolist()
    before = [CLASSES[number] != name for number, name in zip(TRUTH, data.rows["expression"], strict=True)]
    after = [CLASSES[number] != name for number, name in zip(TRUTH, corrected.rows["expression"], strict=True)]
    assert sum(after) < sum(before) / 2
    shard = "images/00000.arrow"
    assert (out / "corrected" / shard).samefile(data.root / shard)
    assert bytes(corrected.image_bytes(17)) == bytes(data.image_bytes(17))
    assert "oracle" in corrected.schema.source["labels"]

    (out / "notes.txt").write_text("mine")
    assert _audit(_model(), data, out) == result
    dropped = _audit(_model(), data, out, correct="drop", ambiguity=True)
    left = PreparedData(out / "corrected").rows["expression"].isna().to_numpy()
    assert left.nonzero()[0].tolist() == differs.tolist()
    assert dropped["corrected"]["how"] == "drop"
    assert _audit(_model(), data, out, split="test")["corrected"] is None
    assert sorted(each.name for each in out.iterdir()) == [
        "ambiguity.json",
        "ambiguity.parquet",
        "audit.html",
        "notes.txt",
    ]


def test_mined_distributions_beside_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _data(tmp_path / "data")
    monkeypatch.setattr(faces, "mine", _mine)
    model = _model(method="dmue")
    result = _audit(model, data, tmp_path / "audit")
    test = result["splits"]["test"]
    assert test["mined"] == 49
    rows = np.flatnonzero(SPLIT == "test")[:-1]
    y, votes = torch.from_numpy(LABEL[rows]), torch.from_numpy(VOTES[rows])
    observed = others(votes, y)
    keep = ~observed.isnan().any(1)
    mined = torch.from_numpy(_mine(model, data, "test").distribution)
    softmax = others(model.network.logits[rows].softmax(1), y)  # type: ignore[index]
    found = test["votes"]["others"]
    assert found["rows"] == int(keep.sum())
    for side, q in (("mined", mined), ("softmax", softmax)):
        assert found[side]["emd"]["value"] == pytest.approx(float(metrics.emd(q[keep], observed[keep])), rel=1e-5)
        kl = float(metrics.kl(q[keep].clamp_min(1e-8), observed[keep]))
        assert found[side]["kl"]["value"] == pytest.approx(kl, rel=1e-5)
        assert found[side]["top2_hit"]["value"] == 1.0  # three classes: two others
    difference = found["difference"]["emd"]
    assert difference["value"] == pytest.approx(found["mined"]["emd"]["value"] - found["softmax"]["emd"]["value"])
    assert difference["high"] < 0
    assert test["votes"]["order"]["confidence_top_share"]["value"] > 0.3
    table = pq.read_table(tmp_path / "audit" / "ambiguity.parquet").to_pandas()
    full = table[[f"mined_{name}" for name in CLASSES]]
    assert full.isna().all(axis=1).sum() == 3
    assert full.dropna().sum(axis=1).to_numpy() == pytest.approx(1)
    assert "never learned from faces of its label" in (tmp_path / "audit" / "audit.html").read_text()

    def mislabelled(model: Model, data: PreparedData, split: str, **options: Any) -> Mined:
        found = _mine(model, data, split)
        return Mined(found.index, (found.label + 1) % 3, found.distribution, found.confidence)

    monkeypatch.setattr(faces, "mine", mislabelled)
    result = _audit(model, data, tmp_path / "audit", split="test")
    assert result["splits"]["test"]["mined"] == 0
    assert "49 rows of test were mined under another label" in result["notes"][0]
    monkeypatch.setattr(faces, "mine", lambda *_, **__: None)
    assert "nothing was mined" in _audit(model, data, tmp_path / "audit", split="test")["notes"][0]


def test_label_noise_of_the_run_is_what_the_model_saw(tmp_path: Path) -> None:
    data = _data(tmp_path / "data", [CLASSES[number] for number in TRUTH])
    model, wrong = _model(tmp_path / "run" / "model"), np.flatnonzero(PLANTED)
    flips = pd.DataFrame(
        {
            "data": "faces",
            "id": [f"face{row}" for row in wrong],
            "from": [CLASSES[number] for number in TRUTH[wrong]],
            "to": [CLASSES[number] for number in LABEL[wrong]],
        }
    )
    listed = tmp_path / "run" / "label_noise.csv"
    listed.parent.mkdir()
    flips.to_csv(listed, index=False)
    result = _audit(model, data, tmp_path / "audit")
    assert "wrong on purpose" in result["notes"][0]
    noise = result["splits"]["train"]["noise"]
    assert noise["wrong"] == len(wrong)
    assert noise["auc"]["value"] > 0.8
    assert noise["suggestion_right"]["value"] > 0.8
    assert "noise" not in result["splits"]["test"]
    table = pq.read_table(tmp_path / "audit" / "ambiguity.parquet").to_pandas().set_index("row")
    assert table.loc[wrong, "label"].tolist() == flips["to"].tolist()
    assert table["made_wrong"].fillna(False).astype(bool).sum() == len(wrong)
    assert list(data.rows["expression"]) == [CLASSES[number] for number in TRUTH]  # nothing was done to the data

    for changed, note in (
        (flips.assign(data="other faces"), "names no row of these data"),
        (flips.assign(**{"from": flips["to"]}), "other labels than these"),
    ):
        changed.to_csv(listed, index=False)
        result = _audit(model, data, tmp_path / "audit", split="train")
        assert note in result["notes"][0]
        assert "noise" not in result["splits"]["train"]
    listed.write_text("a,b\n1,2\n")
    with pytest.raises(HonneError, match="has no column 'id'"):
        _audit(model, data, tmp_path / "audit")


def test_without_labels_faces_are_still_ranked(tmp_path: Path) -> None:
    data = _data(tmp_path / "data", [None] * ROWS, votes=False)
    result = _audit(_model(), data, tmp_path / "audit", shown=2)
    assert "no label to doubt" in result["notes"][0]
    assert result["corrected"] is None
    assert "labels" not in result["splits"]["train"]
    table = pq.read_table(tmp_path / "audit" / "ambiguity.parquet").to_pandas()
    assert table["label_error"].isna().all()
    assert table["uncertainty"].is_monotonic_decreasing


def test_a_model_that_doubts_most_labels_is_doubted_itself(tmp_path: Path) -> None:
    data = _data(tmp_path / "data", [CLASSES[(number + 1) % 3] for number in TRUTH])
    notes = _audit(_model(), data, tmp_path / "audit", split="train")["notes"]
    assert "more likely it is the model that is wrong" in notes[0]
    assert notes[0] in (tmp_path / "audit" / "audit.html").read_text()


def test_clear_sentences(tmp_path: Path) -> None:
    data, out = _data(tmp_path / "data"), tmp_path / "audit"
    with pytest.raises(HonneError, match="different label schemas: expressions"):
        _audit(_model(classes=("neutral", "anger", "happiness")), data, out)
    nothing = ModelConfig("units", "erm", {}, LabelSchema((), (1, 2)), [0.0] * 3, [1.0] * 3, {"size": SIDE})
    with pytest.raises(HonneError, match="predicts no expressions"):
        _audit(Model(nothing, Oracle(np.zeros((1, 1)))), data, out)
    few = _data(tmp_path / "few")
    few.rows = few.rows[few.rows["split"] != "valid"].reset_index(drop=True)
    with pytest.raises(HonneError, match="split 'valid' is empty"):
        _audit(_model(), few, out, split="valid")
    assert set(_audit(_model(), few, out)["splits"]) == {"train", "test"}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(WrongCall, match="holds other things"):
        _audit(_model(), data, foreign)
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongCall, match="is a file"):
        _audit(_model(), data, tmp_path / "file")
    for root in (data, PreparedData(out / "corrected")):
        with pytest.raises(WrongCall, match="would replace the data"):
            _audit(_model(), root, tmp_path / "data" if root is data else out)
    (out / "corrected" / "changes.csv").unlink()
    with pytest.raises(WrongCall, match="not from an audit"):
        _audit(_model(), data, out)
    with pytest.raises(WrongCall, match="--replicates"):
        _audit(_model(), data, out, replicates=0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the model that the package carries."""
    names = EXPRESSION_SETS["ferplus"].expressions
    rows = pd.DataFrame({"id": list("abcdef"), "split": "train", "expression": [*names[:5], None]})
    with ImageWriter(tmp_path / "data" / "images") as images:
        pixels = np.random.default_rng(0).integers(0, 255, (6, 48, 48), np.uint8)
        files = [io.BytesIO() for _ in pixels]
        for face, file in zip(pixels, files, strict=True):
            Image.fromarray(face).save(file, "png")
        rows["image"] = [images.add(file.getvalue()) for file in files]
    write_manifest(tmp_path / "data", rows, DataSchema("noise", "by hand", LabelSchema(names)))
    words = ["audit", "default", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "audit"), "--ambiguity"]
    assert cli.main([*words, "--replicates", "20"]) == 0
    said = capsys.readouterr().out
    assert "uncertainty, mean" in said
    assert str(tmp_path / "audit" / "audit.html") in said.replace("\n", "")
    assert cli.main([*words, "--split", "test"]) == 1
    assert "split 'test' is empty" in capsys.readouterr().err
