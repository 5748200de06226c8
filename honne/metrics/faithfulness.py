"""Whether a map says what a model really uses: insertion and deletion curves, and likeness of maps.

Pixels are hidden or shown in the order in which a map ranks them; the model's probability of its class should fall
soon when they are hidden, and rise soon when they are shown.

Source: Petsiuk, Das, Saenko, "RISE", BMVC 2018.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor


def pixel_ranks(maps: Tensor, ties: Tensor) -> Tensor:
    """Place of every pixel in the order of a map: 0 for the largest.

    Args:
        maps: (B, H, W).
        ties: (H, W), decides between equal pixels (most maps are 0 over wide parts): the larger comes first.

    Returns:
        (B, H, W) int64, each of 0..H*W-1 once.
    """
    shuffled = ties.flatten().argsort(descending=True)
    order = shuffled[maps.flatten(1)[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(maps)


def curves(
    score: Callable[[Tensor], Tensor], images: Tensor, hidden: Tensor, ranks: Tensor, steps: int = 20
) -> tuple[Tensor, Tensor]:
    """Deletion and insertion curves.

    Args:
        score: of images (B * (steps + 1), 3, H, W), those of one face together: what the model gives for its class.
        images: (B, 3, H, W).
        hidden: (B, 3, H, W) what stands where a pixel is hidden.
        ranks: (B, H, W) of `pixel_ranks`.
        steps: K.

    Returns:
        (B, K + 1) each: score when the first 0, 1/K ... 1 of the pixels are hidden, and when only they are shown.
    """
    count = torch.arange(steps + 1, device=ranks.device) * ranks[0].numel()
    first = (ranks[:, None] * steps < count[:, None, None])[:, :, None]

    def run(hides: Tensor) -> Tensor:
        shown = torch.where(hides, hidden[:, None], images[:, None])
        return score(shown.flatten(0, 1)).view(len(images), steps + 1)

    return run(first), run(~first)


def area_under(curve: Tensor) -> Tensor:
    """(B,) area under curves (B, K + 1) over 0..1, by trapezoids: their mean height."""
    return torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1)


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation of the pixels of two maps, ties with their middle rank.

    Args:
        one: (B, h, w).
        other: (B, h, w).

    Returns:
        (B,) in [-1, 1]; NaN where a map is constant.

    Source: the measure of likeness in Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018.
    """
    x, y = (torch.from_numpy(stats.rankdata(maps.flatten(1).cpu().numpy(), axis=1)) for maps in (one, other))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()
