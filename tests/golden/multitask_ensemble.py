"""What an ensemble says, by mean probabilities and by mean logits, against recordings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from honne.batch import Prediction
from honne.networks.affect_bins import bin_values, expectation
from honne.networks.ensemble import merged

Arrays = dict[str, np.ndarray]


def members(golden: Arrays) -> tuple[list[Prediction], torch.Tensor]:
    """Predictions of each model, and the values of the bins."""
    expression, units, affect = (torch.from_numpy(golden[f"logits_{name}"]) for name in ("expr", "au", "va"))
    bins = affect.unflatten(2, (2, -1))
    values = bin_values(bins.shape[3]).float()
    numbers = expectation(bins, values)
    said = zip(expression, units, numbers, bins, strict=True)
    return [Prediction(e, a, valence_arousal=v, valence_arousal_bins=b) for e, a, v, b in said], values


@pytest.mark.golden("multitask", "ensemble*.npz")
def test_mean_probabilities(golden: Arrays) -> None:
    predictions, values = members(golden)
    together = merged(predictions, "probabilities", values)
    assert together.expression is not None
    assert together.action_units is not None
    np.testing.assert_allclose(together.expression.softmax(1), golden["expr_prob_mean"], atol=1e-6)
    np.testing.assert_array_equal(together.expression.argmax(1), golden["expr_merged"])
    np.testing.assert_allclose(together.action_units.sigmoid(), golden["au_prob_mean"], atol=1e-6)
    np.testing.assert_allclose(together.valence_arousal, golden["va_merged_mean_expectation"], atol=1e-6)


@pytest.mark.golden("multitask", "ensemble*.npz")
def test_mean_logits(golden: Arrays) -> None:
    predictions, values = members(golden)
    together = merged(predictions, "logits", values)
    assert together.expression is not None
    assert together.action_units is not None
    compared = {
        "expr": together.expression.argmax(1),
        "au_prob": together.action_units.sigmoid(),
        "va": together.valence_arousal,
    }
    recorded = [name for name in golden if name.startswith("api_")]
    assert recorded
    for name in recorded:
        ours = next(value for key, value in compared.items() if name.startswith(f"api_{key}"))
        np.testing.assert_allclose(ours, golden[name], atol=1e-6, err_msg=name)


@pytest.mark.golden("multitask", "ensemble*.npz")
def test_single_models(golden: Arrays) -> None:
    predictions, _ = members(golden)
    numbers = torch.stack([each.valence_arousal for each in predictions if each.valence_arousal is not None])
    np.testing.assert_allclose(numbers.mean(0), golden["mean_va"], atol=1e-6)
