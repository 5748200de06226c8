"""How well action units are detected, one result per unit. Entries whose target is NaN (not coded) do not count."""

from __future__ import annotations

import torch
from torch import Tensor

from honne.metrics.calibration import binned_gap
from honne.metrics.weighting import exact, require, total

Threshold = float | Tensor


def au_counts(
    probabilities: Tensor, target: Tensor, threshold: Threshold = 0.5, weight: Tensor | None = None
) -> Tensor:
    """True positives, false positives, false negatives, true negatives of every unit; they add up over batches.

    Args:
        probabilities: (N, A) that the unit is present.
        target: (N, A), 1 present, 0 absent, NaN not coded.
        threshold: present from here on, one for all or (A,).
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        (A, 4) or (R, A, 4) double.
    """
    probabilities, target = _pair(probabilities, target)
    on, present, absent = probabilities >= threshold, target == 1, target == 0
    return total(torch.stack([on & present, on & absent, ~on & present, ~on & absent], -1), weight)


def au_f1(probabilities: Tensor, target: Tensor, threshold: Threshold = 0.5, weight: Tensor | None = None) -> Tensor:
    """Binary F1 of every unit; 0 without any true positive, NaN where nothing is coded. Macro: `.nanmean(-1)`.

    Args:
        probabilities: (N, A) that the unit is present.
        target: (N, A), 1 present, 0 absent, NaN not coded.
        threshold: present from here on, one for all or (A,).
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        (A,) or (R, A).

    Example:
        >>> coded = torch.tensor([[1.0, torch.nan], [1.0, 0.0], [0.0, 1.0]])
        >>> au_f1(torch.tensor([[0.9, 0.9], [0.2, 0.1], [0.1, 0.8]]), coded).tolist()
        [0.6666666666666666, 1.0]
    """
    return f1_of(au_counts(probabilities, target, threshold, weight))


def f1_of(counts: Tensor) -> Tensor:
    """F1 from (..., 4) counts as `au_counts` gives them."""
    hit, false_on, false_off, _ = counts.unbind(-1)
    f1 = (2 * hit / (2 * hit + false_on + false_off)).nan_to_num()
    return f1.masked_fill(counts.sum(-1) == 0, torch.nan)


def au_accuracy(
    probabilities: Tensor, target: Tensor, threshold: Threshold = 0.5, weight: Tensor | None = None
) -> Tensor:
    """Share of coded entries decided right, per unit; arguments and result as for `au_f1`.

    Example:
        >>> au_accuracy(torch.tensor([[0.9], [0.2]]), torch.tensor([[1.0], [1.0]])).tolist()
        [0.5]
    """
    hit, false_on, false_off, rest = au_counts(probabilities, target, threshold, weight).unbind(-1)
    return (hit + rest) / (hit + false_on + false_off + rest)


def au_balanced_accuracy(
    probabilities: Tensor, target: Tensor, threshold: Threshold = 0.5, weight: Tensor | None = None
) -> Tensor:
    """Mean of sensitivity and specificity, or the one that exists, per unit; arguments and result as for `au_f1`.

    Example:
        >>> au_balanced_accuracy(torch.tensor([[0.9], [0.2], [0.1]]), torch.tensor([[1.0], [1.0], [0.0]])).tolist()
        [0.75]
    """
    hit, false_on, false_off, rest = au_counts(probabilities, target, threshold, weight).unbind(-1)
    return torch.stack([hit / (hit + false_off), rest / (rest + false_on)], -1).nanmean(-1)


def au_auc(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Area under the ROC curve of every unit: how often a present one scores above an absent one, ties count half.

    Args:
        probabilities: (N, A), or any score that grows with presence.
        target: (N, A), 1 present, 0 absent, NaN not coded.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        (A,) or (R, A); NaN for a unit that is always or never present.

    Example:
        >>> au_auc(torch.tensor([[0.9], [0.2], [0.2], [0.1]]), torch.tensor([[1.0], [1.0], [0.0], [0.0]])).tolist()
        [0.875]
    """
    probabilities, target = _pair(probabilities, target)
    weight = target.new_ones(len(target)) if weight is None else weight.double()
    return torch.stack([_auc(*unit, weight) for unit in zip(probabilities.mT, target.mT, strict=True)], -1)


def au_ece(probabilities: Tensor, target: Tensor, bins: int = 15, weight: Tensor | None = None) -> Tensor:
    """Expected calibration error of every unit's probability of presence, `bins` equally wide bins over [0, 1].

    Args:
        probabilities: (N, A) that the unit is present.
        target: (N, A), 1 present, 0 absent, NaN not coded.
        bins: number of bins.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        (A,) or (R, A) in [0, 1], NaN where nothing is coded.

    Example:
        >>> round(au_ece(torch.tensor([[0.9], [0.9], [0.2]]), torch.tensor([[1.0], [0.0], [0.0]])).item(), 4)
        0.3333
    """
    probabilities, target = _pair(probabilities, target)
    columns = zip(probabilities.mT, target.mT, strict=True)
    return torch.stack([binned_gap(*unit, bins, weight) for unit in columns], -1)


def _auc(score: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(N,), (N,), (..., N) -> (...)."""
    order = score.argsort()
    order = order[~target[order].isnan()]
    present, weight = target[order] == 1, weight[..., order]
    _, tied = score[order].unique_consecutive(return_inverse=True)
    groups = int(tied[-1]) + 1 if len(tied) else 0
    absent = weight.new_zeros(*weight.shape[:-1], groups).index_add(-1, tied, weight * ~present)
    beaten = absent.cumsum(-1) - absent / 2  # absent weight that scores below, ties half
    won = (weight * present * beaten[..., tied]).sum(-1)
    return won / ((weight * present).sum(-1) * absent.sum(-1))


def _pair(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    fits = probabilities.ndim == 2 and probabilities.shape == target.shape
    require(fits, "probabilities and target of one shape (N, A)", probabilities, target)
    return exact(probabilities, target)
