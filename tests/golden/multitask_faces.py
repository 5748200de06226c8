"""How the original turns faces until their eyes are level, and cuts them out."""

from __future__ import annotations

import re

import numpy as np
import pytest

from honne.faces.align import Alignment, eyes_mouth, published_eyes_mouth_crop, published_turn
from honne.faces.face import Face
from honne.faces.geometry import inverted, published_turn_matrix, transform_points

Arrays = dict[str, np.ndarray]


def faces(golden: Arrays) -> list[Face]:
    return [Face(np.zeros(4), landmarks=landmarks) for landmarks in golden["landmarks68"]]


@pytest.mark.golden("multitask", "alignment*.npz")
def test_geometry(golden: Arrays) -> None:
    height, width = golden["image"].shape[:2]
    size = 64
    for face, result, plain in zip(faces(golden), golden["result"], golden["points_no_expand"], strict=True):
        wanted = dict(zip(golden["result_columns"].tolist(), result.tolist(), strict=True))
        marks = eyes_mouth(face)
        assert marks is not None
        turned, turn = published_turn(golden["image"], marks[0])
        assert np.degrees(np.arctan2(turn[0, 1], turn[0, 0])) == pytest.approx(wanted["angle_deg"], abs=1e-9)
        assert turned.shape == (wanted["rot_h"], wanted["rot_w"], 3)
        points = [wanted[name] for name in ("lex", "ley", "rex", "rey", "lmx", "lmy", "rmx", "rmy")]
        np.testing.assert_allclose(transform_points(turn, np.concatenate(marks)).ravel(), points, atol=1e-8)
        inside = published_turn_matrix(marks[0], width, height, expand="no")
        np.testing.assert_allclose(transform_points(inside, np.concatenate(marks)).ravel(), plain, atol=1e-8)
        # The corners of our crop, in px of the turned picture, are the original's box.
        crop = Alignment("eyes_mouth", size).matrix(golden["image"], face)
        box = transform_points(turn, transform_points(inverted(crop), np.array([[0, 0], [size, size]])))
        np.testing.assert_allclose(box.ravel(), [wanted[name] for name in ("left", "upper", "right", "lower")])
        assert np.ptp(box.round(), axis=0).tolist() == [wanted["face_w"], wanted["face_h"]]


@pytest.mark.golden("multitask", "alignment*.npz")
def test_faces_resampled_as_published(golden: Arrays) -> None:
    recorded = [name for name in golden if re.fullmatch(r"face_\d+", name)]
    assert recorded
    for name in recorded:
        size = int(name.removeprefix("face_"))
        for face, wanted in zip(faces(golden), golden[name], strict=True):
            crop = published_eyes_mouth_crop(golden["image"], face, size)
            assert np.abs(crop.astype(int) - wanted).max() <= 1  # Pillow's rounding differs between versions
