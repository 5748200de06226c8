"""Measures of explanations: pure functions against closed forms, and `honne evaluate --explanations` on drawn faces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from honne import cli
from honne.cues.codebook import codebook
from honne.cues.drawing import GRID, action_unit_maps
from honne.data.loading import batches
from honne.data.manifest import DataSchema, PreparedData, write_manifest
from honne.data.world import World, make_world
from honne.errors import HonneError, WrongCall
from honne.evaluation import compare, evaluate, evaluating, picture
from honne.evaluation.printing import evaluation_tables
from honne.explain.checking import ORDERS, STAGES, checked_faces, redrawn
from honne.explain.maps import class_activation_map, on_image
from honne.explain.measuring import NULLS, MapOptions, MeanMaps, explained_faces, null_of
from honne.labels import LabelSchema
from honne.metrics.attention import attention_cosine, class_means, energy_inside, mean_over_classes, pointing
from honne.metrics.faithfulness import area_under, curves, pixel_ranks, rank_correlation
from honne.models import Model, ModelConfig
from honne.networks.face import FaceNetwork

CLASSES = ("neutral", "happiness", "surprise", "sadness")
SIDE = 32
OPTIONS: dict[str, Any] = {
    "backbone": "face_resnet",
    "backbone_options": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4, "output_stride": 16},
}


def make(name: str = "tiny", classes: tuple[str, ...] = CLASSES, seed: int = 0, **config: Any) -> Model:
    """A network that has learned nothing; its head gives the classes of `CLASSES`, in the order of `classes`."""
    torch.manual_seed(seed)
    network = FaceNetwork(LabelSchema(CLASSES), **OPTIONS)
    head = network.linear
    assert head.bias is not None
    order = [CLASSES.index(each) for each in classes]
    head.bias.data[0] -= 5  # few faces are neutral to it: those have no cue
    head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
    parts: dict[str, Any] = {"network": {"kind": "face", "options": OPTIONS}, "mean": [0.5] * 3, "std": [0.25] * 3}
    alignment = {"kind": "none", "size": SIDE}
    return Model(ModelConfig(name, "erm", labels=LabelSchema(classes), alignment=alignment, **parts, **config), network)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    knobs = World(n=90, size=SIDE, seed=3, classes=CLASSES, labels="expression", subjects=15, test_share=0.4)
    return make_world(tmp_path_factory.mktemp("measured") / "world", knobs).root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are tested elsewhere."""
    monkeypatch.setattr(picture, "draw", lambda path, result, scored: path.touch())


def changed(root: Path, to: Path, rows: pd.DataFrame, schema: DataSchema) -> Path:
    """The world with another manifest."""
    to.mkdir()
    (to / "images").symlink_to(root / "images")
    write_manifest(to, rows, schema)
    return to


def figures(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["id", "row", "expression", "predicted"])


# --- pure functions ----------------------------------------------------------------------------------------------


def test_a_perfect_map_a_constant_one_and_a_face_without_a_cue() -> None:
    region = torch.zeros(3, 8, 8)
    region[:, 2:4, 1:5] = 1
    region[2, 0, 0] = torch.nan
    maps = torch.stack([3 * region[0], torch.ones(8, 8), torch.ones(8, 8)])
    share = 8 / 64
    for measure, wanted in ((attention_cosine, [1, share**0.5]), (pointing, [1, share]), (energy_inside, [1, share])):
        found = measure(maps, region)
        assert found[:2].tolist() == pytest.approx(wanted)
        assert found[2].isnan()
    assert energy_inside(torch.zeros(1, 8, 8), region[:1]).item() == attention_cosine(torch.zeros(1, 8, 8), region[:1])
    below = torch.where(region[:1] > 0, 1.0, -2.0)  # shifted up: the region alone is left
    assert attention_cosine(below, region[:1]).item() == pytest.approx(1)


