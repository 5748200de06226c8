"""Losses for the labels a batch happens to have: rows without a label do not count."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.batch import NOT_LABELLED
from honne.metrics.sentiment import sentiment_class


def expression_loss(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy against target distributions.

    Args:
        logits: (B, C) scores.
        target: (B, C) distributions; one-hot rows for hard labels, rows of NaN do not count.
        class_weights: (C,) weight of each class; the mean is weighted by them.
        label_smoothing: share of each target given to the uniform distribution, 0..1.

    Returns:
        Scalar; 0 (with a gradient of 0) when no row has a target.
    """
    known = ~target.isnan().any(1)
    target = target.nan_to_num(0.0)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / target.shape[1]
    weights = target if class_weights is None else target * class_weights
    weights = weights * known[:, None]
    return -(weights * F.log_softmax(logits, 1)).sum() / weights.sum().clamp_min(torch.finfo(logits.dtype).tiny)


def focal_loss(logits: Tensor, target: Tensor, exponent: float = 2.0) -> Tensor:
    """Cross-entropy times (1 - p)^exponent, p the probability given to the target: easy faces count less.

    Args:
        logits: (B, C) scores.
        target: (B, C) distributions, rows of NaN do not count.
        exponent: gamma; 0 is the cross-entropy.

    Source: Lin et al., ICCV 2017.
    """
    known = ~target.isnan().any(1)
    entropy = -(target.nan_to_num(0.0) * F.log_softmax(logits, 1)).sum(1)
    return ((1 - (-entropy).exp()) ** exponent * entropy * known).sum() / known.sum().clamp_min(1)


def binary_focal_loss(present: Tensor, absent: Tensor, target: Tensor, exponent: float = 2.0) -> Tensor:
    """Binary cross-entropies times the probability of the other answer to a power, summed over columns.

    Args:
        present: (B, K) logarithms of the probabilities.
        absent: (B, K) logarithms of their complements.
        target: (B, K) 1 present, 0 absent, NaN does not count.
        exponent: gamma.

    Returns:
        Scalar, mean over the rows in which anything counts.

    Source: Lin et al., ICCV 2017, with alpha 1, as Deng et al., FG 2020, use it.
    """
    known = ~target.isnan()
    hard = torch.where(target > 0.5, (exponent * absent).exp() * present, (exponent * present).exp() * absent)
    return -(hard * known).sum() / known.any(1).sum().clamp_min(1)


def probability_error(logits: Tensor, target: Tensor, exponent: int = 2) -> Tensor:
    """Mean squared (exponent 2) or absolute (1) error of the predicted probabilities; bounded, so kind to wrong labels.

    Args:
        logits: (B, C) scores.
        target: (B, C) distributions, rows of NaN do not count.
        exponent: 1 or 2.

    Source: Ghosh et al., AAAI 2017.
    """
    known = ~target.isnan().any(1, keepdim=True)
    errors = (logits.softmax(1) - target.nan_to_num(0.0)).abs() ** exponent * known
    return errors.sum() / (known.sum() * logits.shape[1]).clamp_min(1)


def multi_target_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against whichever accepted class the network finds likeliest: -log max_k(t_k p_k).

    Args:
        logits: (B, C) scores.
        target: (B, C), 1 for every accepted class and a small number else; rows of NaN do not count.

    Source: Barsoum et al., ICMI 2016, multi-label training of FER+.
    """
    known = ~target.isnan().any(1)
    accepted = F.log_softmax(logits, 1) + torch.where(known[:, None], target, 1.0).log()
    return -(accepted.max(1).values * known).sum() / known.sum().clamp_min(1)


def action_unit_loss(logits: Tensor, target: Tensor, positive_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, mean over the coded (image, action unit) pairs.

    Args:
        logits: (B, A) scores.
        target: (B, A) 1 present, 0 absent, NaN not coded.
        positive_weights: (A,) weight of presence.
    """
    coded = ~target.isnan()
    loss = F.binary_cross_entropy_with_logits(
        logits, target.nan_to_num(0.0), reduction="none", pos_weight=positive_weights
    )
    return (loss * coded).sum() / coded.sum().clamp_min(1)


