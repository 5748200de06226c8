"""`honne evaluate` and `honne compare` on a model whose every output is known."""

from __future__ import annotations

import io
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
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor, nn

import honne
from honne import cli
from honne.batch import Batch, Prediction
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, sha256, write_manifest
from honne.errors import HonneError, WrongCall
from honne.evaluation import compare, evaluate, evaluating, picture, storing
from honne.evaluation.picture import draw
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig

SCHEMA = LabelSchema(("neutral", "happiness", "disgust", "contempt"), (1, 12), True)
ROWS, SIDE = 120, 8
TEST = np.arange(ROWS) < 90  # the rest: 20 of valid, 10 of train


class Oracle(nn.Module):
    """Gives row r, whose image begins with grey level r (mirrored: 255 - r), line r of a table of outputs."""

    def __init__(self, outputs: Tensor, schema: LabelSchema) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)
        self.schema = schema

    def forward(self, batch: Batch) -> Prediction:
        assert batch.images is not None
        line = self.outputs[(batch.images[:, 0, 0, 0] * 255).round().long()]
        classes, units = len(self.schema.expressions), len(self.schema.action_units)
        return Prediction(
            line[:, :classes] if classes else None,
            line[:, classes : classes + units] if units else None,
            line[:, -2:].tanh() if self.schema.valence_arousal else None,
        )


def labels() -> pd.DataFrame:
    """Every kind of label, each missing here and there; a subject has three rows."""
    random = np.random.default_rng(0)
    code = random.integers(0, 4, ROWS)
    votes = random.multinomial(10, 0.1 + 0.6 * np.eye(4)[code]).astype(np.float32)
    units = random.integers(0, 2, (ROWS, 2)).astype(np.float32)
    units[random.random((ROWS, 2)) < 0.2] = np.nan
    affect = random.uniform(-1, 1, (ROWS, 2))
    affect[random.random(ROWS) < 0.2] = np.nan
    return pd.DataFrame(
        {
            "id": [f"face{row}" for row in range(ROWS)],
            "split": np.where(TEST, "test", np.where(np.arange(ROWS) < 110, "valid", "train")),
            "subject": [f"s{row // 3}" for row in range(ROWS)],
            "expression": [None if row % 10 == 9 else SCHEMA.expressions[code[row]] for row in range(ROWS)],
            "votes": [None if row % 10 == 8 else votes[row] for row in range(ROWS)],
            "au": list(units),
            "valence": affect[:, 0],
            "arousal": affect[:, 1],
        }
    )


Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One test draws; the others need not wait for it."""
    monkeypatch.setattr(picture, "draw", lambda path, result, scored: path.touch())


@pytest.fixture
def data(tmp_path: Path) -> Make:
    def make(name: str = "data", rows: pd.DataFrame | None = None, schema: LabelSchema = SCHEMA) -> Path:
        rows = (labels() if rows is None else rows).copy()
        with ImageWriter(tmp_path / name / "images") as images:
            references = []
            for row in range(len(rows)):
                pixels = np.full((SIDE, SIDE), row, np.uint8)
                pixels[:, SIDE // 2 :] = 255 - row
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "png")
                references.append(images.add(file.getvalue()))
        write_manifest(tmp_path / name, rows.assign(image=references), DataSchema(name, "by hand", schema))
        return tmp_path / name

    return make


def model(
    seed: int = 0, name: str = "oracle", schema: LabelSchema = SCHEMA, skill: float = 1.5, **training: Any
) -> Model:
    """A model that is better the more skill it has."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(256, len(schema.expressions) + len(schema.action_units) + 2, generator=generator)
    if schema == SCHEMA:
        truth = labels()
        for row, name_of_class in enumerate(truth["expression"]):
            if isinstance(name_of_class, str):
                outputs[row, schema.expressions.index(name_of_class)] += skill
    config = ModelConfig(
        name, "none", {}, schema, [0.0] * 3, [1.0] * 3, {"size": SIDE}, 2.0, {1: 0.4}, training=training
    )
    return Model(config, Oracle(outputs, schema), weights_sha256=name)


