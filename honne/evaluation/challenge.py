"""The ABAW challenges: what each edition asks for, and how it scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from honne import metrics
from honne.batch import NOT_LABELLED
from honne.codes import ACTION_UNIT_SETS, SETS
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.metrics.resampling import Estimate

if TYPE_CHECKING:
    from honne.evaluation.scoring import Scored

Edition = Literal["none", "2020", "unitask", "mtl"]
"""2020: ABAW-1; unitask: one task a track, 2022 and later; mtl: all tasks at once, on s-Aff-Wild2."""

ABAW = "abaw_"
"""Begins the names of challenge figures."""


def official(edition: Edition) -> LabelSchema:
    """Classes and action units of an edition, in the order of its files; codes of classes are their places."""
    name = "affwild2" if edition == "2020" else "abaw"
    return LabelSchema(tuple(SETS[name].values()), ACTION_UNIT_SETS[name], True)


def require_vocabulary(edition: Edition, model: LabelSchema) -> None:
    """Refuse a model that has a task of a challenge, but not all of its classes or units.

    Raises:
        HonneError: naming what it lacks.
    """
    if edition == "none":
        return
    wanted = official(edition)
    classes = [name for name in wanted.expressions if model.expressions and name not in model.expressions]
    units = [f"AU{unit}" for unit in wanted.action_units if model.action_units and unit not in model.action_units]
    if lacking := classes + units:
        raise HonneError(
            f"--abaw {edition}: the model does not predict {', '.join(lacking)}, which the challenge asks for.",
            "Train a model on data of this edition.",
        )


def challenge_figures(rows: Scored, weight: Tensor | None) -> dict[str, Tensor]:
    """Scores of the tasks that can be scored, by name; `unscored` says why the others cannot."""
    first, left = rows.abaw == "2020", unscored(rows)
    found: dict[str, Tensor] = {}
    if "expressions" not in left and rows.probabilities is not None and rows.expression is not None:
        f1 = metrics.macro_f1 if first else metrics.abaw_macro_f1
        found["expr_f1"] = f1(rows.probabilities, rows.expression, weight)
        if first:
            found["expr_accuracy"] = metrics.accuracy(rows.probabilities, rows.expression, weight)
            found["expr_score"] = metrics.abaw_expression(rows.probabilities, rows.expression, weight)
    if "action units" not in left and rows.units is not None and rows.unit_labels is not None:
        own = _columns(rows)
        thresholds = 0.5 if rows.thresholds is None else rows.thresholds[own]
        given = (rows.units[:, own], metrics.whole(rows.unit_labels[:, own]), thresholds)
        found["au_f1"] = metrics.au_f1(*given, weight).nanmean(-1)
        if first:
            found["au_accuracy"] = metrics.abaw_accuracy(*given, weight)
            found["au_score"] = metrics.abaw_units(*given, weight)
    if "valence and arousal" not in left and rows.affect is not None and rows.affect_labels is not None:
        concordance = metrics.ccc(rows.affect, metrics.whole(rows.affect_labels), weight)
        found["ccc_valence"], found["ccc_arousal"] = concordance.unbind(-1)
        found["va_score"] = concordance.mean(-1)
    if not left and first:
        found["selection_score"] = metrics.selection_score(
            found["expr_score"], found["au_score"], torch.stack([found["ccc_valence"], found["ccc_arousal"]], -1)
        )
    if not left and rows.abaw == "mtl":
        found["mtl_score"] = metrics.abaw_mtl(found["expr_f1"], found["au_f1"], found["va_score"])
    return {ABAW + name: values for name, values in found.items()}


def challenge_result(rows: Scored, estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """What FILE.json holds of a challenge."""
    own = {name: each for name, each in estimates.items() if name.startswith(ABAW)}
    measures = {name.removeprefix(ABAW): asdict(each) for name, each in own.items()}
    return {"edition": rows.abaw, "rows": scored_rows(rows), "measures": measures}


def challenge_notes(rows: Scored) -> list[str]:
    """A note on every task that is not scored."""
    return [f"ABAW {rows.abaw}: {task} not scored ({why})." for task, why in unscored(rows).items()]


def scored_rows(rows: Scored) -> dict[str, int]:
    """Rows that each task of a challenge is scored on: those whose label is whole."""
    units = None if rows.unit_labels is None else ~rows.unit_labels[:, _columns(rows)].isnan().any(1)
    affect = None if rows.affect_labels is None else ~rows.affect_labels.isnan().any(1)
    known = {
        "expressions": None if rows.expression is None else rows.expression != NOT_LABELLED,
        "action units": units,
        "valence and arousal": affect,
    }
    return {task: 0 if which is None else int(which.sum()) for task, which in known.items()}


def _columns(rows: Scored) -> list[int]:
    """Where the edition's units are among those measured, of which there may be more."""
    place = {unit: column for column, unit in enumerate(rows.schema.action_units)}
    return [place[unit] for unit in official(rows.abaw).action_units if unit in place]


def unscored(rows: Scored) -> dict[str, str]:
    """Task -> why it is not scored in the challenge; empty where all are."""
    wanted, labelled = official(rows.abaw), scored_rows(rows)
    found = {}
    for task, classes, predicted, own in (
        ("expressions", set(wanted.expressions), rows.probabilities, set(rows.schema.expressions)),
        (
            "action units",
            set(wanted.action_units),
            rows.units,
            set(wanted.action_units) & set(rows.schema.action_units),
        ),
        ("valence and arousal", {True}, rows.affect, {rows.schema.valence_arousal}),
    ):
        if predicted is None:
            found[task] = "not both the model and the data have them"
        elif own != classes:
            found[task] = "the data are not labelled with the classes of this edition"
        elif not labelled[task]:
            found[task] = "no row has a whole label"
    return found
