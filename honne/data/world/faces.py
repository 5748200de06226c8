"""The renderer: from what is known of a face to its picture, a batch at a time and without a loop over pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from honne.data.world.canvas import TABLE, Curve, Frame, bump, resample
from honne.data.world.geometry import ACTION_UNITS, CHEEK, EAR, HAIRLINE, IRIS, JAW, SKULL
from honne.data.world.labels import Truth
from honne.data.world.styles import backdrop, photograph

CHUNK = 64
"""Faces drawn at once: few enough that the planes stay in the processor's cache."""

_EYES = ((IRIS[0], (39, 38, 37, 36), (39, 40, 41, 36), (21, 20, 19, 18, 17), -1),
         (IRIS[1], (42, 43, 44, 45), (42, 47, 46, 45), (22, 23, 24, 25, 26), 1))  # fmt: skip
"""Per eye: iris; upper and lower lid and brow from the nose outwards; whether v is u turned clockwise."""


@dataclass
class Sitters:
    """What the drawing needs of B faces, as float tensors.

    Attributes:
        points: (B, 92, 2) px.
        scale: (B,) px per half face width.
        units: (B, 20) action units, 0..1.
        skew: (B,) asymmetry.
        skin, hair, iris, lips, shirt: (B, 3).
        brow: (B,) thickness.
        style: (B,) hair style.
        light: (B,) -1..1, where the light comes from.
        domain: (B,) camera style.
    """

    points: Tensor
    scale: Tensor
    units: Tensor
    skew: Tensor
    skin: Tensor
    hair: Tensor
    iris: Tensor
    lips: Tensor
    shirt: Tensor
    brow: Tensor
    style: Tensor
    light: Tensor
    domain: Tensor

    def unit(self, number: int, side: int = 0) -> Tensor:
        """(B, 1) intensity 0..1 of an action unit by its FACS number, on one half of the face (-1 left, 1 right)."""
        shown = self.units[:, ACTION_UNITS.index(number)] * (1 + side * self.skew)
        return shown.clamp(0, 1)[:, None]

    def __getitem__(self, rows: slice) -> Sitters:
        return Sitters(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def sitters(truth: Truth) -> Sitters:
    """The drawing's view of what is known."""
    people, who = truth.people, truth.subject
    arrays = {
        "points": truth.points, "scale": truth.scale, "units": truth.intensities / 5, "skew": truth.skew,
        "skin": people.skin[who], "hair": people.hair[who], "iris": people.iris[who], "lips": people.lips[who],
        "shirt": people.shirt[who], "brow": people.brow[who], "style": people.style[who],
        "light": 2 * truth.seen - 1, "domain": truth.domain,
    }  # fmt: skip
    return Sitters(**{name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in arrays.items()})


def draw(truth: Truth, size: int, seed: int) -> Iterator[np.ndarray]:
    """Pictures of the faces of a world, in order, `CHUNK` at a time.

    Args:
        truth: what is known of N faces.
        size: side in px; must be the one that the points were projected for.
        seed: of the grain of the camera; nothing else is random here.

    Yields:
        (CHUNK or fewer, size, size, 3) uint8 RGB.
    """
    everybody = sitters(truth)
    random = np.random.default_rng(seed)
    for start in range(0, len(truth), CHUNK):
        some = everybody[slice(start, start + CHUNK)]
        grain = random.standard_normal((len(some.scale), 1, size, size), np.float32)
        with torch.inference_mode():
            canvas = backdrop(some.domain, some.light, size)
            portrait(canvas, some)
            seen = photograph(canvas, some.domain, torch.from_numpy(grain))
            yield (seen * 255).round_().byte().permute(0, 2, 3, 1).numpy()


def _by(u: float, v: float) -> Tensor:
    """(2,) a shift in local coordinates, half face widths."""
    return torch.tensor([u, v])


def portrait(canvas: Tensor, face: Sitters) -> None:
    """Draw faces over (B, 3, S, S) pictures, in place."""
    head = _Head(canvas, face)
    _body(head, face)
    _hair(head, face)
    _skin(head, face)
    head.close()
    for eye in _EYES:
        _eye(canvas, face, *eye)
    _lower_face(canvas, face)


class _Head(Frame):
    """Whole pictures with coordinates around the middle of the face.

    Attributes:
        du, dv: (B, M) from the centre, across and down the head.
        away: (B, M) distance from the centre.
        around: (B, M) direction, 0 and `TABLE` straight down, half of it up, by way of image left.
        jaw, skull, hairline: local points.
        cap: (B, M) distance from the centre to the outline of jaw and skull, in each px's direction.
    """

    def __init__(self, canvas: Tensor, face: Sitters) -> None:
        points = face.points
        axis = torch.nn.functional.normalize(points[:, 16] - points[:, 0], dim=1)
        middle = torch.full_like(axis, canvas.shape[-1] / 2)
        super().__init__(canvas, middle, (99, 99), axis, 1, face.scale)
        self.jaw, self.skull, self.hairline = (self.local(points[:, part]) for part in (JAW, SKULL, HAIRLINE))
        self.origin = self.local((points[:, 27:28] + points[:, 33:34]) / 2)
        self.du, self.dv = self.u - self.origin[..., 0], self.v - self.origin[..., 1]
        self.away = torch.hypot(self.du, self.dv)
        self.around = _direction(self.du, self.dv).mul_(TABLE).clamp_(0, TABLE - 1e-3)
        self.sector = self.around.long()
        self.part = self.around - self.sector
        self.cap = self.outline(torch.cat([self.skull, self.jaw[:, 1:16].flip(1)], 1))

    def outline(self, shape: Tensor) -> Tensor:
        """(B, M) distance from the centre to a closed outline of (B, K, 2) local points, in each px's direction."""
        u, v = (shape - self.origin).unbind(-1)
        at = _direction(u, v)
        order = at.argsort(1)
        at, radius = at.gather(1, order), torch.hypot(u, v).gather(1, order)
        at = torch.cat([at[:, -1:] - 1, at, at[:, :1] + 1], 1)
        radius = torch.cat([radius[:, -1:], radius, radius[:, :1]], 1)
        grid = torch.linspace(0, 1, TABLE + 1).expand(len(at), -1)
        table = resample(at, radius, grid)
        return torch.lerp(table.gather(1, self.sector), table.gather(1, self.sector + 1), self.part)


def _direction(u: Tensor, v: Tensor) -> Tensor:
    """0..1, 0 and 1 straight down, 0.5 straight up, by way of image left."""
    return (torch.atan2(u, -v) + torch.pi) / (2 * torch.pi)


def _strands(head: _Head) -> Tensor:
    """Light and dark of combed hair."""
    return 0.07 * torch.sin(head.around * 5.5 + 9 * head.away) + 0.05 * torch.sin(head.around * 13 - 5 * head.away)


def _body(head: _Head, face: Sitters) -> None:
    """Long hair behind neck and shirt, and these."""
    chin = head.jaw[:, 8]
    mane = head.edge(head.cap * 1.12 + 0.5 * head.dv.clamp(0, 0.3) - head.away) * (face.style == 3)[:, None]
    head.paint(face.hair * 0.70, mane)
    head.shade(_strands(head) * mane)
    across, below = head.u - chin[:, :1], head.v - chin[:, 1:]
    head.paint(face.skin * 0.74, head.edge(torch.minimum(0.46 - across.abs(), below + 0.4)))
    collar = torch.hypot(across, below * 1.4) - 0.42
    head.paint(face.shirt, head.edge(torch.minimum(below - 0.12 - 0.16 * across**2, collar)))


def _hair(head: _Head, face: Sitters) -> None:
    """Ears, and the hair above them."""
    long, bald = (face.style == 3)[:, None], (face.style == 0)[:, None]
    for ear in EAR:
        place = head.local(face.points[:, ear : ear + 1])[:, 0]
        head.paint(face.skin * 0.84, head.disc(place, 0.12, 1.8) * ~long)
    volume = torch.where(bald, 0.0, 0.05 + 0.04 * (face.style == 2)[:, None]) * (head.dv < 0)
    crown = head.edge(torch.minimum(head.cap + volume - head.away, -0.05 - head.dv))
    head.paint(torch.where(bald, face.skin * 0.97, face.hair), crown)
    rim = (head.away / head.cap) ** 2
    head.shade((0.16 * rim * rim - 0.09 * bump(40 * (rim - 0.75) ** 2) + _strands(head) * ~bald) * crown)


def _skin(head: _Head, face: Sitters) -> None:
    """The face below the hairline, rounded by shading, and the forehead's wrinkles (action units 1 and 2)."""
    bald = (face.style == 0)[:, None]
    fringe = head.hairline.clone()
    fringe[..., 1] += 0.17 * (face.style == 2)[:, None]
    top = torch.where(bald[..., None], head.skull[:, 2:9], fringe)
    brim = head.outline(torch.cat([top, head.jaw.flip(1)], 1))
    inside = head.edge(brim - head.away)
    head.paint(face.skin, inside)
    rounded = (head.away / brim.clamp_min(0.1)).clamp_(0, 1.1).square().square()
    light = face.light[:, None] * head.du * 0.10 - 0.05 * head.dv
    head.shade((0.28 * rounded - light - 0.04) * inside)
    under_hair = bump(((head.away - brim) / 0.07) ** 2) * (head.dv < -0.3) * ~bald
    head.shade(0.22 * under_hair * inside)
    forehead = head.local(face.points[:, [20, 21, 22, 23]]).mean(1)
    across, above = head.u - forehead[:, :1], head.v - forehead[:, 1:]
    raised = (face.unit(1) + face.unit(2)).clamp(max=1.4) * (1 - 0.5 * face.unit(4))
    reach = (0.45 - across.abs()).clamp(0, 0.2) / 0.2
    for lift in (0.17, 0.28):
        crease = bump(((above + lift - 0.24 * across**2) / 0.025) ** 2)
        head.shade(0.24 * raised * reach * crease * inside)


def _eye(canvas: Tensor, face: Sitters, iris: int, upper: tuple, lower: tuple, brow: tuple, side: int) -> None:
    """One eye with its lids, brow and wrinkles; local u runs from the nose outwards."""
    points = face.points
    inner, outer = points[:, upper[0]], points[:, upper[-1]]
    centre = (inner + outer) / 2 + (points[:, brow[2]] - points[:, iris]) * 0.35
    axis = torch.nn.functional.normalize(outer - inner, dim=1)
    eye = Frame(canvas, centre, (0.52, 0.46), axis, side, face.scale)
    lid, under = (Curve(eye.local(points[:, list(ring)])) for ring in (upper, lower))
    ball = eye.local(points[:, iris : iris + 1])[:, 0]
    shut = face.unit(43, side)
    # socket, then the ball
    eye.shade(0.20 * eye.glow(ball - _by(0.0, 0.06), 0.26, 0.13))
    eye.shade(0.16 * eye.glow(ball + _by(0.0, 0.15), 0.18, 0.04))
    open_ = eye.between(lid, under)
    eye.paint(torch.full_like(face.skin, 0.95), open_)
    middle = ball + torch.stack([0 * shut[:, 0], 0.02 + 0.05 * shut[:, 0]], 1)
    eye.paint(face.iris, eye.disc(middle, 0.088) * open_)
    eye.paint(face.iris * 0.2, eye.disc(middle, 0.045) * open_)
    eye.paint(torch.ones_like(face.iris), eye.disc(middle + _by(-0.03 * side, -0.03), 0.022) * open_)
    eye.shade(0.35 * eye.line(Curve(eye.local(points[:, list(upper)]) + _by(0.0, 0.035)), 0.05) * open_)
    ink = face.hair * 0.25
    eye.paint(ink, 0.9 * eye.line(lid, 0.045, 0.5))
    eye.paint(face.skin * 0.55, 0.7 * eye.line(under, 0.025, 0.6))
    fold = eye.local(points[:, list(upper)]) + _by(0.0, -0.085)
    eye.shade(0.30 * (1 - 0.6 * face.unit(5, side)) * eye.line(Curve(fold), 0.025, 0.6))
    # brow, thick by the nose and thin outside
    hairs = eye.local(points[:, list(brow)])
    thick = face.brow[:, None] * torch.tensor([0.75, 1.1, 1.0, 0.8, 0.35])
    top, bottom = hairs.clone(), hairs.clone()
    top[..., 1] -= thick / 2
    bottom[..., 1] += thick / 2
    eye.paint(torch.lerp(face.hair, face.skin * 0.35, 0.35) * 0.8, 0.92 * eye.between(Curve(top), Curve(bottom)))
    # wrinkles: furrow by the brow (4), crow's feet (6), pouch under the lid (6, 7), root of the nose (9)
    root = hairs[:, 0]
    frown = torch.maximum(face.unit(4, side), 0.7 * face.unit(9, side))
    furrow = eye.crease(root + _by(-0.06, 0.05), root + _by(-0.075, 0.20), 0.026)
    eye.shade(0.5 * frown * furrow)
    corner = eye.local(outer[:, None])[:, 0]
    feet = sum(eye.crease(corner + _by(0.05, 0.3 * rise), corner + _by(0.17, rise), 0.022)
               for rise in (-0.05, 0.02, 0.09))  # fmt: skip
    eye.shade(0.38 * face.unit(6, side) * feet)
    pouch = eye.local(points[:, list(lower)]) + _by(0.0, 0.075)
    eye.shade(0.34 * torch.maximum(face.unit(6, side), face.unit(7, side)) * eye.line(Curve(pouch), 0.03, 0.5))
    eye.close()


def _lower_face(canvas: Tensor, face: Sitters) -> None:
    """Nose, cheeks, folds, mouth and chin."""
    points = face.points
    axis = torch.nn.functional.normalize(points[:, 16] - points[:, 0], dim=1)
    centre = (points[:, 30] + points[:, 8]) / 2 + (points[:, 27] - points[:, 30]) * 0.12
    low = Frame(canvas, centre, (0.82, 0.86), axis, 1, face.scale)
    at = low.local(points)
    _nose(low, at, face)
    for side, cheek, wing, corner in ((-1, CHEEK[0], 31, 48), (1, CHEEK[1], 35, 54)):
        smile, disgust = face.unit(12, side), torch.maximum(face.unit(10, side), face.unit(9, side))
        raised = torch.maximum(smile, 0.6 * face.unit(6, side))
        low.shade(-0.09 * (0.4 + raised) * low.glow(at[:, cheek], 0.17, 0.13))
        blush = at[:, cheek] + _by(0.04 * side, 0.08)
        low.paint(face.lips, 0.16 * low.glow(blush, 0.18, 0.14))
        low.shade(0.13 * raised * low.glow(at[:, cheek] + _by(0.0, 0.19), 0.16, 0.05))
        # fold from the wing of the nose around the corner of the mouth
        start = at[:, wing] + _by(0.05 * side, -0.03)
        bend = torch.lerp(at[:, wing], at[:, corner], 0.55) + _by(0.13 * side, -0.03)
        end = at[:, corner] + _by(0.09 * side, 0.02)
        depth = 0.10 + 0.32 * torch.maximum(smile, disgust)
        crease = torch.maximum(low.crease(start, bend, 0.025), low.crease(bend, end, 0.022))
        low.shade(depth * crease)
        dimple = at[:, corner] + _by(0.06 * side, 0.0)
        dent = low.crease(dimple - _by(0.0, 0.07), dimple + _by(0.01 * side, 0.07), 0.025)
        low.shade(0.55 * face.unit(14, side) * dent)
        sag = at[:, corner] + _by(0.05 * side, 0.03)
        drop = low.crease(sag, sag + _by(0.05 * side, 0.14), 0.022)
        low.shade(0.40 * face.unit(15, side) * drop)
    _mouth(low, at, face)
    chin = torch.lerp(at[:, 57], at[:, 8], 0.38)
    low.shade(0.20 * low.glow(chin - _by(0.0, 0.05), 0.17, 0.035))
    for shift in (-0.07, 0.0, 0.07):
        dent = chin + _by(shift, 0.10 - abs(shift))
        low.shade(0.30 * face.unit(17) * low.glow(dent, 0.022, 0.03))
    low.close()


def _nose(low: Frame, at: Tensor, face: Sitters) -> None:
    """Bridge, wings, nostrils, and the wrinkles of action unit 9."""
    bridge = torch.lerp(at[:, 28], at[:, 30], 0.4)
    dark_side = torch.where(face.light[:, None] > 0, -1.0, 1.0)
    shadow = torch.cat([dark_side * 0.11, torch.zeros_like(dark_side)], 1)
    low.shade(0.15 * low.glow(bridge + shadow, 0.05, 0.20))
    low.shade(-0.10 * low.glow(bridge - 0.3 * shadow, 0.045, 0.22))
    low.shade(-0.12 * low.glow(at[:, 30], 0.07, 0.06))
    rim = at[:, [31, 32, 33, 34, 35]] + _by(0.0, 0.015)
    low.shade(0.20 * low.glow(at[:, 33] + _by(0.0, 0.05), 0.16, 0.04))
    low.shade(0.30 * low.line(Curve(rim), 0.035, 0.4))
    for wing, hole, side in ((31, 32, -1), (35, 34, 1)):
        low.shade(0.26 * low.crease(at[:, wing] + _by(0.02 * side, -0.11), at[:, wing], 0.035))
        low.shade(0.62 * low.disc(at[:, hole] + _by(0.01 * side, -0.005), 0.045, 0.6))
    wrinkle = face.unit(9)
    for step in (0.0, 0.3, 0.6):
        spot = torch.lerp(at[:, 27], at[:, 29], step)
        left, right = spot - _by(0.10, 0.02), spot + _by(0.10, -0.02)
        low.shade(0.42 * wrinkle * torch.maximum(low.crease(left, spot, 0.022), low.crease(spot, right, 0.022)))


def _mouth(low: Frame, at: Tensor, face: Sitters) -> None:
    """Lips, teeth, tongue."""
    upper, lower = Curve(at[:, 48:55]), Curve(at[:, [48, 59, 58, 57, 56, 55, 54]])
    inner_upper, inner_lower = Curve(at[:, 60:65]), Curve(at[:, [60, 67, 66, 65, 64]])
    pressed = torch.maximum(face.unit(23), face.unit(24))
    lips = torch.lerp(face.lips, face.skin * 0.82, 0.35 * pressed)
    low.paint(lips, low.between(upper, lower))
    low.shade(0.14 * low.between(upper, inner_upper))
    low.shade(-0.10 * low.glow((at[:, 57] + at[:, 66]) / 2, 0.12, 0.025))
    opening = low.between(inner_upper, inner_lower)
    gap = (at[:, 66] - at[:, 62])[:, 1:]
    low.paint(face.lips * 0.22, opening)
    low.paint(torch.lerp(face.lips, torch.tensor([0.80, 0.32, 0.34]), 0.6) * 0.85,
              opening * low.disc(at[:, 66] + _by(0.0, 0.05), 0.18, 0.8) * (gap > 0.2))  # fmt: skip
    teeth = torch.tensor([0.95, 0.94, 0.90]).expand_as(face.lips)
    reach = 0.055 + 0.05 * face.unit(12)
    low.paint(teeth, opening * low.edge(inner_upper.at(low.u) + reach - low.v))
    below = 0.06 * face.unit(20)
    low.paint(teeth * 0.95, opening * low.edge(low.v - inner_lower.at(low.u) + below) * (below > 0.01))
    middle = Curve((at[:, 60:65] + at[:, [60, 67, 66, 65, 64]]) / 2)
    low.paint(face.lips * 0.35, 0.85 * low.line(middle, 0.032, 0.4) * (1 - 8 * gap).clamp(0, 1))
    low.paint(face.lips * 0.5, 0.5 * low.line(inner_upper, 0.025, 0.3))
