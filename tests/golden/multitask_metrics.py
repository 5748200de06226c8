"""Challenge scores and the thresholds of action units, against the recorded ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from honne import metrics
from honne.thresholds import search_thresholds

Arrays = dict[str, np.ndarray]


def close(found: torch.Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-7, atol=1e-7)


def one_hot(codes: np.ndarray, *others: np.ndarray) -> torch.Tensor:
    return torch.eye(int(max(codes.max(), *(other.max() for other in others))) + 1)[torch.from_numpy(codes).long()]


@pytest.mark.golden("multitask", "metrics*.npz")
def test_challenge_scores(golden: Arrays) -> None:
    affect = torch.from_numpy(golden["va_pred"]), torch.from_numpy(golden["va_true"])
    concordance = metrics.ccc(*affect)
    close(concordance, golden["ccc"])
    close(concordance.sum(), golden["va_sum"])
    close(metrics.abaw_affect(*affect), golden["va_mean_abaw"])

    scores = {}
    for tag in ("expr", "expr6"):
        predicted, true = golden[f"{tag}_pred"], golden[f"{tag}_true"]
        classes = one_hot(predicted, golden["expr_pred"], golden["expr_true"]), torch.from_numpy(true).long()
        close(torch.stack([metrics.macro_f1(*classes), metrics.accuracy(*classes)]), golden[f"{tag}_f1_acc"])
        scores[tag] = metrics.abaw_expression(*classes)
        close(scores[tag], golden[f"{tag}_score"])
        if tag == "expr":
            all_classes = metrics.abaw_macro_f1(*classes)
    for tag in ("au", "au0"):
        units = torch.from_numpy(golden[f"{tag}_pred"]).double(), torch.from_numpy(golden[f"{tag}_true"]).double()
        f1 = metrics.au_f1(*units)
        close(torch.stack([f1.mean(), metrics.abaw_accuracy(*units)]), golden[f"{tag}_f1_acc"])
        scores[tag] = metrics.abaw_units(*units)
        close(scores[tag], golden[f"{tag}_score"])
        if tag == "au":
            close(f1, golden["au_f1_each"])
            close(metrics.au_accuracy(*units), golden["avg_accuracy_each"])
            mean_f1 = f1.mean()
    close(metrics.selection_score(scores["expr"], scores["au"], concordance), golden["selection_score"])
    close(metrics.abaw_mtl(all_classes, mean_f1, metrics.abaw_affect(*affect)), golden["p_mtl_formula"])


@pytest.mark.golden("multitask", "ensemble*.npz")
def test_thresholds_of_every_model_and_their_mean(golden: Arrays) -> None:
    truth = torch.from_numpy(golden["au_labels"]).float()
    probabilities = torch.from_numpy(golden["logits_au"]).sigmoid()
    found = torch.stack([search_thresholds(each, truth) for each in probabilities])
    np.testing.assert_allclose(found, golden["thresholds_per_model"], atol=1e-6)
    mean = found.mean(0)
    np.testing.assert_allclose(mean, golden["thresholds_mean_over_models"], atol=1e-6)
    # The original keeps the last model's only, on purpose different here.
    last = golden["thresholds_reference_last_model_only"]
    np.testing.assert_allclose(found[-1], last, atol=1e-6)
    assert np.abs(mean.numpy() - last).max() > 1e-3
    merged = probabilities.mean(0)
    np.testing.assert_allclose(merged, golden["au_prob_mean"], atol=1e-6)
    decided = (merged >= mean).numpy()
    near = np.abs(merged.numpy() - mean.numpy()) < 1e-6
    assert ((decided == golden["au_merged_with_mean_thresholds"]) | near).all()
