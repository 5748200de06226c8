"""Weights of the samplers, statistics of what they draw, and windows over clips, beside those of the original code."""

from __future__ import annotations

import numpy as np
import pytest

from honne.data.balancing import imbalance, ml_ros_weights, valence_arousal_weights
from honne.data.sampling import Weighted, class_weights
from honne.data.windows import windows

FAR = 6.0
"""Standard deviations: no draw lies farther from its expectation."""


def drawn(weights: np.ndarray, count: int) -> np.ndarray:
    """An epoch of ours."""
    return Weighted(np.arange(len(weights)), weights, seed=1, count=count)(0)


def assert_likely(found: np.ndarray, chances: np.ndarray, count: int) -> None:
    """So often in so many draws, by their chances."""
    deviation = np.sqrt(count * chances * (1 - chances))
    assert (np.abs(found - count * chances) <= FAR * deviation + 1e-6).all()


@pytest.mark.golden("multitask", "samplers*.npz")
def test_weights_of_rare_action_units(golden: dict[str, np.ndarray]) -> None:
    labels, seed = golden["au_labels"].astype(np.float64), int(golden["au_numpy_seed"])
    found = imbalance(labels)
    np.testing.assert_allclose(found, golden["au_irlbl"], rtol=1e-6)
    np.testing.assert_allclose(found.mean(), golden["au_meanir"], rtol=1e-6)
    weights = ml_ros_weights(labels, seed=seed, counting="reference")
    np.testing.assert_array_equal(weights, golden["au_weights"])
    np.testing.assert_allclose(weights * len(labels), golden["au_clone_counts_from_weights"])
    # Recorded from a fresh seed, not from where the first call left the generator.
    of_mean = ml_ros_weights(labels, seed=seed, counting="reference", mean_imbalance=None, cap=0.2)
    np.testing.assert_array_equal(of_mean, golden["au_weights_meanir_cap20"])


@pytest.mark.golden("multitask", "samplers*.npz")
def test_the_first_clone_counts(golden: dict[str, np.ndarray]) -> None:
    labels, seed = golden["au_labels"].astype(np.float64), int(golden["au_numpy_seed"])
    clones = ml_ros_weights(labels, seed=seed) * len(labels) - 1
    np.testing.assert_allclose(np.maximum(clones, 1), golden["au_clone_counts_from_weights"])
    assert np.isclose(clones, 1).any()


@pytest.mark.golden("multitask", "samplers*.npz")
def test_action_units_of_an_epoch(golden: dict[str, np.ndarray]) -> None:
    labels, weights = golden["au_labels"], golden["au_weights"]
    chances = (weights[:, None] * labels).sum(0) / weights.sum()
    theirs, count = golden["au_draw"], len(golden["au_draw"])
    np.testing.assert_array_equal(labels[theirs].sum(0), golden["au_draw_pos_count"])
    np.testing.assert_allclose(imbalance(labels[theirs]), golden["au_irlbl_after_draw"], rtol=1e-6)
    ours = ml_ros_weights(labels.astype(np.float64), seed=int(golden["au_numpy_seed"]), counting="reference")
    for rows in (theirs, drawn(ours, count)):
        assert_likely(labels[rows].sum(0), chances, count)


@pytest.mark.golden("multitask", "samplers*.npz")
def test_expressions_equally_often(golden: dict[str, np.ndarray]) -> None:
    labels = golden["expr_labels"].astype(np.int64)
    weights = class_weights(labels)
    np.testing.assert_array_equal(weights, golden["expr_weights"])
    classes, count = len(golden["expr_draw_hist"]), len(golden["expr_draw"])
    there = np.bincount(labels, minlength=classes) > 0
    for rows in (golden["expr_draw"], drawn(weights, count)):
        assert_likely(np.bincount(labels[rows], minlength=classes), there / there.sum(), count)
    np.testing.assert_array_equal(np.bincount(labels[golden["expr_draw"]]), golden["expr_draw_hist"])


@pytest.mark.golden("multitask", "samplers*.npz")
def test_cells_of_valence_and_arousal_equally_often(golden: dict[str, np.ndarray]) -> None:
    values, cells = golden["va_labels"], golden["va_hist2d"]
    weights = valence_arousal_weights(values, len(golden["va_x_edges"]) - 1)
    np.testing.assert_array_equal(weights, golden["va_weights"])
    edges, count = [golden["va_x_edges"], golden["va_y_edges"]], len(golden["va_draw"])
    each, *_ = np.histogram2d(*values.T, edges, weights=weights)
    np.testing.assert_allclose(each, cells > 0)
    for rows in (golden["va_draw"], drawn(weights, count)):
        shown, *_ = np.histogram2d(*values[rows].T, edges)
        assert_likely(shown, (cells > 0) / (cells > 0).sum(), count)
    theirs, *_ = np.histogram2d(*values[golden["va_draw"]].T, edges)
    np.testing.assert_array_equal(theirs, golden["va_draw_hist2d"])


COVERS = {"train": "train", "val": "valid", "test": "test"}
"""Name of a mode in the file -> in honne."""


@pytest.mark.golden("multitask", "sequences*.npz")
def test_windows(golden: dict[str, np.ndarray]) -> None:
    name, *columns = (str(name) for name in golden["columns"])  # the first one also says what its numbers mean
    modes = dict(pair.split("=") for pair in name.partition("(")[2].rstrip(")").split(","))
    head = ["mode", *columns[: columns.index("f0")]]
    kind = golden["windows"][:, [head.index(each) for each in ("mode", "seq_len", "n_frames")]]
    long = kind[:, 2] >= kind[:, 1]
    assert long.any()
    for mode, length, frames in np.unique(kind, axis=0).tolist():
        theirs = golden["windows"][(kind == (mode, length, frames)).all(1)]
        theirs = theirs[np.argsort(theirs[:, head.index("window")]), len(head) : len(head) + length]
        clip = np.zeros(frames, np.int64)
        as_published, whole = windows(clip, length, length, COVERS[modes[str(mode)]]), windows(clip, length, length)
        assert (np.unique(whole[whole >= 0]) == np.arange(frames)).all()
        if frames >= length:
            np.testing.assert_array_equal(as_published, theirs)
        else:  # theirs repeat some of the last frames
            assert (as_published != theirs[:1]).any()
            np.testing.assert_array_equal(whole, [[*range(frames), *[-1] * (length - frames)]])


@pytest.mark.golden("multitask", "sequences*.npz")
def test_frames_of_several_windows_stay_in_their_order(golden: dict[str, np.ndarray]) -> None:
    true, theirs = golden["trap_frame_ids_true_order"], golden["trap_frame_ids_reference_order"]
    expected = golden["expected_frames_written"]
    lengths = [n for n in range(2, len(true)) if len(true) % n == 0 and (true.reshape(-1, n).T.ravel() == theirs).all()]
    assert lengths  # their frame numbers run across the windows, their predictions along them
    for length in lengths:
        ours = windows(np.zeros(len(expected), np.int64), length, length, "test")
        np.testing.assert_array_equal(ours.ravel(), true)
        np.testing.assert_array_equal(np.unique(ours), expected)
        assert (ours.ravel() != theirs).any()
    assert not np.array_equal(np.unique(golden["trap_frames_written_by_reference"]), expected)
