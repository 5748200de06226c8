"""How ambiguous a face is, how doubtful its label, and how well mined distributions tell what a crowd would say.

A mined distribution q says what a face would be *if not what it is labelled*: (N, C), zero at the label. Votes are
compared with it on the other classes, see `others`. Distances that are not here are those of
`honne.metrics.distributions`: mined distributions are distributions like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.batch import NOT_LABELLED
from honne.metrics.action_units import au_auc
from honne.metrics.calibration import as_distribution
from honne.metrics.distributions import emd
from honne.metrics.weighting import exact, mean, require


def others(distribution: Tensor, labels: Tensor) -> Tensor:
    """What is left of a distribution without the label's share, as a distribution again.

    Args:
        distribution: (N, C) probabilities, votes or counts.
        labels: (N,) class, or `NOT_LABELLED`.

    Returns:
        (N, C) double, 0 at the label, rows sum to 1; rows of NaN where nothing is left or nothing is labelled.

    Source: the spec of mined distributions compares votes on the complement of the label.

    Example:
        >>> others(torch.tensor([[0.5, 0.375, 0.125], [1.0, 0.0, 0.0]]), torch.tensor([0, 0])).tolist()
        [[0.0, 0.75, 0.25], [nan, nan, nan]]
    """
    labelled = _labelled(distribution, labels)
    left = distribution.double().masked_fill(_at(labels, distribution.shape[1]), 0.0)
    return as_distribution(left, left.shape[1]).masked_fill(~labelled[:, None], torch.nan)


def full_distribution(probabilities: Tensor, labels: Tensor, mined: Tensor) -> Tensor:
    """p_y for the label y, and the rest 1 - p_y shared out as mined: p_y onehot(y) + (1 - p_y) q.

    Args:
        probabilities: (N, C) of the model, rows sum to 1.
        labels: (N,) class, or `NOT_LABELLED`.
        mined: (N, C), 0 at the label, rows sum to 1; rows of NaN where nothing was mined.

    Returns:
        (N, C) double; rows of `probabilities` where nothing was mined.

    Example:
        >>> p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.0, 1.0, 0.0]])
        >>> full_distribution(p, torch.tensor([0]), q).tolist()
        [[0.5, 0.5, 0.0]]
    """
    known = _labelled(probabilities, labels) & ~mined.isnan().any(1)
    own, p = _at(labels, probabilities.shape[1]), probabilities.double()
    kept = (p * own).sum(1, keepdim=True)
    return torch.where(known[:, None], own * kept + (1 - kept) * mined.double().nan_to_num(), p)


def label_error(distribution: Tensor, labels: Tensor) -> Tensor:
    """How doubtful each label is: (1 + largest probability of another class - probability of the label) / 2.

    0: all is with the label; 1: all is with one other class; above 0.5 another class leads. The margin rather than
    1 - p_y alone, because 1 - p_y is as large for a face that is merely hard (0.3 for the label, the rest spread thin)
    as for one that clearly is something else (0.3 against 0.6), and only the second is a wrong label.

    Args:
        distribution: (N, C) probabilities; of a model with mined distributions best `full_distribution`: its answer to
            "if not this, what?" comes from branches that never saw the label at hand, so they cannot have memorised it.
        labels: (N,) class, or `NOT_LABELLED`.

    Returns:
        (N,) double in [0, 1], NaN where not labelled.

    Source: the normalised margin of confident learning (Northcutt, Jiang, Chuang, JAIR 2021), brought to 0..1.

    Example:
        >>> label_error(torch.tensor([[0.75, 0.25, 0.0], [0.25, 0.25, 0.5]]), torch.tensor([0, 1])).tolist()
        [0.25, 0.625]
    """
    labelled = _labelled(distribution, labels)
    own, p = _at(labels, distribution.shape[1]), distribution.double()
    margin = p.masked_fill(own, 0.0).amax(1) - (p * own).sum(1)
    return ((1 + margin) / 2).masked_fill(~labelled, torch.nan)


def class_thresholds(distribution: Tensor, labels: Tensor) -> Tensor:
    """(C,) what the model on average gives a class on the rows labelled with it; infinite for a class without rows.

    Args:
        distribution: (N, C) probabilities.
        labels: (N,) class, or `NOT_LABELLED`.

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021, equation 2.

    Example:
        >>> class_thresholds(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0])).tolist()
        [0.5, inf]
    """
    _labelled(distribution, labels)
    own = _at(labels, distribution.shape[1])
    count = own.sum(0)
    return ((distribution.double() * own).sum(0) / count).masked_fill(count == 0, torch.inf)


def suggested_class(distribution: Tensor, labels: Tensor, thresholds: Tensor) -> Tensor:
    """The class that a row's label should probably be, where it is likely wrong.

    A label is likely wrong when another class is the most probable of those that reach their thresholds, and the label
    is not the most probable class of all. Thresholds differ by class, so that a class of which the model is never sure
    (a rare one) is not suspected throughout. The suggestion is the most probable class whatever the thresholds: that
    of a rare class sinks with the wrong labels among its few rows, and it would be suggested for anything.

    Args:
        distribution: (N, C) probabilities, as for `label_error`.
        labels: (N,) class, or `NOT_LABELLED`.
        thresholds: (C,) from `class_thresholds`.

    Returns:
        (N,) int64 class, `NOT_LABELLED` where the label stands.

    Source: the off-diagonal of the confident joint (Northcutt, Jiang, Chuang, JAIR 2021, equation 1).

    Example:
        >>> p = torch.tensor([[0.2, 0.8], [0.45, 0.55]])
        >>> suggested_class(p, torch.tensor([0, 0]), torch.tensor([0.6, 0.6])).tolist()
        [1, -1]
    """
    labelled, p = _labelled(distribution, labels), distribution.double()
    sure = p.masked_fill(p < thresholds, -torch.inf)
    best = sure.argmax(1)
    wrong = labelled & sure.amax(1).isfinite() & (best != labels) & (p.argmax(1) != labels)
    return torch.where(wrong, p.argmax(1), NOT_LABELLED)


def entropy(distribution: Tensor) -> Tensor:
    """(N,) entropy of each row in nats; rows are normalised, NaN where they hold nothing.

    Args:
        distribution: (N, C) probabilities, votes or counts.

    Example:
        >>> round(entropy(torch.tensor([[5.0, 5.0]])).item(), 4)
        0.6931
    """
    return torch.special.entr(as_distribution(distribution, distribution.shape[1])).sum(1)


def cosine(probabilities: Tensor, votes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cosine similarity of prediction and votes, 0..1; arguments as for `honne.metrics.kl`.

    Example:
        >>> round(cosine(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]])).item(), 4)
        0.6
    """
    predicted, voted = _pair(probabilities, votes)
    return mean(F.cosine_similarity(predicted, voted, eps=1e-12), weight)


