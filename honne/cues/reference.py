"""Heat maps of one image, pixel for pixel as the original draws them.

Ellipses with axes along the image's and radii in whole px, for faces that fill an upright picture of about 224 px, with
the original's asymmetries: the second ellipse of AU 10, the second of AU 20, the chin of AU 17, and brows (AU 4) whose
height depends on which way the head leans. `honne.cues.drawing` has maps that turn and grow with the face. These are
for reproducing published figures and for comparison.

Source: Belharbi et al., FG 2024, section 3, and their code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Literal

import numpy as np

from honne.cues.codebook import UNITS
from honne.cues.drawing import GRID
from honne.errors import HonneError

FOREGROUND, BACKGROUND = 255.0, 1e-4

Ellipse = tuple[int, int, int, int]
"""Centre x, centre y, half axis along x, half axis along y; px."""
Normalise = Literal["minmax", "none"]
Resolution = Literal["image", "grid"]


def ellipses(landmarks: np.ndarray, height: int, width: int) -> list[tuple[Ellipse, ...]]:
    """What is drawn for each of `UNITS`.

    Args:
        landmarks: (68, 2) px, finite.
        height: of the image, px.
        width: of the image, px.
    """
    x, y = landmarks.astype(int).T.tolist()  # towards zero, as int() below

    def middle(low: int, high: int) -> int:
        return int((low + high) / 2)

    def half(low: int, high: int, otherwise: int) -> int:
        return max(int((high - low) / 2), 0) or otherwise

    def at(points: Sequence[tuple[int, int]], wide: int, high: int) -> tuple[Ellipse, ...]:
        return tuple((across, down, wide, high) for across, down in points)

    def eyes(taller: int, otherwise: int) -> tuple[Ellipse, ...]:
        return tuple(
            (
                middle(x[outer], x[inner]),
                middle(y[above], y[below]),
                half(x[outer], x[inner], otherwise),
                half(y[above], y[below] + 2 * taller, otherwise),
            )
            for outer, inner, above, below in ((36, 39, 38, 41), (42, 45, 44, 47))
        )

    wide, high, below = round(width / 8), round(height / 10), round(height / 6)
    corners = at([(x[48], y[48]), (x[54], y[54])], 20, 20)
    lips = (middle(x[48], x[54]), middle(y[51], y[57]), half(x[48], x[54], 5), half(y[51], y[57], 5))
    found = {
        1: at([(x[20], y[20]), (x[23], y[23])], wide, high),
        2: at([(x[18], y[18]), (x[25], y[25])], wide, high),
        4: ((middle(x[19], x[24]), middle(y[19], y[24]), half(x[19], x[24], 10), half(y[19], y[24], 10)),),
        5: eyes(0, 5),
        6: at([(x[41], y[41] + below), (x[46], y[46] + below)], round(width / 10), high),
        7: eyes(10, 5),
        9: at([(x[31], y[29]), (x[35], y[29])], 20, 20),
        10: at([(x[48], y[50]), (x[52], y[54])], 20, 20),
        12: corners,
        14: at([(max(x[48] - 20, 0), y[48]), (min(x[54] + 20, width), y[54])], 20, 20),
        15: corners,
        16: at([(x[59], y[59]), (x[55], y[55])], 20, 20),
        17: ((middle(x[59], x[8]), middle(y[59], y[8]), half(x[59], x[8], 5), half(y[59], y[8], 5)),),
        20: at([(middle(x[a], x[b]), middle(y[a], y[b])) for a, b in ((48, 6), (50, 10))], 20, 20),
        25: at([(x[51], y[51]), (x[57], y[57])], 25, 10),
        43: eyes(10, 0),
    }
    return [found.get(unit, (lips,)) for unit in UNITS]


def region_maps(landmarks: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn for each action unit, sampled at the points of the grid.

    Args:
        landmarks: (68, 2) px, not finite where unknown.
        height: of the image, px.
        width: of the image, px.

    Returns:
        (20, 28, 28) float64 in [1e-4, 255], not yet smoothed, NaN for a unit that is not drawn; (20,) bool, whether any
        pixel of its ellipses lies inside the image. Order of `UNITS`.

    Raises:
        HonneError: OpenCV is not installed.
    """
    maps = np.full((len(UNITS), GRID, GRID), np.nan)
    drawn = np.zeros(len(UNITS), bool)
    if np.isfinite(landmarks).all():
        shapes = ellipses(landmarks, height, width)
        found = _draw(shapes, height, width)
        for unit, shape in enumerate(shapes):
            if shape in found:
                maps[unit], drawn[unit] = found[shape], True
    return maps, drawn


