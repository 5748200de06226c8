"""Heat maps of action units and of landmarks for whole batches, drawn by tensor operations on the landmarks' device.

Every action unit has a region of one or two ellipses whose places and radii follow from 68 landmarks (`REGIONS`). They
are measured in the face's own frame: origin between the eyes, first axis from the image-left to the image-right eye,
second towards the mouth, unit such that the eyes are `EYES` apart. So a region turns, grows and mirrors with its face.
The original takes the image's axes and fixed pixels, and some of its regions are not each other's mirror image
(`honne.cues.reference` draws it so).

As in the original, a map is the largest of its regions' maps, each smoothed by a 3 x 3 box on a grid of 28 x 28, and
brought to [0, 1]. A face without a valid map (landmarks unknown, no action unit, nothing inside the image) gets NaN.

Source: Belharbi et al., FG 2024, section 3, and their code.
"""

from __future__ import annotations

from functools import cache
from math import inf
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.cues.codebook import UNITS

EYES = 70.5
"""Distance of the eyes in a 224 px face aligned as the original aligns it; its radii in px belong to such faces."""
GRID = 28
"""Side of the grid on which maps are drawn, as in the original."""
EDGE = 4.0
"""px of such a face over which a region's edge falls from 1 to 0."""

_SAME = {43: 7, 15: 12, 24: 23, 26: 23, 27: 23}
REGIONS = tuple(unit for unit in UNITS if unit not in _SAME)
"""Action units (FACS numbers) with a region of their own; AU 43 shares that of 7, 15 of 12, and 24, 26, 27 of 23."""

X, Y = 0, 1
_Length = tuple[int, int, float, float, float, float]
"""A length that follows from two coordinates a and b (places in the 136 of a face): max(a * p + b * q, least) + more;
here as a, b, p, q, least, more."""
_Ellipse = tuple[_Length, _Length, _Length, _Length]
"""Centre across, centre down, half axis across, half axis down."""


def _centre(axis: int, first: int, second: int, more: float = 0.0) -> _Length:
    return 2 * first + axis, 2 * second + axis, 0.5, 0.5, -inf, more


def _half(axis: int, low: int, high: int, share: float = 0.5, more: float = 0.0) -> _Length:
    """A share of the way from one landmark to the other, which is taken as 6 px at least."""
    return 2 * low + axis, 2 * high + axis, -share, share, 6 * share, more


def _fixed(length: float) -> _Length:
    return 0, 0, 0.0, 0.0, length, 0.0


def _disc(x: tuple[int, int], y: tuple[int, int], radius: float) -> _Ellipse:
    return _centre(X, *x), _centre(Y, *y), _fixed(radius), _fixed(radius)


def _at(left: int, right: int, wide: float, high: float, out: float = 0.0, below: float = 0.0) -> list[_Ellipse]:
    return [
        (_centre(X, point, point, more), _centre(Y, point, point, below), _fixed(wide), _fixed(high))
        for point, more in ((left, -out), (right, out))
    ]


def _eyes(more: float) -> list[_Ellipse]:
    return [
        (_centre(X, outer, inner), _centre(Y, above, below), _half(X, outer, inner), _half(Y, above, below, more=more))
        for outer, inner, above, below in ((36, 39, 38, 41), (42, 45, 43, 46))
    ]


_BROWS = (_centre(X, 19, 24), _centre(Y, 19, 24), _half(X, 19, 24), _fixed(10))
_CHIN = (_centre(X, 57, 8), _centre(Y, 57, 8), _half(X, 59, 55, share=0.25), _half(Y, 57, 8))
_LIPS = (_centre(X, 48, 54), _centre(Y, 51, 57), _half(X, 48, 54), _half(Y, 51, 57))
_ELLIPSES: dict[int, list[_Ellipse]] = {
    1: _at(20, 23, 28, 22.4),
    2: _at(18, 25, 28, 22.4),
    4: [_BROWS, _BROWS],
    5: _eyes(0),
    6: _at(41, 46, 22.4, 22.4, below=224 / 6),
    7: _eyes(10),
    9: [_disc((31, 31), (29, 29), 20), _disc((35, 35), (29, 29), 20)],
    10: [_disc((48, 48), (50, 50), 20), _disc((54, 54), (52, 52), 20)],
    12: _at(48, 54, 20, 20),
    14: _at(48, 54, 20, 20, out=20),
    16: _at(59, 55, 20, 20),
    17: [_CHIN, _CHIN],
    20: [_disc((48, 6), (48, 6), 20), _disc((54, 10), (54, 10), 20)],
    23: [_LIPS, _LIPS],
    25: _at(51, 57, 25, 10),
}


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of all ellipses (R, 2, 4): (2, ...) places of a and b, (4, ...) p, q, least, more; (20,) region of each unit."""
    with torch.inference_mode(False):  # they outlive the call
        table = torch.tensor([_ELLIPSES[unit] for unit in REGIONS], device=device).movedim(3, 0)
        same = torch.tensor([REGIONS.index(_SAME.get(unit, unit)) for unit in UNITS], device=device)
        return table[:2].long(), table[2:], same


def face_frame(landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a face is and how it stands.

    Args:
        landmarks: (B, 68, 2) px.

    Returns:
        (B, 2) point between the eyes; (B, 2, 2) unit vectors along the eyes and towards the mouth; (B,) px per unit.
    """
    left, right = landmarks[:, 36:42].mean(1), landmarks[:, 42:48].mean(1)
    origin, across = (left + right) / 2, right - left
    distance = across.norm(dim=1, keepdim=True)
    along = across / distance.clamp_min(1e-6)
    down = torch.stack([-along[:, 1], along[:, 0]], 1)
    mouth = landmarks[:, 48:60].mean(1) - origin
    down = torch.where((down * mouth).sum(1, keepdim=True) < 0, -down, down)  # a mirrored face
    return origin, torch.stack([along, down], 1), distance[:, 0] / EYES