def test_class_means_count_rows_as_often_as_they_were_drawn() -> None:
    random = torch.Generator().manual_seed(0)
    values, labels = torch.rand(20, 2, generator=random), torch.randint(-1, 3, (20,), generator=random)
    values[3, 0] = torch.nan
    weight = torch.randint(0, 3, (5, 20), generator=random)
    found = class_means(values, labels, 4, weight)
    assert found.shape == (5, 4, 2)
    for draw, code, column in np.ndindex(5, 3, 2):
        times = weight[draw] * (labels == code)
        rows = torch.repeat_interleave(values[:, column], times)
        assert found[draw, code, column].item() == pytest.approx(rows.nanmean().item())
    assert found[:, 3].isnan().all()
    torch.testing.assert_close(mean_over_classes(found), found[:, :3].mean(1))


def test_every_pixel_has_one_place_and_ties_fall_to_chance() -> None:
    maps, ties = torch.randint(0, 3, (4, 5, 6)).float(), torch.rand(5, 6)
    for ranks, each in zip(pixel_ranks(maps, ties), maps, strict=True):
        order = np.lexsort((-ties.flatten().numpy(), -each.flatten().numpy()))
        assert ranks.flatten()[order].tolist() == list(range(30))


def test_deletion_and_insertion_of_a_model_that_looks_at_one_patch() -> None:
    images = torch.full((2, 3, 20, 20), 200, dtype=torch.uint8)
    patch = torch.zeros(2, 20, 20)
    patch[0, 5:15, 5:15] = patch[1, :10, :10] = 1  # a quarter of the pixels: 5 of 20 steps

    def score(shown: Tensor) -> Tensor:
        light = shown.float().mean(1).view(2, 21, 20, 20) / 200
        return ((light * patch[:, None]).sum((2, 3)) / 100).flatten()

    falls = [1, 0.8, 0.6, 0.4, 0.2] + [0] * 16
    for maps, wanted, area in ((patch, falls, 0.125), (-patch, [1.0] * 16 + [0.8, 0.6, 0.4, 0.2, 0], 0.875)):
        deletion, insertion = curves(score, images, torch.zeros_like(images), pixel_ranks(maps, torch.rand(20, 20)))
        assert deletion[0].tolist() == pytest.approx(wanted)
        assert insertion[1].tolist() == pytest.approx([1 - value for value in wanted], abs=1e-6)
        assert area_under(deletion).tolist() == pytest.approx([area] * 2)
        assert area_under(insertion).tolist() == pytest.approx([1 - area] * 2)


def test_rank_correlation_of_maps() -> None:
    one, other = torch.randint(0, 5, (3, 4, 4)).float(), torch.rand(3, 4, 4)
    wanted = [stats.spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(one, other, strict=True)]
    assert rank_correlation(one, other).tolist() == pytest.approx(wanted)
    assert rank_correlation(other, other).tolist() == pytest.approx([1] * 3)
    assert rank_correlation(torch.ones(1, 4, 4), other[:1]).isnan().all()


# --- faces -------------------------------------------------------------------------------------------------------


def test_figures_of_each_face_are_those_of_a_plain_loop(world: Path) -> None:
    model, table = make(), torch.from_numpy(codebook("facs").table(CLASSES))
    found = explained_faces(model, world, batch_size=7)
    batch = next(batches(PreparedData(world), "test", size=SIDE, batch_size=1000))
    assert batch.images is not None
    assert batch.landmarks is not None
    assert batch.labels.expression is not None
    assert len(found) == len(batch)
    for face in range(0, len(batch), 5):
        image, points, label = batch.images[face][None], batch.landmarks[face][None], batch.labels.expression[face]
        line, each = found.iloc[face], [action_unit_maps(points, row[None], SIDE) for row in table]
        assert line["expression"] == CLASSES[label]
        own = class_activation_map(model, image, label[None])
        maps = on_image(own.maps, GRID, "cam")
        wanted = {
            "att_cos": attention_cosine(own.attention["last"], each[label]),
            "cam_cos": attention_cosine(maps, each[label]),
            "cam_pointing": pointing(maps, each[label]),
            "cam_energy": energy_inside(maps, each[label]),
            "uniform_energy": energy_inside(torch.ones_like(maps), each[label]),
        }
        predicted = class_activation_map(model, image)
        said = each[int(predicted.target)]
        wanted["predicted_cam_cos"] = attention_cosine(on_image(predicted.maps, GRID, "cam"), said)
        assert line["predicted"] == CLASSES[int(predicted.target)]
        others = [attention_cosine(each[k], each[label]) for k in (1, 2, 3) if k != label]
        wanted["other_cos"] = torch.stack(others).mean(0)
        for name, value in wanted.items():
            np.testing.assert_allclose(line[name], value.item(), atol=1e-5, err_msg=name)
    known = found["expression"] != "neutral"
    assert (found["att_cos"].notna() == known).all()
    assert found.loc[known, "uniform_pointing"].equals(found.loc[known, "uniform_energy"])  # chance, both
    together = explained_faces(model, world, batch_size=64)
    np.testing.assert_allclose(figures(found).to_numpy(float), figures(together).to_numpy(float), atol=1e-4)


