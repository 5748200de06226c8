"""Measures against scikit-learn, SciPy, torchmetrics and plain loops; weights against repeated rows."""

from __future__ import annotations

import doctest
import importlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn import metrics as sk

from honne import metrics
from honne.calibration import fit_temperature
from honne.errors import HonneError
from honne.metrics import accumulating, resampling

seeds = settings(max_examples=15, deadline=None)


class Random:
    """Random predictions and labels, with ties, unlabelled entries and now and then a class that never occurs."""

    def __init__(self, seed: int, rows: int = 0) -> None:
        random = np.random.default_rng(seed)
        rows = rows or int(random.integers(8, 60))
        classes, units = int(random.integers(2, 7)), int(random.integers(1, 4))
        self.probabilities = torch.from_numpy(random.dirichlet(np.full(classes, 0.7), rows)).float()
        self.target = torch.from_numpy(random.integers(-1, classes, rows))
        self.votes = torch.from_numpy(random.multinomial(10, random.dirichlet(np.ones(classes)), rows)).float()
        self.votes[random.random(rows) < 0.2] = 0
        self.votes[random.random(rows) < 0.1] = torch.nan
        self.scores = torch.from_numpy(random.random((rows, units))).mul(10).round().div(10).float()
        self.coded = torch.from_numpy(random.integers(0, 2, (rows, units))).float()
        self.coded[torch.from_numpy(random.random((rows, units)) < 0.2)] = torch.nan
        self.affect = torch.from_numpy(random.uniform(-1, 1, (rows, 2))).float()
        self.felt = (self.affect + torch.from_numpy(random.normal(0, 0.4, (rows, 2)))).float()
        self.felt[torch.from_numpy(random.random((rows, 2)) < 0.2)] = torch.nan
        self.target[:2] = torch.tensor([0, 1])  # something is always labelled, two classes of it
        self.coded[:2] = torch.tensor([0.0, 1.0])[:, None]
        self.felt[:2] = torch.tensor([-0.5, 0.5])[:, None]
        self.votes[0] = torch.arange(classes)

    @property
    def known(self) -> np.ndarray:
        return (self.target >= 0).numpy()


MEASURES = {
    "confusion_matrix": lambda d, w: metrics.confusion_matrix(d.probabilities, d.target, w),
    "accuracy": lambda d, w: metrics.accuracy(d.probabilities, d.target, w),
    "balanced_accuracy": lambda d, w: metrics.balanced_accuracy(d.probabilities, d.target, w),
    "macro_f1": lambda d, w: metrics.macro_f1(d.probabilities, d.target, w),
    "nll": lambda d, w: metrics.nll(d.probabilities, d.target, w),
    "vote nll": lambda d, w: metrics.nll(d.probabilities, d.votes, w),
    "brier": lambda d, w: metrics.brier(d.probabilities, d.target, w),
    "ece": lambda d, w: metrics.ece(d.probabilities, d.target, 10, w),
    "ece_classwise": lambda d, w: metrics.ece_classwise(d.probabilities, d.target, 10, w),
    "kl": lambda d, w: metrics.kl(d.probabilities, d.votes, w),
    "js": lambda d, w: metrics.js(d.probabilities, d.votes, w),
    "emd": lambda d, w: metrics.emd(d.probabilities, d.votes, weight=w),
    "top 2 hit": lambda d, w: metrics.vote_hit(d.probabilities, d.votes, 2, w),
    "ccc": lambda d, w: metrics.ccc(d.affect, d.felt, w),
    "pearson": lambda d, w: metrics.pearson(d.affect, d.felt, w),
    "rmse": lambda d, w: metrics.rmse(d.affect, d.felt, w),
    "au_f1": lambda d, w: metrics.au_f1(d.scores, d.coded, 0.5, w),
    "au_accuracy": lambda d, w: metrics.au_accuracy(d.scores, d.coded, 0.5, w),
    "au_balanced_accuracy": lambda d, w: metrics.au_balanced_accuracy(d.scores, d.coded, 0.5, w),
    "au_auc": lambda d, w: metrics.au_auc(d.scores, d.coded, w),
    "au_ece": lambda d, w: metrics.au_ece(d.scores, d.coded, 10, w),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_weight_counts_a_row_that_often(name: str) -> None:
    data, measure = Random(7, rows=40), MEASURES[name]
    weight = torch.from_numpy(np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=3))
    weight[:, :2] += 1
    together = measure(data, weight)
    for replicate, row in zip(weight, together, strict=True):
        repeated = Random(7, rows=40)
        for key, values in vars(data).items():
            setattr(repeated, key, values.repeat_interleave(replicate, 0))
        torch.testing.assert_close(row, measure(repeated, None), equal_nan=True)
        torch.testing.assert_close(row, measure(data, replicate), equal_nan=True)
    torch.testing.assert_close(measure(data, torch.ones(40)), measure(data, None), equal_nan=True)


