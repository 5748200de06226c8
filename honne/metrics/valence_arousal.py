"""How well numbers agree. Entries whose target is NaN do not count; (N, 2) gives valence and arousal at once."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from honne.metrics.weighting import exact, mean, require, total

CONSTANT = 1e-12
"""A series of numbers of order 1 with a variance below this is constant but for rounding."""


def moments(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Count and sums of x, y, x^2, y^2, xy over the labelled entries; they add up over batches and processes.

    Args:
        predicted: (N,) or (N, D) numbers of order 1.
        target: the same shape, NaN where not labelled.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        (6,), (D, 6), (R, 6) or (R, D, 6) double.
    """
    predicted, target = _pair(predicted, target)
    known = ~target.isnan()
    x, y = (torch.where(known, values, 0.0) for values in (predicted, target))
    return total(torch.stack([known, x, y, x * x, y * y, x * y], -1), weight)


def ccc(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Concordance correlation, 2 cov / (var + var + (difference of means)^2), with population variances.

    Over all rows at once, not per video. A constant series has no correlation: 0, with a warning. NaN without labels.

    Args:
        predicted: (N,) or (N, D).
        target: the same shape, NaN where not labelled.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        (), (D,), (R,) or (R, D) in [-1, 1].

    Source: Lin, Biometrics 1989.

    Example:
        >>> round(ccc(torch.tensor([0.1, 0.4, 0.7]), torch.tensor([0.0, 0.5, 0.7])).item(), 4)
        0.9545
    """
    return ccc_of(moments(predicted, target, weight), warn=weight is None)


def ccc_of(sums: Tensor, warn: bool = True) -> Tensor:
    """`ccc` from (..., 6) sums as `moments` gives them; `warn` of constant series."""
    mean_x, mean_y, variance_x, variance_y, covariance = _central(sums)
    value = 2 * covariance / (variance_x + variance_y + (mean_x - mean_y) ** 2)
    return _zero_where_constant(value, variance_x, variance_y, "CCC", warn)


def pearson(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Pearson correlation; arguments, result, constant series and missing labels as for `ccc`.

    Example:
        >>> round(pearson(torch.tensor([0.1, 0.4, 0.7]), torch.tensor([0.0, 0.5, 0.7])).item(), 4)
        0.9707
    """
    _, _, variance_x, variance_y, covariance = _central(moments(predicted, target, weight))
    value = covariance / (variance_x * variance_y).clamp_min(0).sqrt()
    return _zero_where_constant(value, variance_x, variance_y, "Pearson correlation", warn=weight is None)


def rmse(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Root of the mean squared error, in the unit of the target; arguments as for `ccc`.

    Example:
        >>> round(rmse(torch.tensor([0.1, 0.4, 0.7]), torch.tensor([0.0, 0.5, torch.nan])).item(), 4)
        0.1
    """
    predicted, target = _pair(predicted, target)
    return mean((predicted - target) ** 2, weight).sqrt()


def _pair(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    require(predicted.shape == target.shape, "predicted and target of one shape, (N,) or (N, D)", predicted, target)
    return exact(predicted, target)


def _central(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Means, population variances and covariance."""
    count, *rest = sums.unbind(-1)
    mean_x, mean_y, square_x, square_y, product = (entry / count for entry in rest)
    return mean_x, mean_y, square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y


def _zero_where_constant(value: Tensor, variance_x: Tensor, variance_y: Tensor, name: str, warn: bool) -> Tensor:
    constant = torch.minimum(variance_x, variance_y) < CONSTANT
    if warn and bool(constant.any()):
        warnings.warn(f"{name} of a constant series is undefined; counted as 0.", stacklevel=4)
    return value.masked_fill(constant, 0.0)
