"""How well classes are told apart. Rows whose target is `NOT_LABELLED` (-1) do not count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from honne.batch import NOT_LABELLED
from honne.metrics.weighting import exact, require


@dataclass(frozen=True)
class ClassScores:
    """What follows from a confusion matrix, or from R of them.

    Attributes:
        accuracy: (R?,) share of rows whose arg max is the target.
        balanced_accuracy: (R?,) mean recall over the classes present in the targets.
        macro_f1: (R?,) mean F1 over the classes present in the targets or the predictions.
        precision: (R?, C), NaN for a class that is never predicted.
        recall: (R?, C), NaN for a class that is not in the targets.
        f1: (R?, C), NaN for a class that is in neither.
        support: (R?, C) rows per target class.
    """

    accuracy: Tensor
    balanced_accuracy: Tensor
    macro_f1: Tensor
    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


def confusion_matrix(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Rows counted by target class (down) and predicted class (across).

    Args:
        scores: (N, C) logits or probabilities; the first maximum is the prediction.
        target: (N,) int64 class, or `NOT_LABELLED`.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        (C, C) or (R, C, C) double.

    Example:
        >>> confusion_matrix(torch.eye(3)[[0, 2, 2, 1]], torch.tensor([0, 1, 2, -1])).int().tolist()
        [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    """
    require(scores.ndim == 2 and target.shape == scores.shape[:1], "scores (N, C) and target (N,)", scores, target)
    scores, target = exact(scores, target)
    classes = scores.shape[1]
    if len(target) and int(target.max()) >= classes:
        raise ValueError(f"target {int(target.max())} is not one of the {classes} classes 0..{classes - 1}")
    known = target != NOT_LABELLED
    cell = target[known] * classes + scores[known].argmax(1)
    weight = torch.ones_like(scores[:, 0]) if weight is None else weight.double()
    counts = weight.new_zeros(*weight.shape[:-1], classes * classes)
    return counts.index_add(-1, cell, weight[..., known]).unflatten(-1, (classes, classes))


def class_scores(confusion: Tensor) -> ClassScores:
    """Every score that follows from a confusion matrix.

    Args:
        confusion: (..., C, C) targets down, predictions across, as `confusion_matrix` gives.

    Example:
        >>> scores = class_scores(torch.tensor([[3.0, 1.0], [2.0, 2.0]]))
        >>> round(float(scores.accuracy), 3), scores.recall.tolist()
        (0.625, [0.75, 0.5])
    """
    require(confusion.ndim >= 2 and confusion.shape[-1] == confusion.shape[-2], "confusion (..., C, C)", confusion)
    hit, support, guessed = confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)
    recall, f1 = hit / support, 2 * hit / (support + guessed)
    return ClassScores(
        accuracy=hit.sum(-1) / support.sum(-1),
        balanced_accuracy=recall.nanmean(-1),
        macro_f1=f1.nanmean(-1),
        precision=hit / guessed,
        recall=recall,
        f1=f1,
        support=support,
    )


def accuracy(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Share of rows whose arg max is the target; arguments as for `confusion_matrix`.

    Example:
        >>> accuracy(torch.eye(3)[[0, 2, 2, 1]], torch.tensor([0, 1, 2, 1])).item()
        0.75
    """
    return class_scores(confusion_matrix(scores, target, weight)).accuracy


def balanced_accuracy(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean recall over the classes present in the targets; arguments as for `confusion_matrix`.

    Example:
        >>> balanced_accuracy(torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1])).item()
        0.75
    """
    return class_scores(confusion_matrix(scores, target, weight)).balanced_accuracy


def macro_f1(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean F1 over the classes present in targets or predictions; arguments as for `confusion_matrix`.

    Example:
        >>> round(macro_f1(torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1])).item(), 4)
        0.7333
    """
    return class_scores(confusion_matrix(scores, target, weight)).macro_f1
