"""How well attention, or a class activation map, sits on a heat map.

Every measure is one figure per face; `class_means` makes of them what is published, the mean over classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.metrics.weighting import mean

INSIDE = 0.5
"""Value from which a pixel of a heat map belongs to its region."""


Aligned = Literal["corners", "cells"]
"""What falls on what when a map is resized: its corner pixels on corner pixels, or its cells on the parts of the image
that they cover."""


def resized(maps: Tensor, size: Sequence[int], aligned: Aligned = "corners") -> Tensor:
    """(B, H, W) maps at another size, bilinear with antialiasing, kept within what each had before.

    Args:
        maps: (B, h, w).
        size: H and W.
        aligned: `corners` as in the original's loss and ATT-COS; `cells` as class activation maps are drawn.
    """
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    low, high = (edge[:, None, None] for edge in maps.flatten(1).aminmax(dim=1))
    corners = aligned == "corners"
    scaled = F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=corners, antialias=True)[:, 0]
    return torch.minimum(torch.maximum(scaled, low), high)


def comparable(attention: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) attention as it is compared with heat maps of a size: shifted up to 0 if it goes below, resized."""
    return resized(attention - attention.amin((1, 2), keepdim=True).clamp(max=0), size)


def attention_cosine(attention: Tensor, heatmaps: Tensor) -> Tensor:
    """ATT-COS of every face: cosine of its attention and its heat map; CAM-COS of class activation maps.

    Attention with negative values is shifted up to 0, then brought to the heat map's size.

    Args:
        attention: (B, h, w) mean of a layer's maps over the channels.
        heatmaps: (B, H, W) in [0, 1]; a face whose map is not finite everywhere has no cosine.

    Returns:
        (B,) in [0, 1]; NaN where there is no map.

    Source: Belharbi et al., FG 2024, section 4.
    """
    seen = comparable(attention, heatmaps.shape[1:]).flatten(1)
    cosine = F.cosine_similarity(seen, heatmaps.flatten(1), dim=1, eps=1e-8).nan_to_num(0.0)
    return _where_known(cosine, heatmaps)


def pointing(maps: Tensor, heatmaps: Tensor) -> Tensor:
    """Pointing game of every face: 1 where the largest pixel of its map lies inside the heat map's region, else 0.

    Among equally large pixels, the share of those inside; so a constant map gets what chance gives.

    Args:
        maps: (B, H, W).
        heatmaps: (B, H, W) in [0, 1], the region being where it is at least `INSIDE`.

    Returns:
        (B,) in [0, 1]; NaN for a face without a heat map.

    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018.

    Example:
        >>> heatmap = torch.tensor([[[0.0, 0.2], [0.7, 1.0]]])
        >>> pointing(heatmap, heatmap).item(), pointing(torch.ones(1, 2, 2), heatmap).item()
        (1.0, 0.5)
    """
    top = maps == maps.amax((1, 2), keepdim=True)
    inside = (top & (heatmaps >= INSIDE)).sum((1, 2)) / top.sum((1, 2)).clamp_min(1)
    return _where_known(inside, heatmaps)


def energy_inside(maps: Tensor, heatmaps: Tensor) -> Tensor:
    """Share of every map's sum that lies inside the heat map's region; 0 for a map of zeros.

    Args:
        maps: (B, H, W), not negative.
        heatmaps: (B, H, W) in [0, 1], the region being where it is at least `INSIDE`.

    Returns:
        (B,) in [0, 1]; NaN for a face without a heat map.

    Source: energy-based pointing game, Wang et al., "Score-CAM", CVPRW 2020.
    """
    inside = (maps * (heatmaps >= INSIDE)).sum((1, 2)) / maps.sum((1, 2)).clamp_min(1e-12)
    return _where_known(inside, heatmaps)


def _where_known(values: Tensor, heatmaps: Tensor) -> Tensor:
    return torch.where(heatmaps.isfinite().flatten(1).all(1), values, torch.nan)


def class_means(values: Tensor, labels: Tensor, classes: int, weight: Tensor | None = None) -> Tensor:
    """Mean of figures over the faces of each class.

    Args:
        values: (N, K) K figures of every face, NaN where undefined.
        labels: (N,) class; negative for none.
        classes: C.
        weight: (N,) or (R, N) how often each face counts; the R rows are R bootstrap replicates.

    Returns:
        (C, K) or (R, C, K) double; NaN for a class without such a face.

    Example:
        >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3).squeeze(1).tolist()
        [2.0, nan, 5.0]
    """
    own = labels[:, None] == torch.arange(classes, device=labels.device)
    return mean(torch.where(own[:, :, None], values[:, None], torch.nan), weight)


def mean_over_classes(means: Tensor) -> Tensor:
    """Unweighted mean of figures per class, as published; classes without a face do not count.

    Args:
        means: (..., C, K) of `class_means`.

    Returns:
        (..., K).
    """
    return means.nanmean(-2)
