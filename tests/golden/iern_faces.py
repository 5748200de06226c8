"""How the original of MixBasic turns, aligns and resamples faces."""

from __future__ import annotations

import re

import numpy as np
import pytest

from honne.faces.align import EYE_TEMPLATE, Alignment, published_eye_crop
from honne.faces.face import Face
from honne.faces.geometry import eye_centres, eye_matrix, turned_right

Arrays = dict[str, np.ndarray]


def sizes(golden: Arrays, name: str) -> list[int]:
    """The sides, px, that arrays of this name were recorded for."""
    found = [int(match[1]) for key in golden if (match := re.fullmatch(rf"{name}_out(\d+)", key))]
    assert found
    return found


@pytest.mark.golden("iern", "face_align*.npz")
def test_eye_matrices(golden: Arrays) -> None:
    for size in sizes(golden, "M"):
        target = size * np.array(EYE_TEMPLATE)
        for landmarks, wanted in zip(golden["landmarks68"], golden[f"M_out{size}"], strict=True):
            np.testing.assert_allclose(eye_matrix(eye_centres(landmarks), target, "released"), wanted, atol=1e-9)
            # Nothing is cut off: the same framing but for a pixel of the picture.
            face = Face(np.zeros(4), points=eye_centres(landmarks))
            ours = Alignment("eyes", size, template=EYE_TEMPLATE).matrix(golden["image_bgr_uint8"], face)
            scale = np.hypot(*wanted[:, 0])
            moved = np.abs((ours - wanted) @ np.append(eye_centres(landmarks).mean(0), 1))
            assert moved.max() < 2 * scale


@pytest.mark.golden("iern", "face_align*.npz")
def test_aligned_pictures(golden: Arrays) -> None:
    for size in sizes(golden, "aligned"):
        for landmarks, wanted in zip(golden["landmarks68"], golden[f"aligned_out{size}"], strict=True):
            crop = published_eye_crop(golden["image_bgr_uint8"], landmarks, size)
            stride = -(-size // len(wanted))
            difference = np.abs(crop[::stride, ::stride].astype(int) - wanted)
            assert difference.max() <= 1  # OpenCV's rounding differs between versions


@pytest.mark.golden("iern", "face_align*.npz")
def test_turned_videos(golden: Arrays) -> None:
    np.testing.assert_array_equal(turned_right(golden["rot_in"], "released"), golden["rot90_out"])
    np.testing.assert_array_equal(turned_right(golden["rot_in"])[:, :-1], golden["rot90_out"][:, 1:])
