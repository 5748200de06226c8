"""What an epoch shows depends on seed and epoch alone, however many processes share it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honne.batch import NOT_LABELLED
from honne.data.sampling import (
    EpochBatches,
    OnceBatches,
    Sequential,
    Shuffled,
    Weighted,
    class_balanced,
    class_weights,
)
from honne.errors import HonneError


def shown(batches: EpochBatches | OnceBatches) -> np.ndarray:
    return np.concatenate([draw.rows for draw in batches])


def test_an_epoch_shows_every_row_once_in_its_own_order() -> None:
    batches = EpochBatches(Shuffled(np.arange(10, 33), seed=3), 4)
    first = shown(batches)
    assert sorted(first) == list(range(10, 33))
    assert (shown(batches) == first).all()
    batches.epoch = 1
    assert (shown(batches) != first).any()
    assert (shown(EpochBatches(Shuffled(np.arange(10, 33), seed=4), 4)) != first).any()


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_processes_share_an_epoch(rows: int, size: int, world: int, drop: bool) -> None:
    order = Shuffled(np.arange(rows), seed=1)
    if drop and rows < size * world:
        with pytest.raises(HonneError, match="make no batch"):
            EpochBatches(order, size, 0, world, drop)
        return
    ranks = [EpochBatches(order, size, rank, world, drop) for rank in range(world)]
    draws = [list(batches) for batches in ranks]
    assert {len(each) for each in draws} == {len(ranks[0])}
    assert len({tuple(len(draw.rows) for draw in each) for each in draws}) == 1
    together = np.concatenate([draw.rows for step in zip(*draws, strict=True) for draw in step])
    whole = shown(EpochBatches(order, size * world, drop_last=drop))
    assert set(together) == set(whole)
    assert len(together) - len(whole) < world
    places = np.concatenate([draw.positions for each in draws for draw in each])
    assert len(set(places)) == len(places)


def test_an_epoch_goes_on_where_it_stopped() -> None:
    batches = EpochBatches(Shuffled(np.arange(50)), 8, rank=1, world=2)
    whole = list(batches)
    batches.skip = 2
    assert len(batches) == len(whole)
    rest = list(batches)
    assert len(rest) == len(whole) - 2
    assert all(
        (a.rows == b.rows).all() and (a.positions == b.positions).all() for a, b in zip(whole[2:], rest, strict=True)
    )


def test_balanced_classes_are_equally_likely() -> None:
    labels = np.repeat([0, 1, 2, NOT_LABELLED], [900, 90, 10, 500])
    weights = class_weights(labels)
    assert weights.sum() == pytest.approx(3)
    assert weights[-1] == 0
    drawn = class_balanced(np.arange(len(labels)), labels, count=30_000)(0)
    shares = np.bincount(labels[drawn], minlength=3) / len(drawn)
    assert shares == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    with pytest.raises(HonneError, match="No row has an expression label"):
        class_weights(np.full(4, NOT_LABELLED))


def test_rows_of_no_weight_are_never_drawn() -> None:
    weights = np.array([0.0, 1.0, 0.0, 2.0, 0.0])
    drawn = Weighted(np.arange(5), weights, count=10_000)(7)
    assert set(drawn) == {1, 3}
    assert (drawn == 3).mean() == pytest.approx(2 / 3, abs=0.02)


@given(st.integers(4, 60), st.integers(1, 9), st.integers(1, 4))
def test_measuring_sees_every_row_exactly_once(rows: int, size: int, world: int) -> None:
    order = np.arange(100, 100 + rows)
    ranks = [OnceBatches(order, size, rank, world) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(np.concatenate([shown(batches) for batches in ranks])) == order.tolist()
    assert all(0 < len(draw.rows) <= size + (world > 1) for batches in ranks for draw in batches)
    if world == 1:
        assert (shown(ranks[0]) == shown(EpochBatches(Sequential(order), size))).all()


def test_fewer_rows_than_processes() -> None:
    with pytest.raises(HonneError, match="too few"):
        OnceBatches(np.arange(2), 4, 0, 3)
