"""Thresholds of action units, against scikit-learn's precision-recall curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_curve

from honne.metrics import au_f1
from honne.thresholds import Search, search_thresholds


@pytest.mark.parametrize("digits", [6, 1])  # one digit: many ties
def test_break_even_and_f1_are_those_of_the_curve(digits: int) -> None:
    random = np.random.default_rng(3)
    target = (random.random((200, 5)) < [0.5, 0.1, 0.3, 0.9, 0.03]).astype(np.float32)
    scores = np.clip(0.5 * target + random.normal(0.25, 0.3, target.shape), 0, 1).round(digits).astype(np.float32)
    target[random.random(target.shape) < 0.2] = np.nan
    given = torch.from_numpy(scores), torch.from_numpy(target)
    for unit in range(5):
        coded = ~np.isnan(target[:, unit])
        truth, score = target[coded, unit], scores[coded, unit]
        precision, recall, thresholds = precision_recall_curve(truth, score)
        wanted = thresholds[np.abs(precision - recall)[:-1].argmin()]
        assert search_thresholds(*given)[unit] == wanted
        best = search_thresholds(*given, kind="f1")
        every = [f1_score(truth, score >= threshold) for threshold in thresholds]
        assert au_f1(*given, threshold=best)[unit].item() == pytest.approx(max(every))


@pytest.mark.parametrize("kind", ["break_even", "f1"])
def test_a_unit_that_tells_nothing_gets_one_half(kind: Search) -> None:
    target = torch.tensor([[1.0, 0.0, torch.nan, 1.0], [1.0, torch.nan, torch.nan, 0.0]])
    probabilities = torch.tensor([[0.9, 0.9, 0.9, 0.7], [0.2, 0.1, 0.1, 0.2]])
    assert search_thresholds(probabilities, target, kind).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.7])
    assert search_thresholds(probabilities[:0], target[:0], kind).tolist() == [0.5] * 4
    with pytest.raises(ValueError, match=r"two tensors \(N, A\)"):
        search_thresholds(probabilities, target[:, :2], kind)
