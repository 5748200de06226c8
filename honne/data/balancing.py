"""Weights that show rare action units and rare valence/arousal more often, as Deng et al., FG 2020.

For `sampling.Weighted`; those of expressions are `sampling.class_weights`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np

from honne.errors import HonneError, WrongCall

BLOCK = 512
"""Rounds of ML-ROS drawn at once."""

log = logging.getLogger("honne")


def imbalance(labels: np.ndarray) -> np.ndarray:
    """(A,) how many times more often the most frequent action unit is present; infinite for one that never is.

    Args:
        labels: (N, A) 1 present, 0 absent, NaN not coded.

    Example:
        >>> imbalance(np.array([[1, 0], [1, 1], [1, 0], [1, np.nan]])).tolist()
        [1.0, 4.0]

    Source: Charte et al., Neurocomputing 2015, IRLbl.
    """
    return _imbalance((labels == 1).sum(0))


def ml_ros_weights(
    labels: np.ndarray,
    *,
    seed: int,
    mean_imbalance: float | None = 2.0,
    cap: float = 0.5,
    step: int = 32,
    counting: Literal["clones", "reference"] = "clones",
    action_units: Sequence[int] = (),
) -> np.ndarray:
    """(N,) weights that amount to cloning rows of rare action units until none is rare (ML-ROS); 0 for uncoded rows.

    Every action unit whose imbalance is above `mean_imbalance`, in column order: clone `step` rows that show it, drawn
    with replacement among them and their clones, until its imbalance is no longer above, or there are `cap` clones per
    row, which ends everything. An action unit that never occurs cannot be cloned: it is left out, with a warning.

    Args:
        labels: (N, A) 1 present, 0 absent, NaN not coded.
        seed: of the draws.
        mean_imbalance: 1 or more; None: the mean over the action units.
        cap: clones per coded row, passed by less than `step` clones.
        step: clones between two looks at the imbalance.
        counting: weight of a row with k clones times the number of coded rows: `clones`: 1 + k; `reference`: k, but 1
            for k = 0, as in the original code, which so forgets the first clone.
        action_units: (A,) numbers for the warning; by default the columns.

    Raises:
        HonneError: nothing is coded.
        WrongCall: an imbalance below 1.

    Source: Charte et al., Neurocomputing 2015, ML-ROS; Deng et al., FG 2020.
    """
    if mean_imbalance is not None and mean_imbalance < 1:
        raise WrongCall(
            f"An imbalance of {mean_imbalance} cannot be reached: that of the most frequent action unit is 1.",
            "Use at least 1, or None for the mean.",
        )
    coded = ~np.isnan(labels).all(1)
    if not coded.any():
        raise HonneError(
            "No row has an action unit label.", "Balanced sampling of action units needs them; turn it off."
        )
    present = labels == 1
    never = np.flatnonzero(~present.any(0))
    if len(never):
        names = ", ".join(str(action_units[c]) if action_units else f"column {c}" for c in never.tolist())
        log.warning("action units never present in the training rows, so never shown more often: %s", names)
    clones = _clones(present, mean_imbalance, cap * coded.sum(), step, np.random.RandomState(seed))
    counts = 1 + clones if counting == "clones" else np.maximum(clones, 1)
    return np.where(coded, 1 / coded.sum() * counts, 0.0)


def valence_arousal_weights(values: np.ndarray, bins: int = 20, floor: int = 1) -> np.ndarray:
    """(N,) 1 / rows in the same cell of valence x arousal, so that every cell with rows is equally likely.

    Args:
        values: (N, 2) valence and arousal, NaN for none; such rows get weight 0.
        bins: cells along each dimension, equally wide from the smallest to the largest value there is.
        floor: cells with fewer rows count as having that many, so that no single row is shown all the time; 1 as
            published.

    Raises:
        HonneError: no row has valence and arousal.

    Source: Deng et al., FG 2020, the authors' code.
    """
    known = ~np.isnan(values).any(1)
    if not known.any():
        raise HonneError("No row has valence and arousal.", "Balanced sampling of them needs them; turn it off.")
    cells = np.zeros(known.sum(), np.int64)
    for dimension in (0, 1):
        each = values[known, dimension]
        edges = np.histogram_bin_edges(each, bins)
        cells = cells * bins + np.searchsorted(edges[1:-1], each, side="right")
    counts = np.bincount(cells)
    weights = np.zeros(len(values))
    weights[known] = (1 / np.maximum(counts, floor))[cells]
    return weights


def _imbalance(counts: np.ndarray) -> np.ndarray:
    """(..., A) of (..., A) rows with each action unit."""
    most = counts.max(-1, keepdims=True)
    return np.where(counts > 0, most / np.maximum(counts, 1), np.inf)


def _clones(
    present: np.ndarray, limit: float | None, most: float, step: int, generator: np.random.RandomState
) -> np.ndarray:
    """(N,) clones of each row of `present` (N, A); stops when an imbalance is at most `limit`, or at `most` clones."""
    counts = present.sum(0)
    start = _imbalance(counts)
    there = counts > 0
    if limit is None:
        limit = start[there].mean() if there.any() else 1.0
    clones = np.zeros(len(present), np.int64)
    for column in np.flatnonzero(there & (start > limit)):
        pool = np.flatnonzero(present[:, column])
        rare = True
        while rare and clones.sum() < most:
            rounds = min(BLOCK, int(-(-(most - clones.sum()) // step)))
            state = generator.get_state()
            chosen = _draw(generator, pool, rounds, step)
            after = counts + present[chosen].reshape(rounds, step, -1).sum(1).cumsum(0)
            enough = _imbalance(after)[:, column] <= limit
            if enough.any():  # the generator has to be where the last round left it
                rare, rounds = False, int(enough.argmax()) + 1
                generator.set_state(state)
                chosen = _draw(generator, pool, rounds, step)
            counts = after[rounds - 1]
            pool = np.concatenate([pool, chosen])
            clones += np.bincount(chosen, minlength=len(clones))
    return clones


def _draw(generator: np.random.RandomState, pool: np.ndarray, rounds: int, step: int) -> np.ndarray:
    """(rounds * step,) rows drawn from the pool, to which every round adds what it drew."""
    size = len(pool)
    places = generator.randint(0, np.repeat(size + step * np.arange(rounds), step))
    while (later := places >= size).any():  # follow clones of clones back to their originals
        places[later] = places[places[later] - size]
    return pool[places]
