"""How well sentiment, a number from negative to positive, is predicted. Rows whose target is NaN do not count.

Every paper of MOSI, MOSEI and SIMS cuts the number into classes in its own way; here each way has a name. Classes are
cut in the precision in which numbers are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.batch import NOT_LABELLED
from honne.metrics.emotions import Compat, weighted_f1
from honne.metrics.expression import class_scores, confusion_matrix
from honne.metrics.valence_arousal import pearson
from honne.metrics.weighting import exact, mean, require

Zero = Literal["positive", "negative", "left out"]
SIMS_CLASSES = {"acc2": (0.0,), "acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}
"""Accuracy on the scale of SIMS -> upper ends of its classes but the last, each in its class."""
SLIPS = frozenset({"acc2_positive", "f1", "f1_positive", "f1_nonnegative", "f1_binary_positive"})
"""Scores that `compat` may change."""


def sentiment_class(sentiment: Tensor, classes: int = 7, step: float = 1.0) -> Tensor:
    """The nearest of an odd number of classes that lie `step` apart, the middle one at 0; halves go to the even one.

    Args:
        sentiment: (N,) numbers, NaN where not labelled; what lies beyond the outermost classes belongs to them.
        classes: K; 7 on the scale of MOSI and MOSEI (-3..3).
        step: distance of two classes on the scale.

    Returns:
        (N,) int64 in 0..K-1, `NOT_LABELLED` where not labelled.

    Example:
        >>> sentiment_class(torch.tensor([-2.5, 0.5, 1.5, 9.0, torch.nan])).tolist()
        [1, 3, 5, 6, -1]
    """
    half = (classes - 1) // 2
    found = (sentiment / step).clamp(-half, half).round() + half
    return found.nan_to_num(NOT_LABELLED).long()


def polarity(
    predicted: Tensor, target: Tensor, zero: Zero, weight: Tensor | None = None, compat: Compat | None = None
) -> Tensor:
    """Confusion matrix of negative (first) and positive sentiment.

    Args:
        predicted: (N,) numbers.
        target: (N,) numbers, NaN where not labelled.
        zero: which side 0 is on: positive (negative against non-negative), negative (positive against the rest), or
            left out (negative against positive; rows labelled 0 do not count, a prediction of 0 is negative).
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.
        compat: "causalmer": with 0 left out a prediction of 0 is positive, as its evaluation takes it when the network
            predicts classes.

    Returns:
        (2, 2) or (R, 2, 2), targets down, predictions across.

    Example:
        >>> polarity(torch.tensor([0.1, 0.0, -2.0]), torch.tensor([1.0, 2.0, 0.0]), "left out").tolist()
        [[0.0, 0.0], [1.0, 1.0]]
    """
    _require(predicted, target)
    upwards = zero == "positive" or (zero == "left out" and compat == "causalmer")
    guessed = predicted >= 0 if upwards else predicted > 0
    truth = target >= 0 if zero == "positive" else target > 0
    counts = ~target.isnan() & ((target != 0) | (zero != "left out"))
    return _confusion(guessed.long(), truth.long().masked_fill(~counts, NOT_LABELLED), 2, weight)


def sentiment_scores(
    predicted: Tensor,
    target: Tensor,
    scale: float = 3.0,
    weight: Tensor | None = None,
    compat: Compat | None = None,
) -> dict[str, Tensor]:
    """Every score of sentiment that is published on a scale.

    Args:
        predicted: (N,) numbers.
        target: (N,) numbers, NaN where not labelled.
        scale: largest magnitude. 1: as SIMS, numbers beyond -1..1 are cut off first. 3: as MOSI and MOSEI.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.
        compat: as `polarity` and `weighted_f1` take it; unset = as meant.

    Returns:
        Name -> () or (R,): `mae`, mean absolute error; `corr`, Pearson's correlation; and

        - on a scale of 1 `acc2` (up to 0, above), `acc3` (up to -0.1, up to 0.1, above), `acc5` (also at -0.7 and 0.7),
          and `f1`, weighted, of the two classes;
        - else for negative against non-negative on all rows (`..._nonnegative`), and for negative against positive
          where the label is not 0 (`..._positive`): `acc2`, `f1` (mean of both classes' F1 weighted by their rows) and
          `f1_binary` (of the positive class);
        - on a scale of 3 also `acc7` and `acc5`, of numbers rounded (halves to even) within -3..3 and -2..2.

    Source: Zadeh et al., ACL 2018 (MOSEI); Yu et al., ACL 2020 (SIMS); Mao et al., ACL 2022 (MMSA).

    Example:
        >>> found = sentiment_scores(torch.tensor([1.6, -0.4, -1.0]), torch.tensor([2.0, 0.0, -3.0]))
        >>> [round(found[name].item(), 3) for name in ("acc7", "acc2_nonnegative", "acc2_positive", "mae")]
        [0.667, 0.667, 1.0, 0.933]
    """
    _require(predicted, target)
    if scale == 1:
        predicted, target = predicted.clamp(-1, 1), target.clamp(-1, 1)
    found: dict[str, Tensor] = {}
    if scale == 3:
        for classes in (7, 5):
            guessed, truth = (sentiment_class(values, classes) for values in (predicted, target))
            found[f"acc{classes}"] = class_scores(_confusion(guessed, truth, classes, weight)).accuracy
    if scale == 1:
        for name, ends in SIMS_CLASSES.items():
            guessed, truth = (_binned(values, ends) for values in (predicted, target))
            confusion = _confusion(guessed, truth, len(ends) + 1, weight)
            found[name] = class_scores(confusion).accuracy
            if name == "acc2":
                found["f1"] = weighted_f1(confusion, compat)
    else:
        ways: tuple[tuple[str, Zero], ...] = (("nonnegative", "positive"), ("positive", "left out"))
        for name, zero in ways:
            confusion = polarity(predicted, target, zero, weight, compat)
            scores = class_scores(confusion)
            found[f"acc2_{name}"] = scores.accuracy
            found[f"f1_{name}"] = weighted_f1(confusion, compat)
            unmeasured = confusion.sum((-2, -1)) == 0
            found[f"f1_binary_{name}"] = scores.f1[..., 1].nan_to_num().masked_fill(unmeasured, torch.nan)
    errors = torch.sub(*exact(predicted, target)).abs()
    return found | {"mae": mean(errors, weight), "corr": pearson(predicted, target, weight)}


def three_class_scores(
    scores: Tensor, target: Tensor, weight: Tensor | None = None, compat: Compat | None = None
) -> dict[str, Tensor]:
    """Accuracies and weighted F1 of networks that tell negative, neutral and positive, as MMSA measures them.

    Args:
        scores: (N, 3) logits or probabilities of negative, neutral, positive.
        target: (N,) int64 0, 1, 2, or `NOT_LABELLED`.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.
        compat: "mmsa": where neutral rows are left out, a positive prediction never matches, as in its evaluation.

    Returns:
        Name -> () or (R,): `acc3`, `f1_3`; and by the larger of negative and positive alone `acc2_all`, `f1_all`
        (positive against the rest) and `acc2_positive`, `f1_positive` (positive against negative).

    Source: Mao et al., ACL 2022 (MMSA).
    """
    ends = scores[:, [0, 2]].argmax(1)
    positive = torch.where(target == NOT_LABELLED, target, (target == 2).long())
    polar = torch.where(target == 1, NOT_LABELLED, target)
    guessed = ends if compat == "mmsa" else 2 * ends
    found = {}
    for name, confusion in (
        ("3", confusion_matrix(scores, target, weight)),
        ("2_all", _confusion(ends, positive, 2, weight)),
        ("2_positive", _confusion(guessed, polar, 3, weight)),
    ):
        found[f"acc{name}"] = class_scores(confusion).accuracy
        found[f"f1_{name.removeprefix('2_')}"] = weighted_f1(confusion)
    return found


def _binned(values: Tensor, ends: Sequence[float]) -> Tensor:
    """Classes that hold their upper ends, `NOT_LABELLED` where the number is NaN."""
    return torch.bucketize(values, values.new_tensor(ends)).masked_fill(values.isnan(), NOT_LABELLED)


def _confusion(guessed: Tensor, target: Tensor, classes: int, weight: Tensor | None) -> Tensor:
    return confusion_matrix(F.one_hot(guessed, classes).double(), target, weight)


def _require(predicted: Tensor, target: Tensor) -> None:
    fits = predicted.ndim == 1 and predicted.shape == target.shape
    require(fits, "predicted and target of one shape (N,)", predicted, target)