def test_the_mean_map_is_of_the_training_faces_or_else_of_these(world: Path, tmp_path: Path) -> None:
    data = PreparedData(world)
    alone = data.rows[data.rows["split"] == "test"]
    without = explained_faces(make(), changed(world, tmp_path / "alone", alone, data.schema))
    found = explained_faces(make(), world)
    assert without["cam_cos"].to_numpy() == pytest.approx(found["cam_cos"].to_numpy(), nan_ok=True)
    gap = (without["mean_cos"] - found["mean_cos"]).abs()
    assert 0 < gap.max() < 0.1
    assert (found["mean_cos"].mean() > found[["uniform_cos", "centre_cos", "other_cos"]].mean()).all()


def test_classes_go_by_name_and_layers_are_averaged(world: Path) -> None:
    turned = (*CLASSES[2:], *CLASSES[:2])
    one, other = (explained_faces(make(classes=each), world) for each in (CLASSES, turned))
    pd.testing.assert_frame_equal(one, other, atol=1e-4)
    model = make(explanation={"map": "gradcam", "aligned": "4-5", "codebook": "reference"})
    assert MapOptions.of(model) == MapOptions("gradcam", ("4", "5"), "action_units", "reference")
    assert MapOptions.of(model, "cam", codebook="facs") == MapOptions("cam", ("4", "5"), "action_units", "facs")
    table = explained_faces(model, world)
    mean = (table["att_cos_4"] + table["att_cos_5"]) / 2
    np.testing.assert_allclose(table["att_cos"], mean, atol=1e-6)


@pytest.mark.parametrize("cue", ["generic_action_units", "landmarks"])
def test_cues_that_are_the_same_for_every_class(world: Path, cue: Any) -> None:
    table = explained_faces(make(), world, "test", MapOptions.of(make(), cue=cue))
    assert table["att_cos"].notna().all()  # of neutral faces too
    assert table["other_cos"].isna().all()


def test_weights_are_drawn_anew_from_the_head_down(world: Path) -> None:
    model, data = make(), PreparedData(world)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    faces = list(batches(data, "test", size=SIDE, batch_size=16))
    parts: dict[str, Any] = {"head": "expression", "last_stage": ("expression", "backbone.layer4"), "all": ""}
    for stage, named in parts.items():
        after = dict(redrawn(model, stage, faces, seed=1).network.named_parameters())
        for name, weights in after.items():
            assert torch.equal(weights.flatten().sort()[0], before[name].flatten().sort()[0])
            if weights.unique().numel() > 8:  # a few could fall back into their places
                assert torch.equal(weights, before[name]) != name.startswith(named)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    table = checked_faces(model, data, data.split("test")[:6], MapOptions.of(model))
    assert len(table) == 6
    assert table.filter(regex="tion$").apply(lambda column: column.between(0, 1)).all(None)
    assert (table["head_att_rank"] > 0.999).all()  # attention is of no class
    assert table["all_cam_rank"].mean() < 0.9


