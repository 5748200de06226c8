"""The figures of the bias audit, of one model or of several arms on the same rows, with 95 % bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from honne.audit.bias_answers import LABEL, Answers, Rows, label_features, probe_weights, probed
from honne.audit.counts import Counts, confusion
from honne.audit.figures import Figure, figure
from honne.metrics.resampling import Measure, bootstrap, interval, p_value
from honne.metrics.weighting import mean, total

PLAIN, CURED, MODEL = "plain", "cured", "model"
PARTS = ("out", "seen", "all")
"""Test rows of cells that training lacks, of cells that it has, and both."""


@dataclass(frozen=True)
class Asked:
    """Test rows of one fold, and what every seed of every arm says of them.

    Attributes:
        rows: N rows.
        answers: arm -> one for each seed.
    """

    rows: Rows
    answers: Mapping[str, Sequence[Answers]]


class BiasFigures:
    """Computes every figure, pooled over folds; of seeds the mean.

    Args:
        folds: one or several, with the same arms.
        classes: C names.
        replicates: of the bootstrap.
        seed: of bootstrap and probe.
    """

    def __init__(self, folds: Sequence[Asked], classes: Sequence[str], replicates: int, seed: int) -> None:
        self.folds, self.classes, self.replicates, self.seed = folds, tuple(classes), replicates, seed
        self.arms, self.strata = tuple(folds[0].answers), folds[0].rows.strata
        rows = [each.rows for each in folds]
        self.label, self.stratum = (torch.cat([getattr(one, name) for one in rows]) for name in ("label", "stratum"))
        out, seen = (torch.cat([getattr(one, name) for one in rows]) for name in ("out", "seen"))
        self.part = {"out": out, "seen": seen, "all": torch.ones_like(out)}
        self.fold = torch.cat([torch.full((len(one),), place) for place, one in enumerate(rows)])
        self.clusters = np.concatenate([one.clusters for one in rows])
        self.right = {arm: self.over_seeds(arm, lambda answer, one: answer.predicted == one.label) for arm in self.arms}

    def over_seeds(self, arm: str, of: Any) -> Tensor:
        """(N, ...) mean over seeds of `of(answers, rows)`, one fold after the other."""
        return torch.cat(
            [
                torch.stack([of(answer, each.rows).double() for answer in each.answers[arm]]).mean(0)
                for each in self.folds
            ]
        )

    def all(self) -> dict[str, Any]:
        """Name -> figures, only the groups that these rows allow; docs/commands/audit.md lists them."""
        result: dict[str, Any] = {
            "parts": {name: self._part(name) for name in PARTS if bool(self.part[name].any())},
            "folds": [self._fold(each) for each in self.folds],
        }
        if probes := self._probes():
            result["probe"] = probes
        return result

    def estimates(self, measure: Measure, keep: Tensor) -> dict[str, list[Figure]]:
        """Values with intervals over the rows in `keep` (N,) bool; `measure` takes weights of these alone.

        Names that begin with `difference` get a `p` too.
        """
        clusters = np.unique(self.clusters[keep.numpy()], return_inverse=True)[1]
        values, draws = measure(None), bootstrap(measure, clusters, self.replicates, self.seed)
        found = {}
        for name, value in values.items():
            low, high = interval(draws[name])
            entries = zip(*(each.reshape(-1) for each in (value, low, high)), strict=True)
            found[name] = [figure(*entry) for entry in entries]
            if name.startswith("difference"):
                ps = p_value(draws[name]).reshape(-1).tolist()
                found[name] = [each | {"p": p} for each, p in zip(found[name], ps, strict=True)]
        return found

    def _part(self, name: str) -> dict[str, Any]:
        keep = self.part[name]
        codes = {
            "expressions": (self.label[keep], len(self.classes)),
            "strata": (self.stratum[keep], len(self.strata)),
            "cells": ((self.stratum * len(self.classes) + self.label)[keep], len(self.strata) * len(self.classes)),
        }
        right = {arm: values[keep] for arm, values in self.right.items()}

        def measure(weight: Tensor | None) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}
            for arm, values in right.items():
                by = {kind: group_means(values, *code, weight) for kind, code in codes.items()}
                found |= {
                    f"{arm} accuracy": mean(values, weight),
                    f"{arm} macro": by["expressions"].nanmean(-1),
                    f"{arm} worst_stratum": least(by["strata"]),
                    f"{arm} worst_cell": least(by["cells"]),
                }
                found |= {f"{arm} {kind}": each for kind, each in by.items()}
            return found | differences(found)

        found = self.estimates(measure, keep)
        result: dict[str, Any] = {"rows": int(keep.sum()), "clusters": len(np.unique(self.clusters[keep.numpy()]))}
        for short in ("accuracy", "macro", "worst_stratum", "worst_cell"):
            result[short] = {side: entries[short][0] for side, entries in _by_side(found, short).items()}
        counted = {kind: torch.bincount(code, minlength=count).tolist() for kind, (code, count) in codes.items()}
        for kind, names in (("expressions", self.classes), ("strata", self.strata)):
            sides = _by_side(found, kind)
            result[kind] = {
                each: {"rows": counted[kind][place]} | {side: entries[kind][place] for side, entries in sides.items()}
                for place, each in enumerate(names)
                if counted[kind][place]
            }
        sides = _by_side(found, "cells")
        result["cells"] = [
            {
                "stratum": self.strata[place // len(self.classes)],
                "expression": self.classes[place % len(self.classes)],
                "rows": count,
            }
            | {side: entries["cells"][place] for side, entries in sides.items()}
            for place, count in enumerate(counted["cells"])
            if count
        ]
        result["confusion"] = {arm: self._confusion(arm, keep).long().tolist() for arm in self.arms}
        return result

    def _confusion(self, arm: str, keep: Tensor) -> Tensor:
        """(C, C) counts, all seeds together."""
        seeds = len(self.folds[0].answers[arm])
        matrices = []
        for seed in range(seeds):
            predicted = torch.cat([each.answers[arm][seed].predicted for each in self.folds])
            matrices.append(confusion(predicted[keep], self.label[keep], len(self.classes)))
        return torch.stack(matrices).sum(0)

    def _fold(self, asked: Asked) -> dict[str, Any]:
        """One fold: accuracy of every seed, and the counts out of distribution as the reference logs them."""
        rows = asked.rows
        result: dict[str, Any] = {
            "fold": rows.fold,
            "rows": {"out": int(rows.out.sum()), "seen": int(rows.seen.sum())},
            "lines": {},
        }
        for arm, answers in asked.answers.items():
            result[arm] = {
                part: [float((each.predicted == rows.label)[keep].double().mean()) for each in answers]
                for part, keep in (("out", rows.out), ("seen", rows.seen))
                if bool(keep.any())
            }
            if bool(rows.out.any()):
                hidden = [Counts.of(each.predicted[rows.out], rows.label[rows.out], self.classes) for each in answers]
                result["lines"][arm] = [each.line() for each in hidden]
        return result

    def _probes(self) -> dict[str, Any]:
        """Balanced accuracy with which a linear probe reads the stratum, every cell counting alike."""
        hits: dict[str, list[Tensor]] = {}
        for each in self.folds:
            for name, hit in probed(each.rows, label_features(each.rows, self.classes), self.seed).items():
                hits.setdefault(name, []).append(hit.double())
            for arm, answers in each.answers.items():
                seeds = [probed(each.rows, answer.features, self.seed) for answer in answers]
                for name in seeds[0]:
                    mean_hit = torch.stack([seed[name] for seed in seeds]).double().mean(0)
                    hits.setdefault(f"{arm} {name}", []).append(mean_hit)
        whole = {name: torch.cat(parts) for name, parts in hits.items() if len(parts) == len(self.folds)}
        if not whole:
            return {}
        own = torch.cat([probe_weights(each.rows) for each in self.folds])
        count = len(self.strata)

        def recalls(hit: Tensor, weight: Tensor | None) -> Tensor:
            """(R?, F) balanced accuracy in each fold."""
            code = self.fold * count + self.stratum
            weights = own[None] if weight is None else weight * own
            found = group_means(hit, code, len(self.folds) * count, weights).unflatten(-1, (-1, count)).nanmean(-1)
            return found[0] if weight is None else found

        def measure(weight: Tensor | None) -> dict[str, Tensor]:
            folds = {name: recalls(hit, weight) for name, hit in whole.items()}
            found = {f"pooled {name}": value.nanmean(-1) for name, value in folds.items()}
            base = next((name for name in found if name.startswith(f"pooled {PLAIN} ")), None)
            if base:
                cured = [name for name in found if name.startswith(f"pooled {CURED} ")]
                found |= {f"difference {name.removeprefix('pooled ')}": found[name] - found[base] for name in cured}
            return found | folds

        found = self.estimates(measure, torch.ones_like(self.part["all"]))
        entries = {}
        for name in whole:
            entries[name] = {"pooled": found[f"pooled {name}"][0], "folds": found[name]}
            if difference := found.get(f"difference {name}"):
                entries[name]["difference"] = difference[0]
        return {"chance": 1 / len(self.stratum.unique()), "label": LABEL, "features": entries}


class StrataFigures:
    """What each stratum says at inference, of one arm; of seeds the mean.

    Args:
        figures: with the answers.
        arm: whose answers have `strata`.
    """

    def __init__(self, figures: BiasFigures, arm: str) -> None:
        self.figures, self.arm = figures, arm
        self.names = figures.folds[0].answers[arm][0].names

    def all(self) -> dict[str, Any]:
        """Name -> figures; docs/commands/audit.md lists them."""
        figures, count = self.figures, len(self.names)

        def said(answer: Answers, _: Rows) -> Tensor:
            assert answer.strata is not None
            return answer.strata

        right = self.over(lambda answer, rows: said(answer, rows).argmax(2) == rows.label[:, None])
        shares = self.over(
            lambda answer, rows: torch.nn.functional.one_hot(
                said(answer, rows).argmax(2), len(figures.classes)
            ).flatten(1)
        )
        pairs = list(combinations(range(count), 2))
        same = self.over(lambda answer, rows: _same(said(answer, rows).argmax(2), pairs))
        change = self.over(lambda answer, rows: _change(said(answer, rows), pairs))
        everything = torch.ones_like(figures.part["all"])

        def measure(weight: Tensor | None) -> dict[str, Tensor]:
            found = {"unanimous": mean(same[:, -1], weight), "change": mean(change.mean(1), weight)}
            for name in PARTS:
                keep = figures.part[name]
                if bool(keep.any()):
                    found[f"accuracy {name}"] = mean(right.masked_fill(~keep[:, None], torch.nan), weight)
            return found

        found = figures.estimates(measure, everything)
        whole = {name: mean(values).tolist() for name, values in (("same", same[:, :-1]), ("change", change))}
        taken = mean(shares).unflatten(0, (count, -1)).tolist()
        return {
            "names": list(self.names),
            "accuracy": {
                name.removeprefix("accuracy "): entries for name, entries in found.items() if name.startswith("acc")
            },
            "shares": taken,
            "unanimous": found["unanimous"][0],
            "change": found["change"][0],
            "pairs": [
                {"strata": [self.names[k] for k in pair], "agreement": agreement, "change": moved}
                for pair, agreement, moved in zip(pairs, whole["same"], whole["change"], strict=True)
            ],
        }

    def over(self, of: Any) -> Tensor:
        """As `BiasFigures.over_seeds`, of this arm."""
        return self.figures.over_seeds(self.arm, of)


def disagreement(strata: Tensor) -> Tensor:
    """(N,) how far apart the strata (N, K, C) are: the largest total variation between two of them, 0..1."""
    return _change(strata, list(combinations(range(strata.shape[1]), 2))).amax(1)


def _change(strata: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """(N, P) total variation between the distributions (N, K, C) of each pair of strata."""
    first, second = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    return (strata[:, first] - strata[:, second]).abs().sum(2).double() / 2


def _same(predicted: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """(N, P + 1) whether the strata of each pair name the same class of (N, K), and whether all do."""
    first, second = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    each = predicted[:, first] == predicted[:, second]
    return torch.cat([each, each.all(1, keepdim=True)], 1)


def group_means(values: Tensor, code: Tensor, count: int, weight: Tensor | None = None) -> Tensor:
    """(R?, count) weighted means of values (N,) over the rows of each code (N,); NaN for a code without rows."""
    own = torch.nn.functional.one_hot(code, count).double()
    return total(values[:, None] * own, weight) / total(own, weight)


def least(values: Tensor) -> Tensor:
    """(...,) smallest of (..., G), NaN left out; NaN where there is nothing else."""
    found = values.nan_to_num(torch.inf).amin(-1)
    return found.masked_fill(found.isinf(), torch.nan)


def differences(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cured minus plain, of every figure that both have."""
    sides = ((name.removeprefix(f"{CURED} "), value) for name, value in found.items() if name.startswith(f"{CURED} "))
    return {f"difference {name}": value - found[f"{PLAIN} {name}"] for name, value in sides}


def _by_side(found: Mapping[str, list[Figure]], kind: str) -> dict[str, dict[str, list[Figure]]]:
    """Arm, or `difference`, -> the estimates of that kind."""
    names = [name.partition(" ") for name in found]
    return {side: {kind: found[f"{side} {kind}"]} for side, _, short in names if short == kind}
