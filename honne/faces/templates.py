"""Where the 98-point landmarks of aligned faces lie, heat maps to landmarks, and boxes to crops, as DMUE's code has it.

The published crops came about so: landmarks -> similarity to `WFLW_TEMPLATE` on a black canvas of 800 px
(`WFLW_ALIGNMENT`) -> face box there -> `enlarged_crop` -> 256 px. With five points instead of 98, `FIVE_ALIGNMENT`
brings a face to the same place.

Source: She et al., CVPR 2021, preprocessing of their code; 98 points: Wu et al., CVPR 2018 (WFLW).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from honne.faces.align import Alignment

CANVAS = 800
"""Side of the canvas, px."""

_PIXELS = """
202,369 202,392 207,421 207,444 207,467 211,496 216,519 220,542 229,566 243,589 261,608 278,627 301,641 323,650
346,660 368,664 395,664 417,664 444,660 466,650 489,641 511,627 529,613 547,594 560,571 569,547 578,524 583,500
587,472 587,449 592,425 592,397 596,374 234,341 265,313 296,313 328,317 359,322 359,341 328,336 296,332 265,332
440,322 471,317 502,317 534,317 565,346 534,336 502,336 471,341 440,341 395,364 395,397 395,430 395,458 346,467
372,472 395,482 422,472 444,467 274,369 292,360 310,355 332,360 350,369 332,369 310,374 292,369 449,369 466,360
489,355 507,364 525,374 507,374 484,374 466,374 310,524 346,514 381,514 395,519 408,514 444,514 480,524 457,547
426,561 395,566 363,561 332,552 319,528 355,524 395,524 435,524 475,524 435,542 395,552 355,547 314,364 484,364
"""

WFLW_TEMPLATE = np.array([pair.split(",") for pair in _PIXELS.split()], float) + 0.5
"""(98, 2) px on the canvas in WFLW's order: contour 0-32, brows 33-50, nose 51-59, eyes 60-75, mouth 76-95, pupils 96
and 97. The original counts pixels; their centres lie half a pixel further."""

FIVE_POINTS = (96, 97, 54, 76, 82)
"""Pupils, nose tip, mouth corners among the 98 points."""


def _canvas(points: np.ndarray) -> Alignment:
    return Alignment("points", CANVAS, template=tuple((float(x), float(y)) for x, y in points / CANVAS))


WFLW_ALIGNMENT = _canvas(WFLW_TEMPLATE)
"""For a `Face` whose `points` are (98, 2)."""
FIVE_ALIGNMENT = _canvas(WFLW_TEMPLATE[list(FIVE_POINTS)])
"""The same from the five points that every finder gives."""

Clip = Literal["image", "released"]


def clipped_box(box: np.ndarray, shape: tuple[int, int], clip: Literal["image", "swapped"] = "image") -> np.ndarray:
    """A detector's box, cut off at the image.

    Args:
        box: (4,) left, top, right, bottom, px.
        shape: height and width of the image.
        clip: `swapped` compares right with the height and bottom with the width, and cuts one pixel before them, as
            the released code does for pre-training pictures.
    """
    left, top, right, bottom = map(float, box)
    height, width = shape
    if clip == "swapped":
        right, bottom = (right if right <= height else height - 1), (bottom if bottom <= width else width - 1)
    else:
        right, bottom = min(right, width), min(bottom, height)
    return np.array([max(left, 0.0), max(top, 0.0), right, bottom])


def enlarged_crop(box: np.ndarray, shape: tuple[int, int], clip: Clip = "image") -> tuple[int, int, int, int]:
    """Rows and columns of a face box enlarged by 256/224, so that a 224 px crop of the 256 px picture is about the box.

    Args:
        box: (4,) left, top, right, bottom, px.
        shape: height and width of the image.
        clip: what an end beyond the image becomes: `image` its end; `released` one pixel less, as in the released code.

    Returns:
        first row, end row, first column, end column, half open.
    """
    left, top, right, bottom = (int(edge) for edge in box)
    pad_y, pad_x = (int((side * 256 / 224 - side) / 2) for side in (bottom - top, right - left))
    ends = [
        end if end <= side else side - (clip == "released")
        for end, side in zip((bottom + pad_y, right + pad_x), shape, strict=True)
    ]
    return max(top - pad_y, 0), ends[0], max(left - pad_x, 0), ends[1]


def heatmap_landmarks(
    heatmaps: np.ndarray, scale: float = 4.0, rounding: Literal["none", "released"] = "none"
) -> np.ndarray:
    """Landmarks at the peaks of heat maps, moved a quarter of a pixel towards the higher neighbours.

    Args:
        heatmaps: (..., H, W), one map a landmark. Peaks in the outermost rows and columns are not moved.
        scale: px of the picture in one of the map.
        rounding: `released` cuts off the fraction, as the released code does.

    Returns:
        (..., 2) x, y in px of the picture.
    """
    height, width = heatmaps.shape[-2:]
    maps = np.pad(heatmaps.reshape(-1, height, width).astype(float), ((0, 0), (1, 1), (1, 1)))
    y, x = np.divmod(heatmaps.reshape(len(maps), -1).argmax(1), width)
    each = np.arange(len(maps))
    towards = np.stack(
        [maps[each, y + 1, x + 2] - maps[each, y + 1, x], maps[each, y + 2, x + 1] - maps[each, y, x + 1]], 1
    )
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    points = (np.stack([x, y], 1) + 0.5 + 0.25 * np.sign(towards) * inside[:, None]) * scale
    return (np.trunc(points) if rounding == "released" else points).reshape(*heatmaps.shape[:-2], 2)