# --- expressions --------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@seeds
def test_expressions_as_scikit_learn(seed: int) -> None:
    data = Random(seed)
    truth, guess = data.target.numpy()[data.known], data.probabilities.argmax(1).numpy()[data.known]
    every = list(range(data.probabilities.shape[1]))
    confusion = metrics.confusion_matrix(data.probabilities, data.target)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(truth, guess, labels=every))
    scores = metrics.class_scores(confusion)
    assert float(scores.accuracy) == pytest.approx(sk.accuracy_score(truth, guess))
    assert float(metrics.accuracy(data.probabilities, data.target)) == pytest.approx(sk.accuracy_score(truth, guess))
    assert float(scores.macro_f1) == pytest.approx(sk.f1_score(truth, guess, average="macro"))
    recalls = [np.mean(guess[truth == k] == k) for k in np.unique(truth)]
    assert float(scores.balanced_accuracy) == pytest.approx(np.mean(recalls))
    each = sk.precision_recall_fscore_support(truth, guess, labels=every, zero_division=np.nan)
    for mine, theirs in zip((scores.precision, scores.recall, scores.f1, scores.support), each, strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_ties_go_to_the_first_class_and_wrong_codes_are_refused() -> None:
    assert metrics.accuracy(torch.full((1, 3), 0.5), torch.tensor([0])) == 1
    with pytest.raises(ValueError, match="target 3 is not one of the 3 classes"):
        metrics.accuracy(torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3,\)"):
        metrics.accuracy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    assert metrics.accuracy(torch.zeros(2, 3), torch.tensor([-1, -1])).isnan()


# --- valence and arousal ------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@seeds
def test_valence_arousal_as_plain_loops(seed: int) -> None:
    data = Random(seed)
    for column in range(2):
        known = ~data.felt[:, column].isnan()
        x, y = (values[known, column].double().numpy() for values in (data.affect, data.felt))
        s_x, s_y, r = x.std(), y.std(), stats.pearsonr(x, y)[0]
        expected = 2 * r * s_x * s_y / (s_x**2 + s_y**2 + (x.mean() - y.mean()) ** 2)
        assert float(metrics.ccc(data.affect, data.felt)[column]) == pytest.approx(expected)
        assert float(metrics.ccc(data.affect[:, column], data.felt[:, column])) == pytest.approx(expected)
        assert float(metrics.pearson(data.affect, data.felt)[column]) == pytest.approx(r)
        assert float(metrics.rmse(data.affect, data.felt)[column]) == pytest.approx(sk.root_mean_squared_error(y, x))


def test_a_constant_series_has_no_concordance() -> None:
    with pytest.warns(UserWarning, match="CCC of a constant series"):
        assert metrics.ccc(torch.full((5,), 0.3), torch.linspace(-1, 1, 5)) == 0
    with pytest.warns(UserWarning, match="Pearson"):
        assert metrics.pearson(torch.linspace(-1, 1, 5), torch.full((5,), 0.3)) == 0
    assert metrics.ccc(torch.zeros(2), torch.full((2,), torch.nan)).isnan()
    assert metrics.ccc(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5)) == pytest.approx(1)


# --- action units -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@seeds
def test_action_units_as_scikit_learn(seed: int) -> None:
    data = Random(seed)
    threshold = torch.linspace(0.3, 0.6, data.scores.shape[1])
    for unit in range(data.scores.shape[1]):
        known = ~data.coded[:, unit].isnan()
        score, truth = data.scores[known, unit].numpy(), data.coded[known, unit].numpy()
        on = score >= float(threshold[unit])
        pairs = {
            metrics.au_f1: sk.f1_score(truth, on, zero_division=0),
            metrics.au_accuracy: sk.accuracy_score(truth, on),
            metrics.au_balanced_accuracy: sk.balanced_accuracy_score(truth, on),
        }
        for mine, theirs in pairs.items():
            assert float(mine(data.scores, data.coded, threshold)[unit]) == pytest.approx(theirs)
        assert float(metrics.au_auc(data.scores, data.coded)[unit]) == pytest.approx(sk.roc_auc_score(truth, score))
        assert float(metrics.au_ece(data.scores, data.coded, 10)[unit]) == pytest.approx(
            gap(score.astype(float), truth, 10)
        )


