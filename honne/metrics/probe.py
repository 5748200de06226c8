"""What can be read from features by a linear rule: here, which stratum a face comes from."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from honne.metrics.weighting import require


def linear_probe(
    features: Tensor,
    target: Tensor,
    groups: np.ndarray,
    *,
    beside: Tensor | None = None,
    parts: int = 5,
    seed: int = 0,
) -> Tensor:
    """Multinomial logistic regression on standardised features, every row predicted by one fitted on other groups.

    Args:
        features: (N, D).
        target: (N,) what to read, 0..K-1.
        groups: (N,) e.g. subjects; no group is fitted on and predicted at once.
        beside: (N,) a label that goes together with the target, 0..C-1: every fit weighs its rows by `cell_weights`, so
            that nothing is to be gained by reading the label.
        parts: of the rows; all but one are fitted on, in turn. Fewer where there are fewer groups.
        seed: of the parts.

    Returns:
        (N, K) probabilities, double.

    Raises:
        ValueError: fewer than two groups.

    Source: Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016.

    Example:
        >>> points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> linear_probe(points, torch.tensor([0, 0, 1, 1]), np.array([0, 1, 0, 1])).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    require(features.ndim == 2 and target.shape == features.shape[:1], "features (N, D), target (N,)", features, target)
    parts = min(parts, len(np.unique(groups)))
    if parts < 2:
        raise ValueError("a probe needs two groups at least: one to be fitted on, one to be measured on")
    values, codes = features.double().cpu().numpy(), target.cpu().numpy()
    found = np.zeros((len(codes), int(codes.max()) + 1))
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    for fitted, measured in folds.split(values, codes, groups):
        if (codes[fitted] == codes[fitted[0]]).all():  # nothing to tell apart
            found[measured, codes[fitted[0]]] = 1
            continue
        rule = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        weight = None if beside is None else cell_weights(target[fitted], beside[fitted]).cpu().numpy()
        rule.fit(values[fitted], codes[fitted], logisticregression__sample_weight=weight)
        found[np.ix_(measured, rule.classes_)] = rule.predict_proba(values[measured])
    return torch.from_numpy(found)


def cell_weights(target: Tensor, label: Tensor) -> Tensor:
    """Weights that give every (target, label) cell that has rows the same sum: one says nothing of the other any more.

    Args:
        target: (N,) 0..K-1.
        label: (N,) 0..C-1.

    Returns:
        (N,) double, mean 1.

    Example:
        >>> cell_weights(torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 1, 1])).tolist()
        [0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 2.0]
    """
    cell = target * (int(label.max()) + 1) + label
    _, place, count = cell.unique(return_inverse=True, return_counts=True)
    return len(cell) / (len(count) * count[place].double())
