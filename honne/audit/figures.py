"""The figures of the ambiguity audit, with 95 % bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from honne.audit.faces import Doubts, Faces
from honne.evaluation.scoring import cluster_rows
from honne.metrics import emd, js, kl, vote_hit
from honne.metrics.ambiguity import auc, chebyshev, cosine, entropy, full_distribution, intersection, others, spearman
from honne.metrics.resampling import bootstrap, interval
from honne.metrics.weighting import mean

FLOOR = 1e-8
"""Probabilities are kept from 0 by this much in the divergence from votes."""
AMBIGUOUS, CLEAR = 0.7, 0.9
"""A drawn face is ambiguous where its main expression has at most this share, clear where it has at least that."""

Figure = dict[str, float | None]
Closeness = Callable[[Tensor, Tensor, Tensor | None], Tensor]

CLOSENESS: dict[str, Closeness] = {
    "kl": lambda p, v, weight: kl(p.clamp_min(FLOOR), v, weight),
    "js": js,
    "emd": lambda p, v, weight: emd(p, v, weight=weight),
    "cosine": cosine,
    "intersection": intersection,
    "chebyshev": chebyshev,
    "top1_hit": lambda p, v, weight: vote_hit(p, v, 1, weight),
    "top2_hit": lambda p, v, weight: vote_hit(p, v, 2, weight),
}
"""How close distributions (N, C) come to votes (N, C). `top1_hit`: the most probable class has the most votes (any
class of a tie); `top2_hit`: one of the two most probable classes has."""


class Figures:
    """Computes every figure of one split.

    Args:
        faces: of one split.
        found: the doubts about their labels.
        replicates: of the bootstrap.
        seed: of the bootstrap.
    """

    def __init__(self, faces: Faces, found: Doubts, replicates: int, seed: int) -> None:
        self.faces, self.doubts, self.replicates, self.seed = faces, found, replicates, seed

    def all(self) -> dict[str, Any]:
        """Name -> figures, only the groups that these faces allow; docs/commands/audit.md lists them."""
        faces = self.faces
        result: dict[str, Any] = {
            "rows": len(faces),
            "resampled": faces.resampled,
            "clusters": int(faces.clusters.max()) + 1,
            "labelled": int(faces.labelled.sum()),
            "mined": 0 if faces.mined is None else int((~faces.mined.isnan().any(1)).sum()),
            "uncertainty": self._uncertainty(),
        }
        if bool(faces.labelled.any()):
            result["labels"] = self._labels()
        if faces.votes is not None and bool((faces.votes.nansum(1) > 0).any()):
            result["votes"] = self._against(faces.votes) | {"order": self._order(faces.votes)}
        if faces.true_mixture is not None and faces.true_class is not None:
            result["truth"] = self._against(faces.true_mixture) | self._truth(faces.true_mixture, faces.true_class)
        if faces.prepared is not None:
            result["noise"] = self._wrong(faces.prepared)
        return result

    def _estimates(self, measure: Callable[[Tensor | None], dict[str, Tensor]], keep: Tensor) -> dict[str, Figure]:
        """Values with intervals of the faces in `keep` (N,) bool; `measure` takes the weights of these alone."""
        rows = self.faces.rows[keep.numpy()]
        if not len(rows):
            return {}
        clusters = cluster_rows(self.faces.data.rows.iloc[rows])[0]
        values = measure(None)
        draws = bootstrap(measure, clusters, self.replicates, self.seed)
        return {name: figure(value, *interval(draws[name])) for name, value in values.items()}

    def _uncertainty(self) -> dict[str, Any]:
        values = self.faces.uncertainty.double()
        quantiles = torch.linspace(0, 1, 101, dtype=torch.float64)
        everything = torch.ones(len(self.faces), dtype=torch.bool)
        return {
            **self._estimates(lambda weight: {"mean": mean(values, weight)}, everything),
            "percentiles": [round(value, 6) for value in values.quantile(quantiles).tolist()],
        }

    def _labels(self) -> dict[str, Any]:
        faces, likely = self.faces, self.doubts.likely
        known = faces.labelled
        doubted = likely[known].double()
        classes = faces.probabilities.shape[1]
        to = torch.where(likely, self.doubts.suggested, faces.labels)[known]
        matrix = torch.bincount(faces.labels[known] * classes + to, minlength=classes * classes)
        return {
            "likely_errors": int(likely.sum()),
            **self._estimates(lambda weight: {"share": mean(doubted, weight)}, known),
            "suggested": matrix.view(classes, classes).tolist(),
        }

    def _against(self, votes: Tensor) -> dict[str, Any]:
        """Closeness to votes (or to a true mixture), on the other classes and on all."""
        faces = self.faces
        result: dict[str, Any] = {}
        if bool(faces.labelled.any()):
            softmax = others(faces.probabilities, faces.labels)
            result["others"] = self.compared(faces.mined, softmax, others(votes, faces.labels))
        full = None
        if faces.mined is not None:
            nothing = faces.mined.isnan().any(1, keepdim=True)
            full = full_distribution(faces.probabilities, faces.labels, faces.mined).masked_fill(nothing, torch.nan)
        result["all"] = self.compared(full, faces.probabilities.double(), votes.double())
        return {name: entry for name, entry in result.items() if entry["rows"]}

    def compared(self, mined: Tensor | None, softmax: Tensor, votes: Tensor) -> dict[str, Any]:
        """Both on the very same rows: those that have votes and both distributions."""
        keep = (votes.sum(1) > 0) & ~softmax.isnan().any(1)
        if mined is not None:
            keep &= ~mined.isnan().any(1)
        sides = {"softmax": softmax[keep]} if mined is None else {"mined": mined[keep], "softmax": softmax[keep]}
        observed = votes[keep]

        def measure(weight: Tensor | None) -> dict[str, Tensor]:
            values = {
                f"{side} {name}": closeness(distribution, observed, weight)
                for side, distribution in sides.items()
                for name, closeness in CLOSENESS.items()
            }
            if mined is None:
                return values
            return values | {
                f"difference {name}": values[f"mined {name}"] - values[f"softmax {name}"] for name in CLOSENESS
            }

        result: dict[str, Any] = {"rows": int(keep.sum())}
        for name, entry in self._estimates(measure, keep).items():
            side, _, short = name.partition(" ")
            result.setdefault(side, {})[short] = entry
        return result

    def _order(self, votes: Tensor) -> dict[str, Figure]:
        """Rank correlation with how divided the votes are."""
        keep = votes.nansum(1) > 0
        scores = {"uncertainty": self.faces.uncertainty, "confidence": self.faces.confidence}
        top = votes[keep].double().amax(1) / votes[keep].double().sum(1)
        spread = entropy(votes[keep])

        def measure(weight: Tensor | None) -> dict[str, Tensor]:
            return {
                f"{name}_{beside}": spearman(score[keep], values, weight)
                for name, score in scores.items()
                if score is not None
                for beside, values in (("top_share", top), ("entropy", spread))
            }

        return self._estimates(measure, keep)

    def _truth(self, mixture: Tensor, true_class: Tensor) -> dict[str, Any]:
        main = mixture.amax(1)
        keep = (main <= AMBIGUOUS) | (main >= CLEAR)
        score, ambiguous = self.faces.uncertainty[keep], main[keep] <= AMBIGUOUS
        found = self._estimates(lambda weight: {"auc_uncertainty": auc(score, ambiguous, weight)}, keep)
        return found | {"order": self._order(mixture), "labels": self._wrong(true_class)}

    def _wrong(self, true_class: Tensor) -> dict[str, Any]:
        """How well labels known to be wrong are found, among the labelled faces."""
        faces, known = self.faces, self.faces.labelled
        likely, score = self.doubts.likely[known], self.doubts.score[known]
        target = (faces.labels != true_class)[known]
        right = self.doubts.suggested[known] == true_class[known]
        own = faces.probabilities[known].double().gather(1, faces.labels[known, None])[:, 0]

        def measure(weight: Tensor | None) -> dict[str, Tensor]:
            found = {
                "auc": auc(score, target, weight),
                "auc_self_confidence": auc(1 - own, target, weight),
                "precision": _share(target, likely, weight),
                "recall": _share(likely, target, weight),
                "suggestion_right": _share(right, likely, weight),
            }
            if faces.confidence is not None:
                doubt = 1 - faces.confidence[known]
                found["auc_confidence"] = auc(doubt, target.double().masked_fill(doubt.isnan(), torch.nan), weight)
            return found

        counts = {"rows": int(known.sum()), "wrong": int(target.sum())}
        return counts | (self._estimates(measure, known) if counts["wrong"] else {})


def _share(of: Tensor, among: Tensor, weight: Tensor | None) -> Tensor:
    """Share of rows with `of` among those with `among`, (N,) bool each."""
    return mean(of.double().masked_fill(~among, torch.nan), weight)


def figure(value: Tensor, low: Tensor, high: Tensor) -> Figure:
    """For JSON: `None` where a number is undefined."""
    entries = {"value": float(value), "low": float(low), "high": float(high)}
    return {name: entry if math.isfinite(entry) else None for name, entry in entries.items()}