def regions(points: Tensor) -> Tensor:
    """Ellipses of every region.

    Args:
        points: (B, 68, 2) landmarks in the face's frame.

    Returns:
        (B, R, 2, 4) for the regions of `REGIONS`: centre, half axes across and down, of two ellipses (twice the same
        one for a region in the middle of the face).
    """
    places, factors, _ = _tables(points.device)
    first, second = points.flatten(1)[:, places].unbind(1)
    return (first * factors[0] + second * factors[1]).maximum(factors[2]) + factors[3]


def action_unit_maps(landmarks: Tensor, units: Tensor, side: float | tuple[float, float], size: int = GRID) -> Tensor:
    """Heat maps of the action units that each face shows.

    Args:
        landmarks: (B, 68, 2) px, NaN or inf where unknown.
        units: (B, 20) bool, which of `UNITS` each face shows.
        side: of the image, px, or its height and width.
        size: of the maps.

    Returns:
        (B, size, size) in [0, 1]; NaN for a face without a valid map.
    """
    shown = _shown(units)
    count = int(shown.sum(1).max()) if len(shown) else 0
    known = landmarks.isfinite().all(2).all(1) & shown.any(1)
    if not count:
        return landmarks.new_full((len(landmarks), size, size), torch.nan)
    chosen = shown.float().topk(count).indices
    drawn = shown.gather(1, chosen)
    across, down, ellipses = _in_frame(torch.where(known[:, None, None], landmarks, 0.0), side, size)
    ellipses = ellipses.gather(1, chosen[:, :, None, None].expand(-1, -1, 2, 4))
    centre_x, centre_y, wide, high = ellipses[..., None, None].unbind(3)
    # 1 - (x / wide)^2 - (y / high)^2 falls by 2 / radius per px at the edge: times radius / (2 EDGE), by 1 / EDGE.
    steep = (wide * high).sqrt() / (2 * EDGE)
    away = (across[:, None, None] - centre_x).mul_(steep.sqrt() / wide).square_()
    away += (down[:, None, None] - centre_y).mul_(steep.sqrt() / high).square_()
    level = torch.where(drawn[:, :, None, None, None], steep + 0.5, 0.0)
    inside = (level[:, :, 0] - away[:, :, 0]).maximum(level[:, :, 1] - away[:, :, 1]).clamp_(0, 1)
    return to_unit(torch.where(known[:, None, None], _smooth(inside).amax(1), torch.nan))


def _smooth(maps: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels; several times faster than avg_pool2d on a CPU."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="reflect")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _shown(units: Tensor) -> Tensor:
    """(B, R) bool: regions of the units (B, 20)."""
    counts = torch.zeros(len(units), len(REGIONS), device=units.device)
    return counts.index_add(1, _tables(units.device)[2], units.float()) > 0


def _in_frame(landmarks: Tensor, side: float | tuple[float, float], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of the map's pixels in the faces' frames, (B, size, size) each, and the ellipses there."""
    height, width = side if isinstance(side, tuple) else (side, side)
    origin, axes, scale = face_frame(landmarks)
    steps = (torch.arange(size, device=landmarks.device, dtype=landmarks.dtype) + 0.5) / size
    axes = axes / scale.clamp_min(1e-6)[:, None, None]
    points = ((landmarks - origin[:, None])[:, :, None] * axes[:, None]).sum(3)  # not @, which autocast would round
    start = (axes * origin[:, None]).sum(2)
    row = axes[:, :, 0, None] * (steps * width) - start[:, :, None]
    column = axes[:, :, 1, None] * (steps * height)
    grid = row[:, :, None, :] + column[:, :, :, None]
    return grid[:, 0], grid[:, 1], regions(points)


def to_unit(maps: Tensor) -> Tensor:
    """Each of (B, H, W) maps shifted and scaled to [0, 1]; NaN for one that is constant."""
    low, high = maps.flatten(1).aminmax(dim=1)
    extent = torch.where(high > low, high - low, torch.nan)
    return (maps - low[:, None, None]) / extent[:, None, None]


def landmark_maps(
    landmarks: Tensor,
    side: float | tuple[float, float],
    size: int = GRID,
    jaw: Literal["without", "with"] = "without",
    variance: float = 64.0,
) -> Tensor:
    """Heat maps of landmarks: the largest of the Gaussians around them.

    Args:
        landmarks: (B, 68, 2) px, NaN or inf where unknown.
        side: of the image, px, or its height and width.
        size: of the maps.
        jaw: with or without the 17 landmarks of the jaw.
        variance: of the Gaussians, px^2 of a face whose eyes are `EYES` apart.

    Returns:
        (B, size, size) in [0, 1]; NaN where the landmarks are unknown.
    """
    height, width = side if isinstance(side, tuple) else (side, side)
    known = landmarks.isfinite().all(2).all(1)
    landmarks = torch.where(known[:, None, None], landmarks, 0.0)
    scale = face_frame(landmarks)[2].clamp_min(1e-6)
    points = landmarks[:, 0 if jaw == "with" else 17 :, :, None]
    steps = (torch.arange(size, device=landmarks.device, dtype=landmarks.dtype) + 0.5) / size
    spread = -0.5 / (variance * scale.square())[:, None, None]
    row = (spread * (steps * width - points[:, :, 0]).square()).exp()
    column = (spread * (steps * height - points[:, :, 1]).square()).exp()
    maps = (row[:, :, None, :] * column[:, :, :, None]).amax(1)
    return to_unit(torch.where(known[:, None, None], maps, torch.nan))