def test_units_that_say_nothing() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.9], [0.2, 0.8, 0.1]])
    coded = torch.tensor([[0.0, torch.nan, 1.0], [0.0, torch.nan, 1.0]])
    assert metrics.au_f1(scores, coded).tolist() == pytest.approx([0, np.nan, 2 / 3], nan_ok=True)
    assert metrics.au_balanced_accuracy(scores, coded).tolist() == pytest.approx([1, np.nan, 0.5], nan_ok=True)
    assert metrics.au_auc(scores, coded).isnan().all()
    assert metrics.au_ece(scores, coded)[1].isnan()


# --- calibration --------------------------------------------------------------------------------------------------


def gap(probability: np.ndarray, outcome: np.ndarray, bins: int) -> float:
    """Calibration error by a plain loop."""
    total = 0.0
    for number in range(bins):
        upper = np.inf if number == bins - 1 else (number + 1) / bins
        inside = (probability >= number / bins) & (probability < upper)
        if inside.any():
            total += inside.mean() * abs(outcome[inside].mean() - probability[inside].mean())
    return total


@given(st.integers(0, 10**6))
@seeds
def test_calibration_as_others_define_it(seed: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error  # after honne's guard

    data = Random(seed)
    probabilities, target = data.probabilities[data.known], data.target[data.known]
    p, y, classes = probabilities.double().numpy(), target.numpy(), probabilities.shape[1]
    assert float(metrics.nll(data.probabilities, data.target)) == pytest.approx(
        sk.log_loss(y, p.clip(1e-12) / p.clip(1e-12).sum(1, keepdims=True), labels=range(classes)), rel=1e-5
    )
    brier = np.mean([sum((p[i, k] - (y[i] == k)) ** 2 for k in range(classes)) for i in range(len(y))])
    assert float(metrics.brier(data.probabilities, data.target)) == pytest.approx(brier)
    theirs = multiclass_calibration_error(probabilities, target, classes, n_bins=15, norm="l1")
    assert float(metrics.ece(data.probabilities, data.target)) == pytest.approx(float(theirs), abs=1e-5)
    each = [gap(p[:, k], (y == k).astype(float), 15) for k in range(classes)]
    assert float(metrics.ece_classwise(data.probabilities, data.target)) == pytest.approx(np.mean(each), abs=1e-6)
    diagram = metrics.reliability(data.probabilities, data.target)
    found = (diagram.count * (diagram.accuracy - diagram.confidence).abs()).nansum() / diagram.count.sum()
    assert float(found) == pytest.approx(float(theirs), abs=1e-5)


@given(st.integers(0, 10**6), st.booleans())
@seeds
def test_temperature_is_the_best_there_is(seed: int, soft: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(200, 4, generator=generator)
    votes = torch.multinomial((logits / 2.5).softmax(1), 10, replacement=True, generator=generator)
    votes = torch.nn.functional.one_hot(votes, 4).sum(1).float()
    target = votes if soft else votes.argmax(1)
    best = fit_temperature(logits, target)
    tried = [float(metrics.nll((logits / t).softmax(1), target)) for t in best * np.array([0.97, 1.0, 1.03])]
    assert min(tried) == tried[1]
    if soft:
        assert best == pytest.approx(2.5, rel=0.25)


def test_temperature_at_its_ends_and_without_labels() -> None:
    right = torch.eye(3) * 4
    assert fit_temperature(right, torch.arange(3)) == pytest.approx(0.02)
    assert fit_temperature(right, torch.tensor([1, 2, 0])) == pytest.approx(50)
    assert fit_temperature(torch.tensor([[4.0, 0.0]] * 5), torch.tensor([0, 0, 0, 1, -1])) == pytest.approx(
        4 / np.log(3)
    )
    with pytest.raises(HonneError, match="No row has an expression label"):
        fit_temperature(right, torch.full((3,), -1))


# --- distributions ------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@seeds
def test_distributions_as_scipy(seed: int) -> None:
    data = Random(seed)
    known = (data.votes.nansum(1) > 0).numpy()
    p = data.probabilities.double().numpy()[known]
    p /= p.sum(1, keepdims=True)
    q = data.votes.double().numpy()[known]
    q /= q.sum(1, keepdims=True)
    places = np.random.default_rng(seed).random(p.shape[1])
    cost = torch.from_numpy(abs(places[:, None] - places))
    moved = [stats.wasserstein_distance(places, places, a, b) for a, b in zip(p, q, strict=True)]
    pairs = {
        metrics.kl: stats.entropy(q, p.clip(1e-12), axis=1).mean(),
        metrics.js: (jensenshannon(p, q, axis=1) ** 2).mean(),
        metrics.emd: np.mean(abs(p - q).sum(1) / 2),
        partial(metrics.emd, cost=cost): np.mean(moved),
        partial(metrics.emd, cost=1 - torch.eye(p.shape[1])): np.mean(abs(p - q).sum(1) / 2),
    }
    for mine, theirs in pairs.items():
        assert float(mine(data.probabilities, data.votes)) == pytest.approx(theirs, abs=1e-6)
    for top in (1, 2):
        hits = [
            bool(set(np.argsort(-a, kind="stable")[:top]) & set(np.flatnonzero(b == b.max())))
            for a, b in zip(p, q, strict=True)
        ]
        assert float(metrics.vote_hit(data.probabilities, data.votes, top)) == pytest.approx(np.mean(hits))


# --- bootstrap ----------------------------------------------------------------------------------------------------


def test_intervals_are_as_wide_as_theory_says(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(3, 2, 400))
    alone, subjects = np.arange(400), np.arange(400) // 20

    def mean(weight: torch.Tensor | None) -> dict[str, torch.Tensor]:
        return {"mean": (weight @ values) / weight.sum(1)}

    draws = metrics.bootstrap(mean, alone, 4000, seed=1)["mean"]
    low, high = metrics.interval(draws)
    error = float(values.std()) / 20
    assert (float(low), float(high)) == pytest.approx(
        (float(values.mean()) - 1.96 * error, float(values.mean()) + 1.96 * error), abs=0.02
    )
    values[:] = torch.from_numpy(np.repeat(np.random.default_rng(0).normal(3, 2, 20), 20))
    clustered = metrics.bootstrap(mean, subjects, 4000, seed=1)["mean"].std()
    assert float(clustered) == pytest.approx(float(values.std()) / 20**0.5, rel=0.1)
    again = metrics.bootstrap(mean, subjects, 300, seed=1)["mean"]
    monkeypatch.setattr(resampling, "WEIGHTS_AT_ONCE", 1000)
    torch.testing.assert_close(metrics.bootstrap(mean, subjects, 300, seed=1)["mean"], again)


def test_p_value_is_where_the_interval_reaches_zero() -> None:
    draws = torch.arange(1000.0) - 24.5  # 25 of 1000 below 0: zero is just at the end of the 95 % interval
    assert float(metrics.p_value(draws)) == pytest.approx(0.05, abs=0.003)
    assert float(metrics.p_value(draws + 1000)) == pytest.approx(2 / 1001)
    assert float(metrics.p_value(torch.zeros(100))) == 1


# --- accumulating -------------------------------------------------------------------------------------------------


def squeezed(values: torch.Tensor) -> torch.Tensor:
    """As torchmetrics hands out results of one entry."""
    return values.double().squeeze() if values.numel() == 1 else values.double()


def test_batches_add_up_and_processes_merge() -> None:
    data = Random(3, rows=50)
    units, classes = data.scores.shape[1], data.probabilities.shape[1]
    cases = [
        (partial(accumulating.Gathered, metrics.macro_f1), data.probabilities, data.target, metrics.macro_f1),
        (partial(accumulating.Gathered, metrics.kl), data.probabilities, data.votes, metrics.kl),
        (partial(accumulating.ConfusionMatrix, classes), data.probabilities, data.target, metrics.confusion_matrix),
        (accumulating.Concordance, data.affect, data.felt, metrics.ccc),
        (partial(accumulating.UnitCounts, units), data.scores, data.coded, metrics.au_f1),
    ]
    for make, predicted, target, measure in cases:
        whole, half, other = make(), make(), make()
        for metric, rows in ((whole, range(50)), (half, range(20)), (other, range(20, 50))):
            for part in torch.tensor(list(rows)).split(7):
                metric.update(predicted[part], target[part])
        expected = squeezed(measure(predicted, target))
        torch.testing.assert_close(squeezed(whole.compute()), expected, equal_nan=True)
        half.merge_state(other)
        torch.testing.assert_close(squeezed(half.compute()), expected, equal_nan=True)
        whole.reset()
        whole.update(predicted[:9], target[:9])
        torch.testing.assert_close(
            squeezed(whole.compute()), squeezed(measure(predicted[:9], target[:9])), equal_nan=True
        )


@pytest.mark.parametrize(
    "module",
    [
        "calibration",
        "evaluation.comparing",
        "metrics.accumulating",
        "metrics.action_units",
        "metrics.resampling",
        "metrics.calibration",
        "metrics.distributions",
        "metrics.expression",
        "metrics.valence_arousal",
        "metrics.weighting",
    ],
)
def test_examples_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(f"honne.{module}")).failed == 0
