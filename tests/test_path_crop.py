"""Crops on the diagonal: one draw says where they are and whether the image is flipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from honne.data.flips import flip_landmarks
from honne.data.transforms import Augment, transform
from honne.errors import WrongCall

SIDE, SIZE = 36, 30


class Always:
    """A source of chance that draws the same number for ever."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, count: int) -> np.ndarray:
        return np.full(count, self.value)


def along(flip: float = 0.5, crop_ratio: float = 1.0) -> Augment:
    crop = ((SIZE / SIDE) ** 2,) * 2
    return replace(Augment.none(), crop=crop, crop_ratio=crop_ratio, crop_path="diagonal", flip=flip)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(SIDE, SIDE, 3), (SIDE, 50, 3), (41, SIDE, 3)])
@pytest.mark.parametrize("draw", [0.0, 0.2, 0.49, 0.5, 0.8, 0.999])
def test_one_number_says_place_and_side(shape: tuple[int, ...], draw: float) -> None:
    image, points = noise(*shape), np.random.default_rng(1).uniform(0, 30, (1, 68, 2))
    shown = transform([image], SIZE, along(), [cast(Any, Always(draw))], points)
    left, top = int((shape[1] - SIZE) * draw), int((shape[0] - SIZE) * draw)
    wanted, moved = image[top : top + SIZE, left : left + SIZE], points[0] - (left, top)
    if draw < 0.5:
        wanted, moved = wanted[:, ::-1], flip_landmarks(moved, SIZE)
    np.testing.assert_array_equal(shown.images[0].permute(1, 2, 0), wanted)
    assert shown.landmarks is not None
    np.testing.assert_allclose(shown.landmarks[0], moved, atol=1e-4)


def test_all_places_are_drawn_and_half_of_the_images_flipped() -> None:
    image = np.arange(SIDE, dtype=np.uint8)[:, None].repeat(SIDE, 1)
    shown = transform([image] * 400, SIZE, along(), [np.random.default_rng((0, i)) for i in range(400)])
    tops = shown.images[:, 0, 0, 0].numpy()
    assert set(tops) == set(range(SIDE - SIZE))
    assert shown.flipped.mean() == pytest.approx(0.5, abs=0.08)
    assert (tops[shown.flipped] < 3).all()
    still = transform([image] * 9, SIZE, along(flip=0), [np.random.default_rng(i) for i in range(9)])
    assert not still.flipped.any()


def test_images_that_draw_alike_move_alike() -> None:
    """As the frames of a clip do, which share their generator's state."""
    images = [noise(SIDE, SIDE, 3), noise(SIDE, SIDE, 3)[::-1]]
    together = transform(images, SIZE, along(), [np.random.default_rng(5) for _ in images]).images
    assert (together[0] == transform(images[:1], SIZE, along(), [np.random.default_rng(5)]).images[0]).all()
    again = transform([images[1]], SIZE, along(), [np.random.default_rng(5)]).images[0]
    assert (together[1] == again).all()


def test_a_crop_on_the_diagonal_is_square() -> None:
    with pytest.raises(WrongCall, match=r"crop_ratio is 1\.3 and augment\.crop_path diagonal"):
        along(crop_ratio=1.3)
