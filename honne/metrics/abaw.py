"""Scores of the Affective Behavior Analysis in-the-wild (ABAW) challenges, built from the other measures.

Targets and weights are those of the measures they are built from. Every edition scores only rows whose label is whole:
all units coded, both valence and arousal known; `whole` makes the others unlabelled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from honne.metrics.action_units import Threshold, au_counts, au_f1
from honne.metrics.expression import class_scores, confusion_matrix
from honne.metrics.valence_arousal import ccc


def whole(target: Tensor) -> Tensor:
    """(N, K) targets, rows that miss an entry all NaN.

    Example:
        >>> whole(torch.tensor([[1.0, 0.0], [1.0, torch.nan]])).tolist()
        [[1.0, 0.0], [nan, nan]]
    """
    return target.masked_fill(target.isnan().any(1, keepdim=True), torch.nan)


def abaw_expression(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Expression score of ABAW-1 and 2 (2020, 2021): 0.67 macro F1 + 0.33 accuracy; arguments as for `macro_f1`.

    The macro F1 is the mean over the classes that occur in targets or predictions.

    Source: Kollias et al., Analysing Affective Behavior in the First ABAW 2020 Competition, FG 2020.

    Example:
        >>> round(abaw_expression(torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1])).item(), 4)
        0.7388
    """
    found = class_scores(confusion_matrix(scores, target, weight))
    return 0.67 * found.macro_f1 + 0.33 * found.accuracy


def abaw_macro_f1(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Expression score of the later editions: mean F1 over all classes, 0 for one in neither targets nor predictions.

    Arguments as for `macro_f1`.

    Example:
        >>> round(abaw_macro_f1(torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1])).item(), 4)
        0.4889
    """
    return class_scores(confusion_matrix(scores, target, weight)).f1.nan_to_num().mean(-1)


def abaw_accuracy(
    probabilities: Tensor, target: Tensor, threshold: Threshold = 0.5, weight: Tensor | None = None
) -> Tensor:
    """Share of all entries of all units decided right; arguments as for `au_f1`.

    Returns:
        () or (R,).
    """
    hit, false_on, false_off, rest = au_counts(probabilities, target, threshold, weight).sum(-2).unbind(-1)
    return (hit + rest) / (hit + false_on + false_off + rest)


def abaw_units(
    probabilities: Tensor, target: Tensor, threshold: Threshold = 0.5, weight: Tensor | None = None
) -> Tensor:
    """Action unit score of ABAW-1 and 2: 0.5 mean F1 + 0.5 accuracy; arguments as for `au_f1`.

    Later editions take the mean F1 alone: `au_f1(...).nanmean(-1)`.

    Returns:
        () or (R,).

    Example:
        >>> abaw_units(torch.tensor([[0.9, 0.9], [0.2, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])).item()
        0.625
    """
    f1 = au_f1(probabilities, target, threshold, weight).nanmean(-1)
    return 0.5 * f1 + 0.5 * abaw_accuracy(probabilities, target, threshold, weight)


def abaw_affect(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Valence-arousal score of every edition: mean of the two CCCs over all rows at once; arguments as for `ccc`.

    Returns:
        () or (R,).

    Example:
        >>> truth = torch.tensor([[0.0, 0.1], [0.5, 0.2], [0.7, -0.3]])
        >>> abaw_affect(truth, truth).item()
        1.0
    """
    return ccc(predicted, target, weight).mean(-1)


def abaw_mtl(expression: Tensor, units: Tensor, affect: Tensor) -> Tensor:
    """P of the multi-task challenges: mean CCC + macro F1 + mean F1 of the units, each over the rows valid for it.

    Args:
        expression: () or (R,) as `abaw_macro_f1` gives it.
        units: () or (R,) mean of `au_f1`.
        affect: () or (R,) as `abaw_affect` gives it.

    Source: Kollias, ABAW: Valence-Arousal Estimation, Expression Recognition, Action Unit Detection & Multi-Task
    Learning Challenges, CVPRW 2022.
    """
    return expression + units + affect


def selection_score(expression: Tensor, units: Tensor, concordance: Tensor) -> Tensor:
    """What the winner of ABAW-1 selected models by: expression score + unit score + both CCCs.

    Args:
        expression: () or (R,) as `abaw_expression` gives it.
        units: () or (R,) as `abaw_units` gives it, at a threshold of 0.5.
        concordance: (2,) or (R, 2) CCC of valence and arousal.

    Source: Deng, Chen and Shi, FG 2020.
    """
    return expression + units + concordance.sum(-1)
