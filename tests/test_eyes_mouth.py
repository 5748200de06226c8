"""The crop that levels the eyes and frames eyes and mouth, whatever way the head is turned."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from honne.errors import HonneError
from honne.faces.align import Alignment, published_eyes_mouth_crop
from honne.faces.face import Face
from honne.faces.geometry import transform_points

POINTS = np.array([[40, 50], [60, 50], [50, 60], [43, 70], [57, 70.0]])
"""An upright face: eyes 20 px apart, the mouth 20 px below them."""


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    turn = np.radians(degrees)
    return (points - 50) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + 50


def smooth(side: int = 100) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def moved(face: Face, size: int = 80) -> np.ndarray:
    assert face.points is not None
    return transform_points(Alignment("eyes_mouth", size).matrix(smooth(), face), face.points)


@pytest.mark.parametrize("degrees", [0, 30, 90, -90, 135, 180])
def test_a_turned_face_is_framed_as_an_upright_one(degrees: float) -> None:
    face = Face(np.zeros(4), points=turned(POINTS, degrees))
    np.testing.assert_allclose(moved(face), (POINTS - (30, 40)) * 2, atol=1e-9)


def test_the_larger_distance_is_a_quarter_of_the_side() -> None:
    wide, high = POINTS * (2, 1), POINTS * (1, 2)
    for points, side in ((wide, 80), (high, 80)):
        found = moved(Face(np.zeros(4), points=points), size=side)
        eyes, mouth = found[:2].mean(0), found[3:].mean(0)
        assert max(found[1, 0] - found[0, 0], mouth[1] - eyes[1]) == pytest.approx(side / 2)
        np.testing.assert_allclose((eyes + mouth) / 2, side / 2)


def test_eye_corners_and_mouth_corners_of_68_landmarks_count() -> None:
    landmarks = np.full((68, 2), np.nan)
    landmarks[[36, 39]] = POINTS[0] + np.array([[-4, 1], [4, -1]])
    landmarks[[42, 45]] = POINTS[1] + np.array([[-4, 0], [4, 0]])
    landmarks[[48, 54]] = POINTS[3:]
    image, alignment = smooth(), Alignment("eyes_mouth", 40)
    of_landmarks = alignment.matrix(image, Face(np.zeros(4), landmarks=landmarks, points=POINTS + 7))
    np.testing.assert_allclose(of_landmarks, alignment.matrix(image, Face(np.zeros(4), points=POINTS)))


def test_an_upright_face_is_cut_out_as_it_is() -> None:
    image = smooth()
    crop = Alignment("eyes_mouth", 40).crop(image, Face(np.zeros(4), points=POINTS))
    np.testing.assert_array_equal(crop, image[40:80, 30:70])
    inner = Alignment("eyes_mouth", 20, centre=0.5).crop(image, Face(np.zeros(4), points=POINTS))
    np.testing.assert_array_equal(inner, image[50:70, 40:60])
    boxed = Alignment("eyes_mouth", 40).crop(image, Face(np.array([30, 40, 40, 40.0])))
    np.testing.assert_array_equal(boxed, crop)


@pytest.mark.parametrize("degrees", [0, 12, -25])
def test_pictures_are_those_of_the_original_but_for_interpolation(degrees: float) -> None:
    face = Face(np.zeros(4), points=turned(POINTS, degrees))
    ours = Alignment("eyes_mouth", 48).crop(smooth(), face).astype(int)
    assert np.abs(ours - published_eyes_mouth_crop(smooth(), face, 48)).mean() < 5


def test_eyes_that_coincide_are_refused() -> None:
    points = POINTS.copy()
    points[1] = points[0]
    for crop in (Alignment("eyes_mouth", 40).crop, lambda image, face: published_eyes_mouth_crop(image, face, 40)):
        with pytest.raises(HonneError, match="eyes coincide"):
            crop(smooth(), Face(np.zeros(4), points=points))


def test_it_is_stored_with_data_and_models() -> None:
    alignment = Alignment("eyes_mouth", 112, centre=0.8)
    assert Alignment.from_dict(alignment.to_dict()) == alignment