def intersection(probabilities: Tensor, votes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean histogram intersection, sum of min(prediction, vote share), 0..1; arguments as for `honne.metrics.kl`.

    Between distributions it is 1 - `emd`, since both rows sum to 1.

    Example:
        >>> round(intersection(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 1.0]])).item(), 4)
        0.75
    """
    return 1 - emd(probabilities, votes, weight=weight)


def chebyshev(probabilities: Tensor, votes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of the largest |prediction - vote share| of a row, 0..1; arguments as for `honne.metrics.kl`.

    Example:
        >>> round(chebyshev(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 1.0]])).item(), 4)
        0.25
    """
    predicted, voted = _pair(probabilities, votes)
    return mean((predicted - voted).abs().amax(1), weight)


def spearman(one: Tensor, other: Tensor, weight: Tensor | None = None) -> Tensor:
    """Spearman's rank correlation, ties with their middle rank; rows with NaN in either do not count.

    Args:
        one: (N,).
        other: (N,).
        weight: (N,) or (R, N) how often each row counts; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,) in [-1, 1]; NaN where a series is constant.

    Example:
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0])).item(), 4)
        1.0
    """
    require(one.ndim == 1 and one.shape == other.shape, "two of one shape (N,)", one, other)
    one, other = exact(one, other)
    known = ~(one.isnan() | other.isnan())
    weight = one.new_ones(len(one)) if weight is None else weight.double()
    weight = weight[..., known]
    ranks = [_ranks(values[known], weight) for values in (one, other)]
    count = weight.sum(-1, keepdim=True)
    x, y = (rank - (weight * rank).sum(-1, keepdim=True) / count for rank in ranks)
    covariance, *variances = ((weight * a * b).sum(-1) for a, b in ((x, y), (x, x), (y, y)))
    return covariance / (variances[0] * variances[1]).sqrt()


def auc(score: Tensor, positive: Tensor, weight: Tensor | None = None) -> Tensor:
    """Area under the ROC curve: how often a positive row scores above a negative one, ties count half.

    Args:
        score: (N,).
        positive: (N,) 1 positive, 0 negative, NaN does not count; or bool.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,); NaN without a positive or without a negative row.

    Example:
        >>> auc(torch.tensor([0.9, 0.2, 0.2]), torch.tensor([True, True, False])).item()
        0.75
    """
    return au_auc(score[:, None], positive[:, None].double(), weight)[..., 0]


def _ranks(values: Tensor, weight: Tensor) -> Tensor:
    """Middle ranks when row i counts weight[..., i] times: (N,), (..., N) -> (..., N)."""
    _, tied = values.unique(return_inverse=True)
    groups = int(tied.max()) + 1 if len(tied) else 0
    times = weight.new_zeros(*weight.shape[:-1], groups).index_add(-1, tied, weight)
    return (times.cumsum(-1) - times / 2 + 0.5)[..., tied]


def _at(labels: Tensor, classes: int) -> Tensor:
    """(N, C) bool, True at the label; rows of False where not labelled."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


def _labelled(distribution: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool; refuses shapes that do not fit and labels that are no class."""
    fits = distribution.ndim == 2 and labels.shape == distribution.shape[:1]
    require(fits, "distribution (N, C) and labels (N,)", distribution, labels)
    if len(labels) and int(labels.max()) >= distribution.shape[1]:
        raise ValueError(f"label {int(labels.max())} is not one of the {distribution.shape[1]} classes")
    return labels != NOT_LABELLED


def _pair(probabilities: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    fits = probabilities.ndim == 2 and probabilities.shape == votes.shape
    require(fits, "probabilities and votes of one shape (N, C)", probabilities, votes)
    predicted, votes = exact(probabilities, votes)
    return predicted, as_distribution(votes, votes.shape[1])
