"""Measures and losses of emotions and sentiment, against scikit-learn, SciPy and plain arithmetic."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from honne import fitting, metrics
from honne.batch import Batch, Labels, Prediction
from honne.calibration import fit_temperature
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.losses import emotion_loss, sentiment_class_loss, sentiment_loss
from honne.methods.base import validation_scores
from honne.metrics import emotions, sentiment

ROWS = 60
EMOTIONS = LabelSchema(emotions=("neutral", "happy", "sad"))


def random() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities and presence of three emotions, predicted and labelled sentiment, some of each not labelled."""
    generator = np.random.default_rng(0)
    present = generator.integers(0, 2, (ROWS, 3)).astype(np.float32)
    present[generator.random((ROWS, 3)) < 0.2] = np.nan
    labelled = generator.uniform(-4, 4, ROWS).round(1).clip(-3, 3).astype(np.float32)
    labelled[::5], labelled[::7] = 0, np.nan
    guessed = (np.nan_to_num(labelled) + generator.normal(0, 1, ROWS)).astype(np.float32)
    return torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(0)), *map(
        torch.from_numpy, (present, guessed, labelled)
    )


CHANCE, PRESENT, GUESSED, LABELLED = random()


def test_emotions_as_scikit_learn() -> None:
    found = metrics.emotion_scores(CHANCE, PRESENT)
    for column in range(3):
        known = ~PRESENT[:, column].isnan()
        truth, chance = PRESENT[known, column].numpy(), CHANCE[known, column].numpy()
        guess, commoner = chance > 0.5, np.full(len(truth), truth.mean() > 0.5)
        wanted = {
            "accuracy": sk.accuracy_score(truth, guess),
            "f1": sk.f1_score(truth, guess, average="weighted"),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
            "auc": sk.roc_auc_score(truth, chance),
            "accuracy_majority": sk.accuracy_score(truth, commoner),
            "f1_majority": sk.f1_score(truth, commoner, average="weighted"),
        }
        assert {name: found[name][column].item() for name in wanted} == pytest.approx(wanted)


def test_sentiment_as_scikit_learn() -> None:
    found = {name: value.item() for name, value in metrics.sentiment_scores(GUESSED, LABELLED).items()}
    known = ~LABELLED.isnan()
    guess, truth = GUESSED[known].numpy(), LABELLED[known].numpy()
    some = truth != 0
    pairs = {"nonnegative": (truth >= 0, guess >= 0), "positive": (truth[some] > 0, guess[some] > 0)}
    wanted = {
        "acc7": np.mean(np.round(guess.clip(-3, 3)) == np.round(truth)),
        "acc5": np.mean(np.round(guess.clip(-2, 2)) == np.round(truth.clip(-2, 2))),
        "mae": abs(guess - truth).mean(),
        "corr": stats.pearsonr(guess, truth)[0],
    }
    for name, pair in pairs.items():
        wanted[f"acc2_{name}"] = sk.accuracy_score(*pair)
        wanted[f"f1_{name}"] = sk.f1_score(*pair, average="weighted")
        wanted[f"f1_binary_{name}"] = sk.f1_score(*pair)
    assert found == pytest.approx(wanted)
    swapped = metrics.sentiment_scores(GUESSED, LABELLED, compat="mult")["f1_positive"].item()
    assert swapped == pytest.approx(sk.f1_score(*reversed(pairs["positive"]), average="weighted"))
    classes = metrics.sentiment_class(GUESSED[known]).float() - 3
    zeros = metrics.sentiment_scores(classes, LABELLED[known], compat="causalmer")["f1_binary_positive"].item()
    assert zeros == pytest.approx(sk.f1_score(truth[some] > 0, classes[some].numpy() >= 0))


def test_other_scales() -> None:
    at_the_edges = torch.tensor([-0.7, -0.1, 0.0, 0.1, 0.7, 0.8])  # the lower class has them
    found = metrics.sentiment_scores(at_the_edges, torch.tensor([-1.0, -0.5, -0.1, 0.01, 0.5, 5.0]), scale=1)
    assert set(found) == {"acc2", "acc3", "acc5", "f1", "mae", "corr"}
    assert [found[name].item() for name in ("acc2", "acc3", "acc5")] == pytest.approx([1, 5 / 6, 5 / 6])
    assert found["mae"].item() == pytest.approx((0.3 + 0.4 + 0.1 + 0.09 + 0.2 + 0.2) / 6)  # 5 counts as 1
    assert not {"acc7", "acc2"} & set(metrics.sentiment_scores(GUESSED, LABELLED, scale=2))
    assert metrics.sentiment_class(torch.tensor([-0.5, 0.3]), classes=5, step=0.5).tolist() == [1, 3]


MEASURES: dict[str, Callable[[tuple[Tensor, ...], Tensor | None], dict[str, Tensor]]] = {
    "emotions": lambda d, w: metrics.emotion_scores(d[0], d[1], w),
    "sentiment": lambda d, w: metrics.sentiment_scores(d[2], d[3], weight=w),
    "SIMS": lambda d, w: metrics.sentiment_scores(d[2] / 3, d[3] / 3, 1, w),
    "three classes": lambda d, w: metrics.three_class_scores(d[0], metrics.sentiment_class(d[3].sign(), 3), w),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MEASURES)
