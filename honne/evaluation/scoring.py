"""Predictions beside what is known of the same rows, and every figure that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from honne import metrics
from honne.batch import NOT_LABELLED
from honne.evaluation.challenge import Edition, challenge_figures
from honne.explain.measuring import PREDICTED
from honne.labels import LabelSchema
from honne.metrics.attention import class_means, mean_over_classes
from honne.metrics.emotions import Compat
from honne.metrics.resampling import Estimate, bootstrap, interval
from honne.metrics.weighting import mean

CHECK = "check_"
"""Begins the names of figures of explanations that are means over a few faces, not over classes."""
ERRORS = frozenset(
    {
        *("nll", "brier", "ece", "ece_classwise", "vote_nll", "kl", "js", "emd"),
        *("rmse_valence", "rmse_arousal", "au_ece", "emotion_ece", "mae"),
    }
)
"""Figures of which less is better."""
BASELINES = frozenset({"emotion_accuracy_majority", "emotion_f1_majority"})
"""Figures of the labels alone, the same for every model."""


@dataclass
class Scored:
    """N rows of one split, predicted and known; `None` for a task that is not measured.

    Attributes:
        schema: what is measured.
        ids: (N,) as in the manifest.
        subjects: (N,) as in the manifest, null where unknown; `None` if the data name no subjects.
        clusters: (N,) cluster of each row for the bootstrap, 0..K-1.
        probabilities: (N, C) of the classes.
        expression: (N,) class or `NOT_LABELLED`.
        votes: (N, C) counts or shares, rows of NaN or zeros where there are none.
        units: (N, A) probabilities of presence.
        unit_labels: (N, A), 1, 0 or NaN.
        thresholds: (A,) from which a unit counts as present.
        affect: (N, 2) predicted valence and arousal.
        affect_labels: (N, 2), NaN where not labelled.
        emotion_probabilities: (N, E) of presence.
        emotion_labels: (N, E), 1, 0 or NaN.
        sentiment: (N,) predicted.
        sentiment_labels: (N,), NaN where not labelled.
        uncertainty: (N,) in 0..1, of models that can say.
        explained: name -> (N,) figures of each face's explanation, NaN where undefined.
        abaw: challenge whose scores are figures too.
        compat: code whose slips the measures of sentiment repeat.
    """

    schema: LabelSchema
    ids: np.ndarray
    subjects: np.ndarray | None
    clusters: np.ndarray
    probabilities: Tensor | None = None
    expression: Tensor | None = None
    votes: Tensor | None = None
    units: Tensor | None = None
    unit_labels: Tensor | None = None
    thresholds: Tensor | None = None
    affect: Tensor | None = None
    affect_labels: Tensor | None = None
    emotion_probabilities: Tensor | None = None
    emotion_labels: Tensor | None = None
    sentiment: Tensor | None = None
    sentiment_labels: Tensor | None = None
    uncertainty: Tensor | None = None
    explained: dict[str, Tensor] = field(default_factory=dict)
    abaw: Edition = "none"
    compat: Compat | None = None

    def labelled(self) -> dict[str, int]:
        """Rows with a label, by kind of label."""
        known = {
            "expression": None if self.expression is None else self.expression != NOT_LABELLED,
            "votes": None if self.votes is None else self.votes.sum(1) > 0,
            "action_units": None if self.unit_labels is None else ~self.unit_labels.isnan().all(1),
            "valence_arousal": None if self.affect_labels is None else ~self.affect_labels.isnan().all(1),
            "emotions": None if self.emotion_labels is None else ~self.emotion_labels.isnan().all(1),
            "sentiment": None if self.sentiment_labels is None else ~self.sentiment_labels.isnan(),
        }
        return {name: int(rows.sum()) for name, rows in known.items() if rows is not None}

    def drop_unlabelled(self) -> None:
        """Forget kinds of labels that no row has."""
        places = {
            "action_units": "unit_labels",
            "valence_arousal": "affect_labels",
            "emotions": "emotion_labels",
            "sentiment": "sentiment_labels",
        }
        for name, count in self.labelled().items():
            if not count:
                setattr(self, places.get(name, name), None)

    def unlabelled(self) -> list[str]:
        """Tasks of the schema of which there are no labels."""
        known = {
            "expressions": self.expression is not None or self.votes is not None,
            "action_units": self.unit_labels is not None,
            "valence_arousal": self.affect_labels is not None,
            "emotions": self.emotion_labels is not None,
            "sentiment": self.sentiment_labels is not None,
        }
        return [task for task, there in known.items() if getattr(self.schema, task) and not there]


def figures(rows: Scored, weight: Tensor | None = None) -> dict[str, Tensor]:
    """Every figure, by name; "class:..." are per class, "unit:..." per action unit, "emotion:..." per emotion.

    Args:
        rows: predictions and labels.
        weight: (R, N) weights of R bootstrap replicates, `None` for the rows as they are.

    Returns:
        Name -> (R?,), (R?, C), (R?, A) or (R?, E).
    """
    found: dict[str, Tensor] = {}
    if rows.probabilities is not None and rows.expression is not None:
        found |= _classes(rows.probabilities, rows.expression, weight)
    if rows.probabilities is not None and rows.votes is not None:
        found |= _agreement(rows.probabilities, rows.votes, weight)
    if rows.affect is not None and rows.affect_labels is not None:
        found |= _affect(rows.affect, rows.affect_labels, weight)
    if rows.units is not None and rows.unit_labels is not None and rows.thresholds is not None:
        found |= _units(rows.units, rows.unit_labels, rows.thresholds, weight)
    if rows.emotion_probabilities is not None and rows.emotion_labels is not None:
        found |= _each("emotion", metrics.emotion_scores(rows.emotion_probabilities, rows.emotion_labels, weight))
    if rows.sentiment is not None and rows.sentiment_labels is not None:
        given = rows.sentiment, rows.sentiment_labels, rows.schema.sentiment
        found |= metrics.sentiment_scores(*given, weight, rows.compat)
    if rows.explained and rows.probabilities is not None:
        found |= _explained(rows.explained, rows.probabilities, rows.expression, weight)
    if {"macro_f1", "au_f1", "ccc"} <= found.keys():
        found["mtl_score"] = found["ccc"] + found["macro_f1"] + found["au_f1"]
    if rows.abaw != "none":
        found |= challenge_figures(rows, weight)
    return found


def _classes(probabilities: Tensor, target: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
    scores = metrics.class_scores(metrics.confusion_matrix(probabilities, target, weight))
    return {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_f1": scores.macro_f1,
        "nll": metrics.nll(probabilities, target, weight),
        "brier": metrics.brier(probabilities, target, weight),
        "ece": metrics.ece(probabilities, target, weight=weight),
        "ece_classwise": metrics.ece_classwise(probabilities, target, weight=weight),
        "class:precision": scores.precision,
        "class:recall": scores.recall,
        "class:f1": scores.f1,
    }


def _explained(
    explained: dict[str, Tensor], probabilities: Tensor, target: Tensor | None, weight: Tensor | None
) -> dict[str, Tensor]:
    """Means over the labelled classes, or over the predicted ones where the name says so."""
    found = {name: mean(values, weight) for name, values in explained.items() if name.startswith(CHECK)}
    by_prediction = [name for name in explained if name.startswith(PREDICTED)]
    by_label = [name for name in explained if name not in found and name not in by_prediction]
    for names, classes in ((by_label, target), (by_prediction, probabilities.argmax(1))):
        if names and classes is not None:
            values = torch.stack([explained[name] for name in names], 1)
            means = class_means(values, classes, probabilities.shape[1], weight)
            found |= {f"class:{name}": means[..., place] for place, name in enumerate(names)}
            found |= dict(zip(names, mean_over_classes(means).movedim(-1, 0), strict=True))
    return found


def _agreement(probabilities: Tensor, votes: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
    return {
        "vote_nll": metrics.nll(probabilities, votes, weight),
        "kl": metrics.kl(probabilities, votes, weight),
        "js": metrics.js(probabilities, votes, weight),
        "emd": metrics.emd(probabilities, votes, weight=weight),
        "top1_hit": metrics.vote_hit(probabilities, votes, 1, weight),
        "top2_hit": metrics.vote_hit(probabilities, votes, 2, weight),
    }


def _affect(predicted: Tensor, target: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
    ccc, rmse = metrics.ccc(predicted, target, weight), metrics.rmse(predicted, target, weight)
    pearson = metrics.pearson(predicted, target, weight)
    named = {"ccc": ccc.mean(-1)}
    for column, name in enumerate(("valence", "arousal")):
        named |= {
            f"ccc_{name}": ccc[..., column],
            f"rmse_{name}": rmse[..., column],
            f"pearson_{name}": pearson[..., column],
        }
    return named


def _units(probabilities: Tensor, target: Tensor, thresholds: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
    each = {
        "f1": metrics.au_f1(probabilities, target, thresholds, weight),
        "balanced_accuracy": metrics.au_balanced_accuracy(probabilities, target, thresholds, weight),
        "accuracy": metrics.au_accuracy(probabilities, target, thresholds, weight),
        "auc": metrics.au_auc(probabilities, target, weight),
        "ece": metrics.au_ece(probabilities, target, weight=weight),
    }
    return _each("unit", each, "au")


def _each(kind: str, scores: dict[str, Tensor], short: str = "") -> dict[str, Tensor]:
    """Means over units or emotions, and the scores of each."""
    means = {f"{short or kind}_{name}": values.nanmean(-1) for name, values in scores.items()}
    return means | {f"{kind}:{name}": values for name, values in scores.items()}


@dataclass(frozen=True)
class Estimates:
    """Every figure with its 95 % interval.

    Attributes:
        overall: name -> estimate, only those that are defined.
        classes: name -> one estimate per class.
        units: name -> one estimate per action unit.
        emotions: name -> one estimate per emotion.
    """

    overall: dict[str, Estimate]
    classes: dict[str, list[Estimate]]
    units: dict[str, list[Estimate]]
    emotions: dict[str, list[Estimate]]


def estimate(rows: Scored, replicates: int, seed: int) -> Estimates:
    """Figures with 95 % percentile bootstrap intervals, clusters resampled.

    Resampling makes errors that cannot be negative (ECE) larger than they are, so an interval is stretched to its value
    where need be.
    """
    values = figures(rows)
    draws = bootstrap(lambda weight: figures(rows, weight), rows.clusters, replicates, seed)
    overall: dict[str, Estimate] = {}
    kinds: dict[str, dict[str, list[Estimate]]] = {"class": {}, "unit": {}, "emotion": {}}
    for name, value in values.items():
        found = _estimates(value, draws[name])
        kind, colon, short = name.partition(":")
        if colon:
            kinds[kind][short] = found
        elif found[0].defined:
            overall[name] = found[0]
    return Estimates(overall, kinds["class"], kinds["unit"], kinds["emotion"])


def _estimates(value: Tensor, draws: Tensor) -> list[Estimate]:
    low, high = interval(draws)
    ends = (value, torch.minimum(low, value), torch.maximum(high, value))
    columns = (values.reshape(-1).tolist() for values in ends)
    return [Estimate(*entry) for entry in zip(*columns, strict=True)]


def cluster_rows(rows: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Clusters for the bootstrap: the subject where known, else the video, else the row by itself.

    Args:
        rows: manifest rows.

    Returns:
        (N,) cluster numbers 0..K-1, and what was resampled, e.g. "subject" or "subject and row".
    """
    cluster = pd.Series([f"row {number}" for number in range(len(rows))], dtype=object)
    kind = pd.Series("row", index=cluster.index, dtype=object)
    for column in ("video", "subject"):
        if column in rows:
            known = rows[column].notna().to_numpy()
            cluster[known] = column + " " + rows[column].to_numpy()[known].astype(str)
            kind[known] = column
    used = [level for level in ("subject", "video", "row") if (kind == level).any()]
    return pd.factorize(cluster)[0], " and ".join(used)
