"""Losses of method `multitask`: of the labels, and of a teacher's answers. See `honne.methods.multitask`.

Source: Deng, Chen, Shi, FG 2020, arXiv 2002.03557.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Labels, Prediction
from honne.losses import binary_focal_loss, concordance
from honne.networks.affect_bins import bin_index


def affect_loss(
    values: Tensor, bins: Tensor | None, target: Tensor, kind: str = "ccc_ce", concordance_weight: float = 1.0
) -> Tensor:
    """(2,) losses of valence and of arousal over the labelled rows; 0 where there is none.

    Args:
        values: (B, 2) in [-1, 1].
        bins: (B, 2, K) logits, of which `values` is the expectation; `None` for networks without bins.
        target: (B, 2) in [-1, 1], NaN where not labelled.
        kind: see `MultitaskOptions.valence_arousal_loss` of the method.
        concordance_weight: of 1 - CCC; it counts from two rows on that are not all the same.

    Raises:
        HonneError: a label is out of range.
    """
    known, agreement = ~target.isnan(), concordance(values, target, correction=1)
    measurable = (known.sum(0) > 1) & (_spread(values, known) + _spread(target, known) != 0)  # NaN has to show
    disagreement = concordance_weight * torch.where(measurable, 1 - agreement, 0.0)
    classes = bin_index(target, 2 if bins is None else bins.shape[2])  # refuses labels that are out of range
    if kind == "ccc":
        return disagreement
    if bins is None:
        error = torch.where(known, values - target.nan_to_num(0.0), 0.0).square()
        return disagreement + error.sum(0) / known.sum(0).clamp_min(1)
    if kind == "ccc_focal":
        each = torch.stack(
            [expression_focal_loss(bins[:, i], _one_hot(classes[:, i], bins.shape[2])) for i in range(2)]
        )
        return disagreement + each
    entropy = F.cross_entropy(bins.flatten(0, 1), classes.flatten(), reduction="none", ignore_index=NOT_LABELLED)
    return disagreement + entropy.view_as(target).sum(0) / known.sum(0).clamp_min(1)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(B, ...) Kullback-Leibler divergence of softened probabilities over the last dimension, teacher || student."""
    goal = (teacher / temperature).softmax(-1)
    return F.kl_div((student / temperature).log_softmax(-1), goal, reduction="none").sum(-1)


def distillation(
    student: Prediction, teacher: Prediction, labels: Labels, temperature: float = 1.5, teacher_weight: float = 0.4
) -> dict[str, Tensor]:
    """H: divergence from the teacher for every task, the mean over all rows.

    Args:
        student: of B rows.
        teacher: of the same, without gradient.
        labels: where there is one, the row counts `teacher_weight`, else 1.
        temperature: of softmax probabilities; those of action units are not softened.
        teacher_weight: share of the teacher where there is a label.

    Returns:
        Scalars by task: expression, action_units, valence, arousal.
    """
    terms: dict[str, Tensor] = {}
    if student.expression is not None and teacher.expression is not None:
        rows = divergence(student.expression, teacher.expression, temperature)
        terms["expression"] = (rows * _share(_has_expression(labels, rows), teacher_weight)).mean()
    if student.action_units is not None and teacher.action_units is not None:
        goal = teacher.action_units.sigmoid()
        entries = F.binary_cross_entropy_with_logits(student.action_units, goal, reduction="none")
        terms["action_units"] = (entries * _share(_known(labels.action_units, entries), teacher_weight)).mean()
    if student.valence_arousal is not None and teacher.valence_arousal is not None:
        if student.valence_arousal_bins is not None and teacher.valence_arousal_bins is not None:
            entries = divergence(student.valence_arousal_bins, teacher.valence_arousal_bins, temperature)
        else:
            entries = (student.valence_arousal - teacher.valence_arousal).square()
        each = (entries * _share(_known(labels.valence_arousal, entries), teacher_weight)).mean(0)
        terms |= {"valence": each[0], "arousal": each[1]}
    return terms


def expression_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss of every class against the rest, (B, C) logits and (B, C) targets, rows of NaN do not count."""
    present = logits.log_softmax(-1)
    absent = torch.log1p(-present.exp().clamp(max=1 - 1e-6))
    return binary_focal_loss(present, absent, target)


def _one_hot(classes: Tensor, count: int) -> Tensor:
    """(B, count) float, rows of NaN where not labelled."""
    known = classes != NOT_LABELLED
    return F.one_hot(classes.clamp_min(0), count).float().masked_fill(~known[:, None], torch.nan)


def _spread(values: Tensor, known: Tensor) -> Tensor:
    """(K,) largest minus smallest labelled value of each column."""
    values = values.detach()
    largest = values.masked_fill(~known, -torch.inf).amax(0)
    return (largest - values.masked_fill(~known, torch.inf).amin(0)).clamp_min(0)


def _share(known: Tensor, weight: float) -> Tensor:
    return torch.where(known, weight, 1.0)


def _known(values: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.bool) if values is None else ~values.isnan()


def _has_expression(labels: Labels, like: Tensor) -> Tensor:
    known = torch.zeros_like(like, dtype=torch.bool)
    if labels.expression is not None:
        known = labels.expression != NOT_LABELLED
    return known if labels.distribution is None else known | ~labels.distribution.isnan().any(1)
