"""`honne compare`: whether two models really differ, on the same rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

import honne
from honne.batch import NOT_LABELLED
from honne.console import say
from honne.errors import HonneError, WrongCall
from honne.evaluation.challenge import ABAW
from honne.evaluation.printing import comparison_tables
from honne.evaluation.scoring import BASELINES, ERRORS, Scored, figures
from honne.evaluation.storing import read_evaluation, write_json
from honne.evaluation.vocabulary import TASKS
from honne.metrics.resampling import Estimate, bootstrap, interval, p_value
from honne.metrics.sentiment import SLIPS


def compare(
    a: Path,
    b: Path,
    *,
    metric: str | None = None,
    replicates: int = 1000,
    seed: int = 0,
    out: Path | None = None,
    show: bool = True,
) -> dict[str, Any]:
    """Compare two evaluations of the same rows by a paired bootstrap.

    Both models are measured on the same resampled subjects (else videos, else rows), so that what is hard for both
    cancels out. Figures of one task need the same classes in both.

    Args:
        a: JSON file of `honne evaluate --out`.
        b: the other one; differences are B minus A.
        metric: one measure, e.g. macro_f1; unset compares all that both have.
        replicates: number of bootstrap replicates; the smallest p is 2 / (replicates + 1).
        seed: seed of the bootstrap.
        out: JSON file for the result.
        show: print the table.

    Returns:
        Per measure A, B, difference with 95 % interval, p and which is better (`-` while the interval holds 0).

    Raises:
        HonneError: a file is missing or no evaluation, or the two differ in data, split, classes or rows.
        WrongCall: no such measure.
    """
    if replicates < 1:
        raise WrongCall(f"--replicates: {replicates} is not a number of bootstrap replicates.", "Give 1 or more.")
    (first, one), (second, other) = read_evaluation(Path(a)), read_evaluation(Path(b))
    _require_same(first, second, one, other, f"{a} and {b}")
    left, right = _measures(first), _measures(second)
    names = [name for name in left if name in right and name not in BASELINES]
    notes = first["notes"] + second["notes"]
    if len(editions := {each["abaw"]["edition"] for each in (first, second) if "abaw" in each}) > 1:
        names = [name for name in names if not name.startswith(ABAW)]
        notes.append(f"Challenge scores are not compared: they are of {' and of '.join(sorted(editions))}.")
    if len({each.get("compat") for each in (first, second)}) > 1:
        names = [name for name in names if name not in SLIPS]
        notes.append("Some measures of sentiment are not compared: the two do not repeat the same slips (--compat).")
    if len(cues := {_cues(each) for each in (first, second)} - {""}) > 1:
        names = [name for name in names if name in first["metrics"]]
        notes.append(f"Explanations are not compared: their heat maps are of {' and of '.join(sorted(cues))}.")
    if len(kinds := {each["explanations"]["kind"] for each in (first, second) if "explanations" in each}) > 1:
        notes.append(f"Class activation maps of different kinds are compared: {' and '.join(sorted(kinds))}.")
    names = _chosen(metric, names)
    result = {
        "honne": honne.__version__,
        "a": first["model"],
        "b": second["model"],
        **{key: first[key] for key in ("data", "split", "rows", "resampled", "clusters")},
        **{key: first[key] or second[key] for key in ("in_sample", "selected_on")},
        "notes": list(dict.fromkeys(notes)),
        "seed": seed,
        "replicates": replicates,
        "metrics": {
            name: {"a": left[name]["value"], "b": right[name]["value"], **line}
            for name, line in paired(one, other, names, replicates, seed).items()
        },
    }
    if "accuracy" in names:
        result["mcnemar"] = mcnemar(_right(one), _right(other))
    if out:
        write_json(Path(out), result)
    if show:
        for part in comparison_tables(result):
            say(part)
    return result


def paired(one: Scored, other: Scored, names: Sequence[str], replicates: int, seed: int) -> dict[str, dict[str, Any]]:
    """Differences between two predictions of the same rows, measured on the same resampled clusters.

    Args:
        one: predictions and labels.
        other: other predictions beside the same labels.
        names: of figures that both have.
        replicates: number of bootstrap replicates.
        seed: of the bootstrap.

    Returns:
        Name -> `difference` (other minus one) with 95 % interval, `p`, and which is `better`, A or B.
    """

    def difference(weight: Tensor | None) -> dict[str, Tensor]:
        mine, theirs = figures(one, weight), figures(other, weight)
        return {name: theirs[name] - mine[name] for name in names}

    draws, values = bootstrap(difference, one.clusters, replicates, seed), difference(None)
    return {name: _line(name, values[name], draws[name]) for name in names}


def mcnemar(right: Tensor, also: Tensor) -> dict[str, Any]:
    """McNemar's exact test: of the rows that only one model gets right, does each model get half?

    Takes rows as independent, so it is too sure where a subject has many rows; the bootstrap is not.

    Args:
        right: (N,) bool, rows that the first model gets right.
        also: (N,) bool, rows that the second model gets right.

    Returns:
        `a_only`, `b_only`: rows that only the first or only the second gets right; `p`, two-sided.

    Source: McNemar, Psychometrika 1947, in its exact (binomial) form.

    Example:
        >>> import torch
        >>> mcnemar(torch.tensor([True] * 6 + [False]), torch.tensor([False] * 6 + [True]))
        {'a_only': 6, 'b_only': 1, 'p': 0.125}
    """
    a_only, b_only = int((right & ~also).sum()), int((also & ~right).sum())
    p = stats.binomtest(a_only, a_only + b_only).pvalue if a_only + b_only else 1.0
    return {"a_only": a_only, "b_only": b_only, "p": float(p)}


def _measures(result: dict[str, Any]) -> dict[str, Any]:
    scores = {ABAW + name: each for name, each in result.get("abaw", {}).get("measures", {}).items()}
    return result["metrics"] | result.get("explanations", {}).get("measures", {}) | scores


def _cues(result: dict[str, Any]) -> str:
    """What the heat maps show that explanations were measured against."""
    found = result.get("explanations")
    return f"{found['cue']} ({found['codebook']})" if found else ""


def _right(rows: Scored) -> Tensor:
    """Which of the labelled rows have the right class."""
    if rows.probabilities is None or rows.expression is None:
        raise ValueError("no expressions were measured")
    known = rows.expression != NOT_LABELLED
    return rows.probabilities[known].argmax(1) == rows.expression[known]


def _line(name: str, value: Tensor, draws: Tensor) -> dict[str, Any]:
    low, high = (float(end) for end in interval(draws))
    better = "-" if low <= 0 <= high else "B" if (low > 0) != (name in ERRORS) else "A"
    return {"difference": asdict(Estimate(float(value), low, high)), "p": float(p_value(draws)), "better": better}


def _chosen(metric: str | None, names: list[str]) -> list[str]:
    if metric is None:
        return names
    metric = metric.replace(" ", "_")
    if metric not in names:
        near = difflib.get_close_matches(metric, names, 1)
        raise WrongCall(
            f"--metric: '{metric}' is not a measure of both evaluations.",
            f"Did you mean '{near[0]}'?" if near else f"They have {', '.join(names)}.",
        )
    return [metric]


def _require_same(first: dict[str, Any], second: dict[str, Any], one: Scored, other: Scored, both: str) -> None:
    """Refuse what cannot be paired, naming the first thing that differs."""
    for name, mine, theirs in (
        ("data", _data(first), _data(second)),
        ("split", first["split"], second["split"]),
    ):
        if mine != theirs:
            raise HonneError(
                f"{both} cannot be compared: {name} {mine} against {theirs}.",
                "Evaluate both models on the same split of the same prepared data set.",
            )
    tasks = [task for task in TASKS if first["schema"].get(task)]
    for task in tasks:
        mine, theirs = first["schema"][task], second["schema"].get(task)
        if theirs and mine != theirs:
            raise HonneError(
                f"{both} cannot be compared: {task.replace('_', ' ')} {_show(mine)} against {_show(theirs)}.",
                "Evaluate both with the same --merge, --drop and --units.",
            )
    if not any(second["schema"].get(task) for task in tasks):
        raise HonneError(f"{both} cannot be compared: they have no task in common.", "Compare models of the same task.")
    for what, mine, theirs in (
        ("ids", one.ids, other.ids),
        ("expression labels", one.expression, other.expression),
        ("votes", one.votes, other.votes),
        ("action unit labels", one.unit_labels, other.unit_labels),
        ("valence and arousal labels", one.affect_labels, other.affect_labels),
        ("emotion labels", one.emotion_labels, other.emotion_labels),
        ("sentiment labels", one.sentiment_labels, other.sentiment_labels),
    ):
        if mine is not None and theirs is not None and not _equal(mine, theirs):
            raise HonneError(f"{both} cannot be compared: their rows differ ({what}).", "Evaluate both models again.")


def _data(result: dict[str, Any]) -> str:
    return f"{result['data']['name']} (manifest {result['data']['sha256'][:12]})"


def _show(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value).lower()


def _equal(mine: np.ndarray | Tensor, theirs: np.ndarray | Tensor) -> bool:
    if isinstance(mine, Tensor):
        return np.array_equal(mine.double().numpy(), np.asarray(theirs, np.float64), equal_nan=True)
    return np.array_equal(mine, theirs)
