"""Augmentation by the smallest and largest value, where a number alone means either way alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

import honne.recipe
from honne.data.transforms import Augment, transform
from honne.errors import WrongCall

STILL = Augment.none()
STEP = np.repeat(np.array([78, 178], np.uint8), 20)[None, :, None].repeat(40, 0).repeat(3, 2)
"""A dark and a light half, 50 grey levels either side of mid-grey."""


def changed(options: Augment, image: np.ndarray, count: int = 200) -> np.ndarray:
    generators = [np.random.default_rng((7, i)) for i in range(count)]
    return transform([image] * count, len(image), options, generators).images.numpy().astype(float)


@pytest.mark.parametrize(("contrast", "low", "high"), [((0.75, 1.5), 0.75, 1.5), (0.25, 0.75, 1.25), ((2, 2), 2, 2)])
def test_contrast_between_its_factors(contrast: float | tuple[float, float], low: float, high: float) -> None:
    images = changed(replace(STILL, colour=1, brightness=0, contrast=contrast), STEP)
    factors = (images[:, 0, 0, -1] - images[:, 0, 0, 0]) / 100
    assert low - 0.02 <= factors.min() <= low + 0.05 * (high - low) + 0.02
    assert high + 0.02 >= factors.max() >= high - 0.05 * (high - low) - 0.02
    assert abs(factors.mean() - (low + high) / 2) < 0.05


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_number_is_the_same_as_its_pair(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    still = replace(STILL, colour=1, brightness=0, contrast=0)
    images = changed(replace(still, **{name: 0.25}), image, 20)
    assert (images == changed(replace(still, **{name: (0.75, 1.25)}), image, 20)).all()
    assert (images != changed(still, image, 20)).any((1, 2, 3)).all()


def test_blur_between_its_radii() -> None:
    def edge(image: np.ndarray) -> np.ndarray:
        """Step at the border of the two halves, which blur makes smaller."""
        return image[..., 20].mean(-1) - image[..., 19].mean(-1)

    images = changed(replace(STILL, blur=1, blur_sigma=(1.0, 1.5)), STEP)[:, 0]
    least, most = (
        edge(np.asarray(Image.fromarray(STEP[..., 0]).filter(ImageFilter.GaussianBlur(radius))).astype(float))
        for radius in (1.0, 1.5)
    )
    found = edge(images)
    assert most - 0.5 <= found.min() < found.max() <= least + 0.5
    assert found.max() - found.min() > 0.8 * (least - most)
    assert (edge(changed(replace(STILL, blur=1, blur_sigma=1.5), STEP)[:, 0]) > least + 1).any()  # 0 to 1.5


@pytest.mark.parametrize("options", [{"contrast": (1.5, 0.75)}, {"brightness": (-0.1, 1)}, {"blur_sigma": (2, 1)}])
def test_ranges_the_wrong_way_round(options: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(WrongCall, match=f"augment.{next(iter(options))} is"):
        Augment(**options)  # type: ignore[arg-type]


def test_recipes_take_both_forms() -> None:
    overrides = {"data.augment.contrast": [0.75, 1.5], "data.augment.blur_sigma": [0.1, 1.5]}
    augment = honne.recipe.read("erm", ["data"], "run", overrides).data.augment
    assert (augment.contrast, augment.brightness, augment.blur_sigma) == ((0.75, 1.5), Augment().brightness, (0.1, 1.5))
