"""Measures of ambiguity and of label errors against plain loops, SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from honne.metrics import ambiguity as measures
from honne.metrics import emd

ROWS, CLASSES = 60, 5


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def probabilities(generator: np.random.Generator) -> np.ndarray:
    return generator.dirichlet(np.full(CLASSES, 0.6), ROWS)


@pytest.fixture
def labels(generator: np.random.Generator) -> np.ndarray:
    return np.where(generator.random(ROWS) < 0.1, -1, generator.integers(0, CLASSES - 1, ROWS))  # no row of the last


@pytest.fixture
def votes(generator: np.random.Generator) -> np.ndarray:
    counts = generator.multinomial(10, generator.dirichlet(np.full(CLASSES, 0.5), ROWS)).astype(float)
    counts[0], counts[1] = np.nan, 0
    return counts


def _t(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_others_and_full(probabilities: np.ndarray, labels: np.ndarray, votes: np.ndarray) -> None:
    votes[5] = 0
    votes[5, labels[5]] = 10  # nothing is left without the label
    left = measures.others(*_t(votes, labels)).numpy()
    for row, (label, counts) in enumerate(zip(labels, votes, strict=True)):
        rest = [count for place, count in enumerate(counts) if place != label]
        if label == -1 or not sum(rest) > 0:
            assert np.isnan(left[row]).all()
        else:
            expected = [0.0 if place == label else count / sum(rest) for place, count in enumerate(counts)]
            assert left[row].tolist() == pytest.approx(expected)
    mined = measures.others(*_t(probabilities[::-1].copy(), labels)).numpy()
    mined[7] = np.nan
    full = measures.full_distribution(*_t(probabilities, labels, mined)).numpy()
    for row, label in enumerate(labels):
        if label == -1 or row == 7:
            assert full[row].tolist() == pytest.approx(probabilities[row])
        else:
            kept = probabilities[row, label]
            expected = [(kept if place == label else (1 - kept) * mined[row, place]) for place in range(CLASSES)]
            assert full[row].tolist() == pytest.approx(expected)
    assert full.sum(1) == pytest.approx(np.ones(ROWS))


def test_label_errors(probabilities: np.ndarray, labels: np.ndarray) -> None:
    p, y = _t(probabilities, labels)
    score, thresholds = measures.label_error(p, y), measures.class_thresholds(p, y)
    suggested = measures.suggested_class(p, y, thresholds)
    assert 3 < int((suggested >= 0).sum()) < ROWS - 3
    for place in range(CLASSES):
        own = [probabilities[row, place] for row in range(ROWS) if labels[row] == place]
        assert float(thresholds[place]) == pytest.approx(sum(own) / len(own) if own else math.inf)
    for row, label in enumerate(labels):
        if label == -1:
            assert math.isnan(score[row])
            assert suggested[row] == -1
            continue
        line = probabilities[row]
        margin = max(value for place, value in enumerate(line) if place != label) - line[label]
        assert float(score[row]) == pytest.approx((1 + margin) / 2)
        sure = [place for place in range(CLASSES) if line[place] >= float(thresholds[place])]
        best = max(sure, key=lambda place: line[place], default=label)
        wrong = best != label and line.argmax() != label
        assert int(suggested[row]) == (line.argmax() if wrong else -1)
        assert not wrong or score[row] > 0.5


def test_closeness(probabilities: np.ndarray, votes: np.ndarray) -> None:
    shares = [counts / counts.sum() if counts.sum() > 0 else None for counts in votes]
    pairs = [(p, v) for p, v in zip(probabilities, shares, strict=True) if v is not None]
    expected = {
        "cosine": [p @ v / math.sqrt((p @ p) * (v @ v)) for p, v in pairs],
        "intersection": [sum(min(a, b) for a, b in zip(p, v, strict=True)) for p, v in pairs],
        "chebyshev": [max(abs(a - b) for a, b in zip(p, v, strict=True)) for p, v in pairs],
    }
    times = np.random.default_rng(0).integers(0, 3, (4, ROWS)).astype(float)
    kept = times[:, [share is not None for share in shares]]
    p, v, weight = _t(probabilities, votes, times)
    for name, values in expected.items():
        measure = getattr(measures, name)
        assert float(measure(p, v)) == pytest.approx(np.mean(values))
        assert measure(p, v, weight).tolist() == pytest.approx((kept @ values) / kept.sum(1))
    assert float(measures.intersection(p, v)) == pytest.approx(1 - float(emd(p, v)))
    spread = measures.entropy(v)
    assert spread[:2].isnan().all()
    assert spread[2:].tolist() == pytest.approx([stats.entropy(row) for row in votes[2:]])


def test_rank_correlation_and_auc(generator: np.random.Generator) -> None:
    one = generator.integers(0, 8, ROWS).astype(float)  # many ties
    other = one + generator.normal(0, 3, ROWS).round()
    times = generator.integers(0, 4, (5, ROWS))
    x, y, weight = _t(one, other, times.astype(float))
    assert float(measures.spearman(x, y)) == pytest.approx(stats.spearmanr(one, other)[0])
    repeated = [stats.spearmanr(np.repeat(one, row), np.repeat(other, row))[0] for row in times]
    assert measures.spearman(x, y, weight).tolist() == pytest.approx(repeated)
    x[3] = torch.nan
    assert float(measures.spearman(x, y)) == pytest.approx(stats.spearmanr(np.delete(one, 3), np.delete(other, 3))[0])
    assert math.isnan(measures.spearman(torch.ones(4), torch.arange(4.0)))
    positive = generator.random(ROWS) < 0.3
    found = measures.auc(*_t(other, positive), weight)
    assert found.tolist() == pytest.approx([roc_auc_score(positive, other, sample_weight=row) for row in times])
    assert math.isnan(measures.auc(y, torch.zeros(ROWS, dtype=torch.bool)))


def test_shapes_and_labels_out_of_range_are_refused(probabilities: np.ndarray, labels: np.ndarray) -> None:
    p, y = _t(probabilities, labels)
    with pytest.raises(ValueError, match=r"labels \(N,\)"):
        measures.label_error(p, y[:-1])
    with pytest.raises(ValueError, match="label 9 is not one of the 5 classes"):
        measures.class_thresholds(p, torch.full((ROWS,), 9))
    with pytest.raises(ValueError, match="one shape"):
        measures.cosine(p, p[:, :-1])
