"""From crowd votes to something to learn: the four target modes of FER+, vectorised over images.

Source: Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution", ICMI 2016, with the rules of its published code. Votes are ten columns: eight emotions, "unknown" and
"NF" (not a face).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

EMOTIONS = 8
TargetMode = Literal["votes", "majority", "probability", "crossentropy", "multi_target"]
MAX_PEAKS = 3
PEAK_MASS = 0.75
MULTI_TARGET_SHARE = 0.3
MULTI_TARGET_FLOOR = 0.001


def chosen_votes(votes: np.ndarray, mode: TargetMode) -> np.ndarray:
    """(N, 10) what the mode keeps of ten vote counts, rows summing to 1; a one-hot on "unknown" where it finds nothing.

    Args:
        votes: (N, 10) counts.
        mode: `votes`: everything as it is. The others first set counts of 0 and 1 to 0 (outliers). `majority`: the
            column with more than half of the rest. `probability` and `crossentropy`: the highest peaks, equal ones
            together, until three quarters of the mass are taken; at most three. `multi_target`: every column with at
            least 30 %. In these two the kept columns must hold more than half of the mass.
    """
    votes = np.asarray(votes, np.float64)
    if mode != "votes":
        votes = np.where(votes > 1, votes, 0.0)
    total = votes.sum(1, keepdims=True)
    if mode == "votes":
        kept = votes.copy()
    elif mode == "majority":
        kept = votes * (np.arange(votes.shape[1]) == votes.argmax(1)[:, None]) * (votes > 0.5 * total)
    elif mode == "multi_target":
        kept = votes * (votes >= MULTI_TARGET_SHARE * total)
        kept[kept.sum(1) <= 0.5 * total[:, 0]] = 0
    else:
        kept = _peaks(votes, total[:, 0])
    kept[kept.sum(1) == 0, EMOTIONS] = 1
    return kept / kept.sum(1, keepdims=True)


def _peaks(votes: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Greedy peaks; a peak at "unknown" or "NF" ends the search, and counts only if it is the very first."""
    left, kept = votes.copy(), np.zeros_like(votes)
    mass, count = np.zeros(len(votes)), np.zeros(len(votes), int)
    valid = np.ones(len(votes), bool)
    for _ in range(MAX_PEAKS):
        searching = valid & (mass < PEAK_MASS * total) & (count < MAX_PEAKS)
        highest = left.max(1)
        for column in range(votes.shape[1]):
            taken = searching & valid & (left[:, column] == highest)
            mass[taken] += highest[taken]
            left[taken, column] = 0
            if column >= EMOTIONS:
                valid &= ~taken
                taken &= count == 0
            kept[taken, column] = votes[taken, column]
            count[taken] += 1
    kept[(kept.sum(1) <= 0.5 * total) | (count > MAX_PEAKS)] = 0
    return kept


def vote_targets(votes: np.ndarray, mode: TargetMode) -> tuple[np.ndarray, np.ndarray]:
    """Targets over the eight emotions, and which images are kept.

    An image is left out when the first maximum of `chosen_votes` is "unknown" or "NF".

    Args:
        votes: (N, 10) counts.
        mode: see `chosen_votes`.

    Returns:
        (N, 8) rows summing to 1, zero where the image is left out; (N,) bool, True where it is kept.
    """
    chosen = chosen_votes(votes, mode)
    keep = chosen.argmax(1) < EMOTIONS
    emotions = chosen[:, :EMOTIONS] * keep[:, None]
    return emotions / np.where(keep, emotions.sum(1), 1)[:, None], keep


def multi_target(targets: np.ndarray) -> np.ndarray:
    """(N, C) distributions -> what the multi-target loss -log max(t p) takes: 1 at every kept class, else 0.001."""
    return (1 - MULTI_TARGET_FLOOR) * (targets > 0) + MULTI_TARGET_FLOOR


def majority_class(votes: np.ndarray) -> np.ndarray:
    """(N,) class index by the majority rule of FER+, -1 where no emotion has a majority."""
    targets, keep = vote_targets(votes, "majority")
    return np.where(keep, targets.argmax(1), -1)
