"""Valence and arousal as classes: equal bins of [-1, 1] to learn, and the expectation over bin values to predict.

A bin has two numbers of its own. The edges say which label is of which class. The values are what the expectation
averages: `ends` spreads them from -1 to 1, so that a network sure of an outer bin can say -1 or 1; `centres` puts them
in the middle of their bins, so that none is further out than the labels that it stands for.

Source: Deng, Chen, Shi, "Multitask Emotion Recognition with Incomplete Labels", FG 2020, and their released code
(20 bins, `ends`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from honne.errors import HonneError, WrongCall

BinValues = Literal["ends", "centres"]


def bin_edges(bins: int) -> Tensor:
    """(K + 1,) float64 edges of K bins: -1, ..., 1.

    Raises:
        WrongCall: fewer than two bins.
    """
    if bins < 2:
        raise WrongCall(f"{bins} bins of valence and arousal tell nothing apart.", "Take 2 or more, as published 20.")
    return (2 * torch.arange(bins + 1, dtype=torch.float64) - bins) / bins


def bin_values(bins: int, kind: BinValues = "ends") -> Tensor:
    """(K,) float64 number that each bin stands for in the expectation.

    Raises:
        WrongCall: fewer than two bins, or a kind that there is not.
    """
    edges = bin_edges(bins)
    if kind == "ends":
        return bin_edges(bins - 1) if bins > 2 else edges[[0, -1]]
    if kind == "centres":
        return (edges[1:] + edges[:-1]) / 2
    raise WrongCall(f"unknown bin values '{kind}'.", "Choose ends or centres.")


def bin_index(values: Tensor, bins: int) -> Tensor:
    """Class of labels: bin k reaches from edge k up to edge k + 1, the last one includes 1.

    Args:
        values: (...) in [-1, 1], NaN where not labelled; compared in float32, as labels are kept.
        bins: K.

    Returns:
        (...) int64, `NOT_LABELLED` (-1) where NaN.

    Raises:
        HonneError: a label is out of range.
    """
    values = values.float()
    beyond = values.abs() > 1
    if bool(beyond.any()):
        raise HonneError(
            f"valence or arousal {values[beyond][0].item():g} is not between -1 and 1.",
            "Scale the labels, and leave cells empty where nothing is labelled (some files write -5).",
        )
    edges = bin_edges(bins).to(values)
    found = torch.bucketize(values, edges, right=True).sub(1).clamp_max(bins - 1)
    return found.masked_fill(values.isnan(), -1)


def expectation(logits: Tensor, values: Tensor) -> Tensor:
    """(...) mean of the bin values (K,) under the softmax of logits (..., K); at least float32, bins being close."""
    probabilities = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return (probabilities * values.to(probabilities)).sum(-1)


def affect(outputs: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """What a head says of valence and arousal.

    Args:
        outputs: (B, 2), or (B, 2 K) of K bins: those of valence, then those of arousal.
        values: (K,) of the bins; None = no bins.

    Returns:
        (B, 2) in [-1, 1]: the expectation, without bins the hyperbolic tangent; and the logits (B, 2, K) of the bins.
    """
    if values is None:
        return outputs.tanh(), None
    bins = outputs.unflatten(1, (2, len(values)))
    return expectation(bins, values), bins
