"""How close predicted probabilities come to what a crowd of raters voted.

Votes are (N, C) counts or shares; rows are normalised, a row of NaN or without votes does not count.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor

from honne.metrics.calibration import SMALLEST, as_distribution
from honne.metrics.weighting import exact, mean, require

ROWS_AT_ONCE = 64


def kl(probabilities: Tensor, votes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the prediction from the votes, sum of votes * ln(votes / probability), in nats.

    Args:
        probabilities: (N, C), rows sum to 1; kept from 0 by 1e-12.
        votes: (N, C) counts or shares.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,), mean over the rows with votes, 0 or more.

    Example:
        >>> round(kl(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 1.0]])).item(), 4)
        0.1308
    """
    predicted, voted = _pair(probabilities, votes)
    return mean(_relative_entropy(voted, predicted), weight)


def js(probabilities: Tensor, votes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Jensen-Shannon divergence in nats, 0 to ln 2 (not its root, the distance); arguments as for `kl`.

    Source: Lin, IEEE Transactions on Information Theory 1991.

    Example:
        >>> round(js(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 1.0]])).item(), 4)
        0.0338
    """
    predicted, voted = _pair(probabilities, votes)
    middle = (predicted + voted) / 2
    return mean((_relative_entropy(voted, middle) + _relative_entropy(predicted, middle)) / 2, weight)


def emd(probabilities: Tensor, votes: Tensor, cost: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Earth mover's distance: the least cost of turning the prediction into the votes, mass times distance moved.

    Classes are nominal, so by default every two classes are one unit apart, and the distance is the total variation
    0.5 * sum |probability - vote share|: the share of mass that sits on the wrong class. Where classes have places
    (levels of intensity, points in the valence-arousal plane) give their distances.

    Args:
        probabilities: (N, C), rows sum to 1.
        votes: (N, C) counts or shares.
        cost: (C, C) cost, 0 or more, of moving one unit of mass from a class (down) to a class (across); the least
            total is found exactly by linear programming. `None`: 1 between any two classes.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,), mean over the rows with votes, 0 to the largest cost.

    Source: Rubner et al., IJCV 2000.

    Example:
        >>> emd(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 3.0, 1.0]])).item()
        0.5
        >>> steps = (torch.arange(3)[:, None] - torch.arange(3)).abs()
        >>> round(emd(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 3.0, 1.0]]), cost=steps).item(), 6)
        0.75
    """
    predicted, voted = _pair(probabilities, votes)
    if cost is None:
        return mean((predicted - voted).abs().sum(1) / 2, weight)
    require(cost.shape == (predicted.shape[1],) * 2, f"cost ({predicted.shape[1]}, {predicted.shape[1]})", cost)
    if bool((cost < 0).any()):
        raise ValueError("costs must not be negative")
    return mean(_transport(predicted, voted, cost.double()), weight)


def vote_hit(probabilities: Tensor, votes: Tensor, top: int = 1, weight: Tensor | None = None) -> Tensor:
    """Share of rows where one of the model's `top` most probable classes has the most votes (any class of a tie).

    Args:
        probabilities: (N, C); between equals the first class ranks first.
        votes: (N, C) counts or shares.
        top: how many classes the model may name.
        weight: (N,) or (R, N) weight of each row; the R rows are R bootstrap replicates.

    Returns:
        Scalar or (R,) in [0, 1].

    Example:
        >>> vote_hit(torch.tensor([[0.6, 0.4], [0.6, 0.4]]), torch.tensor([[5.0, 5.0], [1.0, 9.0]])).item()
        0.5
    """
    predicted, voted = _pair(probabilities, votes)
    named = predicted.argsort(dim=1, descending=True, stable=True)[:, :top]
    hit = (voted.gather(1, named) == voted.amax(1, keepdim=True)).any(1).double()
    return mean(hit.masked_fill(voted.isnan().any(1), torch.nan), weight)


def _pair(probabilities: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    fits = probabilities.ndim == 2 and probabilities.shape == votes.shape
    require(fits, "probabilities and votes of one shape (N, C)", probabilities, votes)
    predicted, votes = exact(probabilities, votes)
    return predicted, as_distribution(votes, votes.shape[1])


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """Sum of p ln(p / q) along each row, 0 ln 0 = 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q.clamp_min(SMALLEST))).sum(1)


def _transport(supply: Tensor, demand: Tensor, cost: Tensor) -> Tensor:
    """Least transport cost of each row, NaN rows kept: several rows make one sparse linear program."""
    rows, classes = supply.shape
    flow_out = sparse.kron(sparse.identity(classes), np.ones((1, classes)))
    flow_in = sparse.kron(np.ones((1, classes)), sparse.identity(classes))
    one_row = sparse.vstack([flow_out, flow_in])
    least = torch.full((rows,), torch.nan, dtype=torch.float64)
    for chunk in (~demand.isnan().any(1)).nonzero().flatten().split(ROWS_AT_ONCE):
        # Single precision leaves sums a little off 1; the program wants them equal.
        masses = [values[chunk] / values[chunk].sum(1, keepdim=True) for values in (supply, demand)]
        solved = optimize.linprog(
            cost.flatten().repeat(len(chunk)).numpy(),
            A_eq=sparse.kron(sparse.identity(len(chunk)), one_row, format="csr"),
            b_eq=torch.cat(masses, 1).flatten().numpy(),
        )
        flow = torch.from_numpy(solved.x).unflatten(0, (len(chunk), classes * classes))
        least[chunk] = (flow * cost.flatten()).sum(1)
    return least