class Patch(nn.Module):
    """A backbone whose only map shows edges, those in the upper left quarter alone."""

    num_features = 1

    def forward_features(self, images: Tensor) -> Tensor:
        edges = (images - nn.functional.avg_pool2d(images, 3, 1, 1)).abs().mean(1, keepdim=True)
        edges[:, :, SIDE // 2 :], edges[:, :, :, SIDE // 2 :] = 0, 0
        return edges

    def forward_head(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def test_a_map_of_what_the_model_uses_deletes_sooner_than_chance(world: Path) -> None:
    model = make()
    network: Any = model.network
    network.backbone, network.expression = Patch(), nn.Linear(1, len(CLASSES))
    network.expression.weight.data = torch.tensor([[0.0], [300.0], [0.0], [0.0]])
    network.expression.bias.data = torch.tensor([0.0, -3.0, 0.0, 0.0])
    model = Model(replace(model.config, mean=[0.0] * 3, std=[1.0] * 3), network.requires_grad_(False))
    data = PreparedData(world)
    table = checked_faces(model, data, data.split("test")[:20], MapOptions("cam", ("last",), "action_units", "facs"))
    for order in ORDERS[1:]:
        assert table["map_deletion"].mean() < table[f"{order}_deletion"].mean() - 0.1
        assert table["map_insertion"].mean() > table[f"{order}_insertion"].mean() + 0.05
    assert not any("last_stage" in str(name) for name in table)  # this backbone names no layers


def test_mean_maps_are_plain_means_over_the_labelled_faces_that_have_a_cue() -> None:
    maps, code = torch.rand(9, 4, 4), torch.tensor([0, 1, 1, -1, 2, 2, 2, 1, 0])
    cue = maps.clone()
    cue[7] = torch.nan
    means = MeanMaps()
    for part in (slice(0, 4), slice(4, 9)):
        means.add(code[part], 4, {"cue": cue[part], "map": maps[part]})
    assert means.faces.tolist() == [2, 2, 3, 0]
    torch.testing.assert_close(means.maps["map"][1], maps[1:3].mean(0))
    assert means.maps["cue"][3].isnan().all()


# --- honne evaluate ----------------------------------------------------------------------------------------------


def test_evaluate_prints_agreement_beside_the_null_baselines(world: Path, tmp_path: Path, capsys: Any) -> None:
    options: dict[str, Any] = {"replicates": 50, "explanations": "full", "explained_faces": 5, "map": "cam"}
    result = evaluate(make(), world, out=tmp_path / "one.json", **options)
    shown = capsys.readouterr().out
    assert "cam against action units (facs), mean over classes" in shown
    for words in ("ATT COS", "predicted CAM pointing", "uniform", "insertion", "last stage", "one_maps.png"):
        assert words in shown
    assert (tmp_path / "one_maps.png").stat().st_size > 10_000
    found = result["explanations"]
    table = explained_faces(make(), world, "test", MapOptions.of(make(), "cam"))
    per_class = table.groupby("expression")[["att_cos", "mean_cos"]].mean()
    assert found["measures"]["att_cos"]["value"] == pytest.approx(per_class["att_cos"].mean())
    assert found["measures"]["att_cos"]["nulls"]["mean"]["value"] == pytest.approx(per_class["mean_cos"].mean())
    predicted = table.groupby("predicted")["predicted_cam_cos"].mean().mean()
    assert found["measures"]["predicted_cam_cos"]["value"] == pytest.approx(predicted)
    assert found["classes"]["sadness"]["att_cos"]["value"] == pytest.approx(per_class["att_cos"]["sadness"])
    assert "neutral" not in found["classes"]
    assert found["faces"] == table["att_cos"].notna().sum()
    assert found["checked_faces"] == 5
    assert {f"{stage}_cam_rank" for stage in STAGES} < found["checks"].keys()
    assert not set(found["columns"]) & set(result["metrics"])
    for each in found["measures"].values():
        assert each["low"] <= each["value"] <= each["high"]
        assert set(each["nulls"]) == set(NULLS)
    stored = pq.read_table(tmp_path / "one.parquet").to_pandas()
    np.testing.assert_allclose(stored["att_cos"], table["att_cos"], rtol=1e-6)
    assert stored["check_map_deletion"].notna().sum() == 5
    plain = evaluate(make(), world, replicates=50, show=False)
    assert "explanations" not in plain
    assert plain["metrics"] == result["metrics"]
    assert json.loads((tmp_path / "one.json").read_text())["explanations"] == found


def test_compare_pairs_explanations_of_the_same_heat_maps(world: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.json" for name in ("a", "b", "c")]
    options: dict[str, Any] = {"replicates": 50, "explanations": "agreement", "show": False}
    one, other = (
        evaluate(make(str(seed), seed=seed), world, out=path, **options) for seed, path in enumerate(paths[:2])
    )
    evaluate(make(), world, out=paths[2], cue="landmarks", map="cam", **options)
    line = compare(*paths[:2], replicates=50, show=False)["metrics"]["att_cos"]
    values = [each["explanations"]["measures"]["att_cos"]["value"] for each in (one, other)]
    assert [line["a"], line["b"]] == values
    assert line["difference"]["value"] == pytest.approx(values[1] - values[0])
    mixed = compare(paths[0], paths[2], replicates=50, show=False)
    assert "att_cos" not in mixed["metrics"]
    assert "action_units (facs) and of landmarks" in mixed["notes"][-2]
    assert "cam and layercam" in mixed["notes"][-1]


def test_published_figures_stand_beside_those_obtained(world: Path) -> None:
    published = {"data": "rafdb", "split": "test", "accuracy": 0.8895, "cam_cos": 0.7, "source": "a table"}
    model = make(training={"published": published})
    result = evaluate(model, world, explanations="agreement", replicates=20, show=False)
    assert result["published"] == published
    assert "published figures are of rafdb, test; these are of" in result["notes"][-1]
    last = [list(part.columns[-1].cells) for part in evaluation_tables(result) if not isinstance(part, str)]
    assert last[0][:2] == ["0.889", ""]
    assert last[2].count("0.700") == 1  # CAM-COS; ATT-COS was not published
    reader = PreparedData(world).schema.reader
    same = make(training={"published": published | {"data": reader}})
    assert not evaluate(same, world, replicates=20, show=False)["notes"]


def test_merged_classes_are_explained_as_what_they_become(world: Path) -> None:
    schema = (*CLASSES[:3], "contempt")
    model = make(classes=CLASSES)
    model.config.labels = LabelSchema(schema)
    result = evaluate(model, world, merge="sadness:contempt", explanations="agreement", replicates=20, show=False)
    table = explained_faces(model, world, classes={"sadness": "contempt"})
    wanted = table.loc[table["expression"] == "contempt", "cam_cos"].mean()
    assert result["explanations"]["classes"]["contempt"]["cam_cos"]["value"] == pytest.approx(wanted)


def test_what_cannot_be_measured_is_one_sentence(world: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    data = PreparedData(world)
    bare = changed(world, tmp_path / "bare", data.rows.drop(columns="landmarks"), data.schema)
    failed = changed(world, tmp_path / "failed", data.rows.assign(landmarks=None), data.schema)

    def refuses(words: str, where: Path = world, error: type[Exception] = HonneError, **options: Any) -> None:
        given: dict[str, Any] = {"explanations": "agreement", "replicates": 20, "show": False} | options
        with pytest.raises(error, match=words):
            evaluate(make(), where, **given)

    for where in (bare, failed):
        refuses(r"no face of split 'test' has landmarks.*\n.*honne prepare prepared .* --landmarks mesh", where)
    refuses("unknown map 'layercamm'.*\n.*layercam", error=WrongCall, map="layercamm")
    refuses("there is no codebook 'mine'", codebook="mine")
    refuses("explained-faces: 0 is not a number of faces", error=WrongCall, explained_faces=0)
    (tmp_path / "own.yaml").write_text("anger: [4]\n")
    refuses("names no action unit for any expression of model 'tiny'", codebook=str(tmp_path / "own.yaml"))
    lost = data.rows.copy()
    lost["landmarks"] = [
        points if kind == "neutral" else None
        for points, kind in zip(lost["landmarks"], lost["expression"], strict=True)
    ]
    refuses("no face of split 'test' has a heat map", changed(world, tmp_path / "lost", lost, data.schema))
    monkeypatch.setattr(evaluating, "load", lambda name, device: make(name))
    assert cli.main(["evaluate", "m", "--data", str(bare), "--explanations", "agreement"]) == 1
    assert "has landmarks, without which" in capsys.readouterr().err
    assert cli.main(["evaluate", "m", "--data", str(bare), "--explanations", "some"]) == 2
    assert null_of("att_cos_4", "mean") == "mean_cos"
