"""Measures of emotions and sentiment, against those of CausalMER, MulT, MMSA and DMD."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from honne import metrics
from honne.metrics.emotions import weighted_f1

Arrays = dict[str, np.ndarray]

CAUSALMER = {
    "acc7": "acc7",
    "acc2pn": "acc2_positive",
    "f1pn": "f1_binary_positive",
    "acc2nn": "acc2_nonnegative",
    "f1nn": "f1_binary_nonnegative",
}
MMSA = {
    "Has0_acc_2": "acc2_nonnegative",
    "Has0_F1_score": "f1_nonnegative",
    "Non0_acc_2": "acc2_positive",
    "Non0_F1_score": "f1_positive",
    "Mult_acc_5": "acc5",
    "Mult_acc_7": "acc7",
    "MAE": "mae",
    "Corr": "corr",
}
DMD = MMSA | {"Acc_2": "acc2_positive", "F1_score": "f1_positive", "Acc_7": "acc7"}
THREE_CLASSES = {
    "Has0_acc_2": "acc2_all",
    "Has0_F1_score": "f1_all",
    "Non0_acc_2": "acc2_positive",
    "Non0_F1_score": "f1_positive",
    "Acc_3": "acc3",
    "F1_score_3": "f1_3",
}
SIMS = {
    "Mult_acc_2": "acc2",
    "Mult_acc_3": "acc3",
    "Mult_acc_5": "acc5",
    "F1_score": "f1",
    "MAE": "mae",
    "Corr": "corr",
}
ROUNDED = 0.51e-4  # MMSA gives four decimals


def tensors(golden: Arrays, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(golden[name]) for name in names]


def close(found: list[torch.Tensor], wanted: np.ndarray, atol: float = 1e-6) -> None:
    assert len(found) == len(wanted)
    np.testing.assert_allclose(torch.stack(found).numpy(), wanted, rtol=0, atol=atol)


def listed(golden: Arrays, beginning: str) -> tuple[list[str], np.ndarray]:
    """The names that a key spells after its beginning, and what it holds."""
    key = next(key for key in golden if key.startswith(beginning))
    return key.removeprefix(beginning).split("_"), golden[key]


@pytest.mark.golden("causalmer", "metrics*.npz")
def test_sentiment_as_causalmer_measures_it(golden: Arrays) -> None:
    truth, number, logits = tensors(golden, "mosei/truth", "mosei/pred_reg", "mosei/logits_cls")
    names, wanted = listed(golden, "mosei/causalmer_reg_")
    found = metrics.sentiment_scores(number, truth)
    close([found[CAUSALMER[name]] for name in names], wanted)

    names, wanted = listed(golden, "mosei/causalmer_cls_")
    chosen = logits.argmax(1).float() - (logits.shape[1] - 1) // 2
    found = metrics.sentiment_scores(chosen, truth, compat="causalmer")
    close([found[CAUSALMER[name]] for name in names], wanted)
    slip, meant = (metrics.polarity(chosen, truth, "left out", compat=compat) for compat in ("causalmer", None))
    assert (slip - meant)[:, 1].sum() == (chosen[truth != 0] == 0).sum() > 0


@pytest.mark.golden("causalmer", "metrics*.npz")
def test_sentiment_as_mult_measures_it(golden: Arrays) -> None:
    truth, number = tensors(golden, "mosei/truth", "mosei/pred_reg")
    found = metrics.sentiment_scores(number, truth, compat="mult")
    for excluded, zero in ((1, "left out"), (0, "negative")):
        names, wanted = listed(golden, f"mosei/mult_excludezero{excluded}_")
        confusion = metrics.polarity(number, truth, zero)
        two = {"acc2": metrics.class_scores(confusion).accuracy, "f1": weighted_f1(confusion, "mult")}
        if excluded:
            two = {"acc2": found["acc2_positive"], "f1": found["f1_positive"]}
        close([(found | two)[name] for name in names], wanted)
    wanted = golden["mosei/mult_weighted_accuracy"]
    close([metrics.class_scores(metrics.polarity(number, truth, "negative")).balanced_accuracy], wanted)


@pytest.mark.golden("causalmer", "metrics*.npz")
def test_sentiment_as_mmsa_and_dmd_measure_it(golden: Arrays) -> None:
    truth, number = tensors(golden, "mosei/truth", "mosei/pred_reg")
    found = metrics.sentiment_scores(number, truth)
    for system, names in (("mmsa", MMSA), ("dmd", DMD)):
        keys = golden[f"mosei/{system}_keys"]
        close([found[names[str(key)]] for key in keys], golden[f"mosei/{system}_reg"], ROUNDED)

    found = metrics.sentiment_scores(*tensors(golden, "sims/pred", "sims/truth"), scale=1)
    close([found[SIMS[str(key)]] for key in golden["sims/keys"]], golden["sims/values"], ROUNDED)

    logits, classes = tensors(golden, "mmsa3/logits", "mmsa3/y")
    found = metrics.three_class_scores(logits, classes, compat="mmsa")
    close([found[THREE_CLASSES[str(key)]] for key in golden["mmsa3/keys"]], golden["mmsa3/values"], ROUNDED)
    assert metrics.three_class_scores(logits, classes)["acc2_positive"] > found["acc2_positive"]


@pytest.mark.golden("causalmer", "metrics*.npz")
def test_emotions(golden: Arrays) -> None:
    logits, truth = tensors(golden, "iemocap/logits", "iemocap/truth")
    probabilities = logits.unflatten(1, (-1, 2)).softmax(-1)[..., 1]
    found = metrics.emotion_scores(probabilities, truth.double())
    each = torch.stack([found["f1"], found["accuracy"]], 1)
    np.testing.assert_allclose(each, golden["iemocap/f1_acc_per_emotion_NHSA"], atol=1e-6)
    close([found["accuracy"].mean(), found["f1"].mean()], golden["iemocap/avg_acc_avg_f1"])
    happy = metrics.emotion_scores(probabilities[:, 1:2], truth[:, 1:2].double())
    close([happy["f1"][0], happy["accuracy"][0]], golden["iemocap/single_happy_f1_acc"])
