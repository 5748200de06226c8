"""Crops: the same framing and no aliasing, whatever the kind, the size and the rotation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honne.errors import HonneError
from honne.faces.align import FER2013_TEMPLATE, Alignment
from honne.faces.face import Face
from honne.faces.geometry import inverted, similarity, similarity_matrix, transform_points, upright_matrix

HEIGHT, WIDTH = 300, 400
TEMPLATE = np.array(FER2013_TEMPLATE)


@pytest.fixture(scope="module")
def slope() -> np.ndarray:
    """An image whose values say where they are: red = x / 2, green = y / 2."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return np.stack([x / 2, y / 2, np.full_like(x, 90)], axis=-1).round().astype(np.uint8)


def face_at(x: float, y: float, side: float, degrees: float = 0.0) -> Face:
    """A face whose points are the template, `side` px large, turned about its centre (x, y)."""
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (TEMPLATE - 0.5) * side @ rotation.T + (x, y)
    return Face(box=np.array([x - side / 2, y - side / 2, side, side]), points=points)


@pytest.mark.parametrize("size", [48, 200])
@pytest.mark.parametrize(
    ("kind", "degrees"), [("box", 0), ("upright", 0), ("points", 0), ("points", 30), ("points", -70)]
)
def test_every_crop_pixel_shows_what_the_matrix_says(slope: np.ndarray, kind: str, degrees: float, size: int) -> None:
    alignment = Alignment(kind, size, margin=1.0, template=FER2013_TEMPLATE)  # type: ignore[arg-type]
    face = face_at(190, 150, 120, degrees)
    crop = alignment.crop(slope, face)
    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8
    centres = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2) + 0.5
    source = transform_points(inverted(alignment.matrix(slope, face)), centres)
    inner = ((source > 6) & (source < np.array([WIDTH, HEIGHT]) - 6)).all(1)
    assert inner.sum() > 0.9 * size * size
    assert np.abs(crop.reshape(-1, 3)[inner, :2] - source[inner] / 2).max() < 2.5


def test_points_land_on_the_template(slope: np.ndarray) -> None:
    face = face_at(180, 140, 90, 25)
    matrix = Alignment("points", 96, template=FER2013_TEMPLATE).matrix(slope, face)
    np.testing.assert_allclose(transform_points(matrix, face.points), TEMPLATE * 96, atol=1e-6)
    upright = Alignment("upright", 96, template=FER2013_TEMPLATE).matrix(slope, face)
    assert upright[0, 1] == upright[1, 0] == 0
    assert upright[0, 0] == pytest.approx(np.cos(np.radians(25)) * 96 / 90)


def test_outside_is_black(slope: np.ndarray) -> None:
    for kind in ("box", "points", "upright"):
        crop = Alignment(kind, 64, margin=1.0, template=FER2013_TEMPLATE).crop(slope, face_at(0, 0, 100))
        assert not crop[:30, :30].any(), kind
        assert (crop[36:, 36:, 2] > 80).all(), kind
    away = Alignment("box", 64, margin=1.0).crop(slope, face_at(-500, -500, 100))
    assert not away.any()


def test_none_leaves_the_right_size_alone(slope: np.ndarray) -> None:
    image = slope[:48, :48]
    face = Face(box=np.array([0, 0, 48, 48.0]))
    np.testing.assert_array_equal(Alignment("none", 48).crop(image, face), image)
    assert Alignment("none", 24).crop(slope, face).shape == (24, 24, 3)
    grey = Alignment("none", 48, grey=True).crop(image, face)
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize("degrees", [0, 20])
def test_shrinking_does_not_alias(degrees: float) -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    crop = Alignment("points", 40, template=FER2013_TEMPLATE).crop(stripes, face_at(200, 200, 240, degrees))
    assert np.abs(crop.astype(int) - 100).max() < 12


def test_a_face_without_points_is_framed_by_its_box(slope: np.ndarray) -> None:
    box = Face(box=np.array([50, 60, 80, 80.0]))
    for kind in ("points", "upright"):
        crop = Alignment(kind, 40, template=FER2013_TEMPLATE).crop(slope, box)
        np.testing.assert_array_equal(crop, Alignment("box", 40, margin=1.0).crop(slope, box))


@pytest.mark.parametrize(
    "box",
    [(0, 0, 0, 0), (10, 10, -5, -5), (np.nan, 0, 10, 10), (0, 0, 1e6, 1e6)],
    ids=["none", "negative", "nan", "huge"],
)
def test_impossible_boxes_get_a_sentence(slope: np.ndarray, box: tuple[float, ...]) -> None:
    with pytest.raises(HonneError, match="400 x 300"):
        Alignment("box", 48).crop(slope, Face(box=np.array(box, float)))


def test_round_trip_through_a_dictionary() -> None:
    alignment = Alignment("upright", 48, template=FER2013_TEMPLATE, grey=True)
    assert Alignment.from_dict(alignment.to_dict()) == alignment


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.1, 10),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-50, 50)] * 3),
    seed=st.integers(0, 2**16),
)
def test_similarity_recovers_what_was_done(
    scale: float, angles: tuple[float, ...], shift: tuple[float, ...], seed: int
) -> None:
    from scipy.spatial.transform import Rotation

    points = np.random.default_rng(seed).normal(size=(8, 3))
    turned = Rotation.from_euler("xyz", angles).as_matrix()
    found = similarity(points, scale * points @ turned.T + shift)
    assert found[0] == pytest.approx(scale)
    np.testing.assert_allclose(found[1], turned, atol=1e-8)
    np.testing.assert_allclose(found[2], shift, atol=1e-6)


def test_a_mirror_image_is_never_answered_by_a_reflection() -> None:
    points = TEMPLATE * 100
    matrix = similarity_matrix(points, points * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0
    assert upright_matrix(points, points * 2 + 3)[0].tolist() == pytest.approx([2, 0, 3])
