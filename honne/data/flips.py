"""What changes its name when a face is mirrored: landmarks and side-coded action units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PAIRS_68 = (
    *((i, 16 - i) for i in range(8)),  # jaw
    *((17 + i, 26 - i) for i in range(5)),  # brows
    (31, 35),
    (32, 34),  # nostrils
    (36, 45),
    (37, 44),
    (38, 43),
    (39, 42),
    (40, 47),
    (41, 46),  # eyes
    (48, 54),
    (49, 53),
    (50, 52),
    (55, 59),
    (56, 58),  # outer lips
    (60, 64),
    (61, 63),
    (65, 67),  # inner lips
)


def _involution(size: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    order = np.arange(size)
    for left, right in pairs:
        order[[left, right]] = right, left
    return order


FLIP_68 = _involution(68, _PAIRS_68)
"""(68,) landmark i of a mirrored face is landmark `FLIP_68[i]` of the face, at its mirrored place (iBUG order)."""


def flip_landmarks(landmarks: np.ndarray, width: float) -> np.ndarray:
    """Landmarks of the mirrored image.

    Args:
        landmarks: (..., 68, 2) px, the image's left edge at 0.
        width: of the image, px.
    """
    return (landmarks * (-1, 1) + (width, 0)).astype(landmarks.dtype)[..., FLIP_68, :]


def sided_units(names: Sequence[str]) -> np.ndarray:
    """(A,) column order of action-unit labels after a flip.

    Args:
        names: of the columns. A leading or trailing `L` or `R` is a side (`L12`, `R12`, `12L`, `AU12R`); such columns
            trade places with their partners of the other side, if there is one. All others stay.
    """
    place = {name.upper(): i for i, name in enumerate(names)}
    other = str.maketrans("LR", "RL")
    order = []
    for i, name in enumerate(name.upper() for name in names):
        sided = name[:1] in "LR" or name[-1:] in "LR"
        order.append(place.get(name[:1].translate(other) + name[1:-1] + name[-1:].translate(other), i) if sided else i)
    return np.array(order, np.int64)
