"""Recipes of CausalMER and of the fusion networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from honne import recipe as recipes
from honne.labels import LabelSchema
from honne.methods.causalmer import Causalmer
from honne.networks import build
from honne.networks.counterfactual import BACKBONES
from honne.networks.fusion.branches import BRANCHES
from honne.recipe import Recipe

FEATURES = {"text": 300, "audio": 74, "vision": 35}
NAMES = [name for name in recipes.names() if name.split("/")[0] in ("causalmer", "mult", "pmr", "dmd")]
EMOTIONS = LabelSchema(emotions=("neutral", "happiness", "sadness", "anger"))


def read(name: str, **overrides: Any) -> Recipe:
    return recipes.read(name, ["DATA"], "OUT", overrides)


def count(network: nn.Module, without: str = "") -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not without or without not in name)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_network(name: str) -> None:
    recipe = read(name)
    kind = BACKBONES[recipe.fusion.network]
    taken = {key: value for key, value in vars(recipe.fusion).items() if key in kind.__init__.__code__.co_varnames}
    options = taken | {"modalities": FEATURES, "sentiment_classes": recipe.fusion.sentiment_classes}
    if recipe.fusion.network == "dmd":
        options["lengths"] = dict.fromkeys(FEATURES, 50)
    outside = {name: options.pop(name) for name in ("modalities", "sentiment_classes")}
    chosen, whole = recipe.fusion.network, outside | options
    if recipe.method == "causalmer":
        given = outside | options | {"valence_arousal_bins": 0, "modality_dropout": 0.0, "standardise": False}
        chosen, whole = Causalmer.fusion_network(recipe.options, chosen, given, None)  # type: ignore[arg-type]
    schema = EMOTIONS if "iemocap" in name else LabelSchema(sentiment=3.0)
    with torch.device("meta"):
        network = build(chosen, whole, schema)
    assert count(network) > 0
    assert recipe.optim.schedule in ("plateau", "cosine")


def test_published_sizes() -> None:
    recipe = read("causalmer/iemocap_mult")
    assert (recipe.fusion.levels, recipe.fusion.heads, recipe.data.batch_size, recipe.trainer.epochs) == (5, 10, 32, 50)
    assert recipe.options.branch_lr == {"text": 1e-6, "audio": 2e-3, "vision": 2e-3}
    sizes: dict[str, Any] = {"modalities": FEATURES, "width": 40, "heads": 10, "levels": 5, "standardise": False}
    with torch.device("meta"):
        iemocap = build("mult", sizes | {"kernels": recipe.fusion.kernels}, EMOTIONS)
        kernels = {"text": 1, "audio": 3, "vision": 3}
        mosei = build("mult", sizes | {"kernels": kernels, "sentiment_classes": 7}, LabelSchema(sentiment=3.0))
        assert (count(iemocap), count(mosei)) == (1_932_768, 1_902_607)
        assert count(BRANCHES["resnet18"](74, 8)) == 11_174_344
        # word vectors go around ALBERT's table of 30,000 words and its pooler, which the published count has
        text = count(BRANCHES["albert"](300, 8), without="word_embeddings")
        assert text == 11_683_584 + 38_528 + 6_152 - 30_000 * 128 - (768 * 768 + 768)


@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [
        ("dmd/mosi", {"text": 768, "audio": 5, "vision": 20}, 4_743_658),
        ("dmd/mosei", {"text": 768, "audio": 74, "vision": 35}, 1_792_778),
    ],
)
def test_sizes_of_dmd(name: str, features: dict[str, int], expected: int) -> None:
    options = read(name).fusion
    sizes = {"width": options.width, "heads": options.heads, "levels": options.levels, "kernels": options.kernels}
    given = {"modalities": features, "lengths": dict.fromkeys(features, 50), "standardise": False} | sizes
    with torch.device("meta"):
        network = build("dmd", given, LabelSchema(sentiment=3.0))
    steps = {key: 50 - options.kernels[key] + 1 for key in features}
    unused = sum(options.width * options.width * n + options.width for n in steps.values())  # proj_cosine, of no use
    assert count(network, without="geneous") + unused == expected


def test_units_of_dmd_have_the_published_sizes() -> None:
    with torch.device("meta"):
        network: Any = build(
            "dmd",
            {"modalities": FEATURES, "lengths": dict.fromkeys(FEATURES, 50), "width": 50, "heads": 10, "levels": 1},
            LabelSchema(sentiment=3.0),
        )
    assert (count(network.homogeneous), count(network.heterogeneous)) == (3_649, 3_425)


def test_published_figures_are_kept(tmp_path: Path) -> None:
    known = read("causalmer/iemocap_mult").published.known()
    assert known["emotion_accuracy"] == 0.834
    assert read("causalmer/mosei_mult_regression").published.known() == {}
