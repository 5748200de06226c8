"""Where the points of a synthetic face lie: a template head in three dimensions, muscles that move it, a camera.

Lengths are in half face widths; x runs to image right, y down, z towards the camera. Only the image-right half is
written down, the other half is its mirror image. Points 0..67 are the landmarks in the iBUG order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from honne.data.flips import FLIP_68

IRIS = (68, 69)
CHEEK = (70, 71)
EAR = (72, 73)
JAW = slice(0, 17)
HAIRLINE = slice(74, 81)
SKULL = slice(81, 92)
POINTS = 92

_RIGHT_HALF: dict[int, tuple[float, float, float]] = {
    # jaw, from the chin up
    8: (0, 1.40, 0.55), 9: (0.22, 1.36, 0.50), 10: (0.43, 1.25, 0.38), 11: (0.62, 1.07, 0.22), 12: (0.77, 0.85, 0.05),
    13: (0.87, 0.59, -0.12), 14: (0.93, 0.30, -0.28), 15: (0.97, 0.02, -0.38), 16: (0.98, -0.26, -0.45),
    # brow, from the nose outwards
    22: (0.16, -0.45, 0.62), 23: (0.30, -0.53, 0.62), 24: (0.46, -0.56, 0.56), 25: (0.62, -0.52, 0.44),
    26: (0.76, -0.41, 0.28),
    # nose: bridge, tip, then the lower rim
    27: (0, -0.25, 0.66), 28: (0, -0.06, 0.76), 29: (0, 0.13, 0.88), 30: (0, 0.31, 0.98),
    33: (0, 0.46, 0.82), 34: (0.11, 0.44, 0.78), 35: (0.21, 0.40, 0.68),
    # eye: inner corner, upper lid, outer corner, lower lid
    42: (0.21, -0.17, 0.48), 43: (0.33, -0.265, 0.54), 44: (0.47, -0.27, 0.52), 45: (0.60, -0.18, 0.40),
    46: (0.47, -0.10, 0.50), 47: (0.33, -0.095, 0.52),
    # outer lips, then inner lips
    51: (0, 0.73, 0.82), 52: (0.12, 0.705, 0.80), 53: (0.25, 0.755, 0.72), 54: (0.37, 0.815, 0.58),
    55: (0.25, 0.925, 0.70), 56: (0.12, 0.98, 0.76), 57: (0, 0.995, 0.77),
    62: (0, 0.835, 0.80), 63: (0.14, 0.83, 0.76), 64: (0.33, 0.817, 0.60), 65: (0.14, 0.845, 0.76), 66: (0, 0.85, 0.79),
    # not landmarks: iris, cheek, ear, hairline from the middle outwards, skull from the top outwards
    IRIS[1]: (0.40, -0.185, 0.52), CHEEK[1]: (0.56, 0.26, 0.45), EAR[1]: (1.00, 0.02, -0.42),
    77: (0, -0.98, 0.35), 78: (0.36, -0.95, 0.30), 79: (0.68, -0.80, 0.10), 80: (0.90, -0.52, -0.20),
    86: (0, -1.33, -0.25), 87: (0.36, -1.28, -0.28), 88: (0.68, -1.12, -0.32), 89: (0.92, -0.82, -0.38),
    90: (1.04, -0.44, -0.42), 91: (1.04, -0.12, -0.45),
}  # fmt: skip

MIRROR = np.concatenate([FLIP_68, [69, 68, 71, 70, 73, 72], np.arange(80, 73, -1), np.arange(91, 80, -1)])
"""(92,) the point on the other side of the face."""

ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 20, 23, 24, 25, 26, 27, 43)
"""FACS numbers that the face can show, in the order of every AU array of the world."""

_MOVES: dict[int, dict[int, tuple[float, float]]] = {
    1: {22: (0, -0.19), 23: (0, -0.15), 24: (0, -0.06), 43: (0, -0.01)},
    2: {23: (0, -0.06), 24: (0, -0.15), 25: (0, -0.18), 26: (0, -0.12), 44: (0, -0.01)},
    4: {22: (-0.05, 0.15), 23: (-0.05, 0.14), 24: (-0.04, 0.10), 25: (-0.02, 0.05), 26: (0, 0.02), 43: (0, 0.03)},
    5: {43: (0, -0.09), 44: (0, -0.09), 46: (0, 0.02), 47: (0, 0.02)},
    6: {46: (0, -0.06), 47: (0, -0.05), 45: (0, -0.01), 44: (0, 0.02), CHEEK[1]: (0.02, -0.08)},
    7: {46: (0, -0.045), 47: (0, -0.045), 43: (0, 0.035), 44: (0, 0.035)},
    9: {33: (0, -0.05), 34: (0.01, -0.06), 35: (0.03, -0.09), 30: (0, -0.06), 22: (-0.03, 0.08), 23: (-0.02, 0.08),
        24: (0, 0.05), 51: (0, -0.04), 52: (0, -0.06), 62: (0, -0.03), 63: (0, -0.04), 46: (0, -0.03), 47: (0, -0.04),
        43: (0, 0.02), CHEEK[1]: (0, -0.05)},
    10: {51: (0, -0.09), 52: (0.01, -0.14), 53: (0.02, -0.08), 62: (0, -0.07), 63: (0.01, -0.10), 35: (0.03, -0.04)},
    12: {54: (0.14, -0.20), 53: (0.07, -0.05), 55: (0.09, -0.05), 64: (0.13, -0.19), 63: (0.04, -0.03), 65: (0.04, 0),
         52: (0.02, 0.01), 56: (0.03, 0.03), 57: (0, 0.05), 66: (0, 0.03), 62: (0, 0.02), 35: (0.04, -0.01),
         CHEEK[1]: (0.03, -0.06)},
    14: {54: (0.07, -0.03), 64: (0.07, -0.03), 53: (0.03, 0), 55: (0.03, 0)},
    15: {54: (0, 0.15), 53: (-0.01, 0.05), 55: (0, 0.07), 64: (0, 0.14)},
    16: {57: (0, 0.08), 56: (0.01, 0.09), 55: (0.01, 0.05), 66: (0, 0.06), 65: (0.01, 0.06)},
    17: {8: (0, -0.07), 9: (0, -0.04), 57: (0, -0.08), 56: (0, -0.08), 55: (0, -0.04), 66: (0, -0.05), 65: (0, -0.05),
         62: (0, -0.05), 63: (0, -0.04), 51: (0, -0.03), 52: (0, -0.03), 54: (0, 0.02), 64: (0, 0.02)},
    20: {54: (0.17, 0.03), 64: (0.16, 0.03), 53: (0.10, 0.01), 55: (0.10, 0), 52: (0.04, 0), 56: (0.04, -0.01)},
    23: {51: (0, 0.045), 52: (0, 0.06), 53: (0, 0.035), 55: (0, -0.06), 56: (0, -0.08), 57: (0, -0.07),
         54: (-0.05, 0), 64: (-0.05, 0)},
    24: {51: (0, 0.035), 52: (0, 0.045), 53: (0, 0.03), 55: (0, -0.05), 56: (0, -0.06), 57: (0, -0.05),
         54: (-0.03, 0), 64: (-0.03, 0)},
    25: {57: (0, 0.07), 56: (0, 0.07), 55: (0, 0.04), 66: (0, 0.09), 65: (0, 0.08), 62: (0, -0.03), 63: (0, -0.03),
         51: (0, -0.03), 52: (0, -0.03)},
    26: {8: (0, 0.24), 9: (0, 0.23), 10: (0, 0.19), 11: (0, 0.12), 12: (0, 0.05), 57: (0, 0.27), 56: (0, 0.25),
         55: (-0.01, 0.19), 66: (0, 0.27), 65: (0, 0.23), 54: (-0.04, 0.09), 64: (-0.04, 0.09), 53: (-0.03, 0)},
    27: {8: (0, 0.32), 9: (0, 0.31), 10: (0, 0.26), 11: (0, 0.17), 12: (0, 0.07), 57: (0, 0.37), 56: (0, 0.34),
         55: (-0.02, 0.26), 66: (0, 0.38), 65: (0, 0.32), 54: (-0.07, 0.14), 64: (-0.07, 0.14), 53: (-0.05, 0.01),
         51: (0, -0.03), 52: (0, -0.03), 62: (0, -0.03), 63: (0, -0.03)},
    43: {43: (0, 0.15), 44: (0, 0.15), 46: (0, -0.01), 47: (0, -0.01)},
}  # fmt: skip

TRAITS = ("face_length", "jaw_width", "eye_size", "eye_spacing", "brow_height", "nose_length", "nose_width",
          "mouth_width", "lip_fullness", "hairline")  # fmt: skip
"""Traits of an identity; each is a number around zero, one standard deviation giving a clearly visible difference."""


def _whole(half: Mapping[int, Sequence[float]], width: int) -> np.ndarray:
    """(92, width) from the image-right half; the other side mirrored, points not given zero."""
    points = np.zeros((POINTS, width))
    for index, values in half.items():
        points[index, : len(values)] = values
        points[MIRROR[index], : len(values)] = (-values[0], *values[1:])
    return points


TEMPLATE = _whole(_RIGHT_HALF, 3)
"""(92, 3) the average neutral head."""

MOVES = np.stack([_whole(_MOVES[unit], 3) for unit in ACTION_UNITS])
"""(20, 92, 3) what each action unit adds to the points at full intensity."""


def _trait_moves() -> np.ndarray:
    """(10, 92, 3) what one standard deviation of each trait adds."""
    moves = dict(zip(TRAITS, np.zeros((len(TRAITS), POINTS, 3)), strict=True))
    x, y = TEMPLATE[:, 0], TEMPLATE[:, 1]
    brows, nose, mouth = slice(17, 27), slice(27, 36), slice(48, 68)
    moves["face_length"][:, 1] = 0.05 * y
    moves["jaw_width"][JAW, 0] = 0.08 * x[JAW] * np.clip(y[JAW], 0, 1)
    for eye, iris in ((slice(36, 42), IRIS[0]), (slice(42, 48), IRIS[1])):
        moves["eye_size"][eye, :2] = 0.10 * (TEMPLATE[eye, :2] - TEMPLATE[iris, :2])
        moves["eye_spacing"][[*range(eye.start, eye.stop), iris], 0] = 0.025 * np.sign(x[iris])
    moves["brow_height"][brows, 1] = -0.03
    moves["nose_length"][nose, 1] = 0.05 * (y[nose] - y[27])
    moves["nose_width"][31:36, 0] = 0.13 * x[31:36]
    moves["mouth_width"][mouth, 0] = 0.08 * x[mouth]
    moves["lip_fullness"][48:60, 1] = 0.14 * (y[48:60] - y[48])
    moves["hairline"][HAIRLINE, 1] = -0.06
    return np.stack([moves[trait] for trait in TRAITS])


TRAIT_MOVES = _trait_moves()


def face_points(traits: np.ndarray, intensities: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """Points of faces that show action units, before any camera.

    Args:
        traits: (N, 10) identity, see `TRAITS`.
        intensities: (N, 20) action units, 0..5.
        skew: (N,) in [-1, 1]; 0 moves both halves alike, 1 only the image-right half.

    Returns:
        (N, 92, 3) in half face widths.
    """
    rest = TEMPLATE + np.einsum("nt,tpc->npc", traits, TRAIT_MOVES)
    moved = np.einsum("na,apc->npc", intensities / 5, MOVES)
    side = np.clip(TEMPLATE[:, 0] / 0.3, -1, 1)
    points = rest + moved * (1 + skew[:, None] * side)[..., None]
    _keep_apart(points, (37, 38, 43, 44), (41, 40, 47, 46), 0.0)
    _keep_apart(points, (61, 62, 63), (67, 66, 65), 0.0)
    _keep_apart(points, (50, 51, 52), (61, 62, 63), 0.03)
    _keep_apart(points, (67, 66, 65), (58, 57, 56), 0.04)
    return points


def _keep_apart(points: np.ndarray, upper: Sequence[int], lower: Sequence[int], gap: float) -> None:
    """Push pairs of points apart, in place, until each upper one is at least `gap` above its lower one."""
    upper, lower = list(upper), list(lower)
    missing = np.maximum(points[:, upper, 1] + gap - points[:, lower, 1], 0)
    points[:, upper, 1] -= missing / 2
    points[:, lower, 1] += missing / 2


def project(points: np.ndarray, pose: np.ndarray, scale: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Turn heads and look at them with a weak-perspective camera.

    Args:
        points: (N, P, 3).
        pose: (N, 3) yaw, pitch, roll in degrees, signs as in `honne.faces.face.Face`.
        scale: (N,) px per half face width.
        centre: (N, 2) px where the head's origin lands.

    Returns:
        (N, P, 2) px, x and y.
    """
    sine, cosine = np.sin(np.deg2rad(pose))[..., None], np.cos(np.deg2rad(pose))[..., None]
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    x, z = x * cosine[:, 0] + z * sine[:, 0], z * cosine[:, 0] - x * sine[:, 0]
    y = y * cosine[:, 1] - z * sine[:, 1]
    x, y = x * cosine[:, 2] - y * sine[:, 2], x * sine[:, 2] + y * cosine[:, 2]
    return np.stack([x, y], -1) * scale[:, None, None] + centre[:, None]
