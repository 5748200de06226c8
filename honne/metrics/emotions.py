"""How well emotions are told of which each is present or absent by itself; labels that are NaN do not count."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from honne.metrics.action_units import au_auc, au_counts, au_ece
from honne.metrics.expression import class_scores

Compat = Literal["causalmer", "mult", "mmsa"]
"""Whose published figures to repeat, slips included: CausalMER, MulT or MMSA."""


def weighted_f1(confusion: Tensor, compat: Compat | None = None) -> Tensor:
    """Mean F1 over the classes, each weighted by its rows among the labels.

    Args:
        confusion: (..., C, C) targets down, predictions across, as `honne.metrics.confusion_matrix` gives.
        compat: "mult" weights by the rows among the predictions, as its evaluation does by swapping two arguments.

    Returns:
        (...), NaN without any row.

    Example:
        >>> round(weighted_f1(torch.tensor([[3.0, 1.0], [2.0, 2.0]])).item(), 4)
        0.619
    """
    scores = class_scores(confusion)
    weight = confusion.sum(-2) if compat == "mult" else scores.support
    return (scores.f1.nan_to_num() * weight).sum(-1) / weight.sum(-1)


def emotion_scores(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
    """Every score of every emotion, over the rows where it is labelled; `.nanmean(-1)` is the mean over emotions.

    An emotion counts as present above a probability of 0.5, that is where the logit of presence is the larger one.

    Args:
        probabilities: (N, E) that the emotion is present.
        target: (N, E), 1 present, 0 absent, NaN not labelled.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Name -> (E,) or (R, E), NaN where nothing is labelled:

        - `accuracy`; `f1`, the mean of the F1 of presence and of absence weighted by their rows; `balanced_accuracy`;
          `auc`; `ece` of the probabilities.
        - `accuracy_majority`, `f1_majority`: what always giving the commoner answer gets, the commoner one of these
          very rows; a rule that has to learn elsewhere which it is gets at most that.

    Source: Busso et al., IEMOCAP, 2008, as Tsai et al., ACL 2019 (MulT), and its successors evaluate it.

    Example:
        >>> scores = emotion_scores(torch.tensor([[0.9], [0.2], [0.1]]), torch.tensor([[1.0], [1.0], [0.0]]))
        >>> {name: round(scores[name].item(), 4) for name in ("accuracy", "f1", "accuracy_majority")}
        {'accuracy': 0.6667, 'f1': 0.6667, 'accuracy_majority': 0.6667}
    """
    hit, false_on, false_off, rest = au_counts((probabilities > 0.5).float(), target, weight=weight).unbind(-1)
    confusion = torch.stack([rest, false_on, false_off, hit], -1).unflatten(-1, (2, 2))
    scores = class_scores(confusion)
    commoner = scores.support.amax(-1) / scores.support.sum(-1)
    return {
        "accuracy": scores.accuracy,
        "f1": weighted_f1(confusion),
        "balanced_accuracy": scores.balanced_accuracy,
        "auc": au_auc(probabilities, target, weight),
        "ece": au_ece(probabilities, target, weight=weight),
        "accuracy_majority": commoner,
        "f1_majority": 2 * commoner**2 / (1 + commoner),
    }
