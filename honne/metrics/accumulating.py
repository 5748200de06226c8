"""The same measures over many batches and processes: `torchmetrics.Metric` classes for training and validation loops.

`Gathered` serves every measure; `ConfusionMatrix`, `Concordance` and `UnitCounts` keep only sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from honne.metrics import action_units, expression, valence_arousal


class Gathered(Metric):
    """Keeps predictions and targets of all batches and processes and applies a measure to them together.

    Args:
        measure: (predictions (N, ...), targets (N, ...)) -> result; options by `functools.partial`.

    Example:
        >>> from functools import partial
        >>> from honne.metrics import ece
        >>> metric = Gathered(partial(ece, bins=10))
        >>> metric.update(torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
        >>> metric.update(torch.tensor([[0.6, 0.4]]), torch.tensor([1]))
        >>> round(metric.compute().item(), 4)
        0.1
    """

    full_state_update = False
    predicted: list[Tensor]
    target: list[Tensor]

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.measure = measure
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add a batch."""
        self.predicted.append(predicted.detach())
        self.target.append(target.detach())

    def compute(self) -> Tensor:
        """The measure over everything added."""
        return self.measure(dim_zero_cat(self.predicted), dim_zero_cat(self.target))


class ConfusionMatrix(Metric):
    """Confusion matrix of all batches; `honne.metrics.class_scores` makes accuracy, recall and F1 of it.

    Args:
        classes: C.

    Example:
        >>> from honne.metrics import class_scores
        >>> metric = ConfusionMatrix(2)
        >>> metric.update(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
        >>> metric.update(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
        >>> metric.compute().tolist(), class_scores(metric.compute()).accuracy.item()
        ([[1, 0], [1, 0]], 0.5)
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Add (B, C) scores and (B,) classes, `NOT_LABELLED` where unknown."""
        self.counts += expression.confusion_matrix(scores.detach(), target).long().to(self.counts.device)

    def compute(self) -> Tensor:
        """(C, C) rows by target (down) and prediction (across)."""
        return self.counts


class Concordance(Metric):
    """Concordance correlation over all batches, from sums of products in double precision.

    Apple GPUs have no double precision: use `Gathered(ccc)` where they may be met.

    Args:
        dimensions: D, 2 for valence and arousal.

    Example:
        >>> metric = Concordance(1)
        >>> metric.update(torch.tensor([[0.1], [0.4]]), torch.tensor([[0.0], [0.5]]))
        >>> metric.update(torch.tensor([[0.7]]), torch.tensor([[0.7]]))
        >>> round(metric.compute().item(), 4)
        0.9545
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, dimensions: int = 2) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(dimensions, 6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add (B, D) numbers and targets, NaN where not labelled."""
        self.sums += valence_arousal.moments(predicted.detach(), target)

    def compute(self) -> Tensor:
        """(D,) concordance."""
        return valence_arousal.ccc_of(self.sums)


class UnitCounts(Metric):
    """F1 of every action unit over all batches, from counts.

    Args:
        units: A.
        threshold: present from this probability on, one for all or (A,).

    Example:
        >>> metric = UnitCounts(1)
        >>> metric.update(torch.tensor([[0.9], [0.2]]), torch.tensor([[1.0], [1.0]]))
        >>> metric.update(torch.tensor([[0.1]]), torch.tensor([[0.0]]))
        >>> round(metric.compute().item(), 4)
        0.6667
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, units: int, threshold: action_units.Threshold = 0.5) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("counts", torch.zeros(units, 4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add (B, A) probabilities and targets, NaN where not coded."""
        counts = action_units.au_counts(probabilities.detach(), target, self.threshold)
        self.counts += counts.long().to(self.counts.device)

    def compute(self) -> Tensor:
        """(A,) F1; 0 without any true positive, NaN where nothing is coded."""
        return action_units.f1_of(self.counts)