def action_unit_map(
    landmarks: np.ndarray,
    units: np.ndarray,
    height: int,
    width: int,
    normalise: Normalise = "minmax",
    resolution: Resolution = "image",
) -> np.ndarray:
    """Heat map of a set of action units: the largest of their maps, each smoothed by a 3 x 3 box on the grid.

    Args:
        landmarks: (68, 2) px, not finite where unknown.
        units: (20,) bool, which of `UNITS`.
        height: of the image, px.
        width: of the image, px.
        normalise: `minmax` for [0, 1], `none` for [1e-4, 255].
        resolution: of the map: the image's, or the grid's 28 x 28 (before the original enlarges it).

    Returns:
        (height, width) or (28, 28) float32; all NaN where there is no valid map.

    Raises:
        HonneError: OpenCV is not installed.
    """
    cv2 = _opencv()
    shape = (GRID, GRID) if resolution == "grid" else (height, width)
    found: dict[tuple[Ellipse, ...], np.ndarray] = {}
    if np.isfinite(landmarks).all():
        shown = zip(ellipses(landmarks, height, width), units.tolist(), strict=True)
        found = _draw([region for region, wanted in shown if wanted], height, width)
    if not found:
        return np.full(shape, np.nan, np.float32)
    largest, one = np.zeros((2, *shape))
    for region in found.values():  # one by one: a resize of all at once is slower
        np.maximum(largest, cv2.resize(cv2.blur(region, (3, 3)), shape[::-1], dst=one), out=largest)
    return _normalised(largest, normalise)


def landmark_map(
    landmarks: np.ndarray,
    height: int,
    width: int,
    jaw: Literal["without", "with"] = "without",
    variance: float = 64.0,
    normalise: Normalise = "minmax",
    resolution: Resolution = "image",
) -> np.ndarray:
    """Heat map of landmarks: the largest of the normal densities around them.

    Args:
        landmarks: (68, 2) px, not finite where unknown.
        height: of the image, px.
        width: of the image, px.
        jaw: with or without the 17 landmarks of the jaw.
        variance: of the densities, px^2.
        normalise: `minmax` for [0, 1], `none` for the densities.
        resolution: of the map: the image's, or the grid's 28 x 28.

    Returns:
        (height, width) or (28, 28) float32; all NaN where the landmarks are unknown.
    """
    rows, columns = (GRID, GRID) if resolution == "grid" else (height, width)
    if not np.isfinite(landmarks).all():
        return np.full((rows, columns), np.nan, np.float32)
    points = landmarks[0 if jaw == "with" else 17 :, :, None]
    row = np.exp(-0.5 / variance * (_places(width, columns) - points[:, 0]) ** 2).astype(np.float32)
    column = np.exp(-0.5 / variance * (_places(height, rows) - points[:, 1]) ** 2).astype(np.float32)[:, :, None]
    largest, one = np.zeros((2, rows, columns), np.float32)
    for across, down in zip(row, column, strict=True):
        np.maximum(largest, np.multiply(across, down, out=one), out=largest)
    return _normalised(largest / np.float32(2 * np.pi * variance), normalise)


def _places(length: int, count: int) -> np.ndarray:
    """Where in an image of so many px so many equal parts of it have their centres."""
    return (np.arange(count) + 0.5) * (length / count) - 0.5


def _draw(shapes: Iterable[tuple[Ellipse, ...]], height: int, width: int) -> dict[tuple[Ellipse, ...], np.ndarray]:
    """(28, 28) map of every shape of which something lies inside the image; equal shapes are drawn once."""
    cv2 = _opencv()
    canvas = np.zeros((height, width))
    maps = {}
    for shape in dict.fromkeys(shapes):
        canvas.fill(0)
        for x, y, wide, high in shape:
            cv2.ellipse(canvas, (x, y), (wide, high), 0, 0, 360, 1, cv2.FILLED)
        if canvas.max() > 0:
            # Without antialiasing: two rows and columns are read for each of the result.
            maps[shape] = BACKGROUND + (FOREGROUND - BACKGROUND) * cv2.resize(canvas, (GRID, GRID))
    return maps


def _normalised(values: np.ndarray, normalise: Normalise) -> np.ndarray:
    values = values.astype(np.float32)
    if normalise == "minmax":
        values -= values.min()
        values /= values.max() or np.float32(1)
    return values


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise HonneError(
            "Drawing action units as the original does needs OpenCV.", "Install it with: pip install 'honne[face]'"
        ) from None
    return cv2
