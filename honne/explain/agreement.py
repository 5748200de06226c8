"""Which action units a map sits on, how well it agrees with the codebook, and what that would be by chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.cues.codebook import UNITS
from honne.cues.drawing import GRID, REGIONS, action_unit_maps
from honne.metrics.attention import attention_cosine

MOST_REGIONS = 3
LEAST_LIFT, LEAST_OF_BEST = 1.5, 0.5
"""A map sits on a region that holds at least this many times what it would hold of an even map, and at least half as
many times as the best region does."""
BLOB_WIDTH = 0.25
"""Standard deviation of the blob in the middle of the crop, in sides of the crop."""

PLACES = {
    1: "inner brows",
    2: "outer brows",
    4: "middle of the brows",
    5: "eyes",
    6: "cheeks",
    7: "eyelids",
    9: "sides of the nose",
    10: "upper lip",
    12: "lip corners",
    14: "dimples beside the mouth",
    15: "lip corners",
    16: "lower lip",
    17: "chin",
    20: "sides below the mouth",
    23: "mouth",
    24: "mouth",
    25: "middle of the lips",
    26: "mouth",
    27: "mouth",
    43: "eyelids",
}
"""FACS number -> where its region is; those that share a region share the place."""


@dataclass(frozen=True)
class Region:
    """A region that a map sits on.

    Attributes:
        units: FACS numbers of the action units that it stands for: of those that share it (12 and 15) the ones that the
            codebook has for the expression; all, if it has none of them.
        expected: whether the codebook has them for the expression.
        place: where it is.
        share: part of the map's energy inside it, 0..1.
        lift: how many times the share of an even map.
    """

    units: tuple[int, ...]
    expected: bool
    place: str
    share: float
    lift: float

    @property
    def number(self) -> str:
        """Of its action units: "6", "23, 24", or "12/15" where the map cannot tell which."""
        return (", " if self.expected else "/").join(map(str, self.units))


@dataclass
class Agreement:
    """How well maps agree with the codebook's; (B,) each, NaN where the codebook has no map.

    Attributes:
        cosine: with the map of the expression itself.
        blob: what a blob in the middle of the crop would reach: the codebook's map says nothing beyond it.
        others: mean over the other expressions of the codebook: what the map reaches whatever the expression is.
    """

    cosine: Tensor
    blob: Tensor
    others: Tensor


def expression_maps(landmarks: Tensor, units: Tensor, side: float) -> Tensor:
    """The codebook's map of every expression on every face.

    Args:
        landmarks: (B, 68, 2) px of the crop, NaN where unknown.
        units: (C, 20) bool, which of `UNITS` each expression shows; or (B, C, 20), for each face.
        side: of the crop, px.

    Returns:
        (B, C, `GRID`, `GRID`) in [0, 1]; NaN without landmarks or action units.
    """
    units = units.expand(len(landmarks), -1, -1)
    faces, classes = units.shape[:2]
    every = action_unit_maps(landmarks.repeat_interleave(classes, 0), units.flatten(0, 1), side)
    return every.view(faces, classes, GRID, GRID)


def agreement(maps: Tensor, cues: Tensor, table: Tensor, expression: Tensor) -> Agreement:
    """Cosines with the codebook's maps.

    Args:
        maps: (B, h, w) class activation maps in [0, 1], or attention on any scale.
        cues: (B, C, `GRID`, `GRID`) of `expression_maps`.
        table: (C, 20) bool, the codebook.
        expression: (B,) class that each map is of.
    """
    faces, classes = cues.shape[:2]
    every = attention_cosine(maps.repeat_interleave(classes, 0), cues.flatten(0, 1)).view(faces, classes)
    another = (table[:, None] != table[None]).any(2)[expression]  # not the same action units under another name
    own = cues[torch.arange(faces, device=cues.device), expression]
    cosine = every.gather(1, expression[:, None])[:, 0]
    blob = attention_cosine(centre_blob(cues.device).expand_as(own), own)
    return Agreement(cosine, blob, torch.where(another & ~cosine.isnan()[:, None], every, torch.nan).nanmean(1))


def centre_blob(device: torch.device | None = None) -> Tensor:
    """(`GRID`, `GRID`) Gaussian in the middle."""
    steps = (torch.arange(GRID, device=device) + 0.5) / GRID - 0.5
    row = (-0.5 * (steps / BLOB_WIDTH).square()).exp()
    return row[:, None] * row


def sits_on(maps: Tensor, landmarks: Tensor, shown: Tensor, side: float) -> list[tuple[Region, ...]]:
    """The regions that each map sits on, best first, at most `MOST_REGIONS`.

    Regions are compared at the resolution of the map. Best is the one that holds the most energy beyond its share of an
    even map, over the root of its size: small enough to be hit and large enough to matter. What it holds no longer
    counts for the next, so that neighbours that overlap are not all named. A region is left out if its lift, its share
    of the map's energy over its share of the crop, is then below `LEAST_LIFT` or below `LEAST_OF_BEST` times that of
    the best.

    Measured with the codebook's own maps of six expressions on drawn faces: of the regions named 0.94 are of the
    codebook if the map has 28 x 28 cells, 0.92 with 14, 0.87 with 8, 0.78 with 6 and 0.62 with 3 x 3.

    Args:
        maps: (B, h, w), not negative.
        landmarks: (B, 68, 2) px of the crop; NaN where unknown: such a face has no regions.
        shown: (B, 20) bool, action units of the codebook for each face's expression.
        side: of the crop, px.
    """
    faces, kinds = len(maps), len(REGIONS)
    single = torch.tensor([[unit == region for unit in UNITS] for region in REGIONS], device=maps.device)
    regions = action_unit_maps(landmarks.repeat_interleave(kinds, 0), single.repeat(faces, 1), side)
    cells = (min(maps.shape[1], GRID), min(maps.shape[2], GRID))
    regions = F.adaptive_avg_pool2d(regions.view(faces, kinds, GRID, GRID).nan_to_num(0.0), cells)
    maps = F.adaptive_avg_pool2d(maps, cells)
    energy = maps / maps.sum((1, 2), keepdim=True).clamp_min(1e-12)
    area, norm = regions.mean((2, 3)).clamp_min(1e-6), regions.square().sum((2, 3)).sqrt().clamp_min(1e-6)
    share = torch.einsum("brhw,bhw->br", regions, energy)
    free = torch.ones_like(share)
    rows = torch.arange(faces, device=maps.device)
    found: list[list[Region]] = [[] for _ in range(faces)]
    least = torch.full_like(area[:, :1], LEAST_LIFT)
    for _ in range(MOST_REGIONS):
        held = torch.einsum("brhw,bhw->br", regions, energy) * free
        lift = held / area
        beyond = (held - area * energy.sum((1, 2))[:, None]) / norm
        best = beyond.where(lift >= least, -torch.inf).argmax(1, keepdim=True)
        here = lift.gather(1, best)
        for face in (here >= least).nonzero()[:, 0].tolist():
            place = int(best[face])
            part = float(share[face, place])
            found[face].append(_region(REGIONS[place], shown[face].tolist(), part, part / float(area[face, place])))
        energy, free = energy * (1 - regions[rows, best[:, 0]]), free.scatter(1, best, 0.0)
        least = least.maximum(LEAST_OF_BEST * here)
    return [tuple(each) for each in found]


def _region(unit: int, shown: list[bool], share: float, lift: float) -> Region:
    sharing = sorted(other for other in UNITS if PLACES[other] == PLACES[unit])
    expected = [other for other in sharing if shown[UNITS.index(other)]]
    return Region(tuple(expected or sharing), bool(expected), PLACES[unit], share, lift)


def unit_text(regions: tuple[Region, ...]) -> str:
    """Action units of regions in one cell: "AU06 AU12", or "AU12/15" where the map cannot tell which."""
    joins = {True: " AU", False: "/"}
    return " ".join("AU" + joins[each.expected].join(f"{unit:02d}" for unit in each.units) for each in regions)


def sentence(subject: str, regions: tuple[Region, ...]) -> str:
    """In words: 'attention sits on cheeks and lip corners: AU 6, 12'.

    Args:
        subject: what the map is called.
        regions: of `sits_on`.
    """
    if not regions:
        return f"{subject} sits on no action unit's region in particular"
    places = [region.place for region in regions]
    listed = " and ".join(filter(None, [", ".join(places[:-1]), places[-1]]))
    return f"{subject} sits on {listed}: AU {', '.join(region.number for region in regions)}"
