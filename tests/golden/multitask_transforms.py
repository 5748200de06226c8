"""What the original shows when training and when measuring."""

from __future__ import annotations

import re
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from honne.data.transforms import Augment, Normalise, transform

Arrays = dict[str, np.ndarray]


class Always:
    """A source of chance that draws the same number for ever."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, count: int) -> np.ndarray:
        return np.full(count, self.value)


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """The shorter side brought to `side` px, as a data set is prepared."""
    height, width = image.shape[:2]
    sides = (side * width // min(height, width), side * height // min(height, width))
    return np.asarray(Image.fromarray(image).resize(sides, Image.Resampling.BILINEAR))


def central_square(image: np.ndarray, size: int, side: int) -> np.ndarray:
    """Square of `side` px around the central `size` of the original; honne measures on square pictures."""
    top, left = (round((length - size) / 2) - (side - size) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


@pytest.mark.golden("multitask", "transforms*.npz")
def test_pictures(golden: Arrays) -> None:
    side = int(golden["resize_short"])
    stored = resized(golden["image"], side)
    normalise = Normalise(tuple(golden["mean"] / 255), tuple(np.broadcast_to(golden["std"], 3) / 255))
    seen = set()
    for name in golden:
        if match := re.fullmatch(r"(eval|train_v(\d)(\d+))_(\d+)", name):
            size = int(match[4])
            if match[1] == "eval":
                shown = transform([central_square(stored, size, side)], size, centre=size / side)
            else:
                augment = Augment(crop=((size / side) ** 2,) * 2, crop_path="diagonal", warp=0, colour=0, erase=0)
                chance = cast(Any, Always(float(f"{match[2]}.{match[3]}")))
                shown = transform([stored], size, augment, [chance])
            values = normalise(shown.images)[0].numpy()
            np.testing.assert_allclose(values, golden[name], rtol=0, atol=1.001)  # a resize rounds grey levels
            seen.add(match[1][:5])
    assert seen == {"eval", "train"}