def concordance(prediction: Tensor, target: Tensor, correction: int = 0) -> Tensor:
    """Lin's concordance correlation coefficient of each column over the labelled rows.

    Args:
        prediction: (B, K).
        target: (B, K), NaN where not labelled.
        correction: what is taken from the number of rows in variances and covariance: 0, or 1 for unbiased ones.

    Returns:
        (K,) in [-1, 1]; 0 where fewer than two rows are labelled or nothing varies.
    """
    known = ~target.isnan()
    count = known.sum(0).clamp_min(1)
    prediction, target = prediction * known, target.nan_to_num(0.0)
    mean_p, mean_t = prediction.sum(0) / count, target.sum(0) / count
    delta_p, delta_t, free = (prediction - mean_p) * known, (target - mean_t) * known, (count - correction).clamp_min(1)
    covariance = (delta_p * delta_t).sum(0) / free
    spread = (delta_p.square() + delta_t.square()).sum(0) / free + (mean_p - mean_t).square()
    return 2 * covariance / spread.clamp_min(1e-8)


def valence_arousal_loss(prediction: Tensor, target: Tensor, concordance_weight: float = 1.0) -> Tensor:
    """Mean squared error plus `concordance_weight` times (1 - CCC), mean of valence and arousal.

    Args:
        prediction: (B, 2) in [-1, 1].
        target: (B, 2) in [-1, 1], NaN where not labelled.
    """
    known = ~target.isnan()
    squared = ((prediction - target.nan_to_num(0.0)) * known).square().sum() / known.sum().clamp_min(1)
    measurable = known.sum(0) > 1  # a CCC needs two rows
    disagreement = ((1 - concordance(prediction, target)) * measurable).sum() / measurable.sum().clamp_min(1)
    return squared + concordance_weight * disagreement


def emotion_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of presence against absence, mean over the labelled (row, emotion) pairs.

    Args:
        logits: (B, E, 2) scores of absence and presence.
        target: (B, E) 1 present, 0 absent, NaN not labelled.

    Returns:
        Scalar; 0 (with a gradient of 0) when nothing is labelled.
    """
    known = ~target.isnan()
    entropy = F.cross_entropy(logits.flatten(0, 1), target.nan_to_num(0.0).long().flatten(), reduction="none")
    return (entropy * known.flatten()).sum() / known.sum().clamp_min(1)


def sentiment_loss(prediction: Tensor, target: Tensor, kind: Literal["l1", "l2"] = "l1") -> Tensor:
    """Mean absolute (l1) or squared (l2) error over the labelled rows.

    Args:
        prediction: (B,) on the scale of the data.
        target: (B,) on the same scale, NaN where not labelled.
        kind: of error.

    Returns:
        Scalar; 0 (with a gradient of 0) when nothing is labelled.
    """
    known = ~target.isnan()
    errors = (prediction - target.nan_to_num(0.0)) * known
    return (errors.abs() if kind == "l1" else errors.square()).sum() / known.sum().clamp_min(1)


def sentiment_class_loss(logits: Tensor, target: Tensor, step: float = 1.0) -> Tensor:
    """Cross-entropy against the class nearest to the sentiment, mean over the labelled rows.

    Args:
        logits: (B, K) scores of an odd number of classes from negative to positive, the middle one at 0.
        target: (B,) sentiment on the scale of the data, NaN where not labelled; see `honne.metrics.sentiment_class`.
        step: distance of two classes on that scale; 1 for 7 classes on -3..3.

    Returns:
        Scalar; 0 (with a gradient of 0) when nothing is labelled.
    """
    classes = sentiment_class(target, logits.shape[1], step)
    known = (classes != NOT_LABELLED).sum()
    return F.cross_entropy(logits, classes, ignore_index=NOT_LABELLED, reduction="sum") / known.clamp_min(1)
