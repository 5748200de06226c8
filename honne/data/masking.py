"""Hiding everything outside the cue regions of a face: an augmentation, and a test of what a model looks at."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Fill = Literal["black", "average", "blur"]
BINS = 256
RAFDB_AVERAGE = (131, 106, 95)
"""Average pixel of RAF-DB's training images, red, green, blue. The original counted it on images in blue, green, red
order and fills with it as it is: (95, 106, 131)."""
AFFECTNET_AVERAGE = (144, 113, 99)
"""The same of AffectNet; in the original (99, 113, 144)."""


def mask_images(
    images: Tensor,
    heatmaps: Tensor,
    fill: Fill = "black",
    *,
    dilation: int = 0,
    average: tuple[int, int, int] = RAFDB_AVERAGE,
    sigma: float = 30.0,
) -> Tensor:
    """Images of which only the regions of their heat maps are left.

    Args:
        images: (B, 3, H, W) uint8.
        heatmaps: (B, 1, h, w) or (B, h, w); brought to H x W where they are smaller. Images whose map is not finite
            stay whole.
        fill: what lies outside: black, an average pixel, or the image itself, blurred.
        dilation: radius of the disk by which regions grow, px of the image.
        average: red, green, blue, for `average`.
        sigma: standard deviation of the Gaussian, px of the image, for `blur`.

    Returns:
        (B, 3, H, W) uint8.

    Source: Belharbi et al., FG 2024, masking augmentation of their code.
    """
    heatmaps = heatmaps.reshape(len(images), 1, *heatmaps.shape[-2:])
    unknown = ~heatmaps.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
    heatmaps = heatmaps.masked_fill(unknown, 0.0)
    if heatmaps.shape[-2:] != images.shape[-2:]:
        heatmaps = F.interpolate(heatmaps, images.shape[-2:], mode="bilinear", align_corners=False)
    kept = _dilated(heatmaps >= otsu_threshold(heatmaps).view(-1, 1, 1, 1), dilation) | unknown
    if fill == "blur":
        outside = _blurred(images, sigma)
    else:
        pixel = average if fill == "average" else (0, 0, 0)
        outside = torch.tensor(pixel, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
    return torch.where(kept, images, outside)


def otsu_threshold(maps: Tensor) -> Tensor:
    """The value that best parts each map into two: where the variance between both sides is largest.

    Args:
        maps: (B, ...) finite.

    Returns:
        (B,) the middle of one of 256 bins between a map's least and largest value; of the first among equals.

    Source: Otsu, IEEE SMC 1979.
    """
    values = maps.flatten(1)
    low, high = values.aminmax(dim=1, keepdim=True)
    extent = high - low
    place = ((values - low) * torch.where(extent > 0, BINS / extent, 0.0)).long().clamp_(max=BINS - 1)
    counts = torch.zeros(len(values), BINS, device=maps.device).scatter_add(1, place, torch.ones_like(values)).double()
    middles = low + extent * (torch.arange(BINS, device=maps.device) + 0.5) / BINS
    below, mass = counts.cumsum(1), (counts * middles).cumsum(1)
    above, rest = below[:, -1:] - below, mass[:, -1:] - mass
    between = (below * above * (mass / below - rest / above.clamp(min=1)) ** 2)[:, :-1]
    # Empty bins give equal variances up to rounding; the first counts.
    best = between >= between.amax(1, keepdim=True) * (1 - 1e-12)
    first = (best.cumsum(1) == 0).sum(1, keepdim=True)
    return middles.gather(1, first).squeeze(1)


def _dilated(regions: Tensor, radius: int) -> Tensor:
    """(B, 1, H, W) bool regions grown by a disk."""
    if not radius:
        return regions
    offsets = torch.arange(-radius, radius + 1, device=regions.device)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).float()
    return F.conv2d(regions.float(), disk[None, None], padding=radius) > 0.5


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """(B, 3, H, W) uint8: Gaussian blur, cut off at four sigma, border pixels repeated outwards, rounded down."""
    rows, columns = (_blur_matrix(side, sigma, images.device) for side in images.shape[-2:])
    blurred = rows @ images.to(rows.dtype) @ columns.T
    return (blurred + 1e-4).clamp(0, 255).to(torch.uint8)  # a plain image has to stay as it is


def _blur_matrix(side: int, sigma: float, device: torch.device) -> Tensor:
    """(side, side) weights of every pixel of a line in every blurred one."""
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=device)
    weights = (-0.5 * (offsets / sigma) ** 2).exp()
    weights = weights / weights.sum()
    sources = (torch.arange(side, device=device)[:, None] + offsets).clamp(0, side - 1)
    return torch.zeros(side, side, device=device).scatter_add(1, sources, weights.expand(side, -1))
