"""The recipes of IERN's experiments: the settings of the released code, and a network of the published size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from honne import recipe as recipes
from honne.data.transforms import Augment
from honne.labels import LabelSchema
from honne.networks import build

Read = Callable[..., recipes.Recipe]
EXPERIMENTS = ("mixbasic", "emotion6", "webemo", "sentiment")
PARAMETERS = {(6, 3): 55_242_310, (2, 10): 55_240_258}
"""Classes and strata -> parameters of the original's parts that predict, without the prototypes."""
PUBLISHED = {
    "channels": 512,
    "encoder_blocks": 2,
    "decoder_blocks": 3,
    "discriminator_blocks": 3,
    "init": "normal",
    "init_gain": 0.02,
    "center_weight": 5e-4,
    "prototypes": "adam",
    "prior": "uniform",
    "average": "logits",
    "logit_adjustment": "none",
    "encoder_cross_entropy": 0,
}
COMMON = Augment(
    flip=0.5,
    crop=(49 / 64, 49 / 64),
    warp=1,
    rotation=10,
    scale=(0.8, 1.2),
    shift=0.2,
    shear=8,
    edge="black",
    colour=1,
    brightness=(0.8, 1.2),
    contrast=(0.75, 1.5),
    blur=0.5,
    blur_sigma=(0.1, 1.5),
    erase=0,
)


@pytest.fixture(scope="module")
def read() -> Read:
    """Reads a recipe, with one parser for all."""
    parser = recipes.parser(exit_on_error=False)

    def one(name: str, *words: str) -> recipes.Recipe:
        return recipes.from_namespace(parser, parser.parse_args([name, "--data", "DATA", "--out", "RUN", *words]))

    return one


def test_every_experiment_has_its_baseline() -> None:
    listed = {name for name in recipes.names() if name.startswith("iern/")}
    assert listed == {f"iern/{name}{plain}" for name in EXPERIMENTS for plain in ("", "_plain")}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_settings_are_those_of_the_released_code(read: Read, name: str) -> None:
    recipe, plain = read(f"iern/{name}"), read(f"iern/{name}_plain")
    assert (recipe.method, plain.method) == ("iern", "erm")
    assert PUBLISHED.items() <= vars(recipe.options).items()
    assert (recipe.options.update, recipe.options.start) == ("fresh", None)
    for each in (recipe, plain):
        data, optim, trainer = each.data, each.optim, each.trainer
        assert (each.model.backbone, each.model.mean, each.model.std) == ("resnet50", [0.5] * 3, [0.5] * 3)
        assert (each.model.dropout, each.model.head) == (0, "linear")
        assert (data.batch_size, data.size, data.centre) == (8 if name == "mixbasic" else 16, 224, 0.875)
        assert (data.sampling, data.augment) == ("uniform", COMMON)
        assert (optim.optimizer, optim.lr, optim.head_lr, optim.beta1) == ("adam", 1e-4, 2e-4, 0.5)
        assert (optim.weight_decay, optim.clip) == (0, 0)
        assert (optim.schedule, optim.warmup_epochs, optim.hold_epochs) == ("linear", 5, 15)
        assert (trainer.epochs, trainer.monitor, trainer.ema, trainer.accumulate) == (160, "last", 0, 1)


def test_other_learning_rate_policies_are_options_that_go_together(read: Read) -> None:
    common = recipes.find("iern/_common").read_text(encoding="utf-8")
    lines = [line for line in common.splitlines() if line.startswith("#   ") and "--optim" in line]
    shapes = ["step", "cosine", "plateau", "linear"]
    for line, shape in zip(lines, shapes, strict=True):
        words = line.partition("(")[0].partition("--")
        recipe = read("iern/mixbasic", *f"--{words[2]}".split())
        assert recipe.optim.schedule == shape
    assert (recipe.optim.warmup_epochs, recipe.optim.warmup, recipe.trainer.epochs) == (0, 0, 155)


@pytest.mark.parametrize(("classes", "strata"), PARAMETERS)
def test_the_network_has_the_published_size(read: Read, classes: int, strata: int) -> None:
    recipe = read("iern/mixbasic")
    options = recipe.options
    head = {name: getattr(options, name) for name in ("channels", "encoder_blocks", "decoder_blocks")}
    head["strata"] = [str(number) for number in range(strata)]
    schema = LabelSchema(tuple(f"class {number}" for number in range(classes)))
    with torch.device("meta"):
        network = build(
            "face", {"backbone": recipe.model.backbone, "head": "interventional", "head_options": head}, schema
        )
        side = network.eval().maps(torch.empty(1, 3, recipe.data.size or 0, recipe.data.size or 0)).shape[2:]
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[classes, strata]
    assert network.expression.prototypes.shape == (strata, 512, *side)  # type: ignore[union-attr]
