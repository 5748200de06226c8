"""Recipes of the published rows of AU cues: figures, settings, a tiny run; and recipes that extend others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import honne
from honne import recipe as recipes
from honne.data.transforms import Augment
from honne.data.world import World, make_world
from honne.errors import WrongCall
from honne.methods.au_cues import AuCuesOptions

TABLES = """
cam        88.20 88.95 0.55 0.70  60.88 62.37 0.56 0.69  0.57 0.85  0.64 0.82
wildcat    88.26 88.85 0.52 0.69  59.88 61.62 0.62 0.80  0.47 0.85  0.61 0.81
gradcam    88.39 88.85 0.55 0.74  60.77 62.08 0.53 0.75  0.63 0.85  0.65 0.82
gradcam_pp 87.84 89.14 0.60 0.82  60.22 62.45 0.66 0.83  0.52 0.87  0.65 0.82
acol       87.94 88.68 0.54 0.67  58.28 61.48 0.55 0.65  0.46 0.84  0.60 0.81
prm        88.13 88.88 0.48 0.59  57.77 60.97 0.52 0.75  0.43 0.85  0.55 0.82
adl        87.45 88.65 0.50 0.63  57.88 61.25 0.54 0.66  0.51 0.85  0.65 0.83
cutmix     88.39 88.59 0.55 0.57  58.74 59.88 0.56 0.58  0.51 0.80  0.57 0.82
layercam   87.90 88.88 0.60 0.84  60.77 62.45 0.66 0.83  0.52 0.86  0.65 0.82
tscam      86.70 88.00 0.58 0.71  58.99 59.54 0.57 0.58  0.55 0.88  0.48 0.79
apvit      91.00 91.03 nan  nan   60.62 62.28 nan  nan   0.38 0.85  0.45 0.84
"""
"""Tables 1 and 2: accuracy (%) without and with, CAM-COS without and with, of RAF-DB and of AffectNet; then ATT-COS."""
LAYERS = """
1 88.52 0.58, 2 88.26 0.57, 3 88.39 0.56, 4 88.62 0.61, 5-4 88.78 0.67, 5-4-3 88.78 0.67, 5-4-3-2 88.55 0.67,
5-4-3-2-1 88.46 0.67
"""
"""Table 3: aligned layers of ResNet-50 with CAM on RAF-DB, accuracy (%), CAM-COS."""
SMALL: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
    "data.size": 32,
    "data.batch_size": 8,
    "data.workers": 0,
    "trainer.epochs": 1,
    "trainer.accelerator": "cpu",
    "trainer.validate_every": 0.5,
    "au_cues.layers": "last",
}


def published() -> dict[str, tuple[float, float, float]]:
    """Name of a recipe -> accuracy, CAM-COS, ATT-COS; NaN where there is none."""
    rows = {}
    for line in TABLES.split("\n")[1:-1]:
        method, *words = line.split()
        first, second = np.array(words[:8], float).reshape(2, 4), np.array(words[8:], float).reshape(2, 2)
        for data, figures, attention in zip(("rafdb", "affectnet"), first, second, strict=True):
            for k, mark in enumerate(("", "_au")):
                rows[f"au_cues/{data}_{method}{mark}"] = (figures[k] / 100, figures[2 + k], attention[k])
    for entry in LAYERS.replace("\n", " ").split(","):
        layers, accuracy, cam = entry.split()
        name = f"au_cues/rafdb_cam_au_layer{'s' if '-' in layers else ''}{layers.replace('-', '_')}"
        rows[name] = (float(accuracy) / 100, float(cam), np.nan)
    return rows


def test_every_row_says_what_was_published() -> None:
    rows = published()
    assert set(rows) == {name for name in recipes.names() if name.startswith("au_cues/")}
    assert len(rows) == 52
    for name, wanted in rows.items():
        said: dict[str, Any] = {}
        for text in recipes.chain(recipes.find(name)):
            said |= yaml.safe_load(text).get("published", {})
        assert set(said) <= set(recipes.PublishedOptions().__dict__)
        assert (said["data"], said["split"]) == (name.partition("/")[2].partition("_")[0], "test")
        found = [said.get(figure) for figure in ("accuracy", "cam_cos", "att_cos")]
        np.testing.assert_allclose(np.array(found, float), wanted, atol=1e-9, err_msg=name)


def test_rows_with_the_loss_parse_and_have_the_published_settings(tmp_path: Path) -> None:
    parser = recipes.parser(exit_on_error=False)

    def read(name: str) -> recipes.Recipe:
        words = [name, "--data", str(tmp_path), "--out", str(tmp_path / "run")]
        return recipes.from_namespace(parser, parser.parse_args(words))

    rows = {name: read(name) for name in published() if re.search(r"_au$|_au_layers5_4$", name)}
    settings: dict[str, Any] = {
        "codebook": "reference",
        "geometry": "reference",
        "attention": "random_share",
        "share": 1.0,
    }
    for name, row in rows.items():
        data, method = name.partition("/")[2].split("_")[:2]
        layers = {"cutmix": "4", "tscam": "last", "apvit": "1"}.get(method, "5")
        if listed := re.search(r"_layers?([\d_]+)$", name):
            layers = listed[1].replace("_", "-")
        weight = {"rafdb": 4, "affectnet": 9}[data]
        assert row.au_cues == AuCuesOptions(weight=weight, layers=layers, **settings), name
        assert (row.model.large_maps, row.data.size) == (
            data == "affectnet" and method not in ("tscam", "apvit"),
            112 if method == "apvit" else 224,
        ), name
        assert row.published.data == data

    row = rows["au_cues/affectnet_cam_au"]
    optim = row.optim
    assert (optim.optimizer, optim.lr, optim.weight_decay, optim.decayed) == ("sgd", 0.002, 5e-4, "all")
    assert (optim.schedule, optim.step_epochs, optim.step_factor, optim.step_floor) == ("step", 4, 0.9, 1e-7)
    assert (optim.warmup, optim.clip, optim.head_lr) == (0, 0, None)
    assert (row.data.batch_size, row.trainer.epochs, row.trainer.validate_every) == (224, 20, 0.0437)
    assert (row.trainer.monitor, row.model.backbone, row.model.explanation) == ("accuracy", "resnet50", "cam")
    assert row.data.augment == Augment(
        crop=(0.8, 1),
        warp=0.5,
        rotation=6,
        scale=(1, 1),
        shift=0,
        edge="black",
        colour=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        grey=0.2,
        erase=0.5,
        erase_area=(0.02, 0.33),
        erase_ratio=3.3,
        erase_with="noise",
    )
    assert rows["au_cues/rafdb_cutmix_au"].options.cutmix == 1
    assert rows["au_cues/rafdb_adl_au"].model.attention_dropout == 0.4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("rows") / "world", World(n=60, size=32)).root


@pytest.mark.parametrize("name", ["au_cues/rafdb_cam", "au_cues/rafdb_cam_au"])
def test_a_row_trains(world: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    model = honne.load(honne.train(name, data=world, out=run, overrides=SMALL))
    accuracy, cam, attention = published()[name]
    assert model.config.training["published"] == {
        "data": "rafdb",
        "split": "test",
        "accuracy": pytest.approx(accuracy),
        "cam_cos": cam,
        "att_cos": attention,
        "source": "Belharbi et al., FG 2024, Tables 1 and 2",
    }
    assert model.config.explanation["map"] == "cam"
    assert ("aligned" in model.config.explanation) == name.endswith("_au")
    log = pd.read_csv(run / "logs" / "metrics.csv")
    assert ("train/au_cues" in log) == name.endswith("_au")
    assert log["valid/accuracy"].notna().sum() >= 2  # validated twice in the one epoch


# --- recipes that extend others --------------------------------------------------------------------------------------


def written(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / "own.yaml"


def test_later_recipes_win_option_by_option(tmp_path: Path) -> None:
    own = written(
        tmp_path,
        first="optim: {lr: 0.1, step_factor: 0.2}\nmodel: {head_options: {kmax: 0.1}}\n",
        second="extends: [erm]\noptim: {lr: 0.3}\nmodel: {head_options: {alpha: 0.5}}\n",
        own="extends: [first.yaml, second.yaml]\ntrainer: {epochs: 3}\n",
    )
    recipe = recipes.read(own, [tmp_path], tmp_path / "run", {"data.batch_size": 5})
    assert (recipe.method, recipe.optim.lr, recipe.optim.step_factor) == ("erm", 0.3, 0.2)
    assert (recipe.model.head_options, recipe.trainer.epochs, recipe.data.batch_size) == ({"alpha": 0.5}, 3, 5)
    assert "extends" not in yaml.safe_load(recipe.text)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"own": "extends: [erm, nothing]"}, "own.yaml: extends 'nothing', which is no recipe"),
        ({"own": "extends: [au_cues/rafdb_camm]"}, "Did you mean one of: au_cues/rafdb_cam"),
        ({"own": "extends: [a.yaml]", "a": "extends: [own.yaml]"}, r"own.yaml: extends itself, by way of .*a.yaml"),
        ({"own": "extends: erm"}, "own.yaml: extends is no list of names"),
        ({"own": "extends: [a.yaml]", "a": "method: [erm"}, "a.yaml: not YAML"),
        ({"own": "extends: [a.yaml]", "a": "erm"}, "a.yaml: no recipe, it holds no options"),
        ({"own": "extends: [a.yaml]\nmethod: erm", "a": "optim: {lrr: 1}"}, "lrr"),
    ],
)
def test_wrong_bases_are_refused(tmp_path: Path, texts: dict[str, str], sentence: str) -> None:
    with pytest.raises(WrongCall, match=sentence):
        recipes.read(written(tmp_path, **texts), [tmp_path], tmp_path / "run", {})


def test_many_recipes_are_listed_as_one() -> None:
    assert "au_cues/... (52), causalmer, causalmer/..." in recipes.parser().format_help().replace("\n", " ")
    with pytest.raises(WrongCall, match=r"au_cues/affectnet_acol, au_cues/affectnet_acol_au, .*rafdb_wildcat_au"):
        recipes.find("au_cues")


def test_validations_must_fit_into_an_epoch() -> None:
    with pytest.raises(WrongCall, match=r"trainer.validate_every is 1.5"):
        recipes.TrainerOptions(validate_every=1.5)
    with pytest.raises(WrongCall, match="monitor last takes the end of an epoch"):
        recipes.TrainerOptions(validate_every=0.5, monitor="last")