def run(*arguments: Any, **options: Any) -> dict[str, Any]:
    return evaluate(*arguments, **{"replicates": 50, "show": False} | options)


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_figures_are_right_and_each_label_counts_where_it_is_known(data: Make, tmp_path: Path) -> None:
    oracle, rows = model(), labels()[TEST]
    result = run(oracle, data(), out=tmp_path / "one.json")
    outputs = oracle.network.outputs[: TEST.sum()]  # type: ignore[index]
    probabilities = (outputs[:, :4] / 2).softmax(1).numpy()
    known = rows["expression"].notna().to_numpy()
    truth = np.array([SCHEMA.expressions.index(name) for name in rows["expression"][known]])
    guess = probabilities[known].argmax(1)

    found = {name: entry["value"] for name, entry in result["metrics"].items()}
    assert result["rows"] == 90
    assert result["labelled"] == {"expression": 81, "votes": 81, "action_units": 82, "valence_arousal": 69}
    assert (result["resampled"], result["clusters"]) == ("subject", 30)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, guess, average="macro"))
    assert found["nll"] == pytest.approx(sk.log_loss(truth, probabilities[known], labels=range(4)), rel=1e-5)
    assert result["confusion"] == sk.confusion_matrix(truth, guess).tolist()
    voted = rows["votes"].notna().to_numpy()
    shares = np.stack(rows["votes"][voted]) / 10
    assert found["emd"] == pytest.approx(abs(probabilities[voted] - shares).sum(1).mean() / 2, rel=1e-5)
    units, coded = outputs[:, 4:6].sigmoid().numpy(), np.stack(rows["au"])
    f1 = [
        sk.f1_score(coded[~np.isnan(coded[:, k]), k], units[~np.isnan(coded[:, k]), k] >= (0.4, 0.5)[k]) for k in (0, 1)
    ]
    assert [line["f1"]["value"] for line in result["units"].values()] == pytest.approx(f1)
    assert found["au_f1"] == pytest.approx(np.mean(f1))
    felt = rows["valence"].notna().to_numpy(copy=True)
    r = stats.pearsonr(rows["valence"][felt], outputs[felt, -2].tanh().numpy())[0]
    assert found["pearson_valence"] == pytest.approx(r, rel=1e-4)
    assert found["mtl_score"] == pytest.approx(found["ccc"] + found["macro_f1"] + found["au_f1"])
    assert all(entry["low"] <= entry["high"] for entry in result["metrics"].values())
    recalls = [line["recall"]["value"] for line in result["classes"].values()]
    assert recalls == pytest.approx(sk.recall_score(truth, guess, average=None).tolist())
    assert sum(line["rows"] for line in result["calibration"]) == 81

    stored = json.loads((tmp_path / "one.json").read_text())
    assert {key: stored[key] for key in result} == result
    table = pq.read_table(tmp_path / "one.parquet").to_pandas()
    assert list(table["id"]) == list(rows["id"])
    assert list(table["subject"]) == list(rows["subject"])
    np.testing.assert_allclose(table[[f"p_{name}" for name in SCHEMA.expressions]], probabilities, atol=1e-6)
    assert table["uncertainty"].between(0, 1).all()
    assert (tmp_path / "one.png").is_file()


def test_the_picture_shows_every_task(data: Make, tmp_path: Path) -> None:
    result = run(model(), data(), out=tmp_path / "one.json")
    _, scored = storing.read_evaluation(tmp_path / "one.json")
    draw(tmp_path / "drawn.png", result, scored)
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").convert("L"))
    assert drawn.shape[1] > drawn.shape[0] > 1000
    panels = [panel for line in np.array_split(drawn, 2) for panel in np.array_split(line, 3, axis=1)]
    inked = [float((panel < 200).mean()) > 0.01 for panel in panels]
    assert inked == [True] * 5 + [False]  # five on two lines of three


