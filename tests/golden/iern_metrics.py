"""Accuracy of a fold, counts by class, confusion in per cent, the logged line, pooling over folds, the arg max."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from honne.audit.bias_answers import Answers
from honne.audit.counts import ALL, Counts, confusion, percent

Arrays = dict[str, np.ndarray]


def folds(golden: Arrays) -> list[str]:
    return sorted({key.partition(".")[0] for key in golden if key.startswith("fold") and key.endswith(".real")})


@pytest.mark.golden("iern", "metrics*.npz")
def test_counts_and_confusion_of_a_fold(golden: Arrays) -> None:
    names = [str(name) for name in golden["pooled.names"] if name != ALL]
    for fold, line in zip(folds(golden), golden["fold_lines"], strict=True):
        real, predicted = (torch.from_numpy(golden[f"{fold}.{kind}"]) for kind in ("real", "pred"))
        found = Counts.of(predicted, real, names)
        np.testing.assert_array_equal(np.stack([found.right, found.rows], 1), golden[f"{fold}.per_class"])
        assert sum(found.right) == golden[f"{fold}.n_correct"]
        assert found.accuracies[ALL] == pytest.approx(float((real == predicted).double().mean()))
        shares = percent(confusion(predicted, real, len(names)))
        np.testing.assert_allclose(shares, golden[f"{fold}.conf_mat_percent"], rtol=1e-12)
        assert found.line() == str(line).strip()
        assert Counts.from_line(str(line)) == found


@pytest.mark.golden("iern", "metrics*.npz")
def test_pooled_folds(golden: Arrays) -> None:
    pooled = Counts.pooled(Counts.from_line(str(line)) for line in golden["fold_lines"])
    assert list(pooled.accuracies) == golden["pooled.names"].tolist()
    np.testing.assert_array_equal([*pooled.right, sum(pooled.right)], golden["pooled.tp"])
    np.testing.assert_array_equal([*pooled.rows, sum(pooled.rows)], golden["pooled.n"])
    np.testing.assert_allclose(list(pooled.accuracies.values()), golden["pooled.acc"], rtol=1e-12)


@pytest.mark.golden("iern", "metrics*.npz")
def test_predicted_class(golden: Arrays) -> None:
    predicted = Answers(torch.from_numpy(golden["logits"]).softmax(1)).predicted
    np.testing.assert_array_equal(predicted, golden["argmax"])
