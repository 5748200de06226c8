"""How far a figure would move with other people in the test set: bootstrap intervals, clustered and paired.

A replicate draws as many clusters (subjects) as there are, with replacement. It is stored as one weight per row, how
often the row was drawn, so that a measure of this package computes all replicates in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Measure = Callable[[Tensor | None], dict[str, Tensor]]
"""Weights (R, N), or `None` for the data as they are -> named results (R, ...) or (...)."""

WEIGHTS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; NaN where it is undefined.

    Example:
        >>> print(Estimate(0.8712, 0.8591, 0.8824))
        0.871 [0.859, 0.882]
    """

    value: float
    low: float
    high: float

    @property
    def defined(self) -> bool:
        """Whether value and interval are numbers."""
        return math.isfinite(self.value + self.low + self.high)

    def __format__(self, form: str) -> str:
        return " ".join((format(self.value, form), f"[{format(self.low, form)}, {format(self.high, form)}]"))

    def __str__(self) -> str:
        return format(self, ".3f")


def resampled(clusters: np.ndarray, replicates: int = 1000, seed: int = 0) -> Iterator[Tensor]:
    """Bootstrap weights in chunks of at most about four million.

    Args:
        clusters: (N,) cluster number of each row, 0..K-1; `np.arange(N)` resamples rows.
        replicates: R.
        seed: of the draws; a replicate does not depend on how many there are.

    Yields:
        (r, N) double, how often each row was drawn; r adds up to R.

    Example:
        >>> weights = next(resampled(np.array([0, 0, 1]), replicates=500))
        >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all()), bool((weights[:, 1:].sum(1) == 2).all())
        (torch.Size([500, 3]), True, True)
    """
    generator = np.random.default_rng(seed)
    count = int(clusters.max()) + 1
    size = max(1, WEIGHTS_AT_ONCE // len(clusters))
    for start in range(0, replicates, size):
        rows = min(size, replicates - start)
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield torch.from_numpy(times[:, clusters]).double()


def bootstrap(measure: Measure, clusters: np.ndarray, replicates: int = 1000, seed: int = 0) -> dict[str, Tensor]:
    """Every replicate of every result of a measure.

    Args:
        measure: weights (R, N) -> named results (R, ...).
        clusters: (N,) as for `resampled`.
        replicates: R.
        seed: of the draws.

    Returns:
        Name -> (R, ...).
    """
    parts = [measure(weight) for weight in resampled(clusters, replicates, seed)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def interval(draws: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Percentile interval over the first axis; replicates in which the figure is undefined (NaN) are left out.

    Args:
        draws: (R, ...) replicates.
        level: share of the replicates inside.

    Returns:
        Lower and upper ends, (...) each.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Example:
        >>> interval(torch.arange(101.0), level=0.9)
        (tensor(5.), tensor(95.))
    """
    tail = (1 - level) / 2
    low, high = draws.nanquantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype), dim=0)
    return low, high


def p_value(draws: Tensor) -> Tensor:
    """Two-sided p of "no difference" from replicates of a difference: the smallest level whose interval excludes 0.

    Args:
        draws: (R, ...) replicates of a difference.

    Returns:
        (...) in [2 / (R + 1), 1].

    Example:
        >>> p_value(torch.tensor([0.3, 0.1, 0.2, -0.1, 0.4])).item()
        0.6666666865348816
    """
    count = (~draws.isnan()).sum(0)
    side = torch.minimum((draws <= 0).sum(0), (draws >= 0).sum(0))
    return (2 * (side + 1) / (count + 1)).clamp_max(1)
