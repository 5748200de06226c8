"""Decision thresholds of action units, searched on labelled data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Search = Literal["break_even", "f1"]

UNKNOWN = 0.5
"""Threshold of a unit that tells nothing: always or never present, or never coded."""


def search_thresholds(probabilities: Tensor, target: Tensor, kind: Search = "break_even") -> Tensor:
    """The probability from which each action unit should count as present.

    Candidates are the probabilities themselves, as in scikit-learn's precision-recall curve. For an ensemble search on
    its mean probability, or take the mean of what the search finds for every member.

    Args:
        probabilities: (N, A) that the unit is present.
        target: (N, A), 1 present, 0 absent, NaN not coded.
        kind: `break_even`: where precision and recall differ least, be they 0 (a unit whose highest probabilities are
            all wrong may get a threshold that nothing right reaches); `f1`: where F1 is largest. Of equally good ones
            the lowest.

    Returns:
        (A,) like `probabilities`; 0.5 for a unit that is always or never present, or never coded.

    Source: break-even point as in Deng, Chen and Shi, Multitask Emotion Recognition with Incomplete Labels, FG 2020.

    Example:
        >>> search_thresholds(torch.tensor([[0.1], [0.3], [0.2], [0.9]]), torch.tensor([[0.0], [1.0], [0.0], [1.0]]))
        tensor([0.3000])
    """
    if probabilities.ndim != 2 or probabilities.shape != target.shape:
        raise ValueError(f"expected two tensors (N, A), got {tuple(probabilities.shape)} and {tuple(target.shape)}")
    unknown = probabilities.new_full(target.shape[1:], UNKNOWN)
    if not len(target):
        return unknown
    coded = ~target.isnan()
    score, order = probabilities.masked_fill(~coded, -torch.inf).sort(0)
    present, coded = (target == 1).gather(0, order), coded.gather(0, order)
    hits, called = (entries.double().flip(0).cumsum(0).flip(0) for entries in (present, coded))  # from here upwards
    precision, recall = hits / called, hits / hits[:1]
    if kind == "break_even":
        worth = -(precision - recall).abs()
    else:
        worth = 2 * hits / (called + hits[:1])
    tied = torch.cat([torch.zeros_like(coded[:1]), score[1:] == score[:-1]])
    worth = worth.masked_fill(~coded | tied, -torch.inf)
    found = score.gather(0, worth.argmax(0, keepdim=True))[0]
    return torch.where((hits[0] > 0) & (hits[0] < called[0]), found, unknown)