def test_batches_and_seeds_change_nothing_they_should_not(data: Make) -> None:
    oracle, root = model(), data()
    one = run(oracle, root)
    assert run(oracle, PreparedData(root), batch_size=7) == one
    other = run(oracle, root, seed=1)
    assert other["metrics"]["accuracy"]["value"] == one["metrics"]["accuracy"]["value"]
    assert other["metrics"]["nll"]["low"] != one["metrics"]["nll"]["low"]


def test_flips_average_probabilities(data: Make, tmp_path: Path) -> None:
    oracle = model()
    run(oracle, data(), flips=True, out=tmp_path / "flips.json")
    probabilities = (oracle.network.outputs[:, :4] / 2).softmax(1)  # type: ignore[index]
    expected = (probabilities[:90] + probabilities.flip(0)[:90]) / 2
    table = pq.read_table(tmp_path / "flips.parquet").to_pandas()
    np.testing.assert_allclose(table[[f"p_{name}" for name in SCHEMA.expressions]], expected, atol=1e-6)


def test_other_classes_are_refused_until_said_what_becomes_of_them(data: Make, tmp_path: Path) -> None:
    seven = LabelSchema(("contempt", "happiness", "neutral", "surprise"), (1, 12), True)
    oracle, root = model(schema=seven), data()
    with pytest.raises(HonneError, match=r"different label schemas: expressions \[contempt, .*against \[neutral"):
        run(oracle, root)
    with pytest.raises(HonneError, match="'fear', to be merged or dropped, is a class of neither"):
        run(oracle, root, drop="fear")
    with pytest.raises(WrongCall, match="'surprise' is not of the form from:into"):
        run(oracle, root, merge="surprise")
    result = run(oracle, root, merge="contempt:disgust, Surprised:disgust", out=tmp_path / "merged.json")
    assert result["schema"]["expressions"] == ["neutral", "happiness", "disgust"]
    assert result["notes"][0] == "Labels converted: disgust + contempt -> disgust."
    table = pq.read_table(tmp_path / "merged.parquet").to_pandas()
    mine = (oracle.network.outputs[:90, :4] / 2).softmax(1)  # type: ignore[index]
    np.testing.assert_allclose(table["p_disgust"], mine[:, 0] + mine[:, 3], atol=1e-6)
    wanted = labels()["expression"][:90].replace({"contempt": "disgust"})
    assert list(table["true_expression"].dropna()) == list(wanted.dropna())
    dropped = run(oracle, root, drop="contempt,disgust,surprise", out=tmp_path / "dropped.json")
    assert dropped["labelled"]["expression"] == labels()["expression"][:90].isin(["neutral", "happiness"]).sum()
    table = pq.read_table(tmp_path / "dropped.parquet").to_pandas()
    np.testing.assert_allclose(table["p_neutral"], mine[:, 2] / (mine[:, 1] + mine[:, 2]), atol=1e-6)


def test_units_and_tasks_that_only_one_side_has(data: Make) -> None:
    root = data()
    oracle = model(schema=LabelSchema(SCHEMA.expressions, (12, 25)))
    with pytest.raises(HonneError, match="action units AU12, AU25 against AU1, AU12"):
        run(oracle, root)
    result = run(oracle, root, units="common")
    assert list(result["units"]) == ["au12"]
    assert any("valence arousal (only the data have it)" in note for note in result["notes"])
    plain = data("plain", labels().drop(columns=["au", "valence", "arousal"]), LabelSchema(SCHEMA.expressions))
    with pytest.raises(HonneError, match="model predicts valence arousal, the data are labelled with expressions"):
        run(model(schema=LabelSchema((), (), True)), plain)