def test_a_weight_counts_a_row_that_often(name: str) -> None:
    data, measure = (CHANCE, PRESENT, GUESSED, LABELLED), MEASURES[name]
    weight = torch.from_numpy(np.random.default_rng(1).multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=3))
    together = measure(data, weight)
    for place, row in enumerate(weight):
        repeated = measure(tuple(values.repeat_interleave(row, 0) for values in data), None)
        for figure, values in together.items():
            torch.testing.assert_close(values[place], repeated[figure])


def test_what_is_not_labelled_is_undefined() -> None:
    nothing = metrics.sentiment_scores(GUESSED, torch.full_like(LABELLED, torch.nan))
    assert all(value.isnan() for value in nothing.values())
    half = metrics.emotion_scores(CHANCE, PRESENT.masked_fill(torch.tensor([True, False, False]), torch.nan))
    assert all(values.isnan().tolist() == [True, False, False] for values in half.values())
    with pytest.raises(ValueError, match=r"one shape \(N,\), got \(60, 3\)"):
        metrics.sentiment_scores(CHANCE, LABELLED)


@pytest.mark.parametrize("module", [emotions, sentiment], ids=lambda module: module.__name__)
def test_examples(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert (failed, tried > 0) == (0, True)


# --- losses, validation, temperature --------------------------------------------------------------------------------


def test_losses_are_means_over_what_is_labelled() -> None:
    logits = torch.randn(ROWS, 3, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    whole = PRESENT.nan_to_num(1.0)
    plain = F.cross_entropy(logits.reshape(-1, 2), whole.reshape(-1).long())
    torch.testing.assert_close(emotion_loss(logits, whole), plain)
    known = ~PRESENT.isnan()
    torch.testing.assert_close(emotion_loss(logits, PRESENT), F.cross_entropy(logits[known], PRESENT[known].long()))
    there = ~LABELLED.isnan()
    torch.testing.assert_close(sentiment_loss(GUESSED, LABELLED), F.l1_loss(GUESSED[there], LABELLED[there]))
    torch.testing.assert_close(sentiment_loss(GUESSED, LABELLED, "l2"), F.mse_loss(GUESSED[there], LABELLED[there]))
    seven = torch.randn(ROWS, 7, generator=torch.Generator().manual_seed(2))
    target = (LABELLED[there].round() + 3).long()
    torch.testing.assert_close(sentiment_class_loss(seven, LABELLED), F.cross_entropy(seven[there], target))
    blank = torch.full_like(PRESENT, torch.nan)
    emotion_loss(logits, blank).backward()
    assert logits.grad is not None
    assert not logits.grad.any()
    assert sentiment_loss(GUESSED, blank[:, 0]) == sentiment_class_loss(seven, blank[:, 0]) == 0


def logits_of(chance: Tensor) -> Tensor:
    """(B, E, 2) logits of probabilities of presence."""
    return torch.stack([torch.zeros_like(chance), chance.logit()], -1)


def test_validation_watches_emotions_and_sentiment() -> None:
    logits = logits_of(CHANCE)
    shown = validation_scores(Prediction(emotions=logits), Batch(labels=Labels(emotions=PRESENT)), EMOTIONS)
    found = metrics.emotion_scores(CHANCE, PRESENT)
    assert shown["emotion_accuracy"] == found["accuracy"].mean()
    torch.testing.assert_close(shown["score"], found["f1"].mean().float())
    torch.testing.assert_close(shown["loss"], emotion_loss(logits, PRESENT))

    mosei, labels = LabelSchema(sentiment=3.0), Batch(labels=Labels(sentiment=LABELLED))
    shown = validation_scores(Prediction(sentiment=GUESSED), labels, mosei)
    assert {"mae", "acc7", "corr", "loss"} < set(shown)
    assert shown["score"].item() == pytest.approx(shown["corr"].item())
    assert shown["loss"].item() == pytest.approx(shown["mae"].item())
    seven = torch.randn(ROWS, 7)
    shown = validation_scores(Prediction(sentiment=GUESSED, sentiment_classes=seven), labels, mosei)
    torch.testing.assert_close(shown["loss"], sentiment_class_loss(seven, LABELLED))
    both = Prediction(emotions=logits, sentiment=GUESSED / 3)
    labels = Batch(labels=Labels(emotions=PRESENT, sentiment=LABELLED / 3))
    shown = validation_scores(both, labels, LabelSchema(emotions=EMOTIONS.emotions, sentiment=1.0))
    assert "acc2" in shown
    assert shown["score"].item() == pytest.approx((shown["emotion_f1"] + shown["corr"]).item() / 2)


def test_emotions_share_a_temperature() -> None:
    def fitted(labels: Labels, prediction: Prediction) -> float:
        batch = Batch(labels=labels, index=torch.arange(ROWS))
        data = SimpleNamespace(whole=lambda split: [batch])
        return fitting.fit(lambda _: prediction, EMOTIONS, data).temperature  # type: ignore[arg-type]

    logits, known = logits_of(CHANCE), ~PRESENT.isnan()
    wanted = fit_temperature(logits[known], PRESENT[known].long())
    assert fitted(Labels(emotions=PRESENT), Prediction(emotions=logits)) == pytest.approx(wanted)
    assert fitted(Labels(), Prediction(emotions=logits)) == 1.0
    assert fitted(Labels(sentiment=LABELLED), Prediction(sentiment=GUESSED)) == 1.0
    with pytest.raises(HonneError, match="no validation row has an emotion label"):
        fitted(Labels(emotions=torch.full_like(PRESENT, torch.nan)), Prediction(emotions=logits))
