"""ABAW: scores of the challenges and the files to send, on a model whose every output is known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from torch import Tensor, nn

from honne import cli, metrics
from honne.batch import Batch, Prediction
from honne.codes import ACTION_UNIT_SETS, SETS
from honne.data.manifest import DataSchema, ImageWriter, write_manifest
from honne.errors import HonneError, WrongCall
from honne.evaluation import compare, evaluate, evaluating, picture
from honne.evaluation.challenge import challenge_figures
from honne.evaluation.scoring import Scored
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig

FIRST = LabelSchema(tuple(SETS["affwild2"].values()), ACTION_UNIT_SETS["affwild2"], True)
LATER = LabelSchema(tuple(SETS["abaw"].values()), ACTION_UNIT_SETS["abaw"], True)
FRAMES = {"tape-7": 70, "12_left": 50}
ROWS = sum(FRAMES.values())


class Oracle(nn.Module):
    """Gives row r, whose image is of grey level r, line r of a table of logits and (tanh of) valence and arousal."""

    def __init__(self, schema: LabelSchema) -> None:
        super().__init__()
        self.schema = schema
        width = len(schema.expressions) + len(schema.action_units) + 2
        self.outputs = nn.Parameter(torch.randn(256, width, generator=torch.Generator().manual_seed(5)))

    def forward(self, batch: Batch) -> Prediction:
        assert batch.images is not None
        line = self.outputs[(batch.images[:, 0, 0, 0] * 255).round().long()]
        classes, units = len(self.schema.expressions), len(self.schema.action_units)
        return Prediction(
            line[:, :classes] if classes else None,
            line[:, classes : classes + units] if units else None,
            line[:, -2:].tanh() if self.schema.valence_arousal else None,
        )


def model(schema: LabelSchema) -> Model:
    thresholds = {1: 0.3, 4: 0.7}
    config = ModelConfig("oracle", "none", {}, schema, [0.0] * 3, [1.0] * 3, {"size": 8}, 1.0, thresholds)
    return Model(config, Oracle(schema), weights_sha256="oracle")


def shuffled(schema: LabelSchema) -> LabelSchema:
    """The same and more, in another order: what is written goes by name."""
    return LabelSchema(("contempt", *schema.expressions[::-1]), (45, *schema.action_units[::-1]), True)


def said(one: Model) -> dict[str, Tensor]:
    """Outputs by class name and unit."""
    names = [*one.schema.expressions, *(f"AU{unit}" for unit in one.schema.action_units), "valence", "arousal"]
    table = one.network.outputs[:ROWS].detach()  # type: ignore[index]
    return dict(zip(names, table.mT, strict=True))


def rows(schema: LabelSchema, labelled: bool = True) -> pd.DataFrame:
    """Two videos; every kind of label, partial ones among them."""
    random = np.random.default_rng(1)
    names = [(video, number) for video, count in FRAMES.items() for number in range(1, count + 1)]
    table = pd.DataFrame(
        {
            "id": [f"{video}/{number:05d}" for video, number in names],
            "split": "test",
            "video": [video for video, _ in names],
            "time": [number / 30 for _, number in names],
        }
    )
    if not labelled:
        return table
    units = random.integers(0, 2, (ROWS, len(schema.action_units))).astype(np.float32)
    units[random.random(units.shape) < 0.05] = np.nan
    affect = random.uniform(-1, 1, (ROWS, 2))
    affect[random.random(affect.shape) < 0.1] = np.nan
    classes = random.integers(-1, len(schema.expressions), ROWS)
    expression = [None if code < 0 else schema.expressions[code] for code in classes]
    return table.assign(expression=expression, au=list(units), valence=affect[:, 0], arousal=affect[:, 1])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "draw", lambda path, result, scored: path.touch())


def prepared(root: Path, table: pd.DataFrame, schema: LabelSchema) -> Path:
    with ImageWriter(root / "images") as images:
        references = []
        for row in range(len(table)):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8), row, np.uint8)).save(file, "png")
            references.append(images.add(file.getvalue()))
    write_manifest(root, table.assign(image=references), DataSchema("wild", "by hand", schema))
    return root


def run(*arguments: Any, **options: Any) -> dict[str, Any]:
    return evaluate(*arguments, **{"replicates": 20, "show": False} | options)


# --- scores -------------------------------------------------------------------------------------------------------


def test_scores_of_2020_are_of_whole_rows(tmp_path: Path) -> None:
    table, one = rows(FIRST), model(FIRST)
    root = prepared(tmp_path / "data", table, FIRST)
    result = run(one, root, abaw="2020", out=tmp_path / "a.json")
    found = {name: entry["value"] for name, entry in result["abaw"]["measures"].items()}
    outputs = said(one)

    known = table["expression"].notna().to_numpy()
    names = np.array(FIRST.expressions)
    guess = names[torch.stack([outputs[name] for name in names], 1).argmax(1)][known]
    truth = table["expression"][known]
    f1, accuracy = sk.f1_score(truth, guess, average="macro"), sk.accuracy_score(truth, guess)
    assert found["expr_score"] == pytest.approx(0.67 * f1 + 0.33 * accuracy)
    coded = np.stack(table["au"])
    whole = ~np.isnan(coded).any(1)
    limits = np.array([{1: 0.3, 4: 0.7}.get(unit, 0.5) for unit in FIRST.action_units], np.float32)
    on = torch.stack([outputs[f"AU{unit}"] for unit in FIRST.action_units], 1).sigmoid().numpy() >= limits
    f1 = np.mean([sk.f1_score(coded[whole, k], on[whole, k]) for k in range(8)])
    assert found["au_score"] == pytest.approx(0.5 * f1 + 0.5 * (coded[whole] == on[whole]).mean())
    both = table[["valence", "arousal"]].notna().all(axis=1).to_numpy(copy=True)
    affect = torch.stack([outputs["valence"], outputs["arousal"]], 1)[both].tanh()
    ccc = metrics.ccc(affect, torch.from_numpy(table[["valence", "arousal"]].to_numpy()[both].astype(np.float32)))
    assert found["va_score"] == pytest.approx(ccc.mean().item(), rel=1e-5)
    assert found["selection_score"] == pytest.approx(
        found["expr_score"] + found["au_score"] + found["ccc_valence"] + found["ccc_arousal"]
    )
    assert list(result["abaw"]["rows"].values()) == [known.sum(), whole.sum(), both.sum()]
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in result["abaw"]["measures"].values())
    assert not any(name.startswith("abaw") for name in result["metrics"])
    assert json.loads((tmp_path / "a.json").read_text())["abaw"] == result["abaw"]
    both_ways = compare(tmp_path / "a.json", tmp_path / "a.json", replicates=20, show=False)["metrics"]
    assert both_ways["abaw_selection_score"]["difference"]["value"] == 0


def test_units_beyond_those_of_the_edition_do_not_count() -> None:
    random = torch.Generator().manual_seed(3)
    units = (45, *FIRST.action_units[::-1], 26)
    scores, labels = torch.rand(60, len(units), generator=random), torch.rand(60, len(units), generator=random).round()
    labels[:, 0] = torch.nan  # not coded, and not asked for
    own = [units.index(unit) for unit in FIRST.action_units]

    def figures(schema: LabelSchema, columns: list[int]) -> dict[str, Tensor]:
        given = {"units": scores[:, columns], "unit_labels": labels[:, columns]}
        thresholds = torch.linspace(0.3, 0.7, len(units))[columns]
        return challenge_figures(
            Scored(schema, *[np.arange(60)] * 3, thresholds=thresholds, abaw="2020", **given), None
        )

    more = figures(LabelSchema((), units), list(range(len(units))))
    assert more == figures(LabelSchema((), FIRST.action_units), own)
    assert set(more) == {"abaw_au_f1", "abaw_au_accuracy", "abaw_au_score"}


def test_later_scores_count_every_class(tmp_path: Path) -> None:
    table = rows(LATER)
    table.loc[table["expression"] == "other", "expression"] = None
    result = run(model(LATER), prepared(tmp_path, table, LATER), abaw="mtl")
    found = {name: entry["value"] for name, entry in result["abaw"]["measures"].items()}
    assert found["mtl_score"] == pytest.approx(found["expr_f1"] + found["au_f1"] + found["va_score"])
    assert "expr_score" not in found
    eye = torch.eye(8)
    assert metrics.abaw_macro_f1(eye[:4], torch.arange(4)).item() == 0.5  # four classes in neither
    assert metrics.macro_f1(eye[:4], torch.arange(4)).item() == 1
    weights = torch.tensor([[1.0, 1, 1, 1], [2.0, 0, 0, 0]])
    assert metrics.abaw_macro_f1(eye[:4], torch.arange(4), weights).tolist() == [0.5, 0.125]


def test_what_is_not_there_is_said_and_not_zero(tmp_path: Path) -> None:
    units = rows(LATER)[["id", "split", "video", "time", "au"]]
    result = run(model(LATER), prepared(tmp_path / "au", units, LabelSchema((), LATER.action_units)), abaw="mtl")
    assert set(result["abaw"]["measures"]) == {"au_f1"}
    assert any("ABAW mtl: expressions not scored" in note for note in result["notes"])
    assert any("Not measured: valence arousal (only the model has it)." in note for note in result["notes"])
    # Labelled in the schema, but not in this split: a note too.
    blank = rows(LATER).assign(valence=np.nan, arousal=np.nan)
    result = run(model(LATER), prepared(tmp_path / "blank", blank, LATER), abaw="unitask", out=tmp_path / "b.json")
    assert "va_score" not in result["abaw"]["measures"]
    assert "Not measured: valence arousal (no row of split 'test' is labelled with it)." in result["notes"]
    assert "ccc" not in result["metrics"]
    assert compare(tmp_path / "b.json", tmp_path / "b.json", replicates=5, show=False)["metrics"]
    # Other units: those in both, else none.
    other = rows(LabelSchema((), (1, 9), True)).assign(expression=None)
    root = prepared(tmp_path / "other", other, LabelSchema((), (1, 9), True))
    with pytest.raises(HonneError, match="--units common"):
        run(model(LATER), root)
    result = run(model(LATER), root, units="common", abaw="unitask")
    assert list(result["units"]) == ["au01"]
    assert set(result["abaw"]["measures"]) == {"ccc_valence", "ccc_arousal", "va_score"}
    none = prepared(tmp_path / "none", other, LabelSchema((), (9, 17), True))
    assert "Not measured: action units (none is in both)." in run(model(LATER), none, units="common")["notes"]


def test_a_model_that_lacks_a_class_or_unit_is_refused(tmp_path: Path) -> None:
    root = prepared(tmp_path, rows(FIRST), FIRST)
    with pytest.raises(HonneError, match="does not predict other, AU7, AU10, AU23, AU24, AU26, which the challenge"):
        run(model(FIRST), root, abaw="unitask")
    with pytest.raises(WrongCall, match="for which challenge"):
        run(model(FIRST), root, submission=tmp_path / "files")


# --- files --------------------------------------------------------------------------------------------------------


def decided(one: Model, official: LabelSchema) -> pd.DataFrame:
    """What a submission must hold, one line per row."""
    outputs = said(one)
    table = pd.DataFrame({"image": rows(official)["id"] + ".jpg"})
    for name in ("valence", "arousal"):
        table[name] = [f"{value:.4f}" for value in outputs[name].tanh().tolist()]
    table["expression"] = torch.stack([outputs[name] for name in official.expressions], 1).argmax(1).numpy()
    for unit in official.action_units:
        table[f"AU{unit}"] = (outputs[f"AU{unit}"].sigmoid() >= one.thresholds[unit]).int().numpy()
    return table


def test_files_of_2020_go_by_video_and_name(tmp_path: Path) -> None:
    one = model(shuffled(FIRST))
    root = prepared(tmp_path / "data", rows(FIRST, labelled=False), FIRST)
    result = run(one, root, abaw="2020", submission=tmp_path / "files", drop="contempt", units="common")
    assert result["submission"]["files"] == 6
    assert result["metrics"] == {}
    assert result["notes"][-1] == "Nothing is measured: no row of split 'test' is labelled."
    wanted = decided(one, FIRST)
    text = (tmp_path / "files" / "VA_Set" / "12_left.txt").read_text()
    last = wanted[["valence", "arousal"]][-50:].agg(",".join, axis=1)
    assert text == "\n".join(["valence,arousal", *last])
    text = (tmp_path / "files" / "EXPR_Set" / "tape-7.txt").read_text()
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
    assert text.split("\n") == [header, *wanted["expression"][:70].astype(str)]
    lines = (tmp_path / "files" / "AU_Set" / "tape-7.txt").read_text().split("\n")
    assert lines[0] == "AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25"
    units = wanted[[f"AU{unit}" for unit in FIRST.action_units]].astype(str)
    assert lines[1:] == list(units[:70].agg(",".join, axis=1))


def test_files_of_later_editions(tmp_path: Path) -> None:
    one = model(shuffled(LATER))
    root = prepared(tmp_path / "data", rows(LATER, labelled=False), LabelSchema())
    wanted = decided(one, LATER).astype(str)
    run(one, root, abaw="mtl", submission=tmp_path / "mtl")
    lines = (tmp_path / "mtl" / "MTL.txt").read_text().splitlines()
    assert lines == ["image,valence,arousal,expression,aus", *wanted.agg(",".join, axis=1)]
    run(one, root, abaw="unitask", submission=tmp_path / "tasks")
    lines = (tmp_path / "tasks" / "EXPR.txt").read_text().splitlines()
    assert lines[0] == "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
    assert lines[1:] == list(wanted["image"] + "," + wanted["expression"])
    lines = (tmp_path / "tasks" / "AU.txt").read_text().splitlines()
    assert lines[0] == "image_location," + ",".join(f"AU{unit}" for unit in LATER.action_units)
    assert (tmp_path / "tasks" / "VA.txt").read_text().splitlines()[0] == "image_location,valence,arousal"
    # The data of one track give the files of that track.
    track = prepared(tmp_path / "track", rows(LATER, labelled=False), LabelSchema((), (), True))
    result = run(one, track, abaw="unitask", submission=tmp_path / "va")
    assert [path.name for path in (tmp_path / "va").iterdir()] == ["VA.txt"]
    assert any("Submission without action units" in note for note in result["notes"])


def test_what_cannot_be_sent_is_one_sentence(tmp_path: Path) -> None:
    named = rows(LATER, labelled=False).assign(id=[f"face{row}" for row in range(ROWS)])
    root = prepared(tmp_path / "data", named, LATER)
    with pytest.raises(HonneError, match="row 'face0' is not named <video>/<frame>"):
        run(model(LATER), root, abaw="mtl", submission=tmp_path / "files")
    gaps = prepared(tmp_path / "gaps", rows(LATER).drop(index=[3, 9]), LATER)
    with pytest.raises(HonneError, match="must hold valence arousal, which the model does not predict"):
        run(model(LabelSchema(LATER.expressions, LATER.action_units)), gaps, abaw="mtl", submission=tmp_path / "files")
    first = prepared(tmp_path / "first", rows(FIRST).drop(index=[3, 9]), FIRST)
    result = run(model(FIRST), first, abaw="2020", submission=tmp_path / "files")
    assert any("1 of 2 videos (first: tape-7) lack frames" in note for note in result["notes"])


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(evaluating, "load", lambda name, device: model(FIRST))
    root = prepared(tmp_path / "data", rows(FIRST), FIRST)
    words = ["evaluate", "mine", "--data", str(root), "--replicates", "5", "--abaw", "2020"]
    files = tmp_path / "files"
    assert cli.main([*words, "--smooth", "mean:5", "--submission", str(files), "--out", str(tmp_path / "r.json")]) == 0
    shown = capsys.readouterr().out
    for text in ("EXPR score", "selection score", "Smoothed along the videos", "ABAW AU F1", "6 files for ABAW 2020"):
        assert text in shown
    assert cli.main([*words[:-1], "2019"]) == 2
