"""How well embeddings tell people apart whom no training picture showed: face verification over all pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.errors import HonneError

BINS = 20_000
"""Cosines are counted in steps of 0.0001; the figures are exact to about as much."""
BLOCK = 1024


@dataclass(frozen=True)
class Verification:
    """Figures of "is this the same person?", asked of all pairs and decided by a threshold on the cosine.

    Attributes:
        auc: probability that a pair of one person is more alike than a pair of two; 0.5 is chance.
        accuracy: at the best threshold, the mean of the shares of right answers for pairs of one and of two people.
        eer: equal error rate, where pairs of one person are refused as often as pairs of two are accepted.
        same: pairs of one person.
        different: pairs of two.
    """

    auc: float
    accuracy: float
    eer: float
    same: int
    different: int


def verification(features: Tensor, subjects: Tensor) -> Verification:
    """Verification over all pairs of rows; memory grows with N only.

    Args:
        features: (N, D) embeddings of any length.
        subjects: (N,) who is shown.

    Raises:
        HonneError: an embedding is not finite, or there is no pair of one person, or none of two.

    Example:
        >>> verification(torch.eye(2)[[0, 0, 1]], torch.tensor([7, 7, 8])).auc
        1.0
    """
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(1)).sum())
        raise HonneError(
            f"the embeddings of {bad} of {len(features)} faces are not finite numbers: training has diverged.",
            "Lower optim.lr, or set optim.clip.",
        )
    unit, counts = F.normalize(features.float()), torch.zeros(2, BINS + 1, dtype=torch.long)
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit[start:].mT
        pairs = torch.ones_like(block, dtype=torch.bool).triu(1)
        same = subjects[start : start + BLOCK, None] == subjects[None, start:]
        bins = ((block + 1) * (BINS / 2)).round().long().clamp(0, BINS)
        for row, chosen in enumerate((pairs & ~same, pairs & same)):
            counts[row] += torch.bincount(bins[chosen], minlength=BINS + 1)
    totals = counts.sum(1)
    if not totals.all():
        raise HonneError(
            "verification needs two people, and one of them on two pictures; "
            f"these {len(features)} faces make {int(totals[1])} pairs of one person and {int(totals[0])} of two.",
            "Prepare a larger share of the identities for validation: --valid-share.",
        )
    return _figures(counts.double() / totals[:, None], totals)


def _figures(shares: Tensor, totals: Tensor) -> Verification:
    """Figures from the histograms (2, bins) of pairs of two people and of one."""
    below = shares.cumsum(1)  # the share refused by a threshold above each bin
    different, same = below
    auc = (shares[1] * (different - shares[0] / 2)).sum()
    wrong = torch.stack([1 - different, same])  # two people accepted, one refused
    return Verification(
        auc=round(float(auc), 6),
        accuracy=1 - float(wrong.mean(0).min()),
        eer=float(wrong.max(0).values.min()),
        same=int(totals[1]),
        different=int(totals[0]),
    )
