"""`honne audit --bias`: a model whose every answer is known, and the laboratory on a world of a few faces."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from honne import cli
from honne.audit import audit, bias_lab
from honne.audit.bias_answers import square_of
from honne.audit.bias_lab import Run, flat
from honne.audit.counts import ALL, Counts
from honne.batch import Batch, Prediction
from honne.card import RESPONSIBLE_USE
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.data.world import World, make_world
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig

CLASSES, STRATA = ("anger", "fear", "joy"), ("day", "dusk", "night")
ROWS, SIDE = 240, 8
RANDOM = np.random.default_rng(0)
LABEL, STRATUM = RANDOM.integers(0, 3, ROWS), RANDOM.integers(0, 3, ROWS)
SUBJECT = np.arange(ROWS) // 6
SPLIT = np.where(SUBJECT < 12, "train", np.where(SUBJECT < 16, "valid", "test"))
HIDDEN = LABEL == STRATUM
KEPT = np.flatnonzero(~HIDDEN | (SPLIT == "test"))
RIGHT = np.where(HIDDEN, RANDOM.random(ROWS) < 0.3, RANDOM.random(ROWS) < 0.8)
PREDICTED = np.where(RIGHT, LABEL, (LABEL + 1) % 3)


class Oracle(nn.Module):
    """Gives row r, whose image is of grey level r, its prediction, its stratum as features, and three interventions.

    The first two strata say what is predicted, the third always "joy".
    """

    def __init__(self, strata: bool) -> None:
        super().__init__()
        self.logits = nn.Parameter(4 * torch.eye(3)[torch.from_numpy(PREDICTED)])
        self.context = torch.eye(3)[torch.from_numpy(STRATUM)]
        self.expression = SimpleNamespace(strata=STRATA)
        self.intervenes = strata

    def forward(self, batch: Batch) -> Prediction:
        assert batch.images is not None
        row = (batch.images[:, 0, 0, 0] * 255).round().long()
        own = self.logits[row]
        joy = torch.tensor([0.0, 0.0, 4.0]).expand_as(own)
        strata = torch.stack([own, own, joy], 1) if self.intervenes else None
        return Prediction(own, features=self.context[row], strata=strata)


def _model(classes: tuple[str, ...] = CLASSES, strata: bool = False) -> Model:
    config = ModelConfig("oracle", "erm", {}, LabelSchema(classes), [0.0] * 3, [1.0] * 3, {"size": SIDE})
    return Model(config, Oracle(strata), None, "oracle")


def _data(root: Path, **changed: Any) -> PreparedData:
    rows = pd.DataFrame(
        {
            "id": [f"face{row}" for row in range(ROWS)],
            "split": SPLIT,
            "subject": [f"s{number}" for number in SUBJECT],
            "domain": np.array(STRATA)[STRATUM],
            "expression": np.array(CLASSES)[LABEL],
        }
    ).assign(**changed)
    with ImageWriter(root / "images") as images:
        references = []
        for row in range(ROWS):
            file = io.BytesIO()
            Image.fromarray(np.full((SIDE, SIDE), row, np.uint8)).save(file, "png")
            references.append(images.add(file.getvalue()))
    rows = rows.assign(image=references).iloc[KEPT].dropna(axis=1, how="all")
    write_manifest(root, rows, DataSchema("faces", "by hand", LabelSchema(CLASSES), {"kind": "none", "size": SIDE}))
    return PreparedData(root)


def _audit(model: Any, data: Any, out: Path, **options: Any) -> dict[str, Any]:
    found = audit(model, data, out=out, **{"bias": True, "replicates": 30, "show": False, "shown": 3} | options)
    return found["bias"]


def test_one_model(tmp_path: Path) -> None:
    data, out = _data(tmp_path / "data"), tmp_path / "audit"
    result = _audit(_model(), data, out)
    test = SPLIT == "test"
    for name, keep in (("out", HIDDEN & test), ("seen", ~HIDDEN & test), ("all", test)):
        part = result["parts"][name]
        assert part["rows"] == keep.sum()
        assert part["accuracy"]["model"]["value"] == pytest.approx(RIGHT[keep].mean())
        assert part["accuracy"]["model"]["low"] < RIGHT[keep].mean() < part["accuracy"]["model"]["high"]
        by_class = [RIGHT[keep & (c == LABEL)].mean() for c in range(3)]
        by_stratum = [RIGHT[keep & (s == STRATUM)].mean() for s in range(3)]
        cells = {
            (STRATA[s], CLASSES[c]): RIGHT[keep & (s == STRATUM) & (c == LABEL)].mean()
            for s in range(3)
            for c in range(3)
            if (keep & (s == STRATUM) & (c == LABEL)).any()
        }
        assert part["macro"]["model"]["value"] == pytest.approx(np.mean(by_class))
        assert part["worst_stratum"]["model"]["value"] == pytest.approx(min(by_stratum))
        assert part["worst_cell"]["model"]["value"] == pytest.approx(min(cells.values()))
        found = {(each["stratum"], each["expression"]): each["model"]["value"] for each in part["cells"]}
        assert found == pytest.approx(cells)
        assert np.trace(part["confusion"]["model"]) == RIGHT[keep].sum()
    read = result["probe"]["features"]
    assert read["model backbone features"]["pooled"]["value"] == 1
    assert read["the expression label alone"]["pooled"]["value"] == pytest.approx(1 / 3, abs=0.15)
    assert result["strata_say"] == {}
    assert "does not name these data" in result["notes"][0]
    assert json.loads((out / "bias.json").read_text()) == result

    table = pd.read_csv(out / "bias.csv")
    assert list(table.columns) == ["fold", "seed", "arm", "id", "stratum", "label", "prediction", "distribution"]
    rows = table["id"].str.removeprefix("face").astype(int).to_numpy()
    assert table["prediction"].tolist() == np.array(CLASSES)[PREDICTED[rows]].tolist()
    assert (table["distribution"] == np.where(HIDDEN[rows], "out", "in")).all()

    page = (out / "audit.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|<script", page)
    assert RESPONSIBLE_USE in page
    assert page.count("inset 0 0 0 2px") == 3
    assert _audit(_model(), data, out) == result
    assert "learned from" not in json.dumps(_audit(_model(), data, out, split="valid")["notes"])


def test_what_each_stratum_says(tmp_path: Path) -> None:
    result = _audit(_model(strata=True), _data(tmp_path / "data"), tmp_path / "audit")
    say, keep = result["strata_say"]["model"], SPLIT == "test"
    predicted, label = PREDICTED[keep], LABEL[keep]
    assert say["names"] == list(STRATA)
    assert [each["value"] for each in say["accuracy"]["all"]] == pytest.approx(
        [(predicted == label).mean()] * 2 + [(label == 2).mean()]
    )
    np.testing.assert_allclose(say["shares"][0], np.bincount(predicted, minlength=3) / len(predicted))
    assert say["shares"][2] == [0, 0, 1]
    assert say["unanimous"]["value"] == pytest.approx((predicted == 2).mean())
    sure = float(torch.tensor([4.0, 0, 0]).softmax(0)[0])
    moved = (sure - (1 - sure) / 2) * (predicted != 2).mean()
    assert [each["change"] for each in say["pairs"]] == pytest.approx([0, moved, moved], abs=1e-6)
    assert say["change"]["value"] == pytest.approx(2 * moved / 3, abs=1e-6)
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "dusk: " in page
    assert page.count("data:image/jpeg") == 3


def test_parts_that_the_data_allow(tmp_path: Path) -> None:
    def parts(data: PreparedData, **chosen: bool) -> set[str]:
        found = audit(_model(), data, out=tmp_path / "audit", replicates=5, show=False, shown=0, **chosen)
        return set(found)

    data, plain = _data(tmp_path / "data"), _data(tmp_path / "plain", domain=None)
    assert parts(data) == {"ambiguity", "bias"}
    assert parts(data, ambiguity=True) == parts(plain) == {"ambiguity"}
    assert parts(data, bias=True) == {"bias"}
    with pytest.raises(HonneError, match="name no strata"):
        parts(plain, bias=True)


SMALL = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4},
    "data": {"batch_size": "8", "workers": 0},
    "trainer.epochs": 1,
    "trainer.batches": 2,
    "trainer.accelerator": "cpu",
    "trainer.patience": 0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    root = tmp_path_factory.mktemp("laboratory") / "world"
    names = ("neutral", "happiness", "anger")
    return make_world(root, World(n=150, size=32, domains=3, subjects=15, labels="expression", classes=names))


def test_the_laboratory(world: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, trained = tmp_path / "lab", []
    train = bias_lab.train
    monkeypatch.setattr("honne.training.draw_curves", lambda *_: None)

    def told(recipe: str, **options: Any) -> Path:
        trained.append((options["out"].name, options["overrides"]))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(recipe, **options)

    monkeypatch.setattr(bias_lab, "train", told)
    options = {"folds": 2, "set": SMALL, "set_cured": {"erm": {"mixup": "0.2"}}}
    with pytest.raises(KeyboardInterrupt):
        _audit("erm", world, out, **options)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/model/model.safetensors")}
    assert len(stamps) == 2
    result = _audit("erm", world, out, **options)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert [name for name, _ in trained[3:]] == [
        f"fold{fold}-seed0-{arm}" for fold in (0, 1) for arm in ("plain", "cured")
    ]
    assert [given.get("erm.mixup") for _, given in trained[3:]] == [None, 0.2, None, 0.2]

    table = pd.read_csv(out / "bias.csv")
    outside = table[table["distribution"] == "out"]
    for arm in ("plain", "cured"):
        mine = outside[outside["arm"] == arm]
        right = (mine["label"] == mine["prediction"]).mean()
        assert result["parts"]["out"]["accuracy"][arm]["value"] == pytest.approx(right)
        pooled = Counts.pooled(Counts.from_line(each["lines"][arm][0]) for each in result["folds"])
        assert pooled.accuracies[ALL] == pytest.approx(right)
    moved = result["parts"]["out"]["accuracy"]
    assert moved["difference"]["value"] == pytest.approx(moved["cured"]["value"] - moved["plain"]["value"])
    assert 0 < moved["difference"]["p"] <= 1
    assert {"plain backbone features", "cured backbone features"} < set(result["probe"]["features"])
    assert "2 of 3 folds" in result["notes"][0]
    assert "cured (erm)" in (out / "audit.html").read_text()
    with pytest.raises(WrongCall, match="biased in another way"):
        _audit("erm", world, out, **options, strength=0.5)


def test_several_runs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def ran(words: list[str], stdout: Any, env: dict[str, str], **_: Any) -> SimpleNamespace:
        called.append(words)
        assert env["OMP_NUM_THREADS"] == "1"
        stdout.write("noise\nhonne: error: no data to train on.\n")
        return SimpleNamespace(returncode=int("bad" in words[-3]))

    monkeypatch.setattr(subprocess, "run", ran)
    runs = [
        Run(
            0, 0, "plain", "erm", {"optim.lr": 1e-3, "model.backbone_options": {"a": [1]}}, tmp_path / "d", tmp_path / n
        )
        for n in ("one", "bad")
    ]
    with pytest.raises(HonneError, match=r"run bad failed: no data to train on\."):
        bias_lab._train_apart(runs, 2)
    assert called[0][2:5] == ["honne", "train", "erm"]
    assert called[0][-2:] == ["--optim.lr=0.001", "--model.backbone_options={a: [1]}"]


def test_what_is_refused(world: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = _data(tmp_path / "data"), tmp_path / "audit"
    with pytest.raises(HonneError, match="different label schemas"):
        _audit(_model(("joy", "fear", "anger")), data, out)
    single = _data(tmp_path / "single", domain="day")
    for model, options in ((_model(), {}), ("erm", {"folds": 2})):
        with pytest.raises(HonneError, match="of one stratum, 'day'"):
            _audit(model, single, out, **options)
    with pytest.raises(WrongCall, match="4 are more than there are strata, 3"):
        _audit("erm", data, out, folds=4)
    with pytest.raises(WrongCall, match="strength"):
        _audit("erm", data, out, folds=2, strength=1.2)
    with pytest.raises(WrongCall, match="no recipe 'iron'"):
        _audit("iron", data, out, folds=2)
    for name in ("seeds", "jobs"):
        with pytest.raises(WrongCall, match=f"--{name}"):
            _audit("erm", data, out, folds=2, **{name: 0})
    with pytest.raises(WrongCall, match="nothing else"):
        _audit(_model(), data, out, folds=2)
    assert not out.exists()
    words = ["audit", "erm", "--data", str(data.root), "--out", str(out), "--folds", "9", "--set.trainer.epochs", "1"]
    assert cli.main(words) == 2
    assert "--folds: 9 are more" in capsys.readouterr().err


def test_options_by_dotted_name() -> None:
    given = {"trainer": {"epochs": "5"}, "optim": {"lr": "1e-3"}, "model.head_options": {"side": [4, 4]}}
    assert flat(given) == {"trainer.epochs": 5, "optim.lr": "1e-3", "model.head_options": {"side": [4, 4]}}


@pytest.mark.parametrize(("bias", "lacking"), [(0.0, 0), (1.0, 3)])
def test_a_drawn_world_has_a_knob_of_that_name(tmp_path: Path, bias: float, lacking: int) -> None:
    options = World(
        n=180, size=32, classes=("neutral", "fear", "anger"), domains=3, bias=bias, pattern="latin", subjects=12
    )
    _, square, _ = square_of(make_world(tmp_path / "world", options))
    assert square.sum() == lacking
