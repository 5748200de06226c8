"""The recipes of DMUE's published rows: they parse, and build networks of the published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from honne import recipe as recipes
from honne.data.transforms import Augment
from honne.labels import EXPRESSION_SETS, LabelSchema
from honne.networks import build
from honne.schedules import rate_at

PARAMETERS = {("resnet18", 7): 11_181_120, ("resnet18", 8): 11_181_632}
PARAMETERS |= {("resnet50_ibn_a", 7): 23_522_368, ("resnet50_ibn_a", 8): 23_524_416}
"""Published: of the network that is kept, frozen ones included."""
SETS = {"affectnet": ("affectnet8", 6), "rafdb": ("rafdb", 9), "ferplus": ("ferplus", 12), "sfew": ("sfew", 6)}
"""Data set -> expression set, epochs of the ramp."""


@pytest.mark.parametrize("data", SETS)
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50_ibn_a"])
def test_published_row(data: str, backbone: str, tmp_path: Path) -> None:
    recipe = recipes.read(f"dmue/{data}_{backbone}", [tmp_path], tmp_path / "run", {})
    codes, ramp = SETS[data]
    options = recipe.options
    assert (recipe.method, options.temperature, options.soft_weight, options.similarity_weight) == (
        "dmue",
        1.2,
        0.5,
        1000,
    )
    assert (options.ramp, options.ramp_height, options.compat) == (ramp, 1, "none")
    assert (recipe.data.batch_size, recipe.trainer.epochs, recipe.data.size, recipe.data.centre) == (72, 36, 224, 0.875)
    assert recipe.optim.optimizer == "adam"
    assert recipe.optim.weight_decay == 1e-4
    rates = [(rate_at(recipe.optim.table, e), rate_at(recipe.optim.head_table, e)) for e in (0, 4, 13, 23, 35)]
    assert rates == [(1e-4, 1e-3), (1e-4, 5e-4), (1e-5, 1e-4), (5e-5, 5e-5), (1e-5, 1e-5)]
    assert recipe.data.augment == Augment(
        crop=(49 / 64, 49 / 64), warp=0, colour=0, noise=0.25, noise_sigma=5.477, erase=0.5, erase_area=(0.02, 0.25)
    )

    model, expressions = recipe.model, EXPRESSION_SETS[codes].expressions
    names = ("backbone", "dropout", "neck", "head_bias")
    with torch.device("meta"):
        network = build("face", {name: getattr(model, name) for name in names}, LabelSchema(expressions))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == PARAMETERS[backbone, len(expressions)]
