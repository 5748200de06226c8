"""Everything that is known, predicted and mined of the faces under audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from honne.audit.mining import mine
from honne.audit.seen import Seen
from honne.batch import NOT_LABELLED
from honne.data.known import known
from honne.data.manifest import PreparedData
from honne.data.world import read_truth
from honne.data.world.dataset import TRUTH
from honne.evaluation.running import run_model
from honne.evaluation.scoring import cluster_rows
from honne.metrics.ambiguity import class_thresholds, full_distribution, label_error, suggested_class
from honne.models import Model


@dataclass(frozen=True)
class Faces:
    """N faces of one split; C classes.

    Attributes:
        data: the data set, labels as the model saw them.
        split: its split.
        rows: (N,) row numbers in the manifest.
        clusters: (N,) cluster of each row for the bootstrap.
        resampled: what a cluster is, e.g. "subject".
        labels: (N,) class or `NOT_LABELLED`.
        probabilities: (N, C) of the model, calibrated.
        uncertainty: (N,) in 0..1.
        mined: (N, C) q: zero at the label, rows sum to 1, rows of NaN where nothing was mined; `None` if nowhere.
        confidence: (N,) s in (0, 1), NaN where unknown; `None` if nowhere.
        votes: (N, C) counts or shares as recorded, rows of NaN or zeros where there are none; `None` if nowhere.
        prepared: (N,) class before the run made labels wrong on purpose; `None` if it did not.
        true_class: (N,) of a synthetic world.
        true_mixture: (N, C) of a synthetic world.
    """

    data: PreparedData
    split: str
    rows: np.ndarray
    clusters: np.ndarray
    resampled: str
    labels: Tensor
    probabilities: Tensor
    uncertainty: Tensor
    mined: Tensor | None = None
    confidence: Tensor | None = None
    votes: Tensor | None = None
    prepared: Tensor | None = None
    true_class: Tensor | None = None
    true_mixture: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labelled(self) -> Tensor:
        """(N,) bool."""
        return self.labels != NOT_LABELLED

    @property
    def distribution(self) -> Tensor:
        """(N, C) the best answer to "what would people say": with the mined distribution where there is one."""
        if self.mined is None:
            return self.probabilities
        return full_distribution(self.probabilities, self.labels, self.mined)


@dataclass(frozen=True)
class Doubts:
    """What is to be said against the labels of N faces.

    Attributes:
        score: (N,) `label_error`, NaN where not labelled.
        suggested: (N,) class that a likely wrong label should be, else `NOT_LABELLED`.
    """

    score: Tensor
    suggested: Tensor

    @property
    def likely(self) -> Tensor:
        """(N,) bool, labels that are likely wrong."""
        return self.suggested != NOT_LABELLED


def doubts(faces: Faces) -> Doubts:
    """Doubts about the labels of one split. Each has its own thresholds: a model is surer of rows that it learned."""
    given = faces.distribution
    thresholds = class_thresholds(given, faces.labels)
    return Doubts(label_error(given, faces.labels), suggested_class(given, faces.labels, thresholds))


def gather(model: Model, seen: Seen, split: str, *, batch_size: int, workers: int) -> tuple[Faces, list[str]]:
    """Run the model over a split, and mine it where the model has its branches beside it.

    Returns:
        The faces, and what a reader has to know of them, one sentence each.
    """
    data, outputs = seen.data, run_model(model, seen.data, split, batch_size=batch_size, workers=workers)
    rows, classes = outputs.rows, model.schema.expressions
    clusters, resampled = cluster_rows(data.rows.iloc[rows])
    votes = data.stack("votes", rows) if data.schema.labels.expressions else None
    faces = Faces(
        data,
        split,
        rows,
        clusters,
        resampled,
        _classes(data, rows),
        cast(Tensor, outputs.expression),
        cast(Tensor, outputs.uncertainty),
        votes=torch.from_numpy(votes) if votes is not None and votes.size else None,
        prepared=None if seen.prepared is None or split != "train" else _classes(seen.prepared, rows),
    )
    faces = _with_truth(faces, classes)
    return _with_mined(faces, model, batch_size, workers)


def _classes(data: PreparedData, rows: np.ndarray) -> Tensor:
    """(N,) class index of the labels, `NOT_LABELLED` where there are none."""
    found = known([data]).expression if data.schema.labels.expressions else None
    return torch.from_numpy(np.full(len(rows), NOT_LABELLED) if found is None else found[rows])


def _with_mined(faces: Faces, model: Model, batch_size: int, workers: int) -> tuple[Faces, list[str]]:
    if model.config.method not in ("dmue", "multitask") or not bool(faces.labelled.any()):
        return faces, []
    found = mine(model, faces.data, faces.split, batch_size=batch_size, workers=workers)
    if found is None:
        if model.config.method == "multitask":  # whose confidence is an option
            return faces, []
        return faces, [f"No branches lie beside model '{model.name}', so nothing was mined."]
    at = pd.Index(faces.rows).get_indexer(pd.Index(found.index))
    same = (at >= 0) & (faces.labels.numpy()[at] == found.label)
    confidence = np.full(len(faces), np.nan)
    confidence[at[same]] = found.confidence[same]
    faces = replace(faces, confidence=torch.from_numpy(confidence))
    if found.distribution is not None:
        mined = np.full(tuple(faces.probabilities.shape), np.nan)
        mined[at[same]] = found.distribution[same]
        faces = replace(faces, mined=torch.from_numpy(mined))
    notes = []
    if odd := int((~same).sum()):
        notes.append(f"{odd:,} rows of {faces.split} were mined under another label than theirs; left out.")
    return faces, notes


def _with_truth(faces: Faces, classes: Sequence[str]) -> Faces:
    """A synthetic world has its truth beside the manifest."""
    if not (faces.data.root / TRUTH).is_file():
        return faces
    truth = read_truth(faces.data.root).iloc[faces.rows]
    mixture = torch.from_numpy(np.stack(truth["mixture"].tolist()))
    if mixture.shape[1] != len(classes):
        return faces
    names = [classes.index(name) for name in truth["expression"]]
    return replace(faces, true_class=torch.tensor(names), true_mixture=mixture)
