"""Temperature scaling: one number that makes a model's confidence match how often it is right."""

from __future__ import annotations

import math

from scipy import optimize
from torch import Tensor

from honne.errors import HonneError
from honne.metrics.calibration import as_distribution

LOWEST, HIGHEST = 0.02, 50.0


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature T whose softmax(logits / T) has the least cross-entropy with the targets.

    The cross-entropy is convex in 1 / T, so the root of its slope is the one optimum. Where it lies beyond 0.02..50
    (all rows right, or logits that say nothing) the nearer end is returned.

    Args:
        logits: (N, C) of data that the model was not trained on.
        target: (N,) class, `NOT_LABELLED` (-1) where unknown; or (N, C) distributions or votes, NaN rows where unknown.

    Returns:
        T, in 0.02..50; divide logits by it. The arg max never changes.

    Raises:
        HonneError: no row is labelled.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)  # 98 % sure, but right three times out of four
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 4)
        3.641
    """
    logits = logits.detach().cpu().double()
    goal = as_distribution(target.detach().cpu(), logits.shape[1])
    known = ~goal.isnan().any(1)
    if not known.any():
        raise HonneError("No row has an expression label to fit a temperature on.", "Calibrate on a labelled split.")
    logits, goal = logits[known], goal[known]
    # A shift per row changes nothing and keeps the products small.
    logits = logits - logits.amax(1, keepdim=True)
    reached = (goal * logits).sum(1).mean()

    def slope(log_temperature: float) -> float:
        expected = ((logits * math.exp(-log_temperature)).softmax(1) * logits).sum(1).mean()
        return float(expected - reached)

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if slope(low) <= 0:
        return LOWEST
    if slope(high) >= 0:
        return HIGHEST
    return math.exp(optimize.brentq(slope, low, high, xtol=1e-10))