def test_votes_alone_are_enough(data: Make) -> None:
    result = run(
        model(schema=LabelSchema(SCHEMA.expressions)), data(rows=labels().drop(columns=["expression", "subject"]))
    )
    assert set(result["metrics"]) == {"vote_nll", "kl", "js", "emd", "top1_hit", "top2_hit"}
    assert result["resampled"] == "row"


def test_clusters_are_subjects_else_videos_else_rows(data: Make) -> None:
    rows = labels().assign(video=[f"v{row // 30}" for row in range(ROWS)])
    rows.loc[rows.index >= 30, "subject"] = None
    rows.loc[rows.index >= 60, "video"] = None
    result = run(model(), data(rows=rows))
    assert (result["resampled"], result["clusters"]) == ("subject and video and row", 10 + 1 + 30)


def test_what_the_model_has_seen_is_stamped(data: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = data()
    seen = {"data_sha256": [sha256(root / "manifest.parquet")], "splits": {"train": "train", "selected on": "valid"}}
    for record in (seen, {"data": ["data"]}):
        result = run(model(**record), root, split="train", show=True, out=tmp_path / "seen.json")
        assert result["in_sample"]
        assert "IN SAMPLE" in capsys.readouterr().out
    selected = run(model(**seen), root, split="valid")
    assert (selected["in_sample"], selected["selected_on"]) == (False, True)
    fresh = run(model(**seen), root, split="test")
    assert (fresh["in_sample"], fresh["selected_on"]) == (False, False)


def test_bad_input_is_one_sentence(data: Make, tmp_path: Path) -> None:
    root = data(rows=labels()[TEST])
    with pytest.raises(HonneError, match=r"split 'valid' is empty \(train 0, valid 0, test 90\)"):
        run(model(), root, split="valid")
    with pytest.raises(HonneError, match="not a prepared data set"):
        run(model(), tmp_path / "nowhere")
    with pytest.raises(HonneError, match="no such model"):
        run(tmp_path / "nowhere", root)
    blank = data("blank", labels().assign(expression=None, votes=None, au=None, valence=np.nan, arousal=np.nan))
    with pytest.raises(HonneError, match="no row of split 'test' is labelled"):
        run(model(), blank)
    with pytest.raises(WrongCall, match=r"does not end in \.json"):
        run(model(), root, out=tmp_path / "out.parquet")
    with pytest.raises(WrongCall, match="0 is not a number of bootstrap replicates"):
        run(model(), root, replicates=0)
    with pytest.raises(WrongCall, match="'gpu9' is not a device"):
        run("default", root, device="gpu9")


def test_a_full_disk_leaves_nothing_half_written(data: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    root = data()
    monkeypatch.setattr(storing.pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        run(model(), root, out=tmp_path / "out" / "one.json")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_line(data: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    root = data()
    monkeypatch.setattr(evaluating, "load", lambda name, device: model(name=name))
    out = str(tmp_path / "a.json")
    assert cli.main(["evaluate", "mine", "--data", str(root), "--out", out, "--replicates", "20", "--flips"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "[0." in shown
    assert cli.main(["compare", out, out, "--metric", "macro_f1", "--replicates", "20"]) == 0
    assert "macro F1" in capsys.readouterr().out
    assert cli.main(["evaluate", "mine", "--data", str(root), "--units", "some"]) == 2
    assert cli.main(["evaluate", "mine", "--data", str(tmp_path)]) == 1
    assert "not a prepared data set" in capsys.readouterr().err


# --- compare ------------------------------------------------------------------------------------------------------


def test_the_better_model_is_found_on_the_same_rows(data: Make, tmp_path: Path) -> None:
    root = data()
    weak, good = tmp_path / "weak.json", tmp_path / "good.json"
    run(model(1, "weak", skill=0.5), root, out=weak)
    run(model(2, "good", skill=4.0), root, out=good)
    result = compare(weak, good, replicates=400, show=False, out=tmp_path / "both.json")
    accuracy = result["metrics"]["accuracy"]
    assert accuracy["difference"]["value"] == pytest.approx(accuracy["b"] - accuracy["a"])
    assert accuracy["difference"]["low"] > 0.1
    assert accuracy["better"] == result["metrics"]["nll"]["better"] == "B"
    assert accuracy["p"] == pytest.approx(2 / 401)
    assert result["mcnemar"]["b_only"] - result["mcnemar"]["a_only"] == pytest.approx(
        81 * accuracy["difference"]["value"]
    )
    p = stats.binomtest(result["mcnemar"]["a_only"], result["mcnemar"]["a_only"] + result["mcnemar"]["b_only"]).pvalue
    assert result["mcnemar"]["p"] == pytest.approx(p)
    assert json.loads((tmp_path / "both.json").read_text())["metrics"] == result["metrics"]
    back = compare(good, weak, replicates=400, show=False)["metrics"]["accuracy"]
    assert back["difference"]["high"] == pytest.approx(-accuracy["difference"]["low"])
    assert back["better"] == "A"
    same = compare(good, good, replicates=20, show=False)
    assert {line["p"] for line in same["metrics"].values()} == {1.0}
    assert same["mcnemar"] == {"a_only": 0, "b_only": 0, "p": 1.0}


def test_only_figures_of_the_same_task_are_paired(data: Make, tmp_path: Path) -> None:
    root = data()
    run(model(), root, out=tmp_path / "all.json")
    run(model(schema=LabelSchema(SCHEMA.expressions)), root, out=tmp_path / "expression.json")
    run(model(schema=LabelSchema((), SCHEMA.action_units)), root, out=tmp_path / "units.json")
    names = compare(tmp_path / "all.json", tmp_path / "expression.json", replicates=20, show=False)["metrics"]
    assert "accuracy" in names
    assert not any(name.startswith(("au_", "ccc", "mtl")) for name in names)
    with pytest.raises(HonneError, match="no task in common"):
        compare(tmp_path / "units.json", tmp_path / "expression.json")


def test_what_cannot_be_paired_is_refused(data: Make, tmp_path: Path) -> None:
    root, a, b = data(), tmp_path / "a.json", tmp_path / "b.json"
    run(model(), root, out=a)

    def refuses(pattern: str, error: type[Exception] = HonneError, **options: Any) -> None:
        with pytest.raises(error, match=pattern):
            compare(a, b, **{"replicates": 20, "show": False} | options)

    refuses(r"b\.json: no such file")
    for text in ("not json", "[]", '{"metrics": {}}'):
        b.write_text(text)
        refuses(r"b\.json: not an evaluation")
    run(model(), root, split="valid", out=b)
    refuses("split test against valid")
    run(model(), data("other", labels().assign(subject=None)), out=b)
    refuses(r"data data \(manifest \w+\) against other")
    run(model(), root, out=b, merge="contempt:disgust")
    refuses(r"expressions \[neutral, happiness, disgust, contempt\] against \[neutral, happiness, disgust\]")
    run(model(), root, out=b)
    refuses("--metric: 'acuracy' is not a measure.*\n.*'accuracy'", WrongCall, metric="acuracy")
    refuses("replicates", WrongCall, replicates=0)
    result, scored = storing.read_evaluation(b)
    assert scored.expression is not None
    scored.expression[0] = (scored.expression[0] + 1) % 4
    storing.write_evaluation(b, {key: value for key, value in result.items() if key != "predictions"}, scored)
    refuses(r"their rows differ \(expression labels\)")
    (tmp_path / "a.parquet").replace(tmp_path / "b.parquet")
    refuses(r"a\.parquet: missing")
    (tmp_path / "a.parquet").write_bytes(b"something else")
    refuses(r"a\.parquet: not the predictions that a\.json was made from")


def test_the_package_offers_both() -> None:
    assert honne.evaluate is evaluate
    assert honne.compare is compare
