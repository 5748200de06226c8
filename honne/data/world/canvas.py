"""Soft, batched drawing: a small window of every picture at once, painted through coverages between 0 and 1.

A `Frame` puts local coordinates over such a window: u along a feature, v across it (downwards), both in half face
widths, so that the same shape is drawn whatever the size, tilt and place of the face.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

TABLE = 48
"""Intervals of a sampled curve."""


@cache
def _spline(knots: int, per_segment: int = 6) -> Tensor:
    """(M, K) Catmull-Rom weights that refine a polyline of K knots, ends included."""
    extended = torch.zeros(knots + 2, knots)
    extended[1:-1] = torch.eye(knots)
    extended[0, 0], extended[0, 1] = 2, -1  # straight on beyond both ends
    extended[-1, -1], extended[-1, -2] = 2, -1
    t = torch.linspace(0, knots - 1, per_segment * (knots - 1) + 1)
    segment = t.floor().clamp(max=knots - 2).long()
    t = (t - segment)[:, None]
    a, b, c, d = (extended[segment + shift] for shift in range(4))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def lookup(table: Tensor, t: Tensor) -> Tensor:
    """Linear interpolation in (B, TABLE + 1) at (B, M) positions, 0 for the first entry and 1 for the last."""
    position = (t * TABLE).clamp_(0, TABLE - 1e-3)
    low = position.long()
    return torch.lerp(table.gather(1, low), table.gather(1, low + 1), position - low)


def bump(q: Tensor) -> Tensor:
    """About exp(-q) for q >= 0, but exactly zero from 4 on and much cheaper. May overwrite q."""
    return q.mul_(-0.25).add_(1).clamp_min_(0).square_().square_()


def resample(x: Tensor, y: Tensor, grid: Tensor) -> Tensor:
    """Piecewise linear y(x) of increasing (B, M) knots at (B, G) positions; constant beyond the ends."""
    x = x.contiguous()
    right = torch.searchsorted(x, grid.contiguous()).clamp_(1, x.shape[1] - 1)
    x0, x1, y0, y1 = x.gather(1, right - 1), x.gather(1, right), y.gather(1, right - 1), y.gather(1, right)
    return torch.lerp(y0, y1, ((grid - x0) / (x1 - x0).clamp_min(1e-6)).clamp(0, 1))


class Curve:
    """v as a smooth function of u through given points.

    Args:
        points: (B, K, 2) local, u increasing.
    """

    def __init__(self, points: Tensor) -> None:
        fine = torch.einsum("mk,bkc->bmc", _spline(points.shape[1]).to(points), points)
        u = fine[..., 0].cummax(1).values
        self.start, self.end = u[:, :1], u[:, -1:]
        steps = torch.linspace(0, 1, TABLE + 1)
        self.table = resample(u, fine[..., 1], torch.lerp(self.start, self.end, steps))
        slope = (self.table.diff(dim=1) * TABLE / (self.end - self.start).clamp_min(1e-3)).abs()
        # a vertical distance overstates the true one by this factor
        self.cosine = torch.rsqrt(1 + torch.cat([slope, slope[:, -1:]], 1) ** 2)

    def at(self, u: Tensor) -> Tensor:
        """(B, M) v at the places u."""
        return lookup(self.table, (u - self.start) / (self.end - self.start).clamp_min(1e-3))

    def inside(self, u: Tensor) -> Tensor:
        """(B, M) distance to the nearer end, positive between the ends."""
        return torch.minimum(u - self.start, self.end - u)


class Frame:
    """A window of every picture with local coordinates.

    Args:
        canvas: (B, 3, S, S) float pictures; changed by `close`.
        centre: (B, 2) px of the local origin.
        half: half width and half height of the window in half face widths.
        axis: (B, 2) unit vector of u in the picture.
        down: 1 where v is u turned clockwise (as seen), -1 where it is u turned the other way.
        scale: (B,) px per half face width.
    """

    def __init__(
        self, canvas: Tensor, centre: Tensor, half: tuple[float, float], axis: Tensor, down: int, scale: Tensor
    ) -> None:
        size = canvas.shape[-1]
        reach = float(scale.max())
        width, height = (min(int(2 * side * reach) + 2, size) for side in half)
        limit = torch.tensor([size - width, size - height])
        corner = (centre - torch.tensor([width, height]) / 2).round().long().clamp_min(0).minimum(limit)
        columns = corner[:, :1] + torch.arange(width)
        lines = corner[:, 1:] + torch.arange(height)
        self.canvas = canvas.view(len(canvas), 3, size * size)
        self.index = (lines[:, :, None] * size + columns[:, None]).flatten(1)[:, None].expand(-1, 3, -1)
        self.pixels = self.canvas.gather(2, self.index)
        self.darkness: Tensor | None = None
        self.centre, self.axis, self.down, self.scale = centre, axis, down, scale[:, None]
        dx = ((columns + 0.5 - centre[:, :1]) / self.scale)[:, None, :]
        dy = ((lines + 0.5 - centre[:, 1:]) / self.scale)[:, :, None]
        ax, ay = axis[:, :1, None], axis[:, 1:, None]
        self.u = (dx * ax + dy * ay).flatten(1)
        self.v = ((dy * ax - dx * ay) * down).flatten(1)

    def local(self, points: Tensor) -> Tensor:
        """(B, K, 2) px to local coordinates."""
        x, y = ((points - self.centre[:, None]) / self.scale[..., None]).unbind(-1)
        ax, ay = self.axis[:, :1], self.axis[:, 1:]
        return torch.stack([x * ax + y * ay, (y * ax - x * ay) * self.down], -1)

    def edge(self, distance: Tensor) -> Tensor:
        """Coverage, with an edge one px wide, from a signed distance in half face widths, positive inside."""
        return distance.mul(self.scale).add_(0.5).clamp_(0, 1)

    def between(self, upper: Curve, lower: Curve) -> Tensor:
        """Coverage of the region between two curves that share their ends."""
        width = torch.minimum(upper.end, lower.end) - torch.maximum(upper.start, lower.start)
        t = (self.u - upper.start) / width.clamp_min(1e-3)
        above = (self.v - lookup(upper.table, t)) * lookup(upper.cosine, t)
        below = (lookup(lower.table, t) - self.v) * lookup(lower.cosine, t)
        return self.edge(torch.minimum(torch.minimum(above, below), upper.inside(self.u)))

    def line(self, curve: Curve, thickness: Tensor | float, taper: float = 0.0) -> Tensor:
        """Coverage of a stroke along a curve; `taper` is the share by which its ends are thinner."""
        away = (self.v - curve.at(self.u)).abs_()
        half = 0.5 * thickness
        if taper:
            middle = (curve.start + curve.end) / 2
            t = (self.u - middle) / ((curve.end - curve.start) / 2).clamp_min(1e-3)
            half = half * (1 - taper * t.square())
        return self.edge(torch.minimum(half - away, curve.inside(self.u) + 0.01))

    def crease(self, start: Tensor, end: Tensor, width: float) -> Tensor:
        """A soft stroke between (B, 2) local points, one in its middle; `width` is where a third is left."""
        du, dv = (end - start)[:, :1], (end - start)[:, 1:]
        u, v = self.u - start[:, :1], self.v - start[:, 1:]
        t = ((u * du + v * dv) / (du * du + dv * dv).clamp_min(1e-6)).clamp_(0, 1)
        return bump(((u - t * du).square_() + (v - t * dv).square_()) / width**2)

    def disc(self, centre: Tensor, radius: Tensor | float, stretch: float = 1.0) -> Tensor:
        """Coverage of an ellipse around (B, 2): `radius` across, `stretch` times that in height."""
        away = torch.hypot(self.u - centre[:, :1], (self.v - centre[:, 1:]) / stretch)
        return self.edge((radius - away) * min(stretch, 1.0))

    def glow(self, centre: Tensor, width: float, height: float) -> Tensor:
        """A Gaussian spot around (B, 2), one in the middle."""
        u, v = self.u - centre[:, :1], self.v - centre[:, 1:]
        return bump((u / width).square_() * 0.5 + (v / height).square_() * 0.5)

    def paint(self, colour: Tensor, coverage: Tensor) -> None:
        """Lay a (B, 3) colour over the window."""
        self._settle()
        self.pixels.lerp_(colour[:, :, None], coverage[:, None])

    def shade(self, amount: Tensor) -> None:
        """Darken by a share, or lighten where the share is negative; shares add up until the next `paint`."""
        self.darkness = amount if self.darkness is None else self.darkness + amount

    def _settle(self) -> None:
        """Apply the shade; skin darkens towards red."""
        if self.darkness is not None:
            tint = torch.tensor([0.85, 1.0, 1.05])[:, None]
            self.pixels.mul_(1 - self.darkness.clamp_(max=0.9)[:, None] * tint)
            self.darkness = None

    def close(self) -> None:
        """Put the window back."""
        self._settle()
        self.canvas.scatter_(2, self.index, self.pixels)
