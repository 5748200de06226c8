"""Explanations as part of an evaluation: figures of every face, and what is written of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from honne.data.manifest import PreparedData
from honne.errors import HonneError
from honne.evaluation.scoring import CHECK, Estimates, Scored
from honne.evaluation.vocabulary import Vocabulary
from honne.explain.checking import checked_faces
from honne.explain.measuring import NULLS, MapOptions, MeanMaps, explained_faces, null_of
from honne.models import Model

Extent = Literal["none", "agreement", "full"]
ABOUT = ("id", "row", "expression", "predicted")
"""Columns of `explained_faces` that are no figures."""


def explain(
    model: Model,
    data: PreparedData,
    split: str,
    vocabulary: Vocabulary,
    asked: MapOptions,
    *,
    means: MeanMaps,
    checked: int,
    batch_size: int,
    workers: int,
    seed: int,
) -> dict[str, Tensor]:
    """Figures of every row of a split; see `Scored.explained`.

    Args:
        model: to explain.
        data: with landmarks.
        split: train, valid or test.
        vocabulary: in which it is measured.
        asked: which maps.
        means: to which the maps of labelled faces are added.
        checked: number of faces on which insertion, deletion and the like are measured.
        batch_size: images at once.
        workers: loading processes.
        seed: of the choice of these faces.

    Raises:
        HonneError: no expressions are measured; and as `explained_faces`.
    """
    if not vocabulary.schema.expressions:
        raise HonneError(
            "--explanations: only expressions can be explained, and none are measured here.", "Leave it out."
        )
    names = (*vocabulary.schema.expressions, "")  # the last for classes that are dropped
    labels = vocabulary.labels
    classes = {source: names[code] for source, code in zip(labels.source, labels.index, strict=True)}
    table = explained_faces(
        model, data, split, asked, classes=classes, batch_size=batch_size, workers=workers, seed=seed, means=means
    )
    found = {str(name): torch.tensor(table[name].to_numpy()) for name in table if name not in ABOUT}
    if checked:
        places = np.sort(np.random.default_rng(seed).permutation(len(table))[:checked])
        checks = checked_faces(model, data, table["row"].to_numpy()[places], asked, seed=seed)
        for name in checks.columns[1:]:
            values = torch.full((len(table),), torch.nan)
            values[places] = torch.tensor(checks[name].to_numpy(np.float32))
            found[CHECK + name] = values
    return found


def explanations(scored: Scored, estimates: Estimates, asked: MapOptions) -> dict[str, Any]:
    """What FILE.json holds of explanations; every measure with its null baselines."""
    shown = {name: asdict(estimates.overall[name]) for name in scored.explained if name in estimates.overall}
    nulls = {null_of(name, null) for name in shown for null in NULLS}
    measures = {name: each for name, each in shown.items() if name not in nulls and not name.startswith(CHECK)}
    for name, each in measures.items():
        each["nulls"] = {null: shown[null_of(name, null)] for null in NULLS if null_of(name, null) in shown}
    checks = {name.removeprefix(CHECK): each for name, each in shown.items() if name.startswith(CHECK)}
    checked = [values for name, values in scored.explained.items() if name.startswith(CHECK)]
    classes = {
        expression: {
            name: asdict(each[code])
            for name, each in estimates.classes.items()
            if name in scored.explained and each[code].defined
        }
        for code, expression in enumerate(scored.schema.expressions)
    }
    return {
        **(asdict(asked) | {"layers": list(asked.layers)}),
        "faces": int((~scored.explained["att_cos"].isnan()).sum()),
        "columns": list(scored.explained),
        "measures": measures,
        "classes": {name: figures for name, figures in classes.items() if figures},
        **({"checked_faces": len(checked[0][~checked[0].isnan()]), "checks": checks} if checked else {}),
    }
