"""Weights that show rare action units and rare valence/arousal more often."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from honne.data.balancing import imbalance, ml_ros_weights, valence_arousal_weights
from honne.data.sampling import Weighted
from honne.errors import HonneError, WrongCall

RARE = (0.5, 0.05, 0.3, 0.02)


def coded(rows: int, chances: tuple[float, ...] = RARE, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((rows, len(chances))) < chances).astype(np.float64)


def clones_by_the_book(labels: np.ndarray, limit: float, cap: float, step: int, seed: int) -> np.ndarray:
    """The published procedure, one round at a time, every count afresh."""
    generator, grown, clones = np.random.RandomState(seed), labels, np.zeros(len(labels))
    for unit in np.flatnonzero((imbalance(labels) > limit) & (labels.sum(0) > 0)):
        pool = np.flatnonzero(labels[:, unit])
        while clones.sum() < cap * len(labels):
            drawn = generator.choice(pool, step)
            pool = np.concatenate([pool, drawn])
            grown = np.concatenate([grown, labels[drawn]])
            np.add.at(clones, drawn, 1)
            if imbalance(grown)[unit] <= limit:
                break
    return clones


@settings(max_examples=40, deadline=None)
@example(4000, 1.5, 0.3, 1, 0)  # more rounds than one block holds
@given(st.integers(1, 300), st.floats(1, 6), st.sampled_from([0.0, 0.1, 0.5, 2]), st.integers(1, 40), st.integers(0, 9))
def test_ml_ros_is_what_one_round_at_a_time_gives(rows: int, limit: float, cap: float, step: int, seed: int) -> None:
    labels = coded(rows, seed=seed)
    wanted = clones_by_the_book(labels, limit, cap, step, seed)
    weights = ml_ros_weights(labels, seed=seed, mean_imbalance=limit, cap=cap, step=step)
    np.testing.assert_allclose(weights * rows, 1 + wanted, rtol=1e-12)
    reference = ml_ros_weights(labels, seed=seed, mean_imbalance=limit, cap=cap, step=step, counting="reference")
    np.testing.assert_allclose(reference * rows, np.maximum(wanted, 1), rtol=1e-12)


def test_rare_action_units_are_shown_more_often() -> None:
    labels = coded(40_000)
    assert imbalance(labels).max() > 20
    shown = Weighted(np.arange(len(labels)), ml_ros_weights(labels, seed=1, cap=9.0), seed=2)(0)
    assert imbalance(labels[shown]).max() < 3  # not quite 2: clones for one add to others
    short = ml_ros_weights(labels, seed=1, cap=0.1)
    assert 0.1 <= short.sum() - 1 < 0.1 + 32 / len(labels)


def test_what_is_not_coded_counts_as_absent_and_rows_without_any_code_are_never_shown() -> None:
    labels = coded(3000)
    other = np.where((labels == 0) & (np.arange(4) != np.arange(3000)[:, None] % 4), np.nan, labels)
    np.testing.assert_array_equal(ml_ros_weights(other, seed=3), ml_ros_weights(labels, seed=3))
    apart = np.full((6000, 4), np.nan)
    apart[1::2] = labels
    weights = ml_ros_weights(apart, seed=3)
    np.testing.assert_array_equal(weights[1::2], ml_ros_weights(labels, seed=3))
    assert not weights[::2].any()


def test_an_action_unit_that_never_occurs_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    labels = coded(500)
    labels[:, 1] = [0, np.nan] * 250
    assert imbalance(labels)[1] == np.inf
    with caplog.at_level(logging.WARNING, "honne"):
        weights = ml_ros_weights(labels, seed=0, mean_imbalance=None, action_units=(1, 20, 4, 6))
    assert caplog.messages == ["action units never present in the training rows, so never shown more often: 20"]
    np.testing.assert_array_equal(weights, ml_ros_weights(labels[:, [0, 2, 3]], seed=0, mean_imbalance=None))
    for mean in (2.0, None):  # none occurs
        np.testing.assert_allclose(ml_ros_weights(np.zeros((5, 3)), seed=0, mean_imbalance=mean), 0.2)


def test_weights_of_action_units_that_cannot_be() -> None:
    with pytest.raises(HonneError, match="No row has an action unit label"):
        ml_ros_weights(np.full((5, 3), np.nan), seed=0)
    with pytest.raises(WrongCall, match=r"imbalance of 0\.5"):
        ml_ros_weights(coded(9), seed=0, mean_imbalance=0.5)


def test_every_cell_of_valence_and_arousal_is_equally_likely() -> None:
    values = np.random.default_rng(0).normal(0, 0.3, (4000, 2))
    values[::7, 0] = values[::9, 1] = np.nan
    weights, known = valence_arousal_weights(values), ~np.isnan(values).any(1)
    assert ((weights > 0) == known).all()
    each, *edges = np.histogram2d(*values[known].T, bins=20, weights=weights[known])
    counts, *_ = np.histogram2d(*values[known].T, bins=20)
    np.testing.assert_allclose(each, counts > 0)
    low, *_ = np.histogram2d(*values[known].T, bins=edges, weights=valence_arousal_weights(values, floor=8)[known])
    np.testing.assert_allclose(low, np.minimum(counts / 8, 1))


def test_valence_and_arousal_that_do_not_vary() -> None:
    np.testing.assert_allclose(valence_arousal_weights(np.full((4, 2), 0.3)), 0.25)
    np.testing.assert_allclose(valence_arousal_weights(np.array([[0.0, 1], [0.0, 1], [1.0, 1]]), bins=2), [0.5, 0.5, 1])
    with pytest.raises(HonneError, match="No row has valence and arousal"):
        valence_arousal_weights(np.array([[0.1, np.nan]]))
