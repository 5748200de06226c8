"""Labels made wrong on purpose: exactly so many, truly wrong, and the same ones from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honne.batch import NOT_LABELLED
from honne.data.noise import TAKEN_FOR, LabelNoise
from honne.errors import WrongCall
from honne.labels import EXPRESSION_SETS

CLASSES = EXPRESSION_SETS["ferplus"].expressions
SIZES = (400, 101, 10, 3, 7, 60, 50, 1)


def labels() -> np.ndarray:
    every = np.repeat([*range(len(CLASSES)), NOT_LABELLED], [*SIZES, 90])
    return np.random.default_rng(0).permutation(every)


@given(
    st.lists(st.integers(NOT_LABELLED, 3), max_size=60),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["symmetric", "asymmetric"]),
    st.integers(0, 3),
)
def test_exactly_the_share_of_every_class_is_wrong(known: list[int], share: float, kind: str, seed: int) -> None:
    before = np.array(known, np.int64)
    names = ("neutral", "anger", "calm", "fear")
    after = LabelNoise(share, kind, seed).flipped(before, names)  # type: ignore[arg-type]
    for label in range(4):
        rows = before == label
        assert (after[rows] != label).sum() == round(share * rows.sum())
    assert set(after[before != NOT_LABELLED]) <= {0, 1, 2, 3}
    assert (after[before == NOT_LABELLED] == NOT_LABELLED).all()
    assert before.tolist() == known  # what was given stays


def test_symmetric_noise_takes_every_other_class_alike() -> None:
    before = np.zeros(7000, np.int64)
    after = LabelNoise(0.99).flipped(before, CLASSES)
    counts = np.bincount(after, minlength=len(CLASSES))
    assert counts[0] == 70
    np.testing.assert_allclose(counts[1:], 990, rtol=0.12)


def test_asymmetric_noise_goes_where_a_class_is_taken_for() -> None:
    before = labels()
    after = LabelNoise(0.3, "asymmetric").flipped(before, CLASSES)
    for label, name in enumerate(CLASSES):
        moved = after[(before == label) & (after != label)]
        assert set(moved) <= {CLASSES.index(TAKEN_FOR[name])}
    assert set(TAKEN_FOR) == set(CLASSES)
    assert all(name != other for name, other in TAKEN_FOR.items())
    # A class that is taken for none of the others, or that nothing is known of, goes to the next one.
    after = LabelNoise(0.5, "asymmetric").flipped(np.array([0, 0, 1, 1, 2, 2]), ("disgust", "calm", "fear"))
    assert sorted(after) == [0, 0, 1, 1, 2, 2]
    assert LabelNoise(0.5, "asymmetric").flipped(np.array([2, 2]), ("disgust", "calm", "fear")).tolist().count(0) == 1


def test_the_seed_chooses_and_nothing_else_does() -> None:
    before = labels()
    first = LabelNoise(0.2, seed=1).flipped(before, CLASSES)
    assert (LabelNoise(0.2, seed=1).flipped(before, CLASSES) == first).all()
    other = LabelNoise(0.2, seed=2).flipped(before, CLASSES)
    assert ((first != before) != (other != before)).any()
    assert (LabelNoise(0.0).flipped(before, CLASSES) == before).all()


@pytest.mark.parametrize("share", [-0.1, 1.0, 20.0, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(WrongCall, match="share of the labels"):
        LabelNoise(share)
