"""Everything but pixels and features that is known of the rows of prepared data sets, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from honne.batch import NOT_LABELLED
from honne.data.manifest import PreparedData
from honne.errors import HonneError
from honne.labels import Conversion, LabelSchema, conversion, select_action_units

Task = Literal["expression", "action_units", "valence_arousal", "emotions", "sentiment"]
TASKS: tuple[Task, ...] = ("expression", "action_units", "valence_arousal", "emotions", "sentiment")
Learns = Literal["labels", "expression", "subject"]
"""What makes a row worth learning from."""


@dataclass
class Known:
    """What is known of N rows, NaN or `NOT_LABELLED` where not; `None` if of no row.

    Attributes:
        count: N.
        expression: (N,) class index.
        distribution: (N, C) target distributions.
        action_units: (N, A).
        au_intensity: (N, A).
        valence_arousal: (N, 2).
        landmarks: (N, 68, 2) px of the stored image.
        domain: (N,) index into `domains`.
        domains: names of the strata.
        subject: (N,) index into `subjects`.
        subjects: names of the people.
        emotions: (N, E).
        sentiment: (N,).
    """

    count: int
    expression: np.ndarray | None
    distribution: np.ndarray | None
    action_units: np.ndarray | None
    au_intensity: np.ndarray | None
    valence_arousal: np.ndarray | None
    landmarks: np.ndarray | None
    domain: np.ndarray | None
    domains: tuple[str, ...] = ()
    subject: np.ndarray | None = None
    subjects: tuple[str, ...] = ()
    emotions: np.ndarray | None = None
    sentiment: np.ndarray | None = None

    def labelled(self, task: Task) -> np.ndarray:
        """(N,) whether a row has a label of a task."""
        if task == "expression":
            return self.usable("expression")
        values: np.ndarray | None = getattr(self, task)
        return np.zeros(self.count, bool) if values is None else ~np.isnan(values).reshape(self.count, -1).all(1)

    def usable(self, learns: Learns = "labels") -> np.ndarray:
        """(N,) whether a row has any label, or an expression, or names its subject, as `learns` says."""
        codes = self.subject if learns == "subject" else self.expression
        some = np.zeros(self.count, bool) if codes is None else codes != NOT_LABELLED
        if learns != "labels":
            return some
        numbers = (self.action_units, self.au_intensity, self.valence_arousal, self.emotions, self.sentiment)
        for values in (self.distribution, *numbers):
            if values is not None:
                some = some | ~np.isnan(values).reshape(self.count, -1).all(1)
        return some


def known(
    data: Sequence[PreparedData],
    distributions: Literal["none", "target", "votes"] = "none",
    schema: LabelSchema | None = None,
) -> Known:
    """Labels, landmarks and strata of all rows of all data sets, one set after the other.

    Args:
        data: data sets.
        distributions: which to read: none; what is to be learned (column `target` where a data set has it, else votes
            over their sum); or the votes over their sum, to measure against (`target` where there are none).
        schema: classes and units in whose order labels are given, by name; rows of a class that it lacks are not
            labelled. Unset = that of all data sets.

    Raises:
        HonneError: an expression that the data set's own schema does not have.
    """
    schema = data[0].schema.labels if schema is None else schema
    found = [part.rows["domain"].dropna().unique() for part in data if "domain" in part.rows]
    domains = tuple(sorted({str(name) for names in found for name in names}))
    subject, subjects = _subjects(data)
    valence, arousal, points = (_column(data, name) for name in ("valence", "arousal", "landmarks"))
    return Known(
        count=sum(map(len, data)),
        expression=_expressions(data, schema),
        distribution=_join(data, [_distribution(part, distributions == "votes", schema) for part in data])
        if distributions != "none" and schema.expressions
        else None,
        action_units=_units(data, "au", schema),
        au_intensity=_units(data, "au_intensity", schema),
        valence_arousal=np.stack([valence, arousal], 1)
        if schema.valence_arousal and valence is not None and arousal is not None
        else None,
        landmarks=None if points is None else points.reshape(len(points), -1, 2),
        domain=_codes(data, "domain", domains),
        domains=domains,
        subject=subject,
        subjects=subjects,
        emotions=_emotions(data, schema),
        sentiment=_column(data, "sentiment") if schema.sentiment else None,
    )


def _emotions(data: Sequence[PreparedData], schema: LabelSchema) -> np.ndarray | None:
    """(N, E) in the order of the schema."""
    parts = [(part.stack("emotions"), part.schema.labels.emotions) for part in data]
    chosen = [None if values is None or not values.size else _ordered(values, own, schema) for values, own in parts]
    return _join(data, chosen) if schema.emotions else None


def _ordered(values: np.ndarray, own: Sequence[str], schema: LabelSchema) -> np.ndarray:
    """(N, E) columns named `own` in the order of the schema; NaN where there is none of the name."""
    padded = np.column_stack([values, np.full(len(values), np.nan, np.float32)])
    return padded[:, [own.index(name) if name in own else len(own) for name in schema.emotions]]


def _column(data: Sequence[PreparedData], name: str) -> np.ndarray | None:
    return _join(data, [part.stack(name) for part in data])


def _join(data: Sequence[PreparedData], parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """One array; NaN for data sets that lack the column, `None` if all do."""
    present = [part for part in parts if part is not None and part.size]
    if not present:
        return None
    blank = [np.full((len(each), *present[0].shape[1:]), np.nan, np.float32) for each in data]
    return np.concatenate([b if p is None or not p.size else p for p, b in zip(parts, blank, strict=True)])


def _expressions(data: Sequence[PreparedData], schema: LabelSchema) -> np.ndarray | None:
    """(N,) class of the schema."""
    if not schema.expressions or not any("expression" in part.rows for part in data):
        return None
    codes = []
    for part in data:
        own = part.schema.labels.expressions
        found = _codes([part], "expression", own)
        known = np.full(len(part), NOT_LABELLED) if found is None else found
        codes.append(known if own == schema.expressions else _conversion(own, schema).apply(known))
    return np.concatenate(codes)


def _conversion(own: Sequence[str], schema: LabelSchema) -> Conversion:
    return conversion(own, schema, drop=[name for name in own if name not in schema.expressions])


def _units(data: Sequence[PreparedData], name: str, schema: LabelSchema) -> np.ndarray | None:
    """(N, A) in the order of the schema."""
    parts = [(part.stack(name), part.schema.labels.action_units) for part in data]
    chosen = [
        values if values is None or not values.size else select_action_units(values, own, schema.action_units)
        for values, own in parts
    ]
    return _join(data, chosen) if schema.action_units else None


def _codes(data: Sequence[PreparedData], column: str, names: Sequence[str]) -> np.ndarray | None:
    """(N,) index into `names`, `NOT_LABELLED` for null."""
    if not any(column in part.rows for part in data):
        return None
    place = {name: i for i, name in enumerate(names)}
    codes = []
    for part in data:
        values = part.rows[column].tolist() if column in part.rows else [None] * len(part)
        for row, value in enumerate(values):
            if isinstance(value, str) and value not in place:
                raise HonneError(
                    f"{part.root}: manifest row {row}: {column} '{value}' is not one of {', '.join(names)}.",
                    "Prepare the data set again.",
                )
        codes.append(np.array([place.get(str(value), NOT_LABELLED) for value in values], np.int64))
    return np.concatenate(codes)


def _subjects(data: Sequence[PreparedData]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(N,) index into the names, `NOT_LABELLED` for null; people of two data sets are two, whatever they are called."""
    if not any("subject" in part.rows for part in data):
        return None, ()
    names = [part.rows["subject"] if "subject" in part.rows else pd.Series([None] * len(part)) for part in data]
    if len(data) > 1:
        names = [each.map(f"{number}/{{}}".format, na_action="ignore") for number, each in enumerate(names)]
    codes, found = pd.factorize(pd.concat(names), sort=True)  # -1 for null
    return codes.astype(np.int64), tuple(map(str, found))


def _distribution(data: PreparedData, prefer_votes: bool, schema: LabelSchema) -> np.ndarray | None:
    target, votes = data.stack("target"), data.stack("votes")
    if votes is not None and (target is None or prefer_votes):
        total = votes.sum(1, keepdims=True)
        target = np.divide(votes, total, out=np.full_like(votes, np.nan), where=total > 0)
    own = data.schema.labels.expressions
    if target is None or not target.size or own == schema.expressions:
        return target
    return _conversion(own, schema).apply_distribution(target)
