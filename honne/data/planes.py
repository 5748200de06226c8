"""The input of FER+'s own network: lighting that changes evenly over a face is taken out."""

from __future__ import annotations

import numpy as np

FLAT = 1e-6
"""Standard deviation up to which an image counts as nothing but its plane, and is not divided by it."""


def without_plane(images: np.ndarray) -> np.ndarray:
    """Grey levels equalised to [-1, 1], less the fitted plane a + b x + c y, over their standard deviation.

    Args:
        images: (..., H, W) uint8; each image is treated by itself.

    Returns:
        (..., H, W) float64, each image of mean 0 and standard deviation 1 (or about 0, where nothing but the plane is
        there).

    Source: Barsoum et al., ICMI 2016 (FER+), its training code.
    """
    height, width = images.shape[-2:]
    levels = _equalised(images.reshape(-1, height * width)).reshape(-1, height, width)
    # About the centre of the grid 1, x and y are orthogonal, so each coefficient is one projection.
    down, across = ((np.arange(side) - (side - 1) / 2)[:, None] for side in (height, width))
    rest = levels - levels.mean((1, 2), keepdims=True)
    for axis in (down, across.T):
        length = np.square(axis).sum() * height * width / axis.size
        rest = rest - axis * (levels * axis).sum((1, 2), keepdims=True) / max(length, 1)
    spread = np.sqrt(np.square(rest).mean((1, 2), keepdims=True))
    return (rest / np.where(spread > FLAT, spread, 1)).reshape(images.shape)


def _equalised(images: np.ndarray) -> np.ndarray:
    """(N, P) levels in [-1, 1]: twice the share of the image's pixels that are no brighter, less 1."""
    count, pixels = images.shape
    histogram = np.bincount((images + 256 * np.arange(count)[:, None]).ravel(), minlength=256 * count)
    shares = histogram.reshape(count, 256).cumsum(1) * (2 / pixels) - 1
    return np.take_along_axis(shares, images.astype(np.int64), 1)
