"""What an epoch shows depends on seed and epoch alone, however many processes share it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honne.batch import NOT_LABELLED
from honne.data.sampling import (
    EpochBatches,
    EveryClass,
    OnceBatches,
    Sequential,
    Shuffled,
    Weighted,
    class_balanced,
    class_weights,
)
from honne.errors import HonneError, WrongCall


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


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(0, 30),
    st.integers(0, 12),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 3),
)
def test_every_batch_has_every_class(
    sizes: list[int], unlabelled: int, spare: int, least: int, balanced: bool, epoch: int
) -> None:
    labels = np.repeat([*range(len(sizes)), NOT_LABELLED], [*sizes, unlabelled])
    rows = 1000 + np.random.default_rng(1).permutation(len(labels))
    batch = least * len(sizes) + spare
    shown = EveryClass(rows, labels, batch, seed=5, least=least, balanced=balanced)(epoch)
    assert len(shown) == max(len(rows) // batch, 1) * batch
    assert set(shown) <= set(rows)
    label_of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    for some in shown.reshape(-1, batch):
        known = np.array([label_of[row] for row in some])
        counts = np.bincount(known[known != NOT_LABELLED], minlength=len(sizes))
        assert counts.min() >= least
        assert not balanced or (counts.sum() == batch and counts.max() - counts.min() <= 1)


def test_a_batch_gives_way_only_where_a_class_is_missing() -> None:
    labels = np.repeat([0, 1, 2], [300, 300, 4])
    order = EveryClass(np.arange(604), labels, 20, seed=2)
    shown = order(0)
    rows, times = np.unique(shown, return_counts=True)
    assert len(shown) == 600
    assert set(rows[times > 1]) <= set(np.flatnonzero(labels == 2))  # only the rare class repeats
    assert 60 <= (labels[shown] == 2).sum() <= 62  # two a batch; all four may fall into one
    assert (order(0) == shown).all()
    assert (order(1) != shown).any()
    assert (EveryClass(np.arange(604), labels, 20, seed=3)(0) != shown).any()

    plenty = np.tile([0, 1, 2], 40)
    assert sorted(EveryClass(np.arange(120), plenty, 60, seed=0)(0)) == list(range(120))


def test_rare_classes_take_turns_within_an_epoch() -> None:
    labels = np.repeat([0, 1, 2], [90, 27, 3])
    shown = EveryClass(np.arange(120), labels, 12, seed=0, balanced=True)(4)
    assert np.bincount(labels[shown]).tolist() == [40, 40, 40]
    for label, size in enumerate((90, 27, 3)):
        times = np.bincount(shown, minlength=120)[labels == label]
        assert times.max() - times.min() <= 1
        assert times.sum() == 40
        assert len(times) == size


@pytest.mark.parametrize(
    ("labels", "batch", "kind", "text"),
    [
        ([0, 0, 2, 2], 6, HonneError, "class 1 has no training row"),
        ([0, 1, 2], 5, WrongCall, "batch of 5 cannot hold 2 rows of each of 3 classes"),
        ([NOT_LABELLED, NOT_LABELLED], 6, HonneError, "No row has an expression label"),
    ],
)
def test_batches_that_cannot_hold_every_class(labels: list[int], batch: int, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        EveryClass(np.arange(len(labels)), np.array(labels), batch)


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
