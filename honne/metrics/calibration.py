"""How far probabilities can be trusted.

Targets are (N,) classes with `NOT_LABELLED` (-1), or, for `nll` and `brier`, also (N, C) distributions, counts or
votes: rows are normalised, a row of NaN or without votes does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from honne.batch import NOT_LABELLED
from honne.metrics.weighting import exact, mean, require, total

SMALLEST = 1e-12
"""Probabilities are kept from 0 in logarithms by this much."""


def as_distribution(target: Tensor, classes: int) -> Tensor:
    """Any target as (N, C) distributions, NaN rows where nothing is known.

    Args:
        target: (N,) classes, `NOT_LABELLED` where unknown; or (N, C) votes, counts or probabilities.
        classes: C.

    Example:
        >>> as_distribution(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), 2).tolist()
        [[0.75, 0.25], [nan, nan]]
    """
    require(target.ndim == 1 or target.shape[1:] == (classes,), f"target (N,) or (N, {classes})", target)
    if target.ndim == 2:
        return target.double() / target.double().sum(1, keepdim=True)
    known = target != NOT_LABELLED
    one_hot = torch.nn.functional.one_hot(target.clamp_min(0), classes).double()
    return one_hot.masked_fill(~known[:, None], torch.nan)


def nll(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Negative log likelihood, -sum of target * ln(probability), in nats; against a distribution: cross-entropy.

    Args:
        probabilities: (N, C), rows sum to 1.
        target: (N,) class, or (N, C) distribution or votes.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,), mean over the rows with a target.

    Example:
        >>> round(nll(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 0])).item(), 4)
        0.3993
    """
    probabilities, goal = _pair(probabilities, target)
    return mean(-(goal * probabilities.clamp_min(SMALLEST).log()).sum(1), weight)


def brier(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Squared distance of the probabilities from the target, summed over classes (0 to 2); arguments as for `nll`.

    Source: Brier, Monthly Weather Review 1950 (the original, multi-class form).

    Example:
        >>> round(brier(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 0])).item(), 4)
        0.26
    """
    probabilities, goal = _pair(probabilities, target)
    return mean(((probabilities - goal) ** 2).sum(1), weight)


def ece(probabilities: Tensor, target: Tensor, bins: int = 15, weight: Tensor | None = None) -> Tensor:
    """Expected calibration error of the predicted class: mean |accuracy - confidence| over bins of equal width.

    Args:
        probabilities: (N, C), rows sum to 1.
        target: (N,) class, or `NOT_LABELLED`.
        bins: number of bins over [0, 1]; a bin holds its lower edge, the last one also 1.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,) in [0, 1].

    Source: Guo et al., ICML 2017.

    Example:
        >>> round(ece(torch.tensor([[0.6, 0.4], [0.6, 0.4]]), torch.tensor([0, 1])).item(), 4)
        0.1
    """
    return binned_gap(*_top_label(probabilities, target), bins, weight)


def ece_classwise(probabilities: Tensor, target: Tensor, bins: int = 15, weight: Tensor | None = None) -> Tensor:
    """Calibration error of each class's probability against "is it this class?", mean over classes; else as `ece`.

    Source: Kull et al., NeurIPS 2019.

    Example:
        >>> round(ece_classwise(torch.tensor([[0.6, 0.4], [0.6, 0.4]]), torch.tensor([0, 1])).item(), 4)
        0.1
    """
    require(target.ndim == 1, "target (N,)", target)
    probabilities, goal = _pair(probabilities, target)
    columns = zip(probabilities.mT, goal.mT, strict=True)
    return torch.stack([binned_gap(*column, bins, weight) for column in columns], -1).mean(-1)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram.

    Attributes:
        edges: (bins + 1,) of the bins, 0 to 1.
        count: (bins,) rows.
        confidence: (bins,) mean probability of the predicted class, NaN in an empty bin.
        accuracy: (bins,) share of right predictions, NaN in an empty bin.
    """

    edges: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(probabilities: Tensor, target: Tensor, bins: int = 15) -> Reliability:
    """Confidence and accuracy of the predicted class by bin; arguments as for `ece`.

    Example:
        >>> diagram = reliability(torch.tensor([[0.6, 0.4], [0.6, 0.4]]), torch.tensor([0, 1]), bins=2)
        >>> diagram.count.tolist(), diagram.accuracy.tolist()
        ([0.0, 2.0], [nan, 0.5])
    """
    count, confidence, right = _bin_sums(*_top_label(probabilities, target), bins, None).unbind(-1)
    return Reliability(
        torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=count.device),
        count,
        confidence / count,
        right / count,
    )


def binned_gap(probability: Tensor, outcome: Tensor, bins: int = 15, weight: Tensor | None = None) -> Tensor:
    """Calibration error of one event's probability: mean |frequency - probability| over bins of equal width.

    Args:
        probability: (N,) of the event.
        outcome: (N,), 1 it happened, 0 not, NaN unknown.
        bins: number of bins over [0, 1]; a bin holds its lower edge, the last one also 1.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,) in [0, 1]; NaN without any known outcome.
    """
    count, expected, happened = _bin_sums(probability, outcome, bins, weight).unbind(-1)
    return (happened - expected).abs().sum(-1) / count.sum(-1)


def _bin_sums(probability: Tensor, outcome: Tensor, bins: int, weight: Tensor | None) -> Tensor:
    """(..., bins, 3) sums of 1, probability and outcome over the rows of known outcome."""
    known = ~outcome.isnan()
    cell = (probability * bins).long().clamp(0, bins - 1)
    member = torch.nn.functional.one_hot(cell, bins) * known[:, None]
    values = torch.stack([torch.ones_like(outcome), probability, outcome.nan_to_num()], -1).double()
    return total(member[:, :, None] * values[:, None, :], weight)


def _top_label(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence (N,) and whether it is right (N,), NaN where not labelled."""
    require(target.ndim == 1, "target (N,)", target)
    probabilities, goal = _pair(probabilities, target)
    confidence, predicted = probabilities.max(1)
    return confidence, goal.gather(1, predicted[:, None])[:, 0]


def _pair(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and targets as (N, C) distributions, both double."""
    fits = probabilities.ndim == 2 and target.shape[:1] == probabilities.shape[:1]
    require(fits, "probabilities (N, C) and target (N,) or (N, C)", probabilities, target)
    probabilities, target = exact(probabilities, target)
    return probabilities, as_distribution(target, probabilities.shape[1])
