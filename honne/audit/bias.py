"""The bias audit: what a model makes of strata, and whether a cure holds where the pairing of training breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import honne
from honne.audit.bias_answers import Rows, ask, square_of, test_rows
from honne.audit.bias_figures import MODEL, Asked, BiasFigures, StrataFigures
from honne.audit.bias_lab import Laboratory, asked, run_laboratory
from honne.data.bias import BIASED, cells, counts
from honne.data.manifest import PreparedData, replacing, sha256
from honne.evaluation.evaluating import seen_before
from honne.evaluation.scoring import cluster_rows
from honne.evaluation.storing import write_json
from honne.models import Model

FORMAT = "honne bias audit 1"
BIAS_SUMMARY, BIAS_TABLE = "bias.json", "bias.csv"


@dataclass(frozen=True)
class BiasSettings:
    """Of an audit; see `honne.audit.audit`."""

    split: str
    replicates: int
    seed: int
    batch_size: int
    workers: int
    device: str


@dataclass(frozen=True)
class Bias:
    """What the audit found.

    Attributes:
        folds: what was asked.
        figures: made of it.
        result: what `bias.json` holds.
    """

    folds: Sequence[Asked]
    figures: BiasFigures
    result: dict[str, Any]


def has_strata(data: PreparedData) -> bool:
    """Whether there is a bias to audit: two strata or more, and labels."""
    placed = cells(data.rows, data.schema.labels.expressions)
    return len(placed.strata) > 1 and bool(placed.known.any())


def audit_bias(model: Model, data: PreparedData, out: Path, settings: BiasSettings) -> Bias:
    """Audit one trained model and write the files into `out`.

    Args:
        model: of the classes of the data.
        data: with strata; its training rows, or what `honne.data.bias` recorded, say what is out of distribution.
        out: folder.
        settings: of the audit.

    Raises:
        HonneError: data without two strata, or a split without labelled rows of known stratum.
    """
    cells(data.rows, data.schema.labels.expressions).require_two()
    split = settings.split
    if split == "all":
        split = "test" if (data.rows["split"] == "test").any() else "valid"
    rows = test_rows(data, split, _fold_of(data), cluster_rows(data.rows)[0])
    answers = ask(model, rows, split, batch_size=settings.batch_size, workers=settings.workers)
    folds = [Asked(rows, {MODEL: [answers]})]
    named = {"name": data.schema.name, "sha256": sha256(data.root / "manifest.parquet")}
    told = _told(model, data, rows, named, split)
    arms = {MODEL: {"name": model.name, "method": model.config.method, "sha256": model.sha256}}
    return _written(folds, data, out, settings, {"data": named, "split": split, "arms": arms, "notes": told})


def audit_laboratory(laboratory: Laboratory, data: PreparedData, out: Path, settings: BiasSettings) -> Bias:
    """Train the arms on every fold and seed, and audit them together; see `run_laboratory`."""
    runs = run_laboratory(laboratory, data, out)
    folds = asked(runs, data, batch_size=settings.batch_size, workers=settings.workers, device=settings.device)
    arms = {
        arm: {"recipe": str(recipe), "overrides": {**laboratory.overrides, **laboratory.own.get(arm, {})}}
        for arm, recipe in laboratory.recipes.items()
    }
    record = PreparedData(runs[0].data).schema.options[BIASED]
    named = {"name": data.schema.name, "sha256": sha256(data.root / "manifest.parquet")}
    told = []
    if record["partition"] == "draw":
        told.append(
            "What is held out is the test, as published: people of the training rows are tested too, in strata and"
            " expressions in which training did not show them."
        )
    if laboratory.folds < len(folds[0].rows.strata):
        told.append(f"{laboratory.folds} of {len(folds[0].rows.strata)} folds: not every cell was held out once.")
    bias = {name: record[name] for name in ("strength", "groups", "partition", "valid", "seen_test", "seed")}
    whole = {"data": named, "split": "test", "arms": arms, "notes": told, "bias": bias, "seeds": laboratory.seeds}
    return _written(folds, data, out, settings, whole)


def _fold_of(data: PreparedData) -> int:
    return int(data.schema.options.get(BIASED, {}).get("fold", 0))


def _told(model: Model, data: PreparedData, rows: Rows, named: dict[str, str], split: str) -> list[str]:
    """What a reader has to know, one sentence each."""
    told, seen = [], seen_before(model, named, split)
    if seen["in_sample"]:
        told.append(f"The model learned from these very rows ({split}): nothing here says how it does on new faces.")
    if not bool((rows.out | rows.seen).any()):
        told.append("These data have no training rows, so nothing is known of what is in or out of distribution.")
    elif not seen_before(model, named, "train")["in_sample"]:
        told.append(
            "The model's record does not name these data: in and out of distribution are as their own training rows"
            " have it."
        )
    elif not bool(rows.out.any()):
        told.append("Training has every stratum with every expression: nothing here is out of distribution.")
    return told


def _written(
    folds: Sequence[Asked], data: PreparedData, out: Path, settings: BiasSettings, told: dict[str, Any]
) -> Bias:
    classes = data.schema.labels.expressions
    made = BiasFigures(folds, classes, settings.replicates, settings.seed)
    first = folds[0]
    result = {
        "format": FORMAT,
        "honne": honne.__version__,
        **told,
        "settings": {name: getattr(settings, name) for name in ("replicates", "seed")},
        "classes": list(classes),
        "strata": list(first.rows.strata),
        "resampled": cluster_rows(first.rows.data.rows.iloc[first.rows.rows])[1],
        "splits": [_cells(each.rows, classes) for each in folds],
        **made.all(),
        "strata_say": {
            arm: StrataFigures(made, arm).all()
            for arm, answers in first.answers.items()
            if answers[0].strata is not None
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / BIAS_TABLE) as path:
        table(folds, classes).to_csv(path, index=False)
    result["table"] = {"file": BIAS_TABLE, "sha256": sha256(out / BIAS_TABLE)}
    write_json(out / BIAS_SUMMARY, result)
    return Bias(folds, made, result)


def _cells(rows: Rows, classes: Sequence[str]) -> dict[str, Any]:
    """Rows of every cell in every split of one fold."""
    _, square, _ = square_of(rows.data)
    lines = counts(rows.data.rows, rows.data.rows["split"].to_numpy(object), classes, square)
    return {"fold": rows.fold, "cells": lines.to_dict("records")}


def table(folds: Sequence[Asked], classes: Sequence[str]) -> pd.DataFrame:
    """One line per row, seed and arm; docs/commands/audit.md lists the columns."""
    names = np.array(classes, object)
    parts = []
    for each in folds:
        rows = each.rows
        manifest = rows.data.rows.iloc[rows.rows]
        known = {
            "id": manifest["id"].to_numpy(),
            "stratum": np.array(rows.strata, object)[rows.stratum.numpy()],
            "label": names[rows.label.numpy()],
        }
        place = np.where(rows.out.numpy(), "out", np.where(rows.seen.numpy(), "in", ""))
        parts += [
            pd.DataFrame(
                {"fold": rows.fold, "seed": seed, "arm": arm}
                | known
                | {"prediction": names[answer.predicted.numpy()], "distribution": place}
            )
            for arm, answers in each.answers.items()
            for seed, answer in enumerate(answers)
        ]
    return pd.concat(parts, ignore_index=True)
